//! Verdicts in words: what is, and what to do about it.

use crate::carrier::Path;
use crate::cli::report::forget_command;
use crate::client::check::{Checked, Verdict};

/// What a verdict means, in one line; without the cause that was seen ([`Checked::detail`]).
pub(super) fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Works => "works",
        Verdict::UdpBlocked => "nothing came back, and TCP to the same host works: UDP may be blocked on the way",
        Verdict::UdpSilent => {
            "nothing came back, though the host answers at other ports: UDP is blocked, or no server half runs there"
        }
        Verdict::UdpPortSilent => {
            "nothing came back from this UDP port, and another of the host works: nobody listens, or it is blocked"
        }
        Verdict::TcpBlocked => "nothing came back, though the host answers at other ports: this one may be blocked",
        Verdict::MtuBlackHole => "MTU black hole: short packets pass, long ones are lost",
        Verdict::HostSilent => "nothing came back: the host is down, or everything is blocked",
        Verdict::NobodyListens => "nobody listens: connection refused",
        Verdict::Unreachable => "the network says that it cannot get there",
        Verdict::OtherProtocol => "something else than bowline answers there",
        Verdict::OtherVersion => "a server half answers that does not know this client's probes",
        Verdict::Stalled => {
            "a handshake began, then nothing came: packets may be lost, or the server half or sshd may hang"
        }
        Verdict::Broken => "the connection broke",
        Verdict::WrongKey => "wrong host key: not the one that is known",
        Verdict::KeyRefused => "the server half accepts none of the keys that were offered for this user",
        Verdict::SshdDown => "the server half answers, and reaches no SSH server behind it",
        Verdict::SshdSlow => "the server half is up, sshd behind it has not said yet whether it takes a key",
        Verdict::SshdUnfit => "the server half is up, sshd behind it does not let itself be asked",
        Verdict::OtherMethod => "sshd begins this user's login with another method than a key",
        Verdict::Refused => "the server half refuses for now",
        Verdict::NotRegistered => "the relay is up, the server half is not registered there",
        Verdict::ServerSilent => "the relay is up, the server half is registered there and does not answer",
        Verdict::RelayRefused => "the relay refuses",
        Verdict::RelaySilent => "nothing came back by this relay",
        Verdict::OtherTls => {
            "a TLS server answers that is no bowline: another one listens there, or something on the way intercepts TLS"
        }
        Verdict::MtuTooSmall => "the path's MTU is too small for QUIC",
        Verdict::ProxyCredentials => "the proxy wants other credentials",
        Verdict::ProxyForbids => "the proxy lets no tunnel go to this port",
        Verdict::ProxyFailed => "the proxy gives no connection",
        Verdict::CommandFailed => "the program gives no connection",
        Verdict::DetourSilent => "nothing came back this way",
        Verdict::NoHostKey => "no key of this host is known, and a relay finds a host by its key",
    }
}

/// Whether a server half answers at one of the host's UDP ports, whatever it says.
pub(super) fn answers_quic(paths: &[Checked]) -> bool {
    let answers = |path: &Checked| matches!(path.path, Path::Quic(_)) && path.handshake.is_some();
    paths.iter().any(answers)
}

/// What to do about it, where there is something to do. `is_there`: [`answers_quic`].
pub(super) fn advice(checked: &Checked, is_there: bool) -> Option<String> {
    let by_udp = matches!(checked.path, Path::Quic(_));
    let text = match checked.verdict {
        Verdict::UdpBlocked => {
            "sessions go over TLS; if a firewall on the way stops this UDP port, let it through for QUIC"
        }
        Verdict::UdpSilent => {
            "is `bowline serve` running there? If so, a firewall on the way may stop this UDP port: let it through, or have \
             TLS served too (serve --listen-tls)"
        }
        // Where clients look beside the port that answers: nothing needs to be there.
        Verdict::NobodyListens if by_udp && is_there => return None,
        Verdict::NobodyListens if by_udp => "start `bowline serve` there; --port names another port",
        Verdict::NobodyListens => {
            "without UDP, sessions need a server half with --listen-tls; --tls-port names another port"
        }
        Verdict::MtuBlackHole => {
            "lower the MTU of the interface, or have the router answer with ICMP \"packet too big\" or clamp TCP's MSS; \
             bowline needs 1228 bytes over IPv4, 1248 over IPv6"
        }
        Verdict::OtherTls => {
            "is the port right? Bowline's TLS goes through nothing in between that ends TLS: have that let it pass as it is"
        }
        Verdict::MtuTooSmall => {
            "sessions go over TLS (serve --listen-tls), which takes smaller packets; for QUIC raise the MTU of the \
             interface, or of the tunnel"
        }
        Verdict::ProxyCredentials => {
            "give the proxy's user and password in its URL, in BOWLINE_PROXY or bowline.toml; to an HTTP proxy bowline \
             speaks Basic alone"
        }
        Verdict::ProxyForbids => {
            "many proxies let tunnels go to port 443 alone: serve TLS there (serve --listen-tls 443; --tls-port 443 here)"
        }
        Verdict::OtherVersion => "install the same version of bowline on both sides",
        Verdict::WrongKey => {
            let careful = "do not connect before you know why";
            return Some(checked.recorded.as_ref().map_or(careful.to_owned(), |(name, file)| {
                format!("{careful}; if the host was reinstalled: {}", forget_command(name, file))
            }));
        }
        Verdict::KeyRefused => {
            "was the right one offered (-v says which), and is it in authorized_keys there? Name it with IdentityFile in ssh's \
             configuration, or with -i"
        }
        Verdict::SshdDown => "is sshd running there, and does serve --target name its port?",
        Verdict::SshdSlow => "see there what sshd looks keys up with: its AuthorizedKeysCommand, a directory behind it",
        Verdict::SshdUnfit => "see there what sshd's log and its settings say (algorithms, RefuseConnection)",
        Verdict::OtherMethod => {
            "have `bowline serve` there run with --auth none, or with --authorized-keys and this key in it; the login inside \
             is sshd's as ever"
        }
        Verdict::NotRegistered => "start `bowline serve --relay` there with this relay",
        Verdict::NoHostKey => "connect straight once, or give its fingerprint with --pin",
        _ => return None,
    };
    Some(text.to_owned())
}
