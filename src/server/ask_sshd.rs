//! Asks the local sshd whether it would accept a key for a user.
