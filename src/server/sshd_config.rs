//! What `sshd -T` says, for the real address and for loopback.
