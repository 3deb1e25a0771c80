//! Random bytes that nobody can guess.

use aws_lc_rs::rand;

/// `N` random bytes.
///
/// # Panics
/// If the system has no randomness, which is fatal for TLS too.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// Fills `bytes`; panics as [`bytes`] does.
pub(crate) fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the system gives random bytes");
}
