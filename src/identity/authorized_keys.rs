//! An `authorized_keys` file, as sshd(8) reads it.
