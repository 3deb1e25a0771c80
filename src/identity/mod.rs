//! Authentication of both ends by the SSH keys that they already have.

pub mod authorized_keys;
pub mod known_hosts;
pub mod opaque_key;
mod private_key;
pub mod raw_key;
mod rsa_signer;
pub mod ssh_config;
pub mod sshsig;
pub mod statement;
pub mod user_keys;

#[cfg(test)]
mod test_tools;
