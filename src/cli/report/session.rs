//! How the client half tells why a session could not be opened, or how it ended.

use super::{Exit, Failure};
use crate::carrier::stream::ProxyFault;
use crate::carrier::via::RelayTransport;
use crate::carrier::{ConnectError, DialError, Path};
use crate::client::{AttemptError, Failed, OpenError, TrustError};
use crate::identity::known_hosts::CommandError;
use crate::identity::ssh_config::SshConfigError;
use crate::pump::Outcome;
use crate::wire::{CloseCode, ErrorChain, Escaped, InvalidUserName, RefusalCode};
use russh::keys::ssh_key::Fingerprint;
use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};

/// One line that the user must see although all is well.
pub(crate) fn notice(line: &str) {
    let _ = writeln!(io::stderr(), "bowline: {}", Escaped(line));
}

/// The server half there, and its record, stay.
pub(crate) fn cannot_uninstall(host: &str, error: &dyn Error) -> Failure {
    Failure::from_error(Exit::Unavailable, error)
        .fact(format_args!("the server half at {host} was not removed"))
        .hint("log in with ssh, and remove ~/.local/state/bowline/bootstrap and ~/.cache/bowline there")
}

/// ssh would log in as somebody whom no sshd can be asked about.
pub(crate) fn not_a_user_name(error: InvalidUserName) -> Failure {
    Failure::new(Exit::Usage, error).hint(
        "choose another user with USER@HOST, or with User in ssh's \
        configuration",
    )
}

/// `ssh -G` did not say what the host is.
pub(crate) fn no_ssh_config(error: &SshConfigError) -> Failure {
    let exit = match error {
        SshConfigError::AskedAlready { .. } => return asked_already(error),
        SshConfigError::NotAHost { .. } | SshConfigError::Rejected { .. } => Exit::Usage,
        _ => Exit::Unavailable,
    };
    let failure = Failure::from_error(exit, error);
    match error {
        SshConfigError::Missing { .. } => failure.hint("install OpenSSH's client (Debian: apt install openssh-client)"),
        _ => failure,
    }
}

/// ssh asks bowline, which was about to ask ssh.
pub(crate) fn asked_already(error: &dyn Error) -> Failure {
    Failure::from_error(Exit::Usage, error).hint(
        "`Match exec` in ssh's configuration may run `bowline check`; it may run other bowline commands only for \
         another host",
    )
}

/// ssh wants from its ProxyCommand what bowline does not give.
pub(crate) fn passes_no_socket(host: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!(
            "ssh expects a connected socket from its ProxyCommand for {host} (ProxyUseFdpass yes), but \
            bowline cannot pass one"
        ),
    )
    .hint(
        "add `ProxyUseFdpass no` next to this ProxyCommand in ssh's configuration, before any `ProxyUseFdpass \
        yes`",
    )
}

/// The same; `ignores_host_keys`: ssh's StrictHostKeyChecking is `no`.
pub(crate) fn cannot_open_as(host: &str, error: OpenError, ignores_host_keys: bool) -> Failure {
    let is_ignored = ignores_host_keys && is_changed(&error);
    let failure = cannot_open(host, error);
    match is_ignored {
        true => failure.fact(
            "with StrictHostKeyChecking no, ssh would warn and continue without passwords; bowline does not \
             offer your keys to a host whose key has changed",
        ),
        false => failure,
    }
}

/// What to do if nothing is known but that no answer came.
const NO_ANSWER: &str = "check that `bowline serve` runs there; if a firewall is on the way, it has to allow these UDP \
    ports; `--port` sets another port, and `--fallback tcp` connects without bowline";

/// The program that prints lines of known_hosts gave no answer.
pub(crate) fn no_known_hosts_command(error: &CommandError) -> Failure {
    Failure::from_error(Exit::Refused, error).hint(BAD_KNOWN_HOSTS_COMMAND)
}

const BAD_KNOWN_HOSTS_COMMAND: &str = "ssh does not connect in this case either: run the command by hand, then \
    fix it or remove KnownHostsCommand from ssh's configuration";

/// Whether it is a name, or an IPv4 address, with a port behind it. ssh does not know this form.
fn has_port(host: &str) -> bool {
    let parts = host.split_once(':');
    parts.is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
}

/// No session was opened to `host`.
pub(crate) fn cannot_open(host: &str, error: OpenError) -> Failure {
    match error {
        OpenError::Resolve(error) => {
            let failure = Failure::from_error(Exit::Unavailable, &error);
            match has_port(host) {
                true => failure
                    .hint("the port is an argument of its own: `bowline check HOST PORT`, `bowline ssh -p PORT HOST`"),
                false => failure.hint("check the name, and HostName in ssh's configuration"),
            }
        }
        OpenError::NoPath { attempts, .. } if attempts.iter().any(is_other_protocol) => other_protocol(host, &attempts),
        OpenError::NoPath { attempts, within } => {
            let what = format_args!("cannot reach a bowline server half on {host}").to_string();
            let failure = attempts
                .iter()
                .fold(Failure::new(Exit::Unavailable, what), |failure, failed| {
                    let port = port_of(&failed.path);
                    match &failed.error {
                        AttemptError::Silent => {
                            failure.fact(format_args!("{port}: no answer within {:.1} s", within.as_secs_f64()))
                        }
                        error => failure.fact(format_args!("{port}: {}", ErrorChain(error))),
                    }
                });
            if attempts.iter().any(is_without_host_key) {
                return failure.hint(
                    "a relay looks up a server by its host key, and none is known: pass the fingerprint that \
                     `bowline serve` printed there to --pin, or add the host key to known_hosts",
                );
            }
            if attempts.iter().any(is_busy) {
                return failure.hint(
                    "the server half runs, but has too many unfinished handshakes: try again in a minute, or \
                     raise --max-half-open there",
                );
            }
            failure.hint(attempts.iter().find_map(hint_of_path).unwrap_or(NO_ANSWER))
        }
        OpenError::Untrusted(error) => untrusted(&*error),
        OpenError::NotAuthorized {
            user,
            refusal,
            tried,
            ssh_has_more,
        } => {
            let what = format_args!("{host} accepted none of your keys for {user}: {}", refusal.message);
            not_authorized(Failure::new(Exit::Refused, what), &tried, ssh_has_more)
        }
        error @ OpenError::AwaitingSshd { .. } => still_asking(host, &error),
        OpenError::Refused(refusal) => refused(host, refusal.code, &refusal.message),
        OpenError::Protocol(error) => {
            let what = format_args!("the server that answers on {host} does not speak bowline's protocol");
            Failure::new(Exit::Protocol, what)
                .fact(error)
                .hint("check the port, and the version of bowline on the server")
        }
    }
}

/// The server half waits for sshd.
fn still_asking(host: &str, error: &OpenError) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("{host}: {error}")).hint(
        "sshd may be slow to look up keys there (AuthorizedKeysCommand, a directory service); ssh's \
         ConnectTimeout, or --connect-timeout, sets how long bowline waits",
    )
}

fn not_authorized(failure: Failure, tried: &[String], ssh_has_more: bool) -> Failure {
    let failure = match tried.is_empty() {
        true => failure.fact("there is no key to offer"),
        false => tried.iter().fold(failure, Failure::fact),
    };
    failure.hint(if ssh_has_more {
        "ssh may be able to use a key that bowline cannot: with `--fallback tcp` (the default of `bowline ssh`) \
         it then connects without bowline; or create a key that bowline supports (ssh-keygen -t ed25519), and \
         add it to authorized_keys there"
    } else {
        "check that the right key is in this list and in authorized_keys there; IdentityFile in ssh's \
         configuration, `ssh -i` or ssh-add offers another key"
    })
}

/// A path as a firewall's rules name it.
fn port_of(path: &Path) -> String {
    match path {
        Path::Quic(address) => format!("udp {address}"),
        Path::Tls(address) => format!("tcp {address}"),
        Path::Proxied(_) | Path::Command(_) => path.to_string(),
        Path::Relayed(relay, RelayTransport::Quic) => format!("relay {}, udp {}", relay.name, relay.address),
        Path::Relayed(relay, RelayTransport::Tls) => format!("relay {}, tcp {}", relay.name, relay.address),
    }
}

/// Whether another protocol answered where bowline is expected. On port 443 anything may answer.
fn is_other_protocol(failed: &Failed) -> bool {
    failed.is_other_protocol() && !matches!(failed.path, Path::Quic(address) if address.port() == 443)
}

/// Whether a relay could not be asked, because no host key is known.
fn is_without_host_key(failed: &Failed) -> bool {
    matches!(failed.error, AttemptError::Dial(DialError::NoHostKey))
}

/// Advice for a failed path, if the cause is known.
fn hint_of_path(failed: &Failed) -> Option<&'static str> {
    match &failed.error {
        AttemptError::SmallMtu(_) => Some(
            "let the server half serve TLS too (serve --listen-tls), which works with smaller packets, or raise \
             the MTU of the interface or tunnel; `bowline check` shows details",
        ),
        AttemptError::Dial(DialError::Connect(ConnectError::OtherTls(_))) => Some(
            "check the port; bowline's TLS does not work through a device that terminates TLS; `bowline check` \
             shows details",
        ),
        AttemptError::Dial(DialError::Proxy(error)) => match &error.fault {
            ProxyFault::Forbidden { port, .. } if *port != 443 => Some(
                "many proxies allow tunnels to port 443 only: serve TLS on it (serve --listen-tls 443 on the \
                 server, --tls-port 443 here)",
            ),
            ProxyFault::WantsCredentials | ProxyFault::RefusedCredentials | ProxyFault::OtherScheme { .. } => Some(
                "put the proxy's user name and password into its URL, in BOWLINE_PROXY or bowline.toml; for HTTP \
                 proxies bowline supports only Basic authentication",
            ),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the server half, or a relay, takes no more connections for now.
fn is_busy(failed: &Failed) -> bool {
    matches!(&failed.error, AttemptError::Dial(error) if error.is_busy())
}

/// Something speaks QUIC there, but not our protocol or not this version of it.
fn other_protocol(host: &str, attempts: &[Failed]) -> Failure {
    let what =
        format_args!("the server that answers on {host} does not speak this version of bowline's protocol").to_string();
    attempts
        .iter()
        .filter(|failed| is_other_protocol(failed))
        .fold(Failure::new(Exit::Protocol, what), |failure, failed| {
            failure.fact(format_args!("{}: {}", port_of(&failed.path), ErrorChain(&failed.error)))
        })
        .hint("check the port; if it is right, install the same version of bowline on both sides")
}

/// What sshd says to a client that it has locked out for a while, and OpenSSH 10 also if too many of one address have not
/// logged in yet.
const PENALTY: &str = "Not allowed at this time";

/// What sshd says if too many have not logged in yet.
const MAX_STARTUPS: &str = "Exceeded MaxStartups";

fn refused(host: &str, code: RefusalCode, message: &str) -> Failure {
    let told = |exit| Failure::new(exit, format_args!("{host} refused the session: {message}"));
    match code {
        RefusalCode::Version => told(Exit::Protocol).hint("install the same version of bowline on both sides"),
        RefusalCode::Desync => told(Exit::Protocol),
        RefusalCode::UpstreamDown => told(Exit::Unavailable).hint(
            "the server half answers, but sshd behind it does not: check that sshd runs there and that serve \
             --target names its address",
        ),
        RefusalCode::Busy => told(Exit::Refused).hint(
            "end sessions that you do not need (bowline kill there), wait until one ends, or raise \
             --max-sessions and --max-sessions-per-key there",
        ),
        RefusalCode::OpensRefused => told(Exit::Refused).hint(
            "see the event `opens-refused` in the log of bowline serve on the server (journalctl -u \
                bowline)",
        ),
        RefusalCode::UpstreamUnfit => told(Exit::Unavailable).hint(
            "trying again does not help: see sshd's log and settings on the server (algorithms, \
             RefuseConnection); with bowline serve --authorized-keys or --auth none, sshd is not asked about \
             keys",
        ),
        RefusalCode::OtherMethod => told(Exit::Refused).hint(
            "to let this user in, run bowline serve there with --auth none, or with this key in \
             --authorized-keys; sshd still decides about the login inside the session. ssh without bowline works \
             too",
        ),
        RefusalCode::RetryLater if message.contains(PENALTY) => told(Exit::Unavailable).hint(
            "either sshd blocks this client for a while because of failed logins (PerSourcePenalties), or too \
             many logins from its address are in progress (PerSourceMaxStartups)",
        ),
        RefusalCode::RetryLater if message.contains(MAX_STARTUPS) => told(Exit::Unavailable).hint(
            "too many logins are in progress there: try again, or raise MaxStartups or \
                PerSourceMaxStartups",
        ),
        RefusalCode::RetryLater => told(Exit::Unavailable).hint("try again in a minute"),
        RefusalCode::Gone | RefusalCode::Stale | RefusalCode::NotAuthorized => told(Exit::Refused),
    }
}

/// The command that takes what is recorded for a name out of a file.
pub(crate) fn forget_command(name: &str, file: &std::path::Path) -> impl Display {
    format!(
        "ssh-keygen -R {} -f {}",
        shell_word(name),
        shell_word(&file.to_string_lossy())
    )
}

/// A word as a shell has to be given it.
fn shell_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@+,=%".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A host key has changed, and ssh would go on all the same.
fn is_changed(error: &OpenError) -> bool {
    let OpenError::Untrusted(error) = error else {
        return false;
    };
    matches!(error.downcast_ref::<TrustError>(), Some(TrustError::Changed { .. }))
}

fn untrusted(error: &(dyn Error + Send + Sync + 'static)) -> Failure {
    let failure = Failure::from_error(Exit::Refused, error);
    match error.downcast_ref::<TrustError>() {
        Some(TrustError::Changed {
            name,
            place,
            expected,
            presented,
        }) => failure
            .fact(format_args!(
                "{} line {} expects {}, the server half presented {}",
                place.file.display(),
                place.line,
                list(expected),
                list(presented)
            ))
            .hint(format_args!(
                "if the host was reinstalled, run: {}; if its server half has a key of its own, pass its \
                 fingerprint to --pin; otherwise somebody may be intercepting the connection",
                forget_command(name, &place.file)
            )),
        Some(TrustError::Revoked { place, fingerprint, .. }) => failure
            .fact(format_args!(
                "{fingerprint} is revoked by {} line {}",
                place.file.display(),
                place.line
            ))
            .hint("do not connect until you know why the key was revoked"),
        Some(TrustError::InRevokedFile { file, fingerprint, .. }) => failure
            .fact(format_args!("{fingerprint} is revoked by {}", file.display()))
            .hint("do not connect until you know why the key was revoked"),
        Some(TrustError::NotPinned { presented }) => failure
            .fact(format_args!("the server half presented {}", list(presented)))
            .hint("compare it with the fingerprint that `bowline serve` printed there"),
        Some(TrustError::Command(_)) => failure.hint(BAD_KNOWN_HOSTS_COMMAND),
        Some(TrustError::Revocation(_)) => failure.hint("fix the file, or remove it from RevokedHostKeys"),
        None => failure,
    }
}

/// `--fallback tcp` found no sshd either.
pub(crate) fn cannot_fall_back(host: &str, port: u16, error: &io::Error, why: &OpenError) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format_args!("neither a bowline server half nor sshd answers on {host}"),
    )
    .fact(format_args!("tcp {host} port {port}: {error}"))
    .fact(format_args!("bowline: {why}"))
    .hint(format_args!(
        "check the host's name and port, and that sshd runs there; `bowline check {host}` tests every path"
    ))
}

/// How a session ended, as the caller is to be told.
///
/// # Errors
/// Every end that may have cost bytes.
pub(crate) fn session_end(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        // A client half has no successor to hand over to.
        Outcome::Finished | Outcome::Unfinished | Outcome::HandedOver => Ok(()),
        Outcome::ClosedByPeer(CloseCode::UpstreamClosed | CloseCode::PipeClosed, _) => Ok(()),
        Outcome::ClosedByPeer(CloseCode::Ended, why) => Err(ended(&why)),
        Outcome::Ended(why) | Outcome::Lost(why) => Err(ended(&why)),
        Outcome::ClosedByPeer(CloseCode::Desync, why) => Err(Failure::new(
            Exit::Protocol,
            format_args!("the server half reported a protocol error: {why}"),
        )
        .hint(REPORT_DESYNC)),
        Outcome::Expired | Outcome::Unconfirmed(_) => Err(Failure::new(
            Exit::Lost,
            "the session was lost: no path worked for longer than --patience allows",
        )
        .hint(
            "--patience sets how long the client half waits for a path, and --session-ttl how long the \
                    server half does",
        )),
        Outcome::Desync(error) => Err(Failure::from_error(Exit::Protocol, &error).hint(REPORT_DESYNC)),
    }
}

fn ended(why: &str) -> Failure {
    Failure::new(Exit::Lost, format_args!("the session was ended: {why}"))
}

/// Neither path nor user can cause it.
const REPORT_DESYNC: &str = "the two halves disagree on which bytes were transferred, so the session cannot \
    continue without loss; run the same version of bowline on both sides; if you already do, please report this";

fn list(fingerprints: &[Fingerprint]) -> String {
    let texts: Vec<String> = fingerprints.iter().map(Fingerprint::to_string).collect();
    if texts.is_empty() {
        "no key at all".to_owned()
    } else {
        texts.join(", ")
    }
}
