//! Derives the likely cause of each path's failure. Pure: no I/O.

use super::direct_host;
use super::probe::{ProbeFailure, ProbeResult};
use super::tcp_probe::PortState;
use crate::carrier::stream::ProxyFault;
use crate::carrier::via::{RelayConnectError, RelayTransport};
use crate::carrier::{CarrierError, ConnectError, DialError, Path};
use crate::wire::{RefusalCode, RelayRefusalCode};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// Whether a path works, and if not, the likely cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// An authorized probe returned sshd's banner.
    Works,
    /// No answer over UDP, but a server half answered over TCP at the same address.
    UdpBlocked,
    /// No answer over UDP, but the host is up: UDP is blocked, or no server half runs and a firewall drops packets.
    UdpSilent,
    /// No answer from this UDP port, but another UDP port of the host works.
    UdpPortSilent,
    /// No answer from this TCP port, but the host is up.
    TcpBlocked,
    /// Short packets arrive, long packets are lost.
    MtuBlackHole,
    /// No answer from the address at all.
    HostSilent,
    /// The host refused the connection.
    NobodyListens,
    /// The network reported that the address is unreachable.
    Unreachable,
    /// Another protocol answered.
    OtherProtocol,
    /// A server half of another version answered, or one that does not support probes.
    OtherVersion,
    /// The handshake completed, then no answer came.
    Stalled,
    /// The connection was lost.
    Broken,
    /// The server half did not prove the host's keys.
    WrongKey,
    /// The server half accepts none of the user's keys.
    KeyRefused,
    /// The server half is up; sshd is not.
    SshdDown,
    /// The server half is up; sshd has not answered whether it accepts a key.
    SshdSlow,
    /// The server half is up, but cannot ask sshd whether it accepts a key.
    SshdUnfit,
    /// sshd requires another authentication method than a key first.
    OtherMethod,
    /// The server half refuses at the moment.
    Refused,
    /// The relay is up; the server half is not registered there.
    NotRegistered,
    /// The server half is registered at the relay, but does not answer it.
    ServerSilent,
    /// The relay refused.
    RelayRefused,
    /// No answer from the relay.
    RelaySilent,
    /// A TLS server answered that is not a server half.
    OtherTls,
    /// The path MTU is too small for QUIC.
    MtuTooSmall,
    /// The proxy requires other credentials, or an unsupported authentication scheme.
    ProxyCredentials,
    /// The proxy does not permit a tunnel to this port.
    ProxyForbids,
    /// The proxy could not connect to the server half's port.
    ProxyFailed,
    /// The command failed, or did not lead to a server half.
    CommandFailed,
    /// No answer through the proxy or the command.
    RouteSilent,
    /// No host key is known, and relays find a host by its key.
    NoHostKey,
}

impl Diagnosis {
    /// The name in JSON output.
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

/// One diagnosis per result. `tcp_probes` has the results of the TCP probes, by address.
pub(super) fn diagnose(results: &[ProbeResult], tcp_probes: &HashMap<IpAddr, PortState>) -> Vec<Diagnosis> {
    let evidence = Evidence { results, tcp_probes };
    results.iter().map(|result| evidence.diagnose(result)).collect()
}

/// The addresses at which a long packet to sshd would tell the cause: no path works, a path to the host got no
/// answer, and the host is up.
pub(super) fn hosts_to_test(results: &[ProbeResult], tcp_probes: &HashMap<IpAddr, PortState>) -> Vec<IpAddr> {
    if results.iter().any(|result| result.outcome.is_ok()) {
        return Vec::new();
    }
    let evidence = Evidence { results, tcp_probes };
    let is_silent =
        |result: &&ProbeResult| matches!(evidence.diagnose(result), Diagnosis::UdpSilent | Diagnosis::Stalled);
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

/// All results.
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
            Err(ProbeFailure::NoKeyQueries(_)) => Diagnosis::OtherVersion,
            Err(ProbeFailure::Refused(refusal)) => match refusal.code {
                RefusalCode::UpstreamDown => Diagnosis::SshdDown,
                RefusalCode::UpstreamUnfit => Diagnosis::SshdUnfit,
                RefusalCode::OtherMethod => Diagnosis::OtherMethod,
                // Desync: it does not know the probe message.
                RefusalCode::Version | RefusalCode::Desync => Diagnosis::OtherVersion,
                _ => Diagnosis::Refused,
            },
            Err(ProbeFailure::Protocol(_)) => Diagnosis::OtherProtocol,
        }
    }

    fn dial(&self, result: &ProbeResult, error: &DialError) -> Diagnosis {
        match error {
            DialError::Connect(error) => self.connect(result, error),
            DialError::NoHostKey => Diagnosis::NoHostKey,
            DialError::Relay(error) => self.relay(result, error),
            DialError::Proxy(error) => proxy(&error.fault),
            DialError::Command(_) => Diagnosis::CommandFailed,
            DialError::Carrier(_) => Diagnosis::Broken,
        }
    }

    fn connect(&self, result: &ProbeResult, error: &ConnectError) -> Diagnosis {
        match error {
            ConnectError::Unreachable(error) => self.io(result, error),
            ConnectError::Busy => Diagnosis::Refused,
            ConnectError::OtherTls(_) => Diagnosis::OtherTls,
            ConnectError::Tls(error) if error.kind() == ErrorKind::InvalidData => Diagnosis::OtherProtocol,
            error if error.is_other_protocol() => Diagnosis::OtherProtocol,
            error if error.is_quic_timeout() => self.silent(result),
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

    fn relay(&self, result: &ProbeResult, error: &RelayConnectError) -> Diagnosis {
        match error {
            RelayConnectError::Refused(refusal) => match refusal.code {
                RelayRefusalCode::NotRegistered => Diagnosis::NotRegistered,
                RelayRefusalCode::NoAnswer => Diagnosis::ServerSilent,
                _ => Diagnosis::RelayRefused,
            },
            RelayConnectError::Connect(ConnectError::Unreachable(error)) => self.io(result, error),
            RelayConnectError::Connect(error) if error.is_quic_timeout() => self.silent(result),
            RelayConnectError::Connect(ConnectError::Busy) => Diagnosis::RelayRefused,
            RelayConnectError::Connect(_) | RelayConnectError::Stream(_) | RelayConnectError::UnexpectedMessage => {
                Diagnosis::Broken
            }
        }
    }

    /// No answer before the end of the handshake.
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
            // Connected, and the TLS handshake starts with a long packet.
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

    /// The results for an address.
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

/// Whether the peer answered at all.
fn answered(result: &ProbeResult) -> bool {
    let refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    result.handshake.is_some()
        || match &result.outcome {
            Err(ProbeFailure::Dial(
                DialError::Connect(ConnectError::Unreachable(error))
                | DialError::Relay(RelayConnectError::Connect(ConnectError::Unreachable(error))),
            )) => refused(error),
            Err(ProbeFailure::Dial(DialError::Relay(RelayConnectError::Refused(_)))) => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::SmallMtu;
    use crate::wire::{Probed, Refusal};
    use std::time::Duration;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn result(path: &str, failure: ProbeFailure) -> ProbeResult {
        ProbeResult {
            path: path.parse().unwrap(),
            handshake: None,
            banner: None,
            mtu: None,
            all_keys_sign: false,
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
        assert_eq!(names(&[narrow, works], None)[0], "mtu-too-small");
    }

    fn quic(failure: ProbeFailure) -> ProbeResult {
        result("quic 192.0.2.1:22", failure)
    }

    fn tls(failure: ProbeFailure) -> ProbeResult {
        result("tls 192.0.2.1:443", failure)
    }

    fn with_handshake(result: ProbeResult) -> ProbeResult {
        ProbeResult {
            handshake: Some(Duration::from_millis(50)),
            ..result
        }
    }

    fn refused() -> ProbeFailure {
        ProbeFailure::Dial(ConnectError::Unreachable(ErrorKind::ConnectionRefused.into()).into())
    }

    fn refusal(code: RefusalCode) -> ProbeFailure {
        let message = String::new();
        ProbeFailure::Refused(Refusal {
            code,
            message: message.into(),
        })
    }

    fn names(results: &[ProbeResult], seen: Option<PortState>) -> Vec<&'static str> {
        let tcp_probes = seen.map(|seen| (IP, seen)).into_iter().collect();
        diagnose(results, &tcp_probes)
            .into_iter()
            .map(Diagnosis::name)
            .collect()
    }

    #[test]
    fn silence_over_udp_is_judged_by_what_tcp_says() {
        let silent = || quic(ProbeFailure::Silent);
        let answering = with_handshake(tls(refusal(RefusalCode::UpstreamDown)));
        assert_eq!(names(&[silent(), answering], None), ["udp-blocked", "sshd-down"]);
        assert_eq!(
            names(&[silent(), tls(refused())], None),
            ["udp-silent", "nobody-listens"]
        );
        assert_eq!(names(&[silent()], Some(PortState::Open)), ["udp-silent"]);
        assert_eq!(names(&[silent()], Some(PortState::Closed)), ["udp-silent"]);
        assert_eq!(
            names(&[silent()], Some(PortState::LosesLongPackets)),
            ["mtu-black-hole"]
        );
        assert_eq!(names(&[silent()], Some(PortState::Silent)), ["host-silent"]);
        assert_eq!(names(&[quic(refused())], None), ["nobody-listens"]);
        let other_port = with_handshake(result("quic 192.0.2.1:443", refusal(RefusalCode::Busy)));
        assert_eq!(names(&[silent(), other_port], None), ["udp-port-silent", "refused"]);
    }

    #[test]
    fn sshd_is_connected_to_only_where_no_path_works_and_the_cause_is_not_certain() {
        let asked = |results: &[ProbeResult], seen| hosts_to_test(results, &HashMap::from([(IP, seen)]));
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
        assert_eq!(names(&[quic(ProbeFailure::Silent), stuck(1)], None), both);
        assert_eq!(
            names(
                &[quic(ProbeFailure::Silent), stuck(0)],
                Some(PortState::LosesLongPackets)
            ),
            both
        );
        assert_eq!(
            names(&[quic(ProbeFailure::Silent), stuck(0)], None),
            ["udp-silent", "stalled"]
        );
    }

    #[test]
    fn silence_over_tcp_beside_a_living_udp_is_a_blocked_port() {
        let living = with_handshake(quic(refusal(RefusalCode::RetryLater)));
        assert_eq!(
            names(&[living, tls(ProbeFailure::Silent)], None),
            ["refused", "tcp-blocked"]
        );
        assert_eq!(names(&[tls(ProbeFailure::Silent)], None), ["host-silent"]);
    }

    #[test]
    fn a_server_half_that_does_not_know_probes_is_told_from_one_that_hangs() {
        assert_eq!(
            names(&[with_handshake(quic(refusal(RefusalCode::Desync)))], None),
            ["other-version"]
        );
        assert_eq!(names(&[with_handshake(quic(ProbeFailure::Silent))], None), ["stalled"]);
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
            ProbeFailure::Dial(DialError::Relay(RelayConnectError::Refused(Refusal {
                code,
                message: message.into(),
            })))
        };
        let (udp, tcp) = (RelayTransport::Quic, RelayTransport::Tls);
        let results = [
            by(udp, ProbeFailure::Silent),
            by(tcp, says(RelayRefusalCode::NotRegistered)),
        ];
        assert_eq!(names(&results, None), ["udp-blocked", "not-registered"]);
        let results = [by(udp, ProbeFailure::Silent), by(tcp, ProbeFailure::Silent)];
        assert_eq!(names(&results, None), ["relay-silent", "relay-silent"]);
        assert_eq!(
            names(&[by(tcp, says(RelayRefusalCode::NoAnswer))], None),
            ["server-silent"]
        );
        assert_eq!(names(&[by(udp, refused())], None), ["nobody-listens"]);
    }
}
