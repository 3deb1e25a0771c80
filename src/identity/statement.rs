//! Statements that bind a TLS key to SSH keys: the host's, and the user's.
