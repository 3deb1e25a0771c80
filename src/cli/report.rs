//! How an error is told: what happened, the facts, what to do, and the exit code.
//!
//! The only place that gives advice: library errors carry facts. The form on stderr:
//!
//! ```text
//! error: the host key of build.example.org has changed
//!   known_hosts line 12 expects SHA256:ab.., the server half presented SHA256:cd..
//! hint: if the host was reinstalled, run: ssh-keygen -R build.example.org
//! ```

mod serve;
mod session;
mod setup;

pub(crate) use serve::{
    accepts_any_key, another_serves, cannot_take_over, does_not_answer, in_use, no_host_keys, opens_refused, option,
    overlaps, several_serve, too_few_descriptors,
};
pub(crate) use session::{
    asked_already, cannot_fall_back, cannot_open, cannot_open_as, cannot_uninstall, forget_command,
    no_known_hosts_command, no_ssh_config, not_a_user_name, notice, passes_no_socket, session_end,
};
pub(crate) use setup::{
    another_home, cannot_change, cannot_undo_enabled, cannot_undo_running, changes_others, damaged_block, declined,
    hidden_program, no_home_of_ssh, no_host_is_meant, no_line_of_ssh, no_root, nobody_to_ask, not_in_effect,
    ssh_rejects, sshd_rejects,
};

use super::args::set_variable_of;
use super::config_file::ConfigError;
use super::settings::SettingsError;
use crate::cli::demo::DemoError;
use crate::cli::values::SessionName;
use crate::safe_path::UnsafePath;
use crate::server::client_address::SetUpError;
use crate::server::handover::{Endpoint, Protocol};
use crate::wire::{ErrorChain, Escaped, error_texts};
use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

/// How the program ends: sysexits(3), as far as bowline uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 64: the command line or the configuration is wrong.
    Usage = 64,
    /// 69: no path led to the server half, or something needed is not there.
    Unavailable = 69,
    /// 70: a fault of bowline itself.
    Internal = 70,
    /// 73: a file cannot be written.
    CannotCreate = 73,
    /// 75: the session was lost.
    Lost = 75,
    /// 76: the other end broke the protocol.
    Protocol = 76,
    /// 77: refused, or not permitted.
    Refused = 77,
    /// 130: stopped by the user, as a shell reports Ctrl-C.
    Interrupted = 130,
}

/// An end that is not a clean one, ready to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    facts: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// `what` happened: one line, no capital, no full stop.
    pub(crate) fn new(exit: Exit, what: impl Display) -> Self {
        Failure {
            exit,
            what: what.to_string(),
            facts: Vec::new(),
            hint: None,
        }
    }

    /// An error as it describes itself, its sources as facts.
    pub(crate) fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut texts = error_texts(error);
        let mut failure = Failure::new(exit, texts.next().unwrap_or_default());
        failure.facts.extend(texts);
        failure
    }

    /// Adds a line of detail.
    #[must_use]
    pub(crate) fn fact(mut self, fact: impl Display) -> Self {
        self.facts.push(fact.to_string());
        self
    }

    /// Says what to do. One hint: a later one replaces an earlier one.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// An end about which everything was said already, with this exit code.
    pub(crate) fn silent(code: i32) -> Self {
        let known = [Exit::Usage, Exit::Unavailable, Exit::Refused];
        let exit = known
            .into_iter()
            .find(|exit| *exit as i32 == code)
            .unwrap_or(Exit::Internal);
        Failure {
            exit,
            what: String::new(),
            facts: Vec::new(),
            hint: None,
        }
    }

    /// What happened and why, for a log.
    pub(crate) fn one_line(&self) -> String {
        std::iter::once(&self.what)
            .chain(&self.facts)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(": ")
    }

    /// How the program ends.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// Writes it to stderr. A stderr that nobody reads is not an error.
    pub(crate) fn print(&self) {
        if self.what.is_empty() {
            return;
        }
        let _ = io::stderr().write_all(self.to_string().as_bytes());
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", Escaped(&without_number(&self.what)))?;
        for fact in &self.facts {
            writeln!(f, "  {}", Escaped(&without_number(fact)))?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {}", Escaped(hint)),
            None => Ok(()),
        }
    }
}

/// Without the number that Rust puts behind what the system said: people read the words, and logs have it.
fn without_number(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| match part.split_once(')') {
        Some((number, rest)) if number.bytes().all(|digit| digit.is_ascii_digit()) => told + rest,
        _ => told + " (os error " + part,
    })
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Config(error) => error.into(),
            SettingsError::NoHome { option } => {
                Failure::new(Exit::Usage, &error).hint(format_args!("name a folder with {option}"))
            }
            SettingsError::Proxy { .. } => Failure::from_error(Exit::Usage, &error),
            SettingsError::Conflict { one, other } => {
                said_by_variables(Failure::new(Exit::Usage, &error), &[one, other])
            }
            SettingsError::TooSmall { option, .. } => said_by_variables(Failure::new(Exit::Usage, &error), &[option]),
            SettingsError::Missing { .. } => Failure::new(Exit::Usage, &error),
        }
    }
}

/// Names the variables of the environment that say these options: nobody may have written the options themselves.
fn said_by_variables(failure: Failure, options: &[&str]) -> Failure {
    let variables = options.iter().filter_map(|option| set_variable_of(option));
    variables.fold(failure, |failure, variable| {
        failure.fact(format_args!("{variable} is set in the environment"))
    })
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Failure::new(Exit::Usage, &error);
        match (&error, error.nearest_key()) {
            (_, Some(nearest)) => failure.hint(format_args!("did you mean `{nearest}`?")),
            (ConfigError::UnknownKey { known, .. }, None) => {
                failure.fact(format_args!("expected one of: {}", known.join(", ")))
            }
            (ConfigError::CannotRead { .. } | ConfigError::Invalid { .. }, None) => failure,
        }
    }
}

/// A socket that cannot be bound. `option` is the one that says where.
pub(crate) fn cannot_listen(option: &'static str, endpoint: Endpoint, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Unavailable, format_args!("cannot listen on {endpoint}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => failure.hint(format_args!(
            "another program uses this port (ss -lp{} shows which): stop it, or choose another port with \
             {option}",
            if endpoint.protocol == Protocol::Udp { "u" } else { "t" }
        )),
        io::ErrorKind::PermissionDenied if endpoint.address.port() < 1024 => failure.hint(format_args!(
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose another port with {option}, and on \
             the client with {}",
            match (option, endpoint.protocol) {
                ("--listen-tls", _) => "--tls-port",
                (_, Protocol::Udp) => "--port",
                // The built-in SSH server.
                (_, Protocol::Tcp) => "ssh's -p",
            }
        )),
        io::ErrorKind::AddrNotAvailable => failure.hint("no interface of this machine has that address"),
        _ => failure,
    }
}

/// A file of bowline's own that cannot be read, made or written.
pub(crate) fn cannot_use_file(path: &std::path::Path, error: &io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        format_args!("cannot use {}: {error}", path.display()),
    );
    match error.kind() {
        _ if UnsafePath::of(error).is_some() => failure.hint(
            "other users could redirect what root writes there to any file; use another folder, or make root the \
             only one who can write to this folder and to all above it (chown root, chmod go-w)",
        ),
        io::ErrorKind::PermissionDenied => failure.hint("run as the owner of the file"),
        _ => failure,
    }
}

/// The file that is to decide who may come in.
pub(crate) fn cannot_read_keys(path: &std::path::Path, error: &io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        format_args!("cannot read the keys in {}: {error}", path.display()),
    );
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.hint("run as root, or as the owner of the file"),
        _ => failure.hint(
            "--authorized-keys takes a file in the format of sshd's authorized_keys, with one key \
            per line",
        ),
    }
}

/// A program that could not be started.
pub(crate) fn cannot_run(program: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Unavailable, format_args!("cannot run {program}: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound => failure.hint(format_args!("install {program}, or add its folder to PATH")),
        _ => failure,
    }
}

/// A long option among ssh's own arguments.
pub(crate) fn not_an_ssh_option(option: &str, nearest: Option<String>) -> Failure {
    let failure = Failure::new(Exit::Usage, format_args!("ssh has no option `{option}`"));
    match nearest {
        Some(nearest) if nearest == option => failure.hint("put bowline's options before ssh's options"),
        Some(nearest) => failure.hint(format_args!("did you mean `{nearest}`? Put it before ssh's options")),
        None => failure.hint("`bowline ssh --help` lists bowline's options"),
    }
}

/// bowline itself is at fault: `place` in its source said `what`.
pub(crate) fn internal_fault(place: &str, what: &str) -> Failure {
    Failure::new(
        Exit::Internal,
        format_args!(
            "internal error in bowline {} at {place}: {what}",
            env!("CARGO_PKG_VERSION")
        ),
    )
    .hint("please report this line and what you did; --log-file FILE with RUST_BACKTRACE=1 records details")
}

/// The machine would not give what the program itself needs: threads, event queues.
pub(crate) fn cannot_start(error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, format_args!("cannot start: {error}"))
}

/// They were asked for.
pub(crate) fn no_client_addresses(error: &SetUpError) -> Failure {
    let cause = ErrorChain(error);
    let failure = Failure::new(
        Exit::Unavailable,
        "cannot show sshd the clients' own addresses (--client-address real)",
    );
    failure.fact(cause).hint(client_address_hint(error))
}

/// What to change.
pub(crate) fn client_address_hint(error: &SetUpError) -> &'static str {
    match error {
        SetUpError::NotAllowed => {
            "start bowline serve as root with CAP_NET_ADMIN; in a unit: CapabilityBoundingSet=CAP_NET_ADMIN .. and \
             RestrictAddressFamilies=AF_NETLINK .."
        }
        SetUpError::Kernel { .. } => "the kernel needs CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES",
        SetUpError::Sysctl(_) => {
            "set net.ipv4.tcp_fwmark_accept=1 in /etc/sysctl.d, or let the unit write it: \
             ReadWritePaths=/proc/sys/net/ipv4/tcp_fwmark_accept and ProcSubset=all"
        }
        SetUpError::Taken { .. } => "give the other rule a priority number above 22, or another mark than 0xb0",
        SetUpError::OthersRules { .. } => {
            "if these rules may apply to accepted connections too, use --client-address real"
        }
        SetUpError::NoAnswer { .. } => {
            "if a firewall is active, let it accept packets on lo from every source address (nft: iif lo \
             accept); or sshd may hang"
        }
        SetUpError::Elsewhere { .. } => "run bowline serve on the machine where sshd is",
    }
}

/// A demo that did not come to its good end.
pub(crate) fn demo_failed(error: &DemoError) -> Failure {
    let failure = Failure::from_error(exit(error), error);
    match error {
        DemoError::Damaged { expected, found, .. } => failure
            .fact(format_args!("expected SHA-256 {expected}"))
            .fact(format_args!("found SHA-256    {found}"))
            .hint("this must never happen: please report it"),
        DemoError::Counter(_) => failure.hint("this must never happen: please report it"),
        DemoError::EarlyEnd { said } => said.lines().take(8).fold(failure, Failure::fact),
        DemoError::Silent { .. } => failure.hint("if this machine is very busy, try again"),
        DemoError::Folder { .. } | DemoError::File { .. } => {
            failure.hint("the demo needs about 64 MiB of disk space there; TMPDIR sets another folder")
        }
        DemoError::NoTerminal => failure.hint("without --shell, the demo needs no terminal"),
        DemoError::Sshd(_) => failure.hint("your user needs an entry in the user database (getent passwd)"),
        _ => failure,
    }
}

fn exit(error: &DemoError) -> Exit {
    match error {
        DemoError::Interrupted => Exit::Interrupted,
        DemoError::Counter(_)
        | DemoError::Damaged { .. }
        | DemoError::Silent { .. }
        | DemoError::EarlyEnd { .. }
        | DemoError::WrongExitCode { .. }
        | DemoError::TransferFailed { .. }
        | DemoError::DoesNotEnd
        | DemoError::Stream(_)
        | DemoError::Russh(_) => Exit::Lost,
        DemoError::NoTerminal => Exit::Usage,
        DemoError::NotLoggedIn | DemoError::OtherHost => Exit::Refused,
        _ => Exit::Unavailable,
    }
}

/// The terminal went away, or is none.
pub(crate) fn cannot_show(error: &io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("cannot use the terminal: {error}"))
}

const LOOK: &str = "`bowline status` lists the sessions; those of a server half are shown only to its user and to root";

/// No session is named so.
pub(crate) fn no_such_session(name: &SessionName) -> Failure {
    let what = match name {
        SessionName::Id(beginning) => format!("no session here has an id that begins with {beginning}"),
        SessionName::Terminal(terminal) => format!("no session here has the terminal {terminal}"),
    };
    Failure::new(Exit::Unavailable, what).hint(LOOK)
}

/// More than one is.
pub(crate) fn several_sessions(name: &SessionName, ids: &[&str]) -> Failure {
    let (what, hint) = match name {
        SessionName::Id(beginning) => (
            format!("several sessions here have ids that begin with {beginning}"),
            "give more digits of the id; nothing was ended",
        ),
        SessionName::Terminal(terminal) => (
            format!("several sessions here have the terminal {terminal}"),
            "give the id of one of them; nothing was ended",
        ),
    };
    let failure = ids
        .iter()
        .fold(Failure::new(Exit::Usage, what), |failure, id| failure.fact(id));
    failure.hint(hint)
}

/// Whoever has it did not do it.
pub(crate) fn not_ended(id: &str) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format_args!("the session {id} was not ended: it is gone, or does not answer"),
    )
    .hint(LOOK)
}

/// Only a server half has orphans, and knows keys.
pub(crate) fn no_server_half() -> Failure {
    Failure::new(Exit::Unavailable, "no server half answers on this machine").hint(
        "only its user and root can ask it; if it was started with --runtime-dir, pass the same \
            --runtime-dir here",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_happened_the_facts_and_what_to_do() {
        let failure = Failure::new(Exit::Refused, "the host key of build has changed")
            .fact("known_hosts line 12 expects SHA256:ab")
            .hint("run: ssh-keygen -R build");
        assert_eq!(
            failure.to_string(),
            "error: the host key of build has changed\n  known_hosts line 12 expects SHA256:ab\n\
             hint: run: ssh-keygen -R build\n"
        );
    }

    #[test]
    fn a_stranger_s_words_do_not_reach_the_terminal_as_commands() {
        let failure = Failure::new(Exit::Refused, "refused: \u{1b}[2J\rerror: \u{9b}31m fine ü");
        assert_eq!(
            failure.to_string(),
            "error: refused: \\u{1b}[2J\\rerror: \\u{9b}31m fine ü\n"
        );
    }

    #[test]
    fn what_the_system_says_is_told_without_its_number() {
        let refused = io::Error::from_raw_os_error(111);
        let failure = Failure::new(Exit::Unavailable, &refused).fact(format_args!("{refused}: twice, {refused}"));
        assert_eq!(
            failure.to_string(),
            "error: Connection refused\n  Connection refused: twice, Connection refused\n"
        );
        assert_eq!(without_number("x (os error of ours) y"), "x (os error of ours) y");
    }

    #[test]
    fn a_port_in_use_and_a_privileged_port_get_advice() {
        let address = "0.0.0.0:22".parse().expect("an address");
        let in_use = cannot_listen("--listen", Endpoint::udp(address), &io::ErrorKind::AddrInUse.into());
        assert!(
            in_use
                .to_string()
                .contains("hint: another program uses this port (ss -lpu shows which)"),
            "{in_use}"
        );
        let denied = cannot_listen(
            "--listen-tls",
            Endpoint::tcp(address),
            &io::ErrorKind::PermissionDenied.into(),
        );
        let denied_text = denied.to_string();
        assert!(denied_text.contains("hint: ports below 1024 need root"), "{denied}");
        assert!(denied_text.ends_with("on the client with --tls-port\n"), "{denied}");
        assert_eq!(denied.exit, Exit::Unavailable);
        let sshd = cannot_listen(
            "--listen",
            Endpoint::tcp(address),
            &io::ErrorKind::PermissionDenied.into(),
        );
        assert!(sshd.to_string().ends_with("on the client with ssh's -p\n"), "{sshd}");
    }

    #[test]
    fn an_unknown_configuration_key_is_answered_with_the_nearest_one() {
        let unknown = |key: &str| ConfigError::UnknownKey {
            path: "bowline.toml".into(),
            line: 3,
            key: key.to_owned(),
            known: vec!["port".to_owned(), "patience".to_owned()],
        };
        assert_eq!(
            Failure::from(unknown("patince")).to_string(),
            "error: bowline.toml, line 3: unknown key `patince`\nhint: did you mean `patience`?\n"
        );
        assert_eq!(
            Failure::from(unknown("zzzz")).to_string(),
            "error: bowline.toml, line 3: unknown key `zzzz`\n  expected one of: port, patience\n"
        );
    }

    #[test]
    fn sources_become_facts_unless_the_error_quotes_them() {
        #[derive(Debug, thiserror::Error)]
        #[error("the link is down")]
        struct Outer(#[source] io::Error);
        let failure = Failure::from_error(Exit::Lost, &Outer(io::Error::other("cable cut")));
        assert_eq!(failure.to_string(), "error: the link is down\n  cable cut\n");
        let quoting = ConfigError::CannotRead {
            path: "f".into(),
            source: io::Error::other("cable cut"),
        };
        assert_eq!(Failure::from_error(Exit::Usage, &quoting).facts, Vec::<String>::new());
    }
}
