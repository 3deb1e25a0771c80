//! How the client half tells why a session could not be opened, or how it ended.

use super::{Exit, Failure};
use crate::carrier::stream::ProxyFault;
use crate::carrier::via::RelayTransport;
use crate::carrier::{DialError, Path};
use crate::client::{AttemptError, Failed, OpenError, TrustError};
use crate::identity::known_hosts::CommandError;
use crate::identity::ssh_config::SshConfigError;
use crate::pump::Outcome;
use crate::wire::{CloseCode, Escaped, NotAUserName, RefusalCode};
use russh::keys::ssh_key::Fingerprint;
use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};

/// One line that the user must see although all is well.
pub(crate) fn notice(line: &str) {
    let _ = writeln!(io::stderr(), "bowline: {}", Escaped(line));
}

/// ssh would log in as somebody whom no sshd can be asked about.
pub(crate) fn not_a_user_name(error: NotAUserName) -> Failure {
    Failure::new(Exit::Usage, error).hint("name another with USER@HOST, or with User in ssh's configuration")
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
        "in ssh's configuration, `Match exec` may run `bowline check`, which is made for it; any other command of \
         bowline in it must be about another host",
    )
}

/// ssh wants from its ProxyCommand what bowline does not give.
pub(crate) fn passes_no_socket(host: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!("ssh waits for a connected socket for {host} (ProxyUseFdpass yes), and bowline carries bytes"),
    )
    .hint("put `ProxyUseFdpass no` beside this ProxyCommand in ssh's configuration, before any `ProxyUseFdpass yes`")
}

/// The same; `ignores_host_keys`: ssh's StrictHostKeyChecking is `no`.
pub(crate) fn cannot_open_as(host: &str, error: OpenError, ignores_host_keys: bool) -> Failure {
    let is_ignored = ignores_host_keys && is_changed(&error);
    let failure = cannot_open(host, error);
    match is_ignored {
        true => failure.fact(
            "StrictHostKeyChecking no: ssh would warn and go on without passwords; bowline shows no key of yours to a host \
             whose key has changed",
        ),
        false => failure,
    }
}

/// What to do if nothing is known but that no answer came.
const NO_ANSWER: &str = "is `bowline serve` running there, and does every firewall on the way let that UDP port through? \
    `--port` names another port, `--fallback tcp` goes on without bowline";

/// The program that prints lines of known_hosts gave no answer.
pub(crate) fn no_known_hosts_command(error: &CommandError) -> Failure {
    Failure::from_error(Exit::Refused, error).hint(BAD_KNOWN_HOSTS_COMMAND)
}

const BAD_KNOWN_HOSTS_COMMAND: &str = "ssh gives up then too: run the command by itself, and mend it or take KnownHostsCommand out of ssh's configuration";

/// No session was opened to `host`.
pub(crate) fn cannot_open(host: &str, error: OpenError) -> Failure {
    match error {
        OpenError::Resolve(error) => {
            Failure::from_error(Exit::Unavailable, &error).hint("check the name, and HostName in ssh's configuration")
        }
        OpenError::NoPath { attempts, .. } if attempts.iter().any(is_other_protocol) => other_protocol(host, &attempts),
        OpenError::NoPath { attempts, within } => {
            let what = format_args!("no path led to a bowline server half on {host}").to_string();
            let failure = attempts
                .iter()
                .fold(Failure::new(Exit::Unavailable, what), |failure, failed| {
                    let port = port_of(&failed.path);
                    match &failed.error {
                        AttemptError::Silent => {
                            failure.fact(format_args!("{port}: no answer within {:.1} s", within.as_secs_f64()))
                        }
                        error => failure.fact(format_args!("{port}: {}", chain(error))),
                    }
                });
            if attempts.iter().any(is_without_host_key) {
                return failure.hint(
                    "a relay finds a host by its host key: give the fingerprint that `bowline serve` printed there with \
                     --pin, or put its line into known_hosts",
                );
            }
            if attempts.iter().any(is_busy) {
                return failure.hint(
                    "the server half is there and has too many connections that do not say what they want: try again in a \
                     minute, or raise --max-half-open there",
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
            let what = format_args!("what answers on {host} does not speak bowline's protocol");
            Failure::new(Exit::Protocol, what)
                .fact(error)
                .hint("is the port right, and the server half up to date?")
        }
    }
}

/// The server half waits for sshd.
fn still_asking(host: &str, error: &OpenError) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("{host}: {error}")).hint(
        "does sshd there take long to look keys up (AuthorizedKeysCommand, a directory behind it)? ssh's ConnectTimeout, or \
         --connect-timeout, says how long it is waited for",
    )
}

fn not_authorized(failure: Failure, tried: &[String], ssh_has_more: bool) -> Failure {
    let failure = match tried.is_empty() {
        true => failure.fact("there was no key to offer"),
        false => tried.iter().fold(failure, Failure::fact),
    };
    failure.hint(if ssh_has_more {
        "ssh may be able to use what bowline left out: `--fallback tcp` goes on without bowline then (as `bowline ssh` does by \
         itself); or make a key that bowline can use (ssh-keygen -t ed25519), and put it into authorized_keys there"
    } else {
        "is the right one among these, and in authorized_keys there? IdentityFile in ssh's configuration, `ssh -i`, or the agent \
         (ssh-add) offers another"
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

/// Whether bowline was to be expected there: at the port of the web anything may answer.
fn is_other_protocol(failed: &Failed) -> bool {
    failed.is_other_protocol() && !matches!(failed.path, Path::Quic(address) if address.port() == 443)
}

/// Whether a relay could not even be asked.
fn is_without_host_key(failed: &Failed) -> bool {
    matches!(failed.error, AttemptError::Dial(DialError::NoHostKey))
}

/// What to do about what is in the way, where that is known.
fn hint_of_path(failed: &Failed) -> Option<&'static str> {
    match &failed.error {
        AttemptError::SmallMtu(_) => Some(
            "have the server half serve TLS too (serve --listen-tls), which takes smaller packets, or raise the MTU of the \
             interface, or of the tunnel; `bowline check` tells more",
        ),
        AttemptError::Dial(DialError::OtherTls(_)) => Some(
            "is the port right? Bowline's TLS goes through nothing in between that ends TLS; `bowline check` tells more",
        ),
        AttemptError::Dial(DialError::Proxy(error)) => match &error.fault {
            ProxyFault::Forbidden { port, .. } if *port != 443 => Some(
                "many proxies let tunnels go to port 443 alone: serve TLS there (serve --listen-tls 443; --tls-port 443 \
                 here)",
            ),
            ProxyFault::WantsCredentials | ProxyFault::RefusedCredentials | ProxyFault::OtherScheme { .. } => Some(
                "give the proxy's user and password in its URL, in BOWLINE_PROXY or bowline.toml; to an HTTP proxy bowline \
                 speaks Basic alone",
            ),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the server half, or a relay, takes no more connections for now.
fn is_busy(failed: &Failed) -> bool {
    matches!(failed.error, AttemptError::Dial(DialError::Busy))
}

/// Something speaks QUIC there, but not our protocol or not this version of it.
fn other_protocol(host: &str, attempts: &[Failed]) -> Failure {
    let what = format_args!("what answers on {host} does not speak this version of bowline's protocol").to_string();
    attempts
        .iter()
        .filter(|failed| is_other_protocol(failed))
        .fold(Failure::new(Exit::Protocol, what), |failure, failed| {
            failure.fact(format_args!("{}: {}", port_of(&failed.path), chain(&failed.error)))
        })
        .hint("is the port right? Else install the same version of bowline on both sides")
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
            "the server half answers, sshd behind it does not: is sshd running there, and does serve --target name it?",
        ),
        RefusalCode::Busy => told(Exit::Refused).hint(
            "end sessions that are not needed (bowline kill there), wait until one makes room, or raise --max-sessions \
                 and --max-sessions-per-key there",
        ),
        RefusalCode::OpensRefused => told(Exit::Refused)
            .hint("on the server: journalctl -u bowline, or wherever bowline serve logs; `opens-refused` is the event"),
        RefusalCode::UpstreamUnfit => told(Exit::Unavailable).hint(
            "it will not end by itself: on the server, sshd's log and its settings tell more (algorithms, RefuseConnection); \
             bowline serve --authorized-keys or --auth none asks sshd nothing",
        ),
        RefusalCode::OtherMethod => told(Exit::Refused).hint(
            "such a user gets in with bowline serve --auth none there, or --authorized-keys with this key; the login inside \
             is sshd's as ever. ssh without bowline works too",
        ),
        RefusalCode::RetryLater if message.contains(PENALTY) => told(Exit::Unavailable).hint(
            "either sshd holds failed logins against this client and lets it in again after a while (PerSourcePenalties there), \
             or as many logins of its address are under way as it takes (PerSourceMaxStartups)",
        ),
        RefusalCode::RetryLater if message.contains(MAX_STARTUPS) => told(Exit::Unavailable)
            .hint("too many logins are under way there: try again, or raise MaxStartups or PerSourceMaxStartups"),
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
                "if the host was reinstalled, run: {}; if its server half has a key of its own, give its fingerprint \
                 with --pin; else somebody may be listening",
                forget_command(name, &place.file)
            )),
        Some(TrustError::Revoked { place, fingerprint, .. }) => failure
            .fact(format_args!(
                "{fingerprint} is revoked by {} line {}",
                place.file.display(),
                place.line
            ))
            .hint("do not connect before you know why it was revoked"),
        Some(TrustError::InRevokedFile { file, fingerprint, .. }) => failure
            .fact(format_args!("{fingerprint} is revoked by {}", file.display()))
            .hint("do not connect before you know why it was revoked"),
        Some(TrustError::NotPinned { presented }) => failure
            .fact(format_args!("it presented {}", list(presented)))
            .hint("compare with what `bowline serve` printed there as its fingerprint"),
        Some(TrustError::Command(_)) => failure.hint(BAD_KNOWN_HOSTS_COMMAND),
        Some(TrustError::Revocation(_)) => failure.hint("mend the file, or take it out of RevokedHostKeys"),
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
            format_args!("the server half found a protocol error: {why}"),
        )
        .hint(REPORT_DESYNC)),
        Outcome::Expired => Err(
            Failure::new(Exit::Lost, "the session was lost: no path for longer than its patience")
                .hint("--patience sets how long an outage is waited for, --session-ttl how long the server half waits"),
        ),
        Outcome::Desync(error) => Err(Failure::from_error(Exit::Protocol, &error).hint(REPORT_DESYNC)),
    }
}

fn ended(why: &str) -> Failure {
    Failure::new(Exit::Lost, format_args!("the session was ended: {why}"))
}

/// Neither path nor user can cause it.
const REPORT_DESYNC: &str = "the two halves disagree on what was carried, and the session cannot go on without loss; \
                             run the same version of bowline on both sides, and if it is the same, report this";

fn list(fingerprints: &[Fingerprint]) -> String {
    let texts: Vec<String> = fingerprints.iter().map(Fingerprint::to_string).collect();
    if texts.is_empty() {
        "no key at all".to_owned()
    } else {
        texts.join(", ")
    }
}

/// An error and its causes in one line, without those that it quotes already.
pub(crate) fn chain(error: &dyn Error) -> impl Display {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
