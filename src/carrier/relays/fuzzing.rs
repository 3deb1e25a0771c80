//! What a fuzzer feeds to the answers of name servers.

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RData;

use super::dns::members;
use crate::fuzzing::check_text;

/// A DNS message with SRV records.
pub fn srv_answer(input: &[u8]) {
    let Ok(message) = Message::from_vec(input) else { return };
    let services: Vec<_> = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(service) => Some(service),
            _ => None,
        })
        .collect();
    let count = services.len();
    let members = members(services);
    assert!(members.len() <= count.min(256));
    for member in members {
        assert_ne!(member.endpoint.port, 0);
        check_text(&member.endpoint.to_string());
    }
}
