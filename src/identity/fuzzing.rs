//! What a fuzzer feeds to keys, certificates, signatures and known_hosts.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::known_hosts::{HostName, KnownHosts, ServerKey, Warning};
use super::sshsig::{self, claimed_signer};
use super::statement::{HOST_NAMESPACE, ProvenKey, StatementError, parse_key, verify_host, verify_open};
use crate::fuzzing::{check_error, check_text};
use crate::wire::{Authorization, Statement};

/// A key or certificate with a signature over it: the length of the key in two bytes, the key, the signature.
pub fn signatures(input: &[u8]) {
    let Some((length, rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (key, signature) = rest.split_at(length);
    let (key, signature) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(signature));
    let _ = claimed_signer(&signature);
    if let Err(error) = sshsig::verify(&signature, HOST_NAMESPACE, b"message") {
        check_error(&error);
    }
    check_proof(parse_key(&key).map(drop));
    check_proof(ProvenKey::unsigned(&key).map(|key| check_text(&key.fingerprint())));
    let statement = Statement {
        key: key.clone(),
        signature: signature.clone(),
    };
    check_proof(verify_host(&statement, b"spki").map(drop));
    check_proof(
        verify_open(
            &Authorization {
                key: key.clone(),
                signature,
            },
            b"message",
        )
        .map(drop),
    );
    match ServerKey::from_blob(&key) {
        Ok(key) => check_text(&key.fingerprint().to_string()),
        Err(error) => check_error(&error),
    }
}

fn check_proof(result: Result<(), StatementError>) {
    if let Err(error) = result {
        check_error(&error);
    }
}

/// Lines of known_hosts.
pub fn known_hosts(input: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for host in [HostName::new("host.example", 22), HostName::new("host.example", 2222)] {
        let known = KnownHosts::read(&[], &host).and_said(Path::new("known_hosts"), input, &host);
        for warning in known.warnings() {
            if let Warning::Malformed { fault, place } = warning {
                check_error(fault);
                assert!(place.line <= 1 + input.iter().filter(|byte| **byte == b'\n').count());
            }
        }
        known.fingerprints();
        // Types that are not supported are shown through `Escaped`.
        known.unsupported_types();
        known.check(&[], now);
    }
}
