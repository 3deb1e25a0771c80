//! What a fuzzer feeds to the output of `sshd -T`.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Settings, with_client_addresses};
use crate::fuzzing::check_text;
use crate::wire::SshdLimit;

/// The output of `sshd -T`.
pub fn sshd_t(input: &[u8]) {
    let settings = Settings::parse(&String::from_utf8_lossy(input));
    let _ = settings.host_key_files();
    let _ = settings.host_certificate_files();
    let _ = settings.ports();
    let _ = settings.penalises_single_addresses();
    let _ = with_client_addresses(&settings, SocketAddr::from((Ipv4Addr::LOCALHOST, 22)));
    for limit in settings.limits() {
        let limit = SshdLimit::from(&limit);
        for text in [limit.what, limit.mend, limit.file] {
            check_text(&text);
        }
    }
}
