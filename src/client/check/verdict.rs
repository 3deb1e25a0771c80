//! From what was seen to the likely cause. Pure: findings in, verdicts out.

use super::probe::{Failure, Finding};
use super::straight_to;
use super::witness::Tcp;
use crate::carrier::stream::ProxyFault;
use crate::carrier::via::{DialRelayError, ReachError, RelayTransport};
use crate::carrier::{CarrierError, DialError, Path};
use crate::wire::{RefusalCode, RelayRefusalCode};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// Whether a path works, and if not why, most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
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
    DetourSilent,
    /// No key of the host is known, by which a relay finds it.
    NoHostKey,
}

impl Verdict {
    /// A name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Works => "works",
            Verdict::UdpBlocked => "udp-blocked",
            Verdict::UdpSilent => "udp-silent",
            Verdict::UdpPortSilent => "udp-port-silent",
            Verdict::TcpBlocked => "tcp-blocked",
            Verdict::MtuBlackHole => "mtu-black-hole",
            Verdict::HostSilent => "host-silent",
            Verdict::NobodyListens => "nobody-listens",
            Verdict::Unreachable => "unreachable",
            Verdict::OtherProtocol => "other-protocol",
            Verdict::OtherVersion => "other-version",
            Verdict::Stalled => "stalled",
            Verdict::Broken => "broken",
            Verdict::WrongKey => "wrong-key",
            Verdict::KeyRefused => "key-refused",
            Verdict::SshdDown => "sshd-down",
            Verdict::SshdSlow => "sshd-slow",
            Verdict::SshdUnfit => "sshd-unfit",
            Verdict::OtherMethod => "other-method",
            Verdict::Refused => "refused",
            Verdict::NotRegistered => "not-registered",
            Verdict::ServerSilent => "server-silent",
            Verdict::RelayRefused => "relay-refused",
            Verdict::RelaySilent => "relay-silent",
            Verdict::OtherTls => "other-tls",
            Verdict::MtuTooSmall => "mtu-too-small",
            Verdict::ProxyCredentials => "proxy-credentials",
            Verdict::ProxyForbids => "proxy-forbids",
            Verdict::ProxyFailed => "proxy-failed",
            Verdict::CommandFailed => "command-failed",
            Verdict::DetourSilent => "detour-silent",
            Verdict::NoHostKey => "no-host-key",
        }
    }
}

/// One verdict for each finding. `witnesses` are the second looks, by address.
pub(super) fn judge(findings: &[Finding], witnesses: &HashMap<IpAddr, Tcp>) -> Vec<Verdict> {
    let case = Case { findings, witnesses };
    findings.iter().map(|finding| case.judge(finding)).collect()
}

/// Where a long packet to sshd would tell the cause: no path works, nothing came back on one to there, and the host lives.
pub(super) fn doubtful_hosts(findings: &[Finding], witnesses: &HashMap<IpAddr, Tcp>) -> Vec<IpAddr> {
    if findings.iter().any(|finding| finding.outcome.is_ok()) {
        return Vec::new();
    }
    let case = Case { findings, witnesses };
    let is_silent = |finding: &&Finding| matches!(case.judge(finding), Verdict::UdpSilent | Verdict::Stalled);
    let silent = findings
        .iter()
        .filter(is_silent)
        .filter_map(|finding| straight_to(&finding.path));
    let mut hosts: Vec<IpAddr> = silent.filter(|ip| witnesses.get(ip) == Some(&Tcp::Connects)).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// All that was seen.
struct Case<'a> {
    findings: &'a [Finding],
    witnesses: &'a HashMap<IpAddr, Tcp>,
}

impl Case<'_> {
    fn judge(&self, finding: &Finding) -> Verdict {
        match &finding.outcome {
            Ok(_) => Verdict::Works,
            Err(Failure::Silent) if finding.handshake.is_some() => self.stalled(finding),
            Err(Failure::Silent) => self.silent(finding),
            Err(Failure::StillAsking) => Verdict::SshdSlow,
            Err(Failure::Dial(error)) => self.dial(finding, error),
            Err(Failure::Lost(CarrierError::Busy)) => Verdict::Refused,
            Err(Failure::Lost(_) | Failure::Fault) => Verdict::Broken,
            Err(Failure::Untrusted(_)) => Verdict::WrongKey,
            Err(Failure::NotAuthorized(_)) => Verdict::KeyRefused,
            Err(Failure::Refused(refusal)) => match refusal.code {
                RefusalCode::UpstreamDown => Verdict::SshdDown,
                RefusalCode::UpstreamUnfit => Verdict::SshdUnfit,
                RefusalCode::OtherMethod => Verdict::OtherMethod,
                // Desync: a probe is no hello that it knows.
                RefusalCode::Version | RefusalCode::Desync => Verdict::OtherVersion,
                _ => Verdict::Refused,
            },
            Err(Failure::Protocol(_)) => Verdict::OtherProtocol,
        }
    }

    fn dial(&self, finding: &Finding, error: &DialError) -> Verdict {
        match error {
            DialError::Unreachable(error) => self.io(finding, error),
            DialError::NoHostKey => Verdict::NoHostKey,
            DialError::Relay(error) => self.relay(finding, error),
            DialError::Busy => Verdict::Refused,
            DialError::OtherTls(_) => Verdict::OtherTls,
            DialError::Proxy(error) => proxy(&error.fault),
            DialError::Command(_) => Verdict::CommandFailed,
            DialError::Tls(error) if error.kind() == ErrorKind::InvalidData => Verdict::OtherProtocol,
            error if error.is_other_protocol() => Verdict::OtherProtocol,
            DialError::Quic(error) if matches!(**error, quinn::ConnectionError::TimedOut) => self.silent(finding),
            _ => Verdict::Broken,
        }
    }

    fn io(&self, finding: &Finding, error: &io::Error) -> Verdict {
        match error.kind() {
            ErrorKind::ConnectionRefused => Verdict::NobodyListens,
            ErrorKind::TimedOut => self.silent(finding),
            _ => Verdict::Unreachable,
        }
    }

    fn relay(&self, finding: &Finding, error: &ReachError) -> Verdict {
        match error {
            ReachError::Refused(refusal) => match refusal.code {
                RelayRefusalCode::NotRegistered => Verdict::NotRegistered,
                RelayRefusalCode::NoAnswer => Verdict::ServerSilent,
                _ => Verdict::RelayRefused,
            },
            ReachError::Dial(DialRelayError::Socket(error)) => self.io(finding, error),
            ReachError::Dial(DialRelayError::Quic(error)) if matches!(**error, quinn::ConnectionError::TimedOut) => {
                self.silent(finding)
            }
            ReachError::Dial(DialRelayError::Busy) => Verdict::RelayRefused,
            ReachError::Dial(_) | ReachError::Talk(_) | ReachError::OffTopic => Verdict::Broken,
        }
    }

    /// Nothing came back before the end of the handshake.
    fn silent(&self, finding: &Finding) -> Verdict {
        match &finding.path {
            _ if finding.small_mtu.is_some() => Verdict::MtuTooSmall,
            Path::Relayed(relay, transport) => {
                let by_tcp = |path: &Path| matches!(path, Path::Relayed(other, RelayTransport::Tls) if other == relay);
                let tcp_answers = self.findings.iter().any(|other| by_tcp(&other.path) && answered(other));
                match transport {
                    RelayTransport::Quic if tcp_answers => Verdict::UdpBlocked,
                    _ => Verdict::RelaySilent,
                }
            }
            Path::Quic(address) => self.silent_udp(address.ip()),
            Path::Tls(address) => self.silent_tcp(finding, address.ip()),
            Path::Proxied(_) | Path::Command(_) => Verdict::DetourSilent,
        }
    }

    fn silent_udp(&self, ip: IpAddr) -> Verdict {
        if self.loses_long_packets(ip) {
            Verdict::MtuBlackHole
        } else if self
            .at(ip)
            .any(|other| is_udp(&other.path) && other.handshake.is_some())
        {
            Verdict::UdpPortSilent
        } else if self.at(ip).any(|other| other.handshake.is_some()) {
            Verdict::UdpBlocked
        } else if self.lives(ip) {
            Verdict::UdpSilent
        } else {
            Verdict::HostSilent
        }
    }

    fn silent_tcp(&self, finding: &Finding, ip: IpAddr) -> Verdict {
        match finding.unacked {
            // Connected: the handshake of TLS begins with a long packet.
            Some(1..) => Verdict::MtuBlackHole,
            Some(0) if self.loses_long_packets(ip) => Verdict::MtuBlackHole,
            Some(0) => Verdict::Stalled,
            None if self.lives(ip) => Verdict::TcpBlocked,
            None => Verdict::HostSilent,
        }
    }

    fn stalled(&self, finding: &Finding) -> Verdict {
        let loses = straight_to(&finding.path).is_some_and(|ip| self.loses_long_packets(ip));
        match finding.unacked {
            Some(1..) => Verdict::MtuBlackHole,
            _ if loses => Verdict::MtuBlackHole,
            _ => Verdict::Stalled,
        }
    }

    /// All that was found at an address.
    fn at(&self, ip: IpAddr) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| straight_to(&finding.path) == Some(ip))
    }

    fn loses_long_packets(&self, ip: IpAddr) -> bool {
        let stuck = |other: &Finding| other.handshake.is_none() && other.unacked.is_some_and(|segments| segments > 0);
        self.witnesses.get(&ip) == Some(&Tcp::LongLost) || self.at(ip).any(stuck)
    }

    fn lives(&self, ip: IpAddr) -> bool {
        let seen = self.witnesses.get(&ip).is_some_and(|seen| *seen != Tcp::Silent);
        seen || self.at(ip).any(|other| answered(other) || other.unacked.is_some())
    }
}

fn proxy(fault: &ProxyFault) -> Verdict {
    match fault {
        ProxyFault::WantsCredentials | ProxyFault::RefusedCredentials | ProxyFault::OtherScheme { .. } => {
            Verdict::ProxyCredentials
        }
        ProxyFault::Forbidden { .. } => Verdict::ProxyForbids,
        _ => Verdict::ProxyFailed,
    }
}

fn is_udp(path: &Path) -> bool {
    matches!(path, Path::Quic(_))
}

/// Whether anything came back.
fn answered(finding: &Finding) -> bool {
    let refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    finding.handshake.is_some()
        || match &finding.outcome {
            Err(Failure::Dial(DialError::Unreachable(error))) => refused(error),
            Err(Failure::Dial(DialError::Relay(ReachError::Dial(DialRelayError::Socket(error))))) => refused(error),
            Err(Failure::Dial(DialError::Relay(ReachError::Refused(_)))) => true,
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

    fn finding(path: &str, failure: Failure) -> Finding {
        Finding {
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
        let narrow = Finding {
            small_mtu: Some(SmallMtu { mtu: 576, needed: 1228 }),
            ..quic(Failure::Silent)
        };
        let works = Finding {
            handshake: Some(Duration::ZERO),
            ..finding("tls 192.0.2.1:443", Failure::Silent)
        };
        assert_eq!(judged(&[narrow, works], None)[0], "mtu-too-small");
    }

    fn quic(failure: Failure) -> Finding {
        finding("quic 192.0.2.1:22", failure)
    }

    fn tls(failure: Failure) -> Finding {
        finding("tls 192.0.2.1:443", failure)
    }

    fn shaken(finding: Finding) -> Finding {
        Finding {
            handshake: Some(Duration::from_millis(50)),
            ..finding
        }
    }

    fn refused() -> Failure {
        Failure::Dial(DialError::Unreachable(ErrorKind::ConnectionRefused.into()))
    }

    fn refusal(code: RefusalCode) -> Failure {
        let message = String::new();
        Failure::Refused(Refusal {
            code,
            message: message.into(),
        })
    }

    fn judged(findings: &[Finding], seen: Option<Tcp>) -> Vec<&'static str> {
        let witnesses = seen.map(|seen| (IP, seen)).into_iter().collect();
        judge(findings, &witnesses).into_iter().map(Verdict::name).collect()
    }

    #[test]
    fn silence_over_udp_is_judged_by_what_tcp_says() {
        let silent = || quic(Failure::Silent);
        let answering = shaken(tls(refusal(RefusalCode::UpstreamDown)));
        assert_eq!(judged(&[silent(), answering], None), ["udp-blocked", "sshd-down"]);
        assert_eq!(
            judged(&[silent(), tls(refused())], None),
            ["udp-silent", "nobody-listens"]
        );
        assert_eq!(judged(&[silent()], Some(Tcp::Connects)), ["udp-silent"]);
        assert_eq!(judged(&[silent()], Some(Tcp::Refused)), ["udp-silent"]);
        assert_eq!(judged(&[silent()], Some(Tcp::LongLost)), ["mtu-black-hole"]);
        assert_eq!(judged(&[silent()], Some(Tcp::Silent)), ["host-silent"]);
        assert_eq!(judged(&[quic(refused())], None), ["nobody-listens"]);
        let other_port = shaken(finding("quic 192.0.2.1:443", refusal(RefusalCode::Busy)));
        assert_eq!(judged(&[silent(), other_port], None), ["udp-port-silent", "refused"]);
    }

    #[test]
    fn sshd_is_connected_to_only_where_no_path_works_and_the_cause_is_not_certain() {
        let asked = |findings: &[Finding], seen| doubtful_hosts(findings, &HashMap::from([(IP, seen)]));
        let silent = || quic(Failure::Silent);
        assert_eq!(asked(&[silent()], Tcp::Connects), [IP]);
        assert_eq!(asked(&[silent()], Tcp::Silent), [] as [IpAddr; 0]);
        assert_eq!(asked(&[silent()], Tcp::Refused), [] as [IpAddr; 0]);
        assert_eq!(asked(&[quic(refused())], Tcp::Connects), [] as [IpAddr; 0]);
        let stuck = Finding {
            unacked: Some(1),
            ..tls(Failure::Silent)
        };
        assert_eq!(
            asked(&[silent(), stuck], Tcp::Connects),
            [] as [IpAddr; 0],
            "known without"
        );
        let works = Finding {
            outcome: Ok(Probed {
                software: "".into(),
                key: None,
                banner: "".into(),
                banner_age: 0,
                ttl: 0,
                shows_client: false,
                limits: None,
            }),
            ..tls(Failure::Silent)
        };
        assert_eq!(asked(&[silent(), works], Tcp::Connects), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_tcp_connection_whose_first_long_segment_is_never_acknowledged_is_a_black_hole_for_udp_too() {
        let stuck = |unacked| Finding {
            unacked: Some(unacked),
            ..tls(Failure::Silent)
        };
        let both = ["mtu-black-hole", "mtu-black-hole"];
        assert_eq!(judged(&[quic(Failure::Silent), stuck(1)], None), both);
        assert_eq!(judged(&[quic(Failure::Silent), stuck(0)], Some(Tcp::LongLost)), both);
        assert_eq!(
            judged(&[quic(Failure::Silent), stuck(0)], None),
            ["udp-silent", "stalled"]
        );
    }

    #[test]
    fn silence_over_tcp_beside_a_living_udp_is_a_blocked_port() {
        let living = shaken(quic(refusal(RefusalCode::RetryLater)));
        assert_eq!(
            judged(&[living, tls(Failure::Silent)], None),
            ["refused", "tcp-blocked"]
        );
        assert_eq!(judged(&[tls(Failure::Silent)], None), ["host-silent"]);
    }

    #[test]
    fn a_server_half_that_does_not_know_probes_is_told_from_one_that_hangs() {
        assert_eq!(
            judged(&[shaken(quic(refusal(RefusalCode::Desync)))], None),
            ["other-version"]
        );
        assert_eq!(judged(&[shaken(quic(Failure::Silent))], None), ["stalled"]);
    }

    #[test]
    fn a_relay_that_is_up_is_told_from_one_that_is_not() {
        let relay = crate::carrier::via::RelayAddress {
            name: "r1:443".into(),
            address: "192.0.2.9:443".parse().unwrap(),
            key: None,
        };
        let by = |transport, failure| Finding {
            path: Path::Relayed(relay.clone(), transport),
            ..quic(failure)
        };
        let says = |code| {
            let message = String::new();
            Failure::Dial(DialError::Relay(ReachError::Refused(RelayRefusal {
                code,
                message: message.into(),
            })))
        };
        let (udp, tcp) = (RelayTransport::Quic, RelayTransport::Tls);
        let findings = [by(udp, Failure::Silent), by(tcp, says(RelayRefusalCode::NotRegistered))];
        assert_eq!(judged(&findings, None), ["udp-blocked", "not-registered"]);
        let findings = [by(udp, Failure::Silent), by(tcp, Failure::Silent)];
        assert_eq!(judged(&findings, None), ["relay-silent", "relay-silent"]);
        assert_eq!(
            judged(&[by(tcp, says(RelayRefusalCode::NoAnswer))], None),
            ["server-silent"]
        );
        assert_eq!(judged(&[by(udp, refused())], None), ["nobody-listens"]);
    }
}
