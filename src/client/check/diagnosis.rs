//! From what was seen to the likely cause. Pure: results in, diagnoses out.

use super::direct_host;
use super::probe::{ProbeFailure, ProbeResult};
use super::tcp_probe::PortState;
use crate::carrier::stream::ProxyFault;
use crate::carrier::via::{DialRelayError, ReachError, RelayTransport};
use crate::carrier::{CarrierError, DialError, Path};
use crate::wire::{RefusalCode, RelayRefusalCode};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// Whether a path works, and if not why, most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// An authorised probe read sshd's banner through it.
    Works,
    /// Nothing came back over UDP, and a server half answered over TCP from there.
    UdpBlocked,
    /// Nothing came back over UDP, though the host lives: UDP is blocked, or no server half runs behind a firewall.
    UdpSilent,
    /// Nothing came back from this UDP port, though another of the host works.
    UdpPortSilent,
    /// Nothing came back from this TCP port, though the host lives.
    TcpBlocked,
    /// Short packets pass, long ones are lost.
    MtuBlackHole,
    /// Nothing came back from the address at all.
    HostSilent,
    /// The host says that nobody listens at this port.
    NobodyListens,
    /// The network says that it cannot get there.
    Unreachable,
    /// What answers speaks something else.
    OtherProtocol,
    /// A server half of another version answers, or one too old to be probed.
    OtherVersion,
    /// The handshake passed and no answer came.
    Stalled,
    /// The connection broke.
    Broken,
    /// The server half did not prove the host's keys.
    WrongKey,
    /// The server half accepts none of the user's keys.
    KeyRefused,
    /// The server half is up, sshd behind it is not.
    SshdDown,
    /// The server half is up, and sshd behind it has not said whether it takes a key.
    SshdSlow,
    /// The server half is up, sshd behind it does not let itself be asked.
    SshdUnfit,
    /// sshd begins the user's login with another method than a key.
    OtherMethod,
    /// The server half refuses for now.
    Refused,
    /// The relay is up, the server half is not registered there.
    NotRegistered,
    /// The server half is registered at the relay, and does not answer it.
    ServerSilent,
    /// The relay refuses.
    RelayRefused,
    /// Nothing came back by way of the relay.
    RelaySilent,
    /// What answers speaks TLS, and is no server half.
    OtherTls,
    /// Packets of QUIC do not fit the path.
    MtuTooSmall,
    /// The proxy wants other credentials, or a way to give them that we do not know.
    ProxyCredentials,
    /// The proxy lets no tunnel go there.
    ProxyForbids,
    /// The proxy gives no connection to the server half's port.
    ProxyFailed,
    /// The program did not start, ended, or gave something else than a server half.
    CommandFailed,
    /// Nothing came back by way of the proxy or the program.
    RouteSilent,
    /// No key of the host is known, by which a relay finds it.
    NoHostKey,
}

impl Diagnosis {
    /// A name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Diagnosis::Works => "works",
            Diagnosis::UdpBlocked => "udp-blocked",
            Diagnosis::UdpSilent => "udp-silent",
            Diagnosis::UdpPortSilent => "udp-port-silent",
            Diagnosis::TcpBlocked => "tcp-blocked",
            Diagnosis::MtuBlackHole => "mtu-black-hole",
            Diagnosis::HostSilent => "host-silent",
            Diagnosis::NobodyListens => "nobody-listens",
            Diagnosis::Unreachable => "unreachable",
            Diagnosis::OtherProtocol => "other-protocol",
            Diagnosis::OtherVersion => "other-version",
            Diagnosis::Stalled => "stalled",
            Diagnosis::Broken => "broken",
            Diagnosis::WrongKey => "wrong-key",
            Diagnosis::KeyRefused => "key-refused",
            Diagnosis::SshdDown => "sshd-down",
            Diagnosis::SshdSlow => "sshd-slow",
            Diagnosis::SshdUnfit => "sshd-unfit",
            Diagnosis::OtherMethod => "other-method",
            Diagnosis::Refused => "refused",
            Diagnosis::NotRegistered => "not-registered",
            Diagnosis::ServerSilent => "server-silent",
            Diagnosis::RelayRefused => "relay-refused",
            Diagnosis::RelaySilent => "relay-silent",
            Diagnosis::OtherTls => "other-tls",
            Diagnosis::MtuTooSmall => "mtu-too-small",
            Diagnosis::ProxyCredentials => "proxy-credentials",
            Diagnosis::ProxyForbids => "proxy-forbids",
            Diagnosis::ProxyFailed => "proxy-failed",
            Diagnosis::CommandFailed => "command-failed",
            Diagnosis::RouteSilent => "route-silent",
            Diagnosis::NoHostKey => "no-host-key",
        }
    }
}

/// One diagnosis for each result. `tcp_probes` are the second looks, by address.
pub(super) fn diagnose(results: &[ProbeResult], tcp_probes: &HashMap<IpAddr, PortState>) -> Vec<Diagnosis> {
    let case = Evidence { results, tcp_probes };
    results.iter().map(|result| case.diagnose(result)).collect()
}

/// Where a long packet to sshd would tell the cause: no path works, nothing came back on one to there, and the host lives.
pub(super) fn doubtful_hosts(results: &[ProbeResult], tcp_probes: &HashMap<IpAddr, PortState>) -> Vec<IpAddr> {
    if results.iter().any(|result| result.outcome.is_ok()) {
        return Vec::new();
    }
    let case = Evidence { results, tcp_probes };
    let is_silent = |result: &&ProbeResult| matches!(case.diagnose(result), Diagnosis::UdpSilent | Diagnosis::Stalled);
    let silent = results
        .iter()
        .filter(is_silent)
        .filter_map(|result| direct_host(&result.path));
    let mut hosts: Vec<IpAddr> = silent
        .filter(|ip| tcp_probes.get(ip) == Some(&PortState::Open))
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// All that was seen.
struct Evidence<'a> {
    results: &'a [ProbeResult],
    tcp_probes: &'a HashMap<IpAddr, PortState>,
}

impl Evidence<'_> {
    fn diagnose(&self, result: &ProbeResult) -> Diagnosis {
        match &result.outcome {
            Ok(_) => Diagnosis::Works,
            Err(ProbeFailure::Silent) if result.handshake.is_some() => self.stalled(result),
            Err(ProbeFailure::Silent) => self.silent(result),
            Err(ProbeFailure::AwaitingSshd) => Diagnosis::SshdSlow,
            Err(ProbeFailure::Dial(error)) => self.dial(result, error),
            Err(ProbeFailure::Lost(CarrierError::Busy)) => Diagnosis::Refused,
            Err(ProbeFailure::Lost(_) | ProbeFailure::Fault) => Diagnosis::Broken,
            Err(ProbeFailure::Untrusted(_)) => Diagnosis::WrongKey,
            Err(ProbeFailure::NotAuthorized(_)) => Diagnosis::KeyRefused,
            Err(ProbeFailure::Refused(refusal)) => match refusal.code {
                RefusalCode::UpstreamDown => Diagnosis::SshdDown,
                RefusalCode::UpstreamUnfit => Diagnosis::SshdUnfit,
                RefusalCode::OtherMethod => Diagnosis::OtherMethod,
                // Desync: a probe is no hello that it knows.
                RefusalCode::Version | RefusalCode::Desync => Diagnosis::OtherVersion,
                _ => Diagnosis::Refused,
            },
            Err(ProbeFailure::Protocol(_)) => Diagnosis::OtherProtocol,
        }
    }

    fn dial(&self, result: &ProbeResult, error: &DialError) -> Diagnosis {
        match error {
            DialError::Unreachable(error) => self.io(result, error),
            DialError::NoHostKey => Diagnosis::NoHostKey,
            DialError::Relay(error) => self.relay(result, error),
            DialError::Busy => Diagnosis::Refused,
            DialError::OtherTls(_) => Diagnosis::OtherTls,
            DialError::Proxy(error) => proxy(&error.fault),
            DialError::Command(_) => Diagnosis::CommandFailed,
            DialError::Tls(error) if error.kind() == ErrorKind::InvalidData => Diagnosis::OtherProtocol,
            error if error.is_other_protocol() => Diagnosis::OtherProtocol,
            DialError::Quic(error) if matches!(**error, quinn::ConnectionError::TimedOut) => self.silent(result),
            _ => Diagnosis::Broken,
        }
    }

    fn io(&self, result: &ProbeResult, error: &io::Error) -> Diagnosis {
        match error.kind() {
            ErrorKind::ConnectionRefused => Diagnosis::NobodyListens,
            ErrorKind::TimedOut => self.silent(result),
            _ => Diagnosis::Unreachable,
        }
    }

    fn relay(&self, result: &ProbeResult, error: &ReachError) -> Diagnosis {
        match error {
            ReachError::Refused(refusal) => match refusal.code {
                RelayRefusalCode::NotRegistered => Diagnosis::NotRegistered,
                RelayRefusalCode::NoAnswer => Diagnosis::ServerSilent,
                _ => Diagnosis::RelayRefused,
            },
            ReachError::Dial(DialRelayError::Socket(error)) => self.io(result, error),
            ReachError::Dial(DialRelayError::Quic(error)) if matches!(**error, quinn::ConnectionError::TimedOut) => {
                self.silent(result)
            }
            ReachError::Dial(DialRelayError::Busy) => Diagnosis::RelayRefused,
            ReachError::Dial(_) | ReachError::Talk(_) | ReachError::OffTopic => Diagnosis::Broken,
        }
    }

    /// Nothing came back before the end of the handshake.
    fn silent(&self, result: &ProbeResult) -> Diagnosis {
        match &result.path {
            _ if result.small_mtu.is_some() => Diagnosis::MtuTooSmall,
            Path::Relayed(relay, transport) => {
                let by_tcp = |path: &Path| matches!(path, Path::Relayed(other, RelayTransport::Tls) if other == relay);
                let tcp_answers = self.results.iter().any(|other| by_tcp(&other.path) && answered(other));
                match transport {
                    RelayTransport::Quic if tcp_answers => Diagnosis::UdpBlocked,
                    _ => Diagnosis::RelaySilent,
                }
            }
            Path::Quic(address) => self.silent_udp(address.ip()),
            Path::Tls(address) => self.silent_tcp(result, address.ip()),
            Path::Proxied(_) | Path::Command(_) => Diagnosis::RouteSilent,
        }
    }

    fn silent_udp(&self, ip: IpAddr) -> Diagnosis {
        if self.loses_long_packets(ip) {
            Diagnosis::MtuBlackHole
        } else if self
            .at(ip)
            .any(|other| is_udp(&other.path) && other.handshake.is_some())
        {
            Diagnosis::UdpPortSilent
        } else if self.at(ip).any(|other| other.handshake.is_some()) {
            Diagnosis::UdpBlocked
        } else if self.lives(ip) {
            Diagnosis::UdpSilent
        } else {
            Diagnosis::HostSilent
        }
    }

    fn silent_tcp(&self, result: &ProbeResult, ip: IpAddr) -> Diagnosis {
        match result.unacked {
            // Connected: the handshake of TLS begins with a long packet.
            Some(1..) => Diagnosis::MtuBlackHole,
            Some(0) if self.loses_long_packets(ip) => Diagnosis::MtuBlackHole,
            Some(0) => Diagnosis::Stalled,
            None if self.lives(ip) => Diagnosis::TcpBlocked,
            None => Diagnosis::HostSilent,
        }
    }

    fn stalled(&self, result: &ProbeResult) -> Diagnosis {
        let loses = direct_host(&result.path).is_some_and(|ip| self.loses_long_packets(ip));
        match result.unacked {
            Some(1..) => Diagnosis::MtuBlackHole,
            _ if loses => Diagnosis::MtuBlackHole,
            _ => Diagnosis::Stalled,
        }
    }

    /// All that was found at an address.
    fn at(&self, ip: IpAddr) -> impl Iterator<Item = &ProbeResult> {
        self.results
            .iter()
            .filter(move |result| direct_host(&result.path) == Some(ip))
    }

    fn loses_long_packets(&self, ip: IpAddr) -> bool {
        let stuck =
            |other: &ProbeResult| other.handshake.is_none() && other.unacked.is_some_and(|segments| segments > 0);
        self.tcp_probes.get(&ip) == Some(&PortState::LosesLongPackets) || self.at(ip).any(stuck)
    }

    fn lives(&self, ip: IpAddr) -> bool {
        let seen = self.tcp_probes.get(&ip).is_some_and(|seen| *seen != PortState::Silent);
        seen || self.at(ip).any(|other| answered(other) || other.unacked.is_some())
    }
}

fn proxy(fault: &ProxyFault) -> Diagnosis {
    match fault {
        ProxyFault::WantsCredentials | ProxyFault::RefusedCredentials | ProxyFault::OtherScheme { .. } => {
            Diagnosis::ProxyCredentials
        }
        ProxyFault::Forbidden { .. } => Diagnosis::ProxyForbids,
        _ => Diagnosis::ProxyFailed,
    }
}

fn is_udp(path: &Path) -> bool {
    matches!(path, Path::Quic(_))
}

/// Whether anything came back.
fn answered(result: &ProbeResult) -> bool {
    let refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    result.handshake.is_some()
        || match &result.outcome {
            Err(ProbeFailure::Dial(DialError::Unreachable(error))) => refused(error),
            Err(ProbeFailure::Dial(DialError::Relay(ReachError::Dial(DialRelayError::Socket(error))))) => {
                refused(error)
            }
            Err(ProbeFailure::Dial(DialError::Relay(ReachError::Refused(_)))) => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::SmallMtu;
    use crate::wire::{Probed, Refusal, RelayRefusal};
    use std::time::Duration;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn result(path: &str, failure: ProbeFailure) -> ProbeResult {
        ProbeResult {
            path: path.parse().unwrap(),
            handshake: None,
            banner: None,
            mtu: None,
            outcome: Err(failure),
            unacked: None,
            small_mtu: None,
        }
    }

    #[test]
    fn a_path_that_is_too_narrow_for_quic_is_not_taken_for_one_without_udp() {
        let narrow = ProbeResult {
            small_mtu: Some(SmallMtu { mtu: 576, needed: 1228 }),
            ..quic(ProbeFailure::Silent)
        };
        let works = ProbeResult {
            handshake: Some(Duration::ZERO),
            ..result("tls 192.0.2.1:443", ProbeFailure::Silent)
        };
        assert_eq!(judged(&[narrow, works], None)[0], "mtu-too-small");
    }

    fn quic(failure: ProbeFailure) -> ProbeResult {
        result("quic 192.0.2.1:22", failure)
    }

    fn tls(failure: ProbeFailure) -> ProbeResult {
        result("tls 192.0.2.1:443", failure)
    }

    fn shaken(result: ProbeResult) -> ProbeResult {
        ProbeResult {
            handshake: Some(Duration::from_millis(50)),
            ..result
        }
    }

    fn refused() -> ProbeFailure {
        ProbeFailure::Dial(DialError::Unreachable(ErrorKind::ConnectionRefused.into()))
    }

    fn refusal(code: RefusalCode) -> ProbeFailure {
        let message = String::new();
        ProbeFailure::Refused(Refusal {
            code,
            message: message.into(),
        })
    }

    fn judged(results: &[ProbeResult], seen: Option<PortState>) -> Vec<&'static str> {
        let tcp_probes = seen.map(|seen| (IP, seen)).into_iter().collect();
        diagnose(results, &tcp_probes)
            .into_iter()
            .map(Diagnosis::name)
            .collect()
    }

    #[test]
    fn silence_over_udp_is_judged_by_what_tcp_says() {
        let silent = || quic(ProbeFailure::Silent);
        let answering = shaken(tls(refusal(RefusalCode::UpstreamDown)));
        assert_eq!(judged(&[silent(), answering], None), ["udp-blocked", "sshd-down"]);
        assert_eq!(
            judged(&[silent(), tls(refused())], None),
            ["udp-silent", "nobody-listens"]
        );
        assert_eq!(judged(&[silent()], Some(PortState::Open)), ["udp-silent"]);
        assert_eq!(judged(&[silent()], Some(PortState::Closed)), ["udp-silent"]);
        assert_eq!(
            judged(&[silent()], Some(PortState::LosesLongPackets)),
            ["mtu-black-hole"]
        );
        assert_eq!(judged(&[silent()], Some(PortState::Silent)), ["host-silent"]);
        assert_eq!(judged(&[quic(refused())], None), ["nobody-listens"]);
        let other_port = shaken(result("quic 192.0.2.1:443", refusal(RefusalCode::Busy)));
        assert_eq!(judged(&[silent(), other_port], None), ["udp-port-silent", "refused"]);
    }

    #[test]
    fn sshd_is_connected_to_only_where_no_path_works_and_the_cause_is_not_certain() {
        let asked = |results: &[ProbeResult], seen| doubtful_hosts(results, &HashMap::from([(IP, seen)]));
        let silent = || quic(ProbeFailure::Silent);
        assert_eq!(asked(&[silent()], PortState::Open), [IP]);
        assert_eq!(asked(&[silent()], PortState::Silent), [] as [IpAddr; 0]);
        assert_eq!(asked(&[silent()], PortState::Closed), [] as [IpAddr; 0]);
        assert_eq!(asked(&[quic(refused())], PortState::Open), [] as [IpAddr; 0]);
        let stuck = ProbeResult {
            unacked: Some(1),
            ..tls(ProbeFailure::Silent)
        };
        assert_eq!(
            asked(&[silent(), stuck], PortState::Open),
            [] as [IpAddr; 0],
            "known without"
        );
        let works = ProbeResult {
            outcome: Ok(Probed {
                software: "".into(),
                key: None,
                banner: "".into(),
                banner_age: 0,
                ttl: 0,
                shows_client: false,
                limits: None,
            }),
            ..tls(ProbeFailure::Silent)
        };
        assert_eq!(asked(&[silent(), works], PortState::Open), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_tcp_connection_whose_first_long_segment_is_never_acknowledged_is_a_black_hole_for_udp_too() {
        let stuck = |unacked| ProbeResult {
            unacked: Some(unacked),
            ..tls(ProbeFailure::Silent)
        };
        let both = ["mtu-black-hole", "mtu-black-hole"];
        assert_eq!(judged(&[quic(ProbeFailure::Silent), stuck(1)], None), both);
        assert_eq!(
            judged(
                &[quic(ProbeFailure::Silent), stuck(0)],
                Some(PortState::LosesLongPackets)
            ),
            both
        );
        assert_eq!(
            judged(&[quic(ProbeFailure::Silent), stuck(0)], None),
            ["udp-silent", "stalled"]
        );
    }

    #[test]
    fn silence_over_tcp_beside_a_living_udp_is_a_blocked_port() {
        let living = shaken(quic(refusal(RefusalCode::RetryLater)));
        assert_eq!(
            judged(&[living, tls(ProbeFailure::Silent)], None),
            ["refused", "tcp-blocked"]
        );
        assert_eq!(judged(&[tls(ProbeFailure::Silent)], None), ["host-silent"]);
    }

    #[test]
    fn a_server_half_that_does_not_know_probes_is_told_from_one_that_hangs() {
        assert_eq!(
            judged(&[shaken(quic(refusal(RefusalCode::Desync)))], None),
            ["other-version"]
        );
        assert_eq!(judged(&[shaken(quic(ProbeFailure::Silent))], None), ["stalled"]);
    }

    #[test]
    fn a_relay_that_is_up_is_told_from_one_that_is_not() {
        let relay = crate::carrier::via::RelayAddress {
            name: "r1:443".into(),
            address: "192.0.2.9:443".parse().unwrap(),
            key: None,
        };
        let by = |transport, failure| ProbeResult {
            path: Path::Relayed(relay.clone(), transport),
            ..quic(failure)
        };
        let says = |code| {
            let message = String::new();
            ProbeFailure::Dial(DialError::Relay(ReachError::Refused(RelayRefusal {
                code,
                message: message.into(),
            })))
        };
        let (udp, tcp) = (RelayTransport::Quic, RelayTransport::Tls);
        let results = [
            by(udp, ProbeFailure::Silent),
            by(tcp, says(RelayRefusalCode::NotRegistered)),
        ];
        assert_eq!(judged(&results, None), ["udp-blocked", "not-registered"]);
        let results = [by(udp, ProbeFailure::Silent), by(tcp, ProbeFailure::Silent)];
        assert_eq!(judged(&results, None), ["relay-silent", "relay-silent"]);
        assert_eq!(
            judged(&[by(tcp, says(RelayRefusalCode::NoAnswer))], None),
            ["server-silent"]
        );
        assert_eq!(judged(&[by(udp, refused())], None), ["nobody-listens"]);
    }
}
