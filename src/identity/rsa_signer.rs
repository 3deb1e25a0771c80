//! RSA signatures by aws-lc.
//!
//! ssh-key signs with the crate `rsa`, whose timing leaks the key (RUSTSEC-2023-0071).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA512;
use crypto_bigint::{BoxedUint, NonZero};
use russh::keys::ssh_key::private::RsaKeypair;
use russh::keys::ssh_key::{Algorithm, Error, HashAlg, Mpint, Signature};
use zeroize::Zeroizing;

/// DER tags (X.690).
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;

/// An `rsa-sha2-512` signature over `data`, by a key of 2048 to 8192 bits.
///
/// # Errors
/// `Crypto`: the parts of the key do not match.
pub(super) fn sign(pair: &RsaKeypair, data: &[u8]) -> Result<Signature, Error> {
    let key = pkcs1(pair).ok_or(Error::Crypto)?;
    let key = KeyPair::from_der(&key).map_err(|_| Error::Crypto)?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), data, &mut signature)
        .map_err(|_| Error::Crypto)?;
    let hash = Some(HashAlg::Sha512);
    Signature::new(Algorithm::Rsa { hash }, signature)
}

/// `RSAPrivateKey` of RFC 8017, appendix A.1.2. It contains two exponents that OpenSSH's own format
/// leaves out.
fn pkcs1(pair: &RsaKeypair) -> Option<Zeroizing<Vec<u8>>> {
    let (public, private) = (pair.public(), pair.private());
    let of = |number: &'_ Mpint| number.as_positive_bytes().map(|bytes| Zeroizing::new(bytes.to_vec()));
    let [n, e] = [of(public.n())?, of(public.e())?];
    let [d, p, q, coefficient] = [
        of(private.d())?,
        of(private.p())?,
        of(private.q())?,
        of(private.iqmp())?,
    ];
    let [d_p, d_q] = [exponent(&d, &p)?, exponent(&d, &q)?];
    let mut numbers = Zeroizing::new(vec![INTEGER, 1, 0]);
    for number in [&n, &e, &d, &p, &q, &d_p, &d_q, &coefficient] {
        put_integer(&mut numbers, number);
    }
    let mut key = Zeroizing::new(Vec::with_capacity(numbers.len() + 8));
    put(&mut key, SEQUENCE, &numbers);
    Some(key)
}

/// `d mod (prime - 1)` in constant time.
fn exponent(d: &[u8], prime: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let number = |bytes: &[u8]| Zeroizing::new(BoxedUint::from_be_slice_vartime(bytes));
    let below = Zeroizing::new(number(prime).wrapping_sub(BoxedUint::one()));
    let below = NonZero::new((*below).clone()).into_option()?;
    let exponent = Zeroizing::new(number(d).rem(&below));
    Some(Zeroizing::new(exponent.to_be_bytes().into_vec()))
}

/// Encodes a positive number: no leading zeros, except one byte if the first bit would be taken for
/// the sign.
fn put_integer(out: &mut Vec<u8>, number: &[u8]) {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = &number[first..];
    let mut content = Zeroizing::new(Vec::with_capacity(digits.len() + 1));
    if digits.first().is_none_or(|first| first & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(digits);
    put(out, INTEGER, &content);
}

fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    let digits = &length[content.len().leading_zeros() as usize / 8..];
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        out.push(0x80 | digits.len() as u8);
        out.extend_from_slice(digits);
    }
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_tools::{keygen, read_key};
    use russh::keys::ssh_key::private::KeypairData;

    fn pair(bits: usize) -> RsaKeypair {
        let folder = tempfile::tempdir().unwrap();
        let key = read_key(&keygen(folder.path(), "key", &format!("rsa-{bits}"), ""));
        let KeypairData::Rsa(pair) = key.key_data() else {
            panic!("no RSA key")
        };
        pair.clone()
    }

    #[test]
    fn numbers_are_written_in_their_shortest_form() {
        for (number, expected) in [
            (&[][..], &[2, 1, 0][..]),
            (&[0, 0], &[2, 1, 0]),
            (&[0, 1], &[2, 1, 1]),
            (&[0x80], &[2, 2, 0, 0x80]),
        ] {
            let mut written = Vec::new();
            put_integer(&mut written, number);
            assert_eq!(written, expected);
        }
        for (length, expected) in [(127, &[2, 127][..]), (128, &[2, 0x81, 128]), (300, &[2, 0x82, 1, 44])] {
            let mut written = Vec::new();
            put_integer(&mut written, &vec![1; length]);
            assert!(written.starts_with(expected) && written.len() == expected.len() + length);
        }
    }

    #[test]
    fn mismatched_key_parts_make_no_signature() {
        let [one, other] = [pair(2048), pair(2048)];
        assert_eq!(sign(&one, b"message").unwrap().as_bytes().len(), 256);
        let mixed = RsaKeypair::new(one.public().clone(), other.private().clone());
        assert!(sign(&mixed.unwrap(), b"message").is_err());
    }
}
