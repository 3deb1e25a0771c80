//! Verdicts in words: what is, and what to do about it.

use crate::carrier::Path;
use crate::cli::report::forget_command;
use crate::client::check::{CheckedPath, Diagnosis};

/// What follows if a server half does not support key queries.
pub(super) const ALL_KEYS_SIGN: &str = "this server half is an older version and cannot say which key it would accept, so \
                                        every key signs: an agent that asks for confirmation asks once for each key; \
                                        install the same version of bowline there";

/// What a diagnosis means, in one line; without the cause that was seen ([`CheckedPath::detail`]).
pub(super) fn meaning(diagnosis: Diagnosis) -> &'static str {
    match diagnosis {
        Diagnosis::Works => "works",
        Diagnosis::UdpBlocked => "no answer, but TCP to the same host works: UDP may be blocked",
        Diagnosis::UdpSilent => {
            "no answer, but the host answers on other ports: UDP is blocked, or no server half runs there"
        }
        Diagnosis::UdpPortSilent => {
            "no answer on this UDP port, but another one works: nothing listens on it, or it is blocked"
        }
        Diagnosis::TcpBlocked => "no answer, but the host answers on other ports: this port may be blocked",
        Diagnosis::MtuBlackHole => "MTU black hole: short packets pass, long packets are lost",
        Diagnosis::HostSilent => "no answer: the host is down, or everything is blocked",
        Diagnosis::NobodyListens => "connection refused: nothing listens on this port",
        Diagnosis::Unreachable => "the network reports that the host is unreachable",
        Diagnosis::OtherProtocol => "something other than bowline answers there",
        Diagnosis::OtherVersion => "a server half answers, but does not know this client's probes",
        Diagnosis::Stalled => {
            "the handshake began but did not finish: packets may be lost, or the server half or sshd may hang"
        }
        Diagnosis::Broken => "the connection broke",
        Diagnosis::WrongKey => "wrong host key: it differs from the known one",
        Diagnosis::KeyRefused => "the server half accepts none of the offered keys for this user",
        Diagnosis::SshdDown => "the server half answers, but cannot reach the SSH server behind it",
        Diagnosis::SshdSlow => "the server half answers, but sshd has not said yet whether it accepts a key",
        Diagnosis::SshdUnfit => "the server half answers, but sshd cannot be asked about keys",
        Diagnosis::OtherMethod => "sshd asks this user for another authentication method before a key",
        Diagnosis::Refused => "the server half refuses at the moment",
        Diagnosis::NotRegistered => "the relay answers, but the server half is not registered there",
        Diagnosis::ServerSilent => "the relay answers, but the server half registered there does not",
        Diagnosis::RelayRefused => "the relay refuses",
        Diagnosis::RelaySilent => "no answer through this relay",
        Diagnosis::OtherTls => {
            "a TLS server other than bowline answers: another server listens there, or something on the way \
             intercepts TLS"
        }
        Diagnosis::MtuTooSmall => "the path's MTU is too small for QUIC",
        Diagnosis::ProxyCredentials => "the proxy requires other credentials",
        Diagnosis::ProxyForbids => "the proxy allows no tunnel to this port",
        Diagnosis::ProxyFailed => "the proxy could not connect",
        Diagnosis::CommandFailed => "the program could not connect",
        Diagnosis::RouteSilent => "no answer through this proxy or program",
        Diagnosis::NoHostKey => "no key of this host is known, but a relay finds hosts by their keys",
    }
}

/// Whether a server half answers at one of the host's UDP ports, whatever it says.
pub(super) fn answers_quic(paths: &[CheckedPath]) -> bool {
    let answers = |path: &CheckedPath| matches!(path.path, Path::Quic(_)) && path.handshake.is_some();
    paths.iter().any(answers)
}

/// What to do about it, where there is something to do. `is_there`: [`answers_quic`].
pub(super) fn advice(checked: &CheckedPath, is_there: bool) -> Option<String> {
    let by_udp = matches!(checked.path, Path::Quic(_));
    let text = match checked.diagnosis {
        Diagnosis::UdpBlocked => {
            "sessions use TLS; to use QUIC, allow this UDP port if a firewall on the way blocks it"
        }
        Diagnosis::UdpSilent => {
            "check that `bowline serve` runs there; if it does, a firewall may block this UDP port: allow it, or \
             serve TLS too (serve --listen-tls)"
        }
        // Where clients look beside the port that answers: nothing needs to be there.
        Diagnosis::NobodyListens if by_udp && is_there => return None,
        Diagnosis::NobodyListens if by_udp => "start `bowline serve` there; --port sets another port",
        Diagnosis::NobodyListens => {
            "if UDP is blocked, sessions need `bowline serve --listen-tls` there; --tls-port sets another port"
        }
        Diagnosis::MtuBlackHole => {
            "lower the MTU of the interface, or let the router send ICMP \"packet too big\" or clamp TCP's MSS; \
             bowline needs packets of 1228 bytes over IPv4, 1248 over IPv6"
        }
        Diagnosis::OtherTls => "check the port; bowline's TLS does not work through a device that terminates TLS",
        Diagnosis::MtuTooSmall => {
            "sessions use TLS (serve --listen-tls), which works with smaller packets; for QUIC raise the MTU of \
             the interface or tunnel"
        }
        Diagnosis::ProxyCredentials => {
            "put the proxy's user name and password into its URL, in BOWLINE_PROXY or bowline.toml; for HTTP \
             proxies bowline supports only Basic authentication"
        }
        Diagnosis::ProxyForbids => {
            "many proxies allow tunnels to port 443 only: serve TLS on it (serve --listen-tls 443 on the server, \
             --tls-port 443 here)"
        }
        Diagnosis::OtherVersion => "install the same version of bowline on both sides",
        Diagnosis::WrongKey => {
            let careful = "do not connect until you know why";
            return Some(checked.recorded.as_ref().map_or(careful.to_owned(), |(name, file)| {
                format!(
                    "{careful}; if the host was reinstalled, run: {}",
                    forget_command(name, file)
                )
            }));
        }
        Diagnosis::KeyRefused => {
            "check that the right key was offered (-v shows which were) and is in authorized_keys there; \
             IdentityFile in ssh's configuration, or -i, names a key"
        }
        Diagnosis::SshdDown => "check that sshd runs there, and that serve --target names its port",
        Diagnosis::SshdSlow => "find out what slows down sshd's key lookup there, such as AuthorizedKeysCommand",
        Diagnosis::SshdUnfit => "see sshd's log and settings there (algorithms, RefuseConnection)",
        Diagnosis::OtherMethod => {
            "run `bowline serve` there with --auth none, or with this key in --authorized-keys; sshd still \
             decides about the login inside the session"
        }
        Diagnosis::NotRegistered => "run `bowline serve --relay` there with this relay",
        Diagnosis::NoHostKey => "connect directly once, or pass its fingerprint to --pin",
        _ => return None,
    };
    Some(text.to_owned())
}
