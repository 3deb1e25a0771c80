//! What a fuzzer feeds to lines of authorized_keys.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::{KeyCheck, KeyDecision, line};
use crate::fuzzing::check_error;
use crate::identity::statement::ProvenKey;

/// A file of keys, each of which then asks for a session.
pub fn authorized_keys(input: &[u8]) {
    let mut entries = Vec::new();
    for (number, text) in (1..).zip(String::from_utf8_lossy(input).lines()) {
        match line::parse(text) {
            Ok(Some(entry)) => entries.push((number, entry)),
            Ok(None) => {}
            Err(error) => check_error(&error),
        }
    }
    for (_, entry) in &entries {
        let key = ProvenKey {
            blob: Bytes::new(),
            key: entry.key.clone(),
            certificate: None,
        };
        let check = KeyCheck {
            key: &key,
            user: "user",
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            now: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        if let KeyDecision::Accepted { line } = check.decide(&entries) {
            let accepted = entries.iter().find(|(number, _)| *number == line);
            let conditions = accepted.map(|(_, entry)| &entry.conditions);
            assert!(conditions.is_some_and(|conditions| !conditions.cert_authority));
        }
    }
}
