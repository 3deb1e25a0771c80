//! The arguments as clap reads them: names, help, syntax of each value. Nothing is decided here.
//!
//! What an argument means together with the configuration file, and its default, is said by the settings
//! of each command. Every long option that takes one value can also come from the environment, as `BOWLINE_` and
//! its name in capitals; an empty variable is an unset one.

mod client;
mod environment;
mod options;
mod relay;
mod serve;

pub(super) use self::client::{ClientTable, PROXY_VARIABLE, ProxyOptions, ReachOptions, TerminalOptions};
pub(super) use self::environment::{matches_from, set_variable_of};
pub(super) use self::relay::RelayOptions;
pub(super) use self::serve::ServeOptions;

use self::options::options;
use super::bootstrap::LOGIN_VARIABLE;
use super::values::{Destination, HostPattern, ListenAddress, LogFormat, Port, SessionName, parse};
use crate::identity::ssh_config::NESTING_VARIABLE;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use russh::keys::ssh_key::Fingerprint;
use std::ffi::OsString;
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bowline",
    version,
    about = "SSH sessions that do not break",
    long_about = "SSH sessions that do not break.\n\nbowline carries an ordinary SSH connection over QUIC, or over TLS if the \
                  network blocks UDP. If the network fails, the session waits. When it works again, the session continues \
                  at the exact byte where it stopped.\n\nbowline has two halves. The client half (`bowline ssh`, or \
                  `bowline proxy` as ssh's ProxyCommand) runs next to ssh. The server half (`bowline serve`) runs next to \
                  sshd. If the server cannot be reached directly, a relay (`bowline relay`) connects the two.",
    after_help = "Examples:\n  bowline demo\n  bowline ssh build.example.org\n  ssh -o \"ProxyCommand bowline proxy '%r@%h' %p\" \
                  build.example.org",
    max_term_width = 80,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Which command.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Watch a session survive outages on this machine
    #[command(
        long_about = "Run an SSH server, both halves of bowline and a real SSH session on this machine, and break the network \
                      path between them. Needs no configuration, no root and no network. Takes less than 30 seconds."
    )]
    Demo(DemoArgs),
    /// Configure ssh to use bowline, or prepare a server
    #[command(long_about = ABOUT_SETUP)]
    Setup(SetupArgs),
    /// Test every path to a host, and show what would end a session
    #[command(
        long_about = "Test every path to a host from end to end: each address, port, transport and relay. All paths \
                      are tested at the same time, each on its own. A path works if an authenticated probe reached \
                      sshd through it and returned sshd's banner.\n\nBelow the table, check lists the settings that \
                      would end a session during an outage, and the line that fixes each. It takes the options of \
                      `bowline proxy`; --fallback has no effect. Each path gets 5s, or --connect-timeout. If `bowline \
                      ssh` has started a server half at the host, check tests that one.\n\nYou can \
                      run check from ssh's configuration: Match exec \"bowline check %n\". Since bowline itself runs \
                      `ssh -G`, that line would start a second check for the same host; the second check exits with 0 \
                      at once, without a test.\n\nExit code: 0 if a path works and ssh can use it; 77 if no path \
                      works and a key was refused; otherwise 69.",
        after_help = "Example:\n  bowline check build.example.org"
    )]
    Check(Box<CheckArgs>),
    /// Run OpenSSH's ssh over bowline
    #[command(
        long_about = "Run OpenSSH's ssh with bowline as its ProxyCommand. Long options belong to bowline and come first. All \
                  short options and all arguments are passed to ssh. The exit code is ssh's.\n\nIf ssh opens a remote \
                  terminal, bowline stays between ssh and your terminal. Prompts, escapes (~. and ~^Z) and the output of \
                  programs are the same as without it. In every other case, and with --plain, bowline replaces itself \
                  with ssh."
    )]
    Ssh(Box<SshArgs>),
    /// Show the sessions on this machine
    #[command(long_about = ABOUT_STATUS)]
    Status(StatusArgs),
    /// End sessions
    #[command(long_about = ABOUT_KILL)]
    Kill(KillArgs),
    /// Show the effective settings, and where each comes from
    #[command(long_about = ABOUT_CONFIG)]
    Config(ConfigArgs),
    /// Run the server half next to sshd
    #[command(
        long_about = "Run the server half next to sshd.\n\nWhen it is ready, it prints one line: ready udp=ADDR:PORT \
                  client-address=real|loopback version=VERSION keeper=PID fingerprint=SHA256:.., with tls=ADDR:PORT \
                  for each --listen-tls.\n\nWithout a service manager, SIGTERM ends all sessions and bowline tells \
                  their clients. Under systemd with FileDescriptorStoreMax=, the server half first asks systemd why \
                  it is stopped: a restart keeps the sessions, and a stop ends them. To be allowed to ask, it must \
                  run as root (no User= in the unit). If systemd does not answer, sessions are kept for the next \
                  start. If you stop the service while it is down, for example between a crash and its restart, \
                  clients are not told: they wait until their --patience ends or the service starts again."
    )]
    Serve(Box<ServeOptions>),
    /// Connect clients to servers that cannot be reached directly
    #[command(long_about = relay::ABOUT)]
    Relay(Box<RelayOptions>),
    /// Carry one SSH connection, as ssh's ProxyCommand
    #[command(
        long_about = "Carry one SSH connection between stdin/stdout and the sshd next to a server half.\n\nUse it as \
                  ssh's ProxyCommand. On stderr it prints only what you must know: that the session cannot continue, \
                  that it falls back to plain TCP, or that a key needs your touch or passphrase.\n\nExit code: 0: \
                  ended cleanly; 64: the command line or the configuration is wrong; 69: no path led to the server \
                  half; 70: internal error of bowline; 75: the session was lost; 76: the other end broke the \
                  protocol, or has another version; 77: refused, by your known_hosts or by the server."
    )]
    Proxy(Box<ProxyArgs>),
    /// Run the built-in SSH server
    #[command(
        long_about = "Run the built-in SSH server. Only the user who starts it can log in, and only with a public key.\n\nWhen \
                  it is ready, it prints one line: ready tcp=ADDR:PORT fingerprint=SHA256:.."
    )]
    Sshd(SshdOptions),
    /// Print shell completions
    #[command(after_help = "Example:\n  bowline completions bash > ~/.local/share/bash-completion/completions/bowline")]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// The worker of `bowline serve`, started by its keeper
    #[command(hide = true)]
    ServeWorker,
    /// Another keeper of `bowline serve`, started by its worker
    #[command(hide = true)]
    ServeKeeper,
    /// Inspects the SSH server at the target, for the keeper of `bowline serve`
    #[command(hide = true)]
    LookAtTarget {
        /// Its address
        target: std::net::SocketAddr,
    },
}

/// What every command takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct CommonArgs {
    /// Read this configuration file instead of the default one
    ///
    /// Default: ~/.config/bowline/bowline.toml; for a daemon started by root, /etc/bowline/bowline.toml.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Global options",
        env = "BOWLINE_CONFIG"
    )]
    pub(super) config: Option<PathBuf>,
    /// Store keys, pins and the session journal in this folder
    ///
    /// Default: ~/.local/state/bowline; for a daemon started by root, /var/lib/bowline.
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        help_heading = "Global options",
        env = "BOWLINE_STATE_DIR"
    )]
    pub(super) state_dir: Option<PathBuf>,
    /// Store sockets and locks in this folder
    ///
    /// Default: $XDG_RUNTIME_DIR/bowline, or run/ in the state folder; for a daemon started by root, /run/bowline.
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        help_heading = "Global options",
        env = "BOWLINE_RUNTIME_DIR"
    )]
    pub(super) runtime_dir: Option<PathBuf>,
    /// Log more; repeat for even more
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub(super) verbose: u8,
    /// Append the log to this file instead of writing it to stderr
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Global options",
        env = "BOWLINE_LOG_FILE"
    )]
    pub(super) log_file: Option<PathBuf>,
    /// Format of log lines: human or json [default: human; structured fields in systemd's journal]
    #[arg(long, value_name = "FORMAT", global = true, help_heading = "Global options", env = "BOWLINE_LOG_FORMAT",
          value_parser = parse::<LogFormat>)]
    pub(super) log_format: Option<LogFormat>,
}

/// `bowline proxy`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example, in ~/.ssh/config:\n  Host build.example.org\n    ProxyCommand bowline proxy '%r@%h' %p\n    \
                  ProxyUseFdpass no\n    ServerAliveInterval 0"
)]
pub(super) struct ProxyArgs {
    /// Host to connect to; in ssh's configuration '%r@%h' or '%r@%n'
    ///
    /// If the parent process is ssh, bowline reads ssh's arguments from /proc. It passes them to `ssh -G`, and
    /// learns from them which alias of the host you typed.
    #[arg(value_name = "[USER@]HOST", value_parser = parse::<Destination>)]
    pub(super) destination: Destination,
    /// ssh's port; in ssh's configuration %p [default: the port that `ssh -G` reports]
    #[arg(value_name = "PORT", value_parser = parse::<Port>)]
    pub(super) ssh_port: Option<Port>,
    /// Which of ssh's files and keys count.
    #[command(flatten)]
    pub(super) ssh: ProxyOptions,
    /// How to reach the server half.
    #[command(flatten)]
    pub(super) reach: ReachOptions,
}

/// `bowline ssh`.
///
/// No short options: every one belongs to ssh.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  bowline ssh --port 4022 -L 8080:localhost:80 build.example.org",
    override_usage = "bowline ssh [--OPTION]... [SSH ARGUMENT]...",
    disable_help_flag = true
)]
pub(super) struct SshArgs {
    /// How to reach the server half.
    #[command(flatten)]
    pub(super) reach: ReachOptions,
    /// What bowline does on the terminal.
    #[command(flatten)]
    pub(super) terminal: TerminalOptions,
    /// Stop the server half that was started over ssh at the host, and remove it
    #[arg(long)]
    pub(super) uninstall: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Global options")]
    help: Option<bool>,
    /// Make the ProxyCommand log more; repeat for even more
    #[arg(long = "verbose", id = "verbose", action = ArgAction::Count, help_heading = "Global options")]
    pub(super) proxy_verbose: u8,
    /// Arguments for ssh: its options, [USER@]HOST, a command
    #[arg(value_name = "SSH ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) arguments: Vec<OsString>,
}

options! {
    /// `bowline sshd`.
    #[command(after_help = "Example:\n  bowline sshd --listen 127.0.0.1:2222 --authorized-keys ~/.ssh/authorized_keys")]
    pub(super) struct SshdOptions {
        /// Listen on this address; repeatable [default: 127.0.0.1:2222]
        #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
        pub(super) listen: Vec<ListenAddress>,
        /// Use this SSH host key; repeatable
        ///
        /// RSA keys are not supported. Default: a key in the state folder, created at first use.
        #[arg(long, value_name = "FILE")]
        pub(super) host_key: Vec<PathBuf>,
        /// Accept the user keys in this file [default: ~/.ssh/authorized_keys]
        #[arg(long, value_name = "FILE", env = "BOWLINE_AUTHORIZED_KEYS")]
        pub(super) authorized_keys: Option<PathBuf>,
        /// Use standard input as the listening TCP socket, and print nothing; `serve --target builtin` sets this
        #[arg(long, hide = true)]
        #[serde(skip)]
        pub(super) inherit_listener: bool,
    }
}

/// `bowline demo`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline demo --shell")]
pub(super) struct DemoArgs {
    /// Open an interactive shell, in which special keys break the path
    #[arg(long)]
    pub(super) shell: bool,
}

/// The command line as a value, for help, man pages and completions.
///
/// Values found in the environment are not shown: help is the same everywhere.
pub(super) fn command() -> clap::Command {
    fn hide_values(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.hide_env_values(true))
            .mut_subcommands(hide_values)
    }
    hide_values(Cli::command())
}

/// The long option of `bowline ssh` that a word was probably meant to be.
pub(super) fn nearest_ssh_option(word: &str) -> Option<String> {
    let word = word.split('=').next().unwrap_or(word);
    let mut whole = command();
    whole.build();
    let ssh = whole.find_subcommand("ssh")?;
    let names = ssh
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .map(|long| format!("--{long}"));
    let scored = names.map(|name| (strsim::jaro_winkler(word, &name), name));
    let (score, name) = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    // As near as clap wants it for its own advice.
    (score > 0.8).then_some(name)
}

/// Environment variables that look like ours and are not: perhaps a typing error, perhaps another version's.
pub(super) fn unknown_variables() -> Vec<String> {
    fn collect(command: &clap::Command, known: &mut Vec<OsString>) {
        known.extend(
            command
                .get_arguments()
                .filter_map(|arg| arg.get_env())
                .map(OsString::from),
        );
        command.get_subcommands().for_each(|sub| collect(sub, known));
    }
    // The second is for tests: crate::fault.
    let mut known: Vec<OsString> = vec![super::logging::FILTER_VARIABLE.into(), "BOWLINE_FAULT".into()];
    known.extend([NESTING_VARIABLE, LOGIN_VARIABLE].map(OsString::from));
    collect(&command(), &mut known);
    let names = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name));
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("BOWLINE_"))
        .collect()
}

/// `bowline check`.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Whom to reach, as for `proxy`.
    #[command(flatten)]
    pub(in crate::cli) proxy: ProxyArgs,
    /// Print one JSON document instead of the table
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// What `bowline config --help` says first.
const ABOUT_CONFIG: &str = "Show the effective settings, and where each comes from: an option, an environment variable, a \
line of bowline.toml, or the default. With HOST: the settings of proxy, ssh and check for that host, including the tables whose \
patterns match it. Without HOST: also the settings of serve, relay and sshd. The output is a valid bowline.toml(5). Passwords \
in proxy URLs are left out.

If you ask for the settings of one command only and they contradict each other, config reports that and exits with 64, as that \
command would. You can use this to test a change before you reload the service.";

/// `bowline config`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline config build.example.org")]
pub(in crate::cli) struct ConfigArgs {
    /// Host as you pass it to ssh
    #[arg(value_name = "[USER@]HOST", value_parser = parse::<Destination>)]
    pub(in crate::cli) destination: Option<Destination>,
    /// Show only the settings of serve
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) serve: bool,
    /// Show only the settings of relay
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) relay: bool,
    /// Show only the settings of sshd
    #[arg(long, group = "command", conflicts_with = "destination")]
    pub(in crate::cli) sshd: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// What `bowline setup --help` says first.
const ABOUT_SETUP: &str = "Configure ssh, and every program that runs ssh, to connect to these hosts over bowline. Setup \
puts a marked block at the top of ~/.ssh/config, because the first value that ssh reads takes effect. Then it asks ssh whether \
the block takes effect.

With --server: prepare this machine as a server. Setup installs the systemd unit, the user that the worker runs as, and \
settings for sshd, which would otherwise end sessions during an outage. It does not enable or start the service or open a \
port; it prints the commands for that. If bowline.toml names another sshd (target, sshd-binary, sshd-config), setup uses that \
one. The settings for sshd always go to /etc/ssh/sshd_config.d.

Setup shows every change as a diff, and makes it only if you answer yes or give --yes. --undo removes what setup has added. It keeps a file that \
was changed since, and it keeps all files if the server half is enabled or running.

Exit code: 0: done, or nothing to do; 64: there is no terminal to ask on and no --yes, or the service is in use; 69: done, but \
ssh does not use it; 73: a file cannot be written; 77: permission denied; 130: you answered no.";

/// `bowline setup`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Examples:\n  bowline setup build.example.org\n  bowline setup '*.example.org' '!old.example.org'\n  \
                  sudo bowline setup --server",
    override_usage = "bowline setup [OPTIONS] <HOST>...\n       bowline setup [OPTIONS] --server"
)]
pub(in crate::cli) struct SetupArgs {
    /// Host names as you pass them to ssh, or patterns as in ssh's `Host` lines
    #[arg(value_name = "HOST", required_unless_present = "server", conflicts_with = "server", value_parser = parse::<HostPattern>)]
    pub(in crate::cli) hosts: Vec<HostPattern>,
    /// Prepare this machine as a server instead
    #[arg(long)]
    pub(in crate::cli) server: bool,
    /// Remove what setup has added
    #[arg(long)]
    pub(in crate::cli) undo: bool,
    /// Make the changes without asking
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    /// Show the changes without making them
    #[arg(long, conflicts_with = "yes")]
    pub(in crate::cli) dry_run: bool,
    /// Write the block to this ssh configuration file [default: ~/.ssh/config]
    ///
    /// If ssh reads this file only with -F, the ProxyCommand in the block passes the same -F to bowline.
    #[arg(short = 'F', long, value_name = "FILE", env = "BOWLINE_SSH_CONFIG")]
    pub(in crate::cli) ssh_config: Option<PathBuf>,
    /// With --server: prepare the system below this folder, such as a mounted image
    #[arg(long, value_name = "DIR", requires = "server")]
    pub(in crate::cli) root: Option<PathBuf>,
}

/// What `bowline status --help` says first.
const ABOUT_STATUS: &str = "Show the sessions on this machine: your own, and those of the server halves and relays \
that you run. Root sees all of them.

\"connected\": the other half was heard recently. \"probing\": it was not heard in time, and bowline tests the path. \
The time after both says how long ago the other half was last heard, rounded up. The time after \"detached\" says how \
long the session has had no path. Sessions that ended on a server half in the last five minutes are shown as \
\"gone\", with the reason. TERMINAL and LAST KEY are those of the `bowline ssh` in front of a session. While that \
`bowline ssh` is suspended, LAST KEY is unknown. For a relay, the newest thousand paths are shown: the address of the \
client, the host key of the server half, bytes from and to the client, and the age.

With --json, the document has these fields. sessions: see below. servers: keeper_pid, worker_pid, version, \
client_address (real or loopback: which client address sshd sees), udp, tls, store_shortage (wanted, kept, most; only \
if a service manager stores fewer file descriptors for the next start than it should). relays: pid, udp, tls, \
registered, splices (the number of paths), bytes_up, bytes_down, paths (each: peer, transport, which is quic or tls, \
host_key, bytes_up, bytes_down, age_ms). silent: the processes that do not answer (each: pid, socket, reason).

A session has: id, half (client, server), host, user, key, peer, alias (the client's address as sshd sees it), path, standby, \
rtt_ms, loss (0 to 1), bytes_in, bytes_out, epoch, outages (survived, longest_ms), buffered, state (connected, probing, detached, \
gone), age_ms, age (state and age in words), reason, terminal (that of `bowline ssh`), last_key_ms (since a key was typed there), \
pid, keeper_pid, worker_pid. Unknown values are null.";

/// The same for `bowline kill`.
const ABOUT_KILL: &str = "End sessions. bowline tells each session's ssh why, and the other half too if there is a \
path to it. If an argument names no session, or several, bowline ends none.";

/// `bowline status`.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(after_help = "Example:\n  bowline status --watch")]
pub(in crate::cli) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Refresh every second, until q or Ctrl-C
    ///
    /// If stdout is a pipe or a file, one table is printed after another; with --json, one document per line.
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

/// `bowline kill`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Example:\n  bowline kill 3f2a9c01",
    override_usage = "bowline kill [OPTIONS] <ID|TERMINAL>...\n       bowline kill [OPTIONS] --orphans\n       \
                      bowline kill [OPTIONS] --key <FINGERPRINT>"
)]
pub(in crate::cli) struct KillArgs {
    /// Sessions as `bowline status` shows them: the first digits of the id if they are unique, or the terminal
    #[arg(value_name = "ID|TERMINAL", required_unless_present_any = ["orphans", "key"], value_parser = parse::<SessionName>)]
    pub(in crate::cli) sessions: Vec<SessionName>,
    /// End all detached sessions of the server half
    #[arg(long, conflicts_with_all = ["sessions", "key"])]
    pub(in crate::cli) orphans: bool,
    /// End all sessions of the server half that this user key has opened
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "sessions", value_parser = parse::<Fingerprint>)]
    pub(in crate::cli) key: Option<Fingerprint>,
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parsed(line: &[&str]) -> Cli {
        let matches = command()
            .try_get_matches_from(std::iter::once(&"bowline").chain(line))
            .expect("a good line");
        Cli::from_arg_matches(&matches).expect("a good line")
    }

    fn refusal(line: &[&str]) -> String {
        command()
            .try_get_matches_from(std::iter::once(&"bowline").chain(line))
            .expect_err("a bad line")
            .to_string()
    }

    fn ssh_arguments(line: &[&str]) -> Vec<OsString> {
        match parsed(line).command {
            Command::Ssh(args) => args.arguments,
            other => panic!("not ssh: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_contradiction() {
        command().debug_assert();
    }

    #[test]
    fn help_of_every_command_fits_80_columns_and_ends_with_an_example() {
        let mut whole = command().term_width(80);
        whole.build();
        let commands = whole.get_subcommands().filter(|command| !command.is_hide_set());
        for mut one in commands.cloned().chain([whole.clone()]) {
            let name = one.get_name().to_owned();
            for help in [one.render_help().to_string(), one.render_long_help().to_string()] {
                let last = help.trim_end().rsplit("\n\n").next().unwrap_or_default();
                assert!(last.starts_with("Example"), "{name} ends with {last}");
                for line in help.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
        }
    }

    /// What the arguments' own type says is overruled by the command's name in the list.
    #[test]
    fn the_long_help_of_a_command_says_more_than_the_short_one() {
        for command in command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let is_plain = command.get_name() == "completions";
            assert_eq!(command.get_long_about().is_none(), is_plain, "{}", command.get_name());
        }
    }

    #[test]
    fn options_common_to_all_stand_before_or_after_the_command() {
        for line in [
            ["-v", "--state-dir", "/s", "demo", "-v"],
            ["demo", "-v", "--state-dir", "/s", "-v"],
        ] {
            let common = parsed(&line).common;
            assert_eq!(common.state_dir, Some(PathBuf::from("/s")), "{line:?}");
        }
        assert_eq!(parsed(&["demo", "-vv"]).common.verbose, 2);
    }

    #[test]
    fn every_short_option_after_ssh_is_ssh_s_own() {
        assert_eq!(
            ssh_arguments(&["ssh", "-v", "-p", "22", "host", "ls", "-l"]),
            ["-v", "-p", "22", "host", "ls", "-l"]
        );
        assert_eq!(ssh_arguments(&["ssh", "-h"]), ["-h"]);
        assert_eq!(ssh_arguments(&["ssh", "-V"]), ["-V"]);
        assert_eq!(
            ssh_arguments(&["ssh", "--port", "4022", "-F", "f", "host"]),
            ["-F", "f", "host"]
        );
        assert_eq!(
            ssh_arguments(&["ssh", "host", "--", "ls", "--port"]),
            ["host", "--", "ls", "--port"]
        );
    }

    #[test]
    fn long_options_before_ssh_s_arguments_are_bowline_s() {
        let line = parsed(&[
            "ssh",
            "--port",
            "4022",
            "--state-dir",
            "/s",
            "--verbose",
            "--verbose",
            "host",
            "--verbose",
        ]);
        assert_eq!(line.common.state_dir, Some(PathBuf::from("/s")));
        let Command::Ssh(args) = line.command else {
            panic!("not ssh")
        };
        assert_eq!(args.reach.port, Some(Port(4022)));
        assert_eq!(args.proxy_verbose, 2);
        assert_eq!(args.arguments, ["host", "--verbose"]);
    }

    #[test]
    fn a_mistyped_option_is_answered_with_the_nearest_right_one() {
        let refusal = refusal(&["proxy", "--patince", "5s", "host"]);
        assert!(refusal.contains("'--patience'"), "{refusal}");
    }

    #[test]
    fn a_value_that_cannot_be_taken_is_answered_with_its_form() {
        let message = refusal(&["proxy", "--patience", "90", "host"]);
        assert!(
            message.contains("90 has no unit, expected a duration such as"),
            "{message}"
        );
        let message = refusal(&["proxy", "--transport", "udp", "host"]);
        assert!(message.contains("expected auto, quic or tls"), "{message}");
    }
}
