//! TLS with raw public keys (RFC 7250): key files, verifiers, configurations.
