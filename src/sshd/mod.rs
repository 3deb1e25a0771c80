//! The built-in SSH server, for machines without sshd, the demo and tests.
