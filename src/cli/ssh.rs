//! `bowline ssh`: OpenSSH's `ssh` with bowline as its ProxyCommand.
//!
//! If ssh opens a remote terminal, bowline stays in front of it (`wrapper`), else the process becomes ssh. Exit code and
//! terminating signal are ssh's own in both cases. What the user says on the command line
//! wins over bowline, bowline wins over ssh_config: with `-o ProxyCommand=..` ssh is left alone. Behind a jump host (`-J`,
//! ProxyJump) there is no server half to reach directly: the way to the jump host goes through bowline, and the rest
//! through the jump host as ever.

mod arguments;
mod cursor_report;
mod decision;
mod flood_meter;
mod leader;
mod link_line;
mod ssh_output;
mod uninstall;
mod user_terminal;
mod wrapper;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) use self::arguments::{SshArguments, split_option};
use self::decision::{Overlay, PlainReason, Situation, decide, runs_local_commands};
use self::wrapper::{Ended, Options, Shown};
use super::args::{self, ClientTable, CommonArgs, PROXY_VARIABLE, SshArgs, TerminalOptions};
use super::places::{Owner, make_folder};
use super::proxy::alternate_routes::chosen_proxy;
use super::report::{Failure, cannot_run, not_an_ssh_option, notice};
use super::settings::Context;
use super::values::{Fallback, Install, Predict, ProxyText};
use crate::controlling_terminal::is_controlling;
use crate::identity::ssh_config::OuterQueries;
use crate::observe::LinkListener;

/// Runs ssh, or becomes it. Returns only if that fails.
pub(super) fn run(args: SshArgs, common: CommonArgs) -> Failure {
    if args.uninstall {
        return uninstall::run(args.arguments, common);
    }
    // A password may be in it. If it came from the environment, that is unchanged.
    let proxy = args.reach.proxy.clone().map(|ProxyText(text)| (PROXY_VARIABLE, text));
    let is_verbose = args.proxy_verbose > 0;
    let Prepared {
        arguments,
        stays,
        shown,
        has_local_commands,
    } = match prepare(args, common) {
        Ok(prepared) => prepared,
        Err(failure) => return failure,
    };
    let mut ssh = Command::new("ssh");
    ssh.args(arguments).envs(proxy);
    match stays {
        Ok(overlay) => {
            if is_verbose && overlay == Overlay::Impossible {
                notice("this terminal cannot move its cursor (TERM): nothing is shown about the link");
            }
            let options = Options {
                overlay,
                shown,
                is_verbose,
                has_local_commands,
            };
            match wrapper::run(ssh, options) {
                Ok(Ended::Exited(code)) => std::process::exit(code),
                Ok(Ended::Killed(signal)) => leader::end_by(signal),
                Err(error) => cannot_run("ssh", &error),
            }
        }
        Err(reason) => {
            if is_verbose {
                notice(&format!("bowline replaces itself with ssh: {reason}"));
            }
            cannot_run("ssh", &ssh.exec())
        }
    }
}

/// What to run.
struct Prepared {
    /// Of ssh.
    arguments: Vec<OsString>,
    /// Whether bowline stays in front of it.
    stays: Result<Overlay, PlainReason>,
    shown: Shown,
    /// ssh may run commands of the user's here.
    has_local_commands: bool,
}

fn prepare(mut args: SshArgs, common: CommonArgs) -> Result<Prepared, Failure> {
    let ssh = SshArguments::read(std::mem::take(&mut args.arguments));
    if let Some(option) = ssh.misplaced_long_option() {
        let option = option.to_string_lossy();
        return Err(not_an_ssh_option(&option, args::nearest_ssh_option(&option)));
    }
    let alone = |reason| Prepared {
        arguments: ssh.raw().to_vec(),
        stays: Err(reason),
        shown: Shown::nothing(),
        has_local_commands: false,
    };
    let Some(destination) = ssh.destination() else {
        return Ok(alone(PlainReason::NoAnswer));
    };
    let own = std::env::current_exe().map_err(|error| cannot_run("bowline", &error))?;
    let context = Context::load(common.clone(), Owner::User)?;
    let host = host_of(destination);
    let table = context.file.client(&host);
    // Said here, it is said once, and before ssh says that nothing came.
    chosen_proxy(args.reach.proxy.as_ref(), &table)?;
    if ssh.configured("ProxyCommand").is_some() {
        return Ok(alone(PlainReason::Setting("ProxyCommand")));
    }
    let terminal = args.terminal.clone().or(&table);
    // If ssh cannot say, it will say why when it runs.
    let plain = configuration(&ssh, &[]).unwrap_or_default();
    let term = std::env::var_os("TERM");
    let situation = Situation {
        is_plain: terminal.plain.unwrap_or(false),
        has_stdin: is_controlling(rustix::stdio::stdin()),
        has_stdout: is_controlling(rustix::stdio::stdout()),
        term: term.as_deref(),
    };
    let stays = decide(&ssh, &plain, situation);
    let is_extended = settle_install(&mut args, &table, &ssh, (situation.has_stdin, &plain));
    let shown = match stays {
        Ok(Overlay::Possible) => {
            let is_jump = jump_host(&ssh, || jump_of(&plain)).is_some();
            shown(&terminal, &context, is_jump)
        }
        _ => Shown::nothing(),
    };
    // Else it stays that of a `bowline ssh` in front of this one.
    if let Some(link) = &shown.link {
        args.reach.terminal_socket = Some(link.file().to_owned());
    }
    let flags = own_flags(&args, &common, &table);
    let mut line = first_options(&ssh, &plain, is_extended);
    line.extend(ssh_line(&own, &flags, &ssh, || jump_of(&plain)));
    Ok(Prepared {
        arguments: line,
        stays,
        shown,
        has_local_commands: runs_local_commands(&plain),
    })
}

/// Options of ssh that win over all others.
fn first_options(ssh: &SshArguments, plain: &[u8], is_extended: bool) -> Vec<OsString> {
    let canonical = loses_canonical_name(ssh, plain).then_some("CanonicalizeHostname=always");
    let timeout = is_extended.then_some("ConnectTimeout=none");
    let options = canonical.into_iter().chain(timeout);
    options.flat_map(|option| ["-o", option].map(OsString::from)).collect()
}

/// Settles whether a server half may be started at a host that has none. A `bowline ssh` that is the way of another one to a
/// jump host (`-W`) asks if that one would.
///
/// If one may, and ssh has a ConnectTimeout, bowline keeps that instead of ssh, which is the result: ssh would end while
/// the user is asked for a password.
fn settle_install(
    args: &mut SshArgs,
    table: &ClientTable,
    ssh: &SshArguments,
    (has_terminal, plain): (bool, &[u8]),
) -> bool {
    let is_way = ssh.has(b'W') && args.reach.install.is_some();
    let reach = args.reach.clone().or(table);
    // Who names a port or a key means another server half.
    let is_free = reach.port.is_none() && reach.tls_port.is_none() && reach.pin.is_none();
    let install = match reach.install.unwrap_or(Install::Ask) {
        _ if !is_free => Install::No,
        Install::Ask if !has_terminal && !is_way => Install::No,
        wanted => wanted,
    };
    args.reach.install = Some(install);
    let limit = connect_timeout_of(plain).filter(|_| install != Install::No);
    if limit.is_some() {
        args.reach.connect_timeout = reach.connect_timeout.or(limit);
    }
    limit.is_some()
}

/// ssh's ConnectTimeout, less what it takes to say that nothing came.
fn connect_timeout_of(said: &[u8]) -> Option<Duration> {
    let line = lines(said).find_map(|line| line.strip_prefix(b"connecttimeout "))?;
    let seconds: u64 = std::str::from_utf8(line).ok()?.parse().ok()?;
    let least = Duration::from_millis(500);
    Some(Duration::from_secs(seconds).saturating_sub(least).max(least))
}

/// What is shown if the terminal can move its cursor.
fn shown(options: &TerminalOptions, context: &Context, is_jump: bool) -> Shown {
    let has_link_line = options.link_line.unwrap_or(true);
    let predict = match options.predict.unwrap_or(Predict::Adaptive) {
        // How far the target is, nobody knows here.
        Predict::Adaptive if is_jump => Predict::Never,
        predict => predict,
    };
    let listens = has_link_line || predict != Predict::Never;
    Shown {
        link: listens.then(|| listen_for_link(context)).flatten(),
        has_link_line,
        predict,
        is_jump,
    }
}

/// Without a folder for the socket there is no link line, and no prediction.
fn listen_for_link(context: &Context) -> Option<LinkListener> {
    let folder = context.folders().ok()?.runtime;
    make_folder(&folder).ok()?;
    LinkListener::open(&folder, terminal_name()).ok()
}

/// The terminal, as `ps` and `w` name it.
fn terminal_name() -> Option<String> {
    let path = rustix::termios::ttyname(rustix::stdio::stdin(), Vec::new()).ok()?;
    let path = path.into_string().ok()?;
    Some(path.strip_prefix("/dev/").unwrap_or(&path).to_owned())
}

/// What ssh is run with. `configured_jump` is asked only when the command line leaves it open.
fn ssh_line(
    own: &Path,
    flags: &[OsString],
    ssh: &SshArguments,
    configured_jump: impl FnOnce() -> Option<OsString>,
) -> Vec<OsString> {
    let command = match jump_host(ssh, configured_jump) {
        Some(jump) => jump_command(own, flags, ssh, &jump),
        None => proxy_command(own, flags, ssh),
    };
    // With it ssh would wait for a socket of the proxy's, and for ever.
    let mut line = vec![OsString::from("-o"), command, "-o".into(), "ProxyUseFdpass=no".into()];
    if ssh.configured("ServerAliveInterval").is_none() {
        // ssh would end a session after an outage that bowline survives.
        line.extend(["-o", "ServerAliveInterval=0"].map(OsString::from));
    }
    // ssh refuses -J beside a ProxyCommand.
    line.extend(ssh.without(b"J"));
    line
}

/// The jump hosts on the way. `configured` is asked only when the command line leaves it open.
fn jump_host(ssh: &SshArguments, configured: impl FnOnce() -> Option<OsString>) -> Option<OsString> {
    let asked = ssh
        .values(b'J')
        .next()
        .map(OsStr::to_owned)
        .or_else(|| ssh.configured("ProxyJump"));
    let jump = asked.or_else(configured);
    jump.filter(|jump| !jump.eq_ignore_ascii_case("none") && !jump.is_empty())
}

/// `ProxyCommand=BOWLINE proxy .. '%r@%n' %p`.
fn proxy_command(own: &Path, flags: &[OsString], ssh: &SshArguments) -> OsString {
    let mut words = vec![own.as_os_str().to_owned(), "proxy".into()];
    words.extend_from_slice(flags);
    for file in ssh.values(b'F').take(1) {
        words.extend(["-F".into(), file.to_owned()]);
    }
    for key in ssh.values(b'i') {
        words.extend(["-i".into(), key.to_owned()]);
    }
    for family in [(b'4', "AddressFamily=inet"), (b'6', "AddressFamily=inet6")] {
        if ssh.has(family.0) {
            words.extend(["-o".into(), family.1.into()]);
        }
    }
    for option in ssh.values(b'o').filter(|option| !names_a_proxy(option)) {
        words.extend(["-o".into(), option.to_owned()]);
    }
    // Quotes, for users of the form DOMAIN\user.
    proxy_option(&words, b" -- '%r@%n' %p")
}

/// `ProxyCommand=BOWLINE ssh .. -W '[%h]:%p' JUMP`: as ssh itself does it, with bowline's ssh.
fn jump_command(own: &Path, flags: &[OsString], ssh: &SshArguments, jump: &OsStr) -> OsString {
    let (before, last) = match jump.as_bytes().iter().rposition(|byte| *byte == b',') {
        Some(comma) => (&jump.as_bytes()[..comma], &jump.as_bytes()[comma + 1..]),
        None => (&b""[..], jump.as_bytes()),
    };
    let hop = Hop::read(last);
    let mut words = vec![own.as_os_str().to_owned(), "ssh".into()];
    words.extend_from_slice(flags);
    for file in ssh.values(b'F').take(1) {
        words.extend(["-F".into(), file.to_owned()]);
    }
    if !before.is_empty() {
        words.extend(["-J".into(), OsStr::from_bytes(before).to_owned()]);
    }
    for (option, value) in [("-l", hop.user), ("-p", hop.port)] {
        if let Some(value) = value {
            words.extend([option.into(), OsStr::from_bytes(value).to_owned()]);
        }
    }
    let mut rest = b" -W '[%h]:%p' -- ".to_vec();
    push_word(&mut rest, hop.host);
    proxy_option(&words, &rest)
}

/// One hop of a ProxyJump: `[ssh://][USER@]HOST[:PORT]`.
struct Hop<'a> {
    user: Option<&'a [u8]>,
    host: &'a [u8],
    port: Option<&'a [u8]>,
}

impl<'a> Hop<'a> {
    fn read(text: &'a [u8]) -> Self {
        let text = text.trim_ascii();
        let text = text
            .strip_prefix(b"ssh://")
            .map_or(text, |uri| uri.strip_suffix(b"/").unwrap_or(uri));
        let (user, rest) = match text.iter().rposition(|byte| *byte == b'@') {
            Some(at) => (Some(&text[..at]), &text[at + 1..]),
            None => (None, text),
        };
        let (host, port) = match rest.strip_prefix(b"[") {
            Some(bracketed) => {
                let end = bracketed
                    .iter()
                    .position(|byte| *byte == b']')
                    .unwrap_or(bracketed.len());
                (
                    &bracketed[..end],
                    bracketed.get(end + 1..).and_then(|port| port.strip_prefix(b":")),
                )
            }
            // More than one colon is a bare IPv6 address.
            None if rest.iter().filter(|byte| **byte == b':').count() == 1 => {
                let colon = rest.iter().position(|byte| *byte == b':').unwrap_or(rest.len());
                (&rest[..colon], Some(&rest[colon + 1..]))
            }
            None => (rest, None),
        };
        Hop { user, host, port }
    }
}

/// HOST of ssh's destination, to look it up in the configuration file.
pub(super) fn host_of(destination: &OsStr) -> String {
    let bytes = destination.as_bytes();
    let host = match bytes.starts_with(b"ssh://") {
        true => Hop::read(bytes).host,
        false => bytes.rsplit(|byte| *byte == b'@').next().unwrap_or(bytes),
    };
    String::from_utf8_lossy(host).into_owned()
}

/// bowline's own options for the proxy, with `--fallback tcp` as the default here. `--proxy` is not among them: it goes
/// on by the environment.
fn own_flags(args: &SshArgs, common: &CommonArgs, table: &ClientTable) -> Vec<OsString> {
    let reach = &args.reach;
    let fallback = reach.fallback.or(table.fallback).unwrap_or(Fallback::Tcp);
    let mut flags: Vec<OsString> = vec!["--fallback".into(), fallback.to_string().into()];
    let mut add = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            flags.extend([OsString::from(name), value]);
        }
    };
    for pin in reach.pin.iter().flatten() {
        add("--pin", Some(pin.to_string().into()));
    }
    add("--known-hosts", reach.known_hosts.clone().map(OsString::from));
    add("--port", reach.port.map(|port| port.0.to_string().into()));
    for relay in reach.relay.iter().flatten() {
        add("--relay", Some(relay.to_string().into()));
    }
    for command in reach.path_command.iter().flatten() {
        add("--path-command", Some(command.0.clone().into()));
    }
    add("--tls-port", reach.tls_port.map(|port| port.0.to_string().into()));
    add(
        "--transport",
        reach.transport.map(|transport| transport.to_string().into()),
    );
    add("--install", reach.install.map(|install| install.to_string().into()));
    add(
        "--connect-timeout",
        reach
            .connect_timeout
            .map(|time| format!("{}ms", time.as_millis()).into()),
    );
    add(
        "--patience",
        reach.patience.map(|time| format!("{}ms", time.as_millis()).into()),
    );
    add("--terminal-socket", reach.terminal_socket.clone().map(OsString::from));
    add("--mtu-cap", reach.mtu_cap.map(|cap| cap.0.to_string().into()));
    add("--config", common.config.clone().map(OsString::from));
    add("--state-dir", common.state_dir.clone().map(OsString::from));
    add("--runtime-dir", common.runtime_dir.clone().map(OsString::from));
    add("--log-file", common.log_file.clone().map(OsString::from));
    add(
        "--log-format",
        common.log_format.map(|format| format.to_string().into()),
    );
    flags.extend(std::iter::repeat_n(
        OsString::from("--verbose"),
        usize::from(args.proxy_verbose),
    ));
    flags
}

/// The ProxyJump in what `ssh -G` said.
fn jump_of(said: &[u8]) -> Option<OsString> {
    let line = lines(said).find_map(|line| line.strip_prefix(b"proxyjump "))?;
    Some(OsString::from_vec(line.to_vec()))
}

/// Whether ssh makes the name canonical (`CanonicalizeHostname yes`), and would not behind a ProxyCommand: with `always` it
/// does there too, and comes to the same host with the same settings. `plain`: what `ssh -G` said without one.
fn loses_canonical_name(ssh: &SshArguments, plain: &[u8]) -> bool {
    let is_on = |line: &[u8]| matches!(line, b"canonicalizehostname true" | b"canonicalizehostname yes");
    if !lines(plain).any(is_on) {
        return false;
    }
    let with = configuration(ssh, &["-o", "ProxyCommand=bowline"]).unwrap_or_default();
    let settings = |said: &[u8]| -> Vec<Vec<u8>> {
        let rest = lines(said).filter(|line| !line.starts_with(b"proxycommand ") && !line.starts_with(b"proxyjump "));
        rest.map(<[u8]>::to_vec).collect()
    };
    settings(plain) != settings(&with)
}

fn lines(said: &[u8]) -> impl Iterator<Item = &[u8]> {
    said.split(|byte| *byte == b'\n')
}

/// What `ssh -G` says for these arguments behind `first`; `None` if it cannot be asked.
fn configuration(ssh: &SshArguments, first: &[&str]) -> Option<Vec<u8>> {
    let host = host_of(ssh.destination()?);
    let asked = OuterQueries::here();
    if asked.is_repeated(&host) {
        return None;
    }
    let mut command = Command::new("ssh");
    asked.mark(&mut command, &host);
    // ssh refuses -J beside a ProxyCommand.
    let rest = if first.is_empty() {
        ssh.raw().to_vec()
    } else {
        ssh.without(b"J")
    };
    command.arg("-G").args(first).args(rest);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.ok().map(|output| output.stdout)
}

fn names_a_proxy(option: &OsStr) -> bool {
    let (name, _) = split_option(option);
    [&b"ProxyCommand"[..], b"ProxyJump", b"ProxyUseFdpass"]
        .iter()
        .any(|proxy| name.eq_ignore_ascii_case(proxy))
}

pub(super) fn proxy_option(words: &[OsString], rest: &[u8]) -> OsString {
    let mut option = b"ProxyCommand=".to_vec();
    option.extend(proxy_words(words));
    option.extend_from_slice(rest);
    OsString::from_vec(option)
}

/// Words as a ProxyCommand has to hold them.
pub(super) fn proxy_words(words: &[OsString]) -> Vec<u8> {
    let mut option = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            option.push(b' ');
        }
        push_word(&mut option, word.as_bytes());
    }
    option
}

/// Appends a word so that it passes whole through three readers: ssh's splitting of an option line, its
/// `%` expansion, and the user's shell.
///
/// No backslash may stand inside single quotes: sh takes it as it is there, ssh and fish do not.
fn push_word(line: &mut Vec<u8>, word: &[u8]) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:@+,=".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        line.extend_from_slice(word);
        return;
    }
    line.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => line.extend_from_slice(b"'\\''"),
            b'\\' => line.extend_from_slice(b"'\\\\'"),
            b'%' => line.extend_from_slice(b"%%"),
            other => line.push(*other),
        }
    }
    line.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str], configured_jump: Option<&str>) -> Vec<String> {
        let ssh = SshArguments::read(arguments.iter().map(OsString::from).collect());
        let flags = ["--fallback", "tcp"].map(OsString::from);
        ssh_line(Path::new("/bin/bowline"), &flags, &ssh, || {
            configured_jump.map(OsString::from)
        })
        .into_iter()
        .map(|word| word.into_string().expect("text"))
        .collect()
    }

    #[test]
    fn the_proxy_command_and_no_keepalive_stand_before_all_that_ssh_was_given() {
        assert_eq!(
            line(&["-p", "2222", "ann@host", "ls", "-l"], None),
            [
                "-o",
                "ProxyCommand=/bin/bowline proxy --fallback tcp -- '%r@%n' %p",
                "-o",
                "ProxyUseFdpass=no",
                "-o",
                "ServerAliveInterval=0",
                "-p",
                "2222",
                "ann@host",
                "ls",
                "-l"
            ]
        );
    }

    #[test]
    fn what_a_proxy_command_cannot_see_is_given_on_to_it() {
        let line = line(
            &[
                "-F",
                "my config",
                "-i",
                "k1",
                "-6",
                "-o",
                "HostName x",
                "-oProxyJump=none",
                "host",
            ],
            None,
        );
        assert_eq!(
            line[1],
            "ProxyCommand=/bin/bowline proxy --fallback tcp -F 'my config' -i k1 -o AddressFamily=inet6 -o 'HostName x' \
             -- '%r@%n' %p"
        );
    }

    #[test]
    fn a_keepalive_of_the_user_s_own_is_kept() {
        assert!(!line(&["-o", "ServerAliveInterval=30", "host"], None).contains(&"ServerAliveInterval=0".to_owned()));
    }

    #[test]
    fn the_way_to_a_jump_host_goes_through_bowline() {
        let jumped = line(&["-F", "f", "-J", "a,ann@b:2222", "host"], None);
        assert_eq!(
            jumped[1],
            "ProxyCommand=/bin/bowline ssh --fallback tcp -F f -J a -l ann -p 2222 -W '[%h]:%p' -- b"
        );
        assert_eq!(jumped[6..], ["-F", "f", "host"]);
        for arguments in [&["-oProxyJump=b", "host"][..], &["host"]] {
            let command = &line(arguments, Some("b"))[1];
            assert_eq!(
                command, "ProxyCommand=/bin/bowline ssh --fallback tcp -W '[%h]:%p' -- b",
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn jump_none_means_the_direct_path() {
        assert!(line(&["-J", "none", "host"], Some("b"))[1].contains(" proxy "));
    }

    #[test]
    fn hops_are_read_as_ssh_reads_them() {
        let hop = |text: &'static str| {
            let hop = Hop::read(text.as_bytes());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (hop.user.map(text), text(hop.host), hop.port.map(text))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(hop("b"), (None, "b".into(), None));
        assert_eq!(hop("ann@corp@b:22"), (some("ann@corp"), "b".into(), some("22")));
        assert_eq!(hop("ann@[::1]:22"), (some("ann"), "::1".into(), some("22")));
        assert_eq!(hop("::1"), (None, "::1".into(), None));
        assert_eq!(hop("ssh://ann@b:22/"), (some("ann"), "b".into(), some("22")));
    }

    #[test]
    fn the_host_of_a_destination_is_found() {
        for destination in ["host", "ann@host", "ann@corp@host", "ssh://ann@host:22"] {
            assert_eq!(host_of(OsStr::new(destination)), "host", "{destination}");
        }
    }

    /// A folder whose name holds all that a reader on the way could trip over, with a program in it that
    /// writes down its arguments.
    fn recorder(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let strange = folder.join("a b%h'c\\d\"e$(f)`g`#;\\");
        std::fs::create_dir(&strange).expect("a folder");
        let (program, record) = (strange.join("bow'line"), folder.join("record"));
        let script = format!(
            "#!/bin/sh\nfor word in \"$@\"; do printf '<%s>\\n' \"$word\"; done >'{}'\n",
            record.display()
        );
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).expect("changed");
        (program, record)
    }

    fn ssh_config(folder: &Path, text: &str) -> String {
        let path = folder.join("ssh config");
        std::fs::write(&path, text).expect("written");
        path.into_os_string().into_string().expect("text")
    }

    #[test]
    fn a_real_ssh_passes_every_word_whole_to_the_proxy() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, record) = recorder(folder.path());
        let config = ssh_config(folder.path(), "Host alias\n  HostName 192.0.2.1\n  Port 2222\n");
        let key = "/k\\ey 100%n'";
        let ssh = SshArguments::read(
            ["-F", &config, "-i", key, "-l", "CORP\\ann", "alias"]
                .iter()
                .map(OsString::from)
                .collect(),
        );
        let line = ssh_line(&program, &[], &ssh, || None);
        let ended = Command::new("ssh")
            .args(&line)
            .env("SHELL", "/bin/sh")
            .output()
            .expect("ssh runs");
        let recorded = std::fs::read_to_string(&record)
            .unwrap_or_else(|_| panic!("the proxy did not run: {}", String::from_utf8_lossy(&ended.stderr)));
        let expected = ["proxy", "-F", &config, "-i", key, "--", "CORP\\ann@alias", "2222"];
        assert_eq!(
            recorded.lines().collect::<Vec<_>>(),
            expected.map(|word| format!("<{word}>"))
        );
    }

    #[test]
    fn a_real_ssh_takes_the_jump_and_the_command_line_as_they_are_meant() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, record) = recorder(folder.path());
        let config = ssh_config(folder.path(), "Host inner\n  ProxyJump first,ann@[192.0.2.7]:2222\n");
        let ssh = SshArguments::read(["-F", &config, "inner"].iter().map(OsString::from).collect());
        let line = ssh_line(&program, &[], &ssh, || {
            jump_of(&configuration(&ssh, &[]).expect("ssh runs"))
        });
        Command::new("ssh")
            .args(&line)
            .env("SHELL", "/bin/sh")
            .output()
            .expect("ssh runs");
        let recorded = std::fs::read_to_string(&record).expect("the jump ran");
        let expected = [
            "ssh",
            "-F",
            &config,
            "-J",
            "first",
            "-l",
            "ann",
            "-p",
            "2222",
            "-W",
            "[inner]:22",
            "--",
            "192.0.2.7",
        ];
        assert_eq!(
            recorded.lines().collect::<Vec<_>>(),
            expected.map(|word| format!("<{word}>"))
        );

        // ssh would refuse -J beside a ProxyCommand.
        let ssh = SshArguments::read(["-F", &config, "-J", "b", "host"].iter().map(OsString::from).collect());
        let line = ssh_line(&program, &[], &ssh, || None);
        let shown = Command::new("ssh").arg("-G").args(&line).output().expect("ssh runs");
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("\nserveraliveinterval 0\n"), "{shown}");
    }
}
