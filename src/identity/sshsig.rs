//! SSHSIG signatures (PROTOCOL.sshsig) by SSH keys.
