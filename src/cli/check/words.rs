//! Verdicts in words: what is, and what to do about it.

use crate::carrier::Path;
use crate::cli::report::forget_command;
use crate::client::check::{CheckedPath, Diagnosis};

/// What a diagnosis means, in one line; without the cause that was seen ([`CheckedPath::detail`]).
pub(super) fn meaning(diagnosis: Diagnosis) -> &'static str {
    match diagnosis {
        Diagnosis::Works => "works",
        Diagnosis::UdpBlocked => "nothing came back, and TCP to the same host works: UDP may be blocked on the way",
        Diagnosis::UdpSilent => {
            "nothing came back, though the host answers at other ports: UDP is blocked, or no server half runs there"
        }
        Diagnosis::UdpPortSilent => {
            "nothing came back from this UDP port, and another of the host works: nobody listens, or it is blocked"
        }
        Diagnosis::TcpBlocked => "nothing came back, though the host answers at other ports: this one may be blocked",
        Diagnosis::MtuBlackHole => "MTU black hole: short packets pass, long ones are lost",
        Diagnosis::HostSilent => "nothing came back: the host is down, or everything is blocked",
        Diagnosis::NobodyListens => "nobody listens: connection refused",
        Diagnosis::Unreachable => "the network says that it cannot get there",
        Diagnosis::OtherProtocol => "something else than bowline answers there",
        Diagnosis::OtherVersion => "a server half answers that does not know this client's probes",
        Diagnosis::Stalled => {
            "a handshake began, then nothing came: packets may be lost, or the server half or sshd may hang"
        }
        Diagnosis::Broken => "the connection broke",
        Diagnosis::WrongKey => "wrong host key: not the one that is known",
        Diagnosis::KeyRefused => "the server half accepts none of the keys that were offered for this user",
        Diagnosis::SshdDown => "the server half answers, and reaches no SSH server behind it",
        Diagnosis::SshdSlow => "the server half is up, sshd behind it has not said yet whether it takes a key",
        Diagnosis::SshdUnfit => "the server half is up, sshd behind it does not let itself be asked",
        Diagnosis::OtherMethod => "sshd begins this user's login with another method than a key",
        Diagnosis::Refused => "the server half refuses for now",
        Diagnosis::NotRegistered => "the relay is up, the server half is not registered there",
        Diagnosis::ServerSilent => "the relay is up, the server half is registered there and does not answer",
        Diagnosis::RelayRefused => "the relay refuses",
        Diagnosis::RelaySilent => "nothing came back by this relay",
        Diagnosis::OtherTls => {
            "a TLS server answers that is no bowline: another one listens there, or something on the way intercepts TLS"
        }
        Diagnosis::MtuTooSmall => "the path's MTU is too small for QUIC",
        Diagnosis::ProxyCredentials => "the proxy wants other credentials",
        Diagnosis::ProxyForbids => "the proxy lets no tunnel go to this port",
        Diagnosis::ProxyFailed => "the proxy gives no connection",
        Diagnosis::CommandFailed => "the program gives no connection",
        Diagnosis::RouteSilent => "nothing came back this way",
        Diagnosis::NoHostKey => "no key of this host is known, and a relay finds a host by its key",
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
            "sessions go over TLS; if a firewall on the way stops this UDP port, let it through for QUIC"
        }
        Diagnosis::UdpSilent => {
            "is `bowline serve` running there? If so, a firewall on the way may stop this UDP port: let it through, or have \
             TLS served too (serve --listen-tls)"
        }
        // Where clients look beside the port that answers: nothing needs to be there.
        Diagnosis::NobodyListens if by_udp && is_there => return None,
        Diagnosis::NobodyListens if by_udp => "start `bowline serve` there; --port names another port",
        Diagnosis::NobodyListens => {
            "without UDP, sessions need a server half with --listen-tls; --tls-port names another port"
        }
        Diagnosis::MtuBlackHole => {
            "lower the MTU of the interface, or have the router answer with ICMP \"packet too big\" or clamp TCP's MSS; \
             bowline needs 1228 bytes over IPv4, 1248 over IPv6"
        }
        Diagnosis::OtherTls => {
            "is the port right? Bowline's TLS goes through nothing in between that ends TLS: have that let it pass as it is"
        }
        Diagnosis::MtuTooSmall => {
            "sessions go over TLS (serve --listen-tls), which takes smaller packets; for QUIC raise the MTU of the \
             interface, or of the tunnel"
        }
        Diagnosis::ProxyCredentials => {
            "give the proxy's user and password in its URL, in BOWLINE_PROXY or bowline.toml; to an HTTP proxy bowline \
             speaks Basic alone"
        }
        Diagnosis::ProxyForbids => {
            "many proxies let tunnels go to port 443 alone: serve TLS there (serve --listen-tls 443; --tls-port 443 here)"
        }
        Diagnosis::OtherVersion => "install the same version of bowline on both sides",
        Diagnosis::WrongKey => {
            let careful = "do not connect before you know why";
            return Some(checked.recorded.as_ref().map_or(careful.to_owned(), |(name, file)| {
                format!("{careful}; if the host was reinstalled: {}", forget_command(name, file))
            }));
        }
        Diagnosis::KeyRefused => {
            "was the right one offered (-v says which), and is it in authorized_keys there? Name it with IdentityFile in ssh's \
             configuration, or with -i"
        }
        Diagnosis::SshdDown => "is sshd running there, and does serve --target name its port?",
        Diagnosis::SshdSlow => {
            "see there what sshd looks keys up with: its AuthorizedKeysCommand, a directory behind it"
        }
        Diagnosis::SshdUnfit => "see there what sshd's log and its settings say (algorithms, RefuseConnection)",
        Diagnosis::OtherMethod => {
            "have `bowline serve` there run with --auth none, or with --authorized-keys and this key in it; the login inside \
             is sshd's as ever"
        }
        Diagnosis::NotRegistered => "start `bowline serve --relay` there with this relay",
        Diagnosis::NoHostKey => "connect straight once, or give its fingerprint with --pin",
        _ => return None,
    };
    Some(text.to_owned())
}
