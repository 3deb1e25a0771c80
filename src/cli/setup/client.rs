//! The block in ssh's configuration: where it goes, and whether ssh goes by it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::block::{self, Block};
use super::change::Consent;
use super::change::{Modes, Original, diff};
use super::say;
use super::ssh_query::{self, Answer, Route};
use crate::cli::args::SetupArgs;
use crate::cli::places;
use crate::cli::report::{self, Failure};
use crate::cli::ssh;
use crate::cli::values::HostPattern;

/// Where to, in tokens that most programs know; OpenSSH's own command line tells which alias it was given. In quotes: a
/// shell would take the backslash out of `DOMAIN\user`.
const TOKENS: &str = "'%r@%h' %p";

/// As ssh wants them.
const MODES: Modes = Modes {
    file: 0o600,
    folder: 0o700,
};

/// What `bowline setup HOST` works by.
#[derive(Debug)]
pub(super) struct ClientSettings {
    /// One host at least is meant.
    hosts: Vec<HostPattern>,
    undo: bool,
    consent: Consent,
    /// ssh's configuration. Default: `.ssh/config` in the home folder.
    file: Option<PathBuf>,
}

impl ClientSettings {
    /// # Errors
    /// No host is meant, only those that are not.
    pub(super) fn new(args: &SetupArgs) -> Result<Self, Failure> {
        let settings = ClientSettings {
            hosts: args.hosts.clone(),
            undo: args.undo,
            consent: Consent::of(args),
            file: args.ssh_config.clone(),
        };
        match settings.samples().is_empty() {
            true => Err(report::no_host_is_meant()),
            false => Ok(settings),
        }
    }

    /// What follows `Host`.
    fn name(&self) -> String {
        let all: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        all.join(" ")
    }

    /// The same as a shell has to be given it.
    fn arguments(&self) -> String {
        let word = |host: &HostPattern| match host.is_a_name() {
            true => host.to_string(),
            false => format!("'{host}'"),
        };
        self.hosts.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// A host for each that is meant.
    fn samples(&self) -> Vec<String> {
        self.hosts.iter().filter_map(HostPattern::sample).collect()
    }
}

/// Puts the block in, or takes it out.
///
/// # Errors
/// The file cannot be changed; nobody says yes; ssh does not go by it.
pub(super) fn run(settings: &ClientSettings) -> Result<(), Failure> {
    let file = SshFile::choose(settings)?;
    let original = Original::read(&file.path).map_err(|error| report::cannot_change(&error))?;
    let task = Task {
        settings,
        file,
        original,
    };
    match settings.undo {
        true => task.remove(),
        false => task.install(),
    }
}

/// One of ssh's configuration files.
#[derive(Debug)]
struct SshFile {
    path: PathBuf,
    /// ssh reads it only when it is told to: by `-F`.
    is_extra: bool,
}

impl SshFile {
    fn choose(settings: &ClientSettings) -> Result<Self, Failure> {
        let home = ssh_query::home().map_err(|error| report::ssh_rejects(&error))?;
        let home = home.ok_or_else(report::no_home_of_ssh)?;
        let usual = home.join(".ssh/config");
        let Some(file) = &settings.file else {
            return match places::home() {
                Some(own) if !is_same(&own, &home) => Err(report::another_home(&own, &usual)),
                _ => Ok(SshFile {
                    path: usual,
                    is_extra: false,
                }),
            };
        };
        let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let is_read = || {
            let host = settings.samples().remove(0);
            let answer = ssh_query::ask(None, &[], &host);
            answer.is_ok_and(|answer| answer.read.iter().any(|read| is_same(read, &path)))
        };
        Ok(SshFile {
            is_extra: !is_same(&path, &usual) && !is_read(),
            path,
        })
    }

    /// ssh's `-F`.
    fn flag(&self) -> Option<&Path> {
        self.is_extra.then_some(self.path.as_path())
    }

    /// ` -F FILE` for a shell, or nothing.
    fn shown_flag(&self) -> String {
        let words = self.flag().map(|path| ssh::proxy_words(&["-F".into(), path.into()]));
        words.map_or(String::new(), |words| format!(" {}", String::from_utf8_lossy(&words)))
    }
}

/// Two names of one file or folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

struct Task<'a> {
    settings: &'a ClientSettings,
    file: SshFile,
    original: Original,
}

impl Task<'_> {
    fn install(&self) -> Result<(), Failure> {
        let command = self.command()?;
        let before = self.answers(&[])?;
        let straight = self.answers(&["ProxyCommand=none".to_owned()])?;
        // What ssh would do without a block of ours that is there already.
        let base: Vec<&Answer> = (before.iter().zip(&straight))
            .map(
                |((_, now), (_, straight))| match now.route == Route::Command(command.clone()) {
                    true => straight,
                    false => now,
                },
            )
            .collect();
        let is_straight = |answer: &&Answer| answer.route == Route::Direct && answer.canonical;
        let block = Block {
            name: self.settings.name(),
            command,
            is_canonical: base.iter().any(is_straight),
            undo: format!(
                "bowline setup --undo{} {}",
                self.file.shown_flag(),
                self.settings.arguments()
            ),
        };
        let is_there = |(_, answer): &(String, Answer)| answer.goes_over_bowline(&block.command);
        // A line of the user's own may be for the name as it is.
        let is_as_it_should_be = |(one, base): (&(String, Answer), &&Answer)| {
            is_there(one) && (one.1.route != Route::Command(block.command.clone()) || one.1.others == base.others)
        };
        if before.iter().zip(&base).all(is_as_it_should_be) {
            let route = shown(&before[0].1.route);
            say(&format!(
                "nothing to do: ssh already uses `{route}` for {}\n",
                block.name
            ));
            self.print_next_steps();
            return Ok(());
        }
        let content = block.on_top_of(self.original.content());
        let content = content.map_err(|damaged| report::damaged_block(&self.file.path, &damaged))?;
        if content != self.original.content() {
            self.check_others(&block, &base)?;
            let other = before.iter().filter(|one| !is_there(one));
            other.for_each(|(host, answer)| print_replaced(host, &answer.route));
            if !self.changed_to(&content)? {
                return Ok(());
            }
        }
        for ((host, answer), base) in self.answers(&[])?.iter().zip(&base) {
            if !answer.goes_over_bowline(&block.command) {
                return Err(self.without_effect(host, answer));
            }
            if answer.others != base.others && answer.route == Route::Command(block.command.clone()) {
                return Err(report::changes_others(host, &base.others, &answer.others, true));
            }
        }
        say(&format!("done: ssh now uses bowline for {}\n", block.name));
        self.print_next_steps();
        Ok(())
    }

    /// Whether the block would change more than the route, by what ssh says with its settings before all others.
    fn check_others(&self, block: &Block, base: &[&Answer]) -> Result<(), Failure> {
        let options: Vec<String> = block
            .settings()
            .map(|(keyword, value)| format!("{keyword}={value}"))
            .collect();
        for ((host, answer), base) in self.answers(&options)?.iter().zip(base) {
            if answer.others != base.others {
                return Err(report::changes_others(host, &base.others, &answer.others, false));
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), Failure> {
        let name = self.settings.name();
        let path = self.file.path.display();
        let damaged = |damaged| report::damaged_block(&self.file.path, &damaged);
        let rest = block::without(self.original.content(), &name).map_err(damaged)?;
        if rest == self.original.content() {
            say(&format!("nothing to do: there is no block for {name} in {path}\n"));
            let others = block::names(&rest).map_err(damaged)?;
            others
                .iter()
                .for_each(|other| say(&format!("  there is a block for {other}\n")));
            return Ok(());
        }
        if self.changed_to(&rest)? {
            say(&format!(
                "done: removed the block for {name} from {path}; nothing else was changed\n"
            ));
        }
        Ok(())
    }

    /// Shows the change, asks, and makes it; `false` if it is not to be made.
    fn changed_to(&self, content: &[u8]) -> Result<bool, Failure> {
        let old = self.original.exists().then(|| self.original.content());
        if self.settings.consent != Consent::DryRun {
            self.original
                .check_ours()
                .map_err(|error| report::cannot_change(&error))?;
        }
        let granted = self
            .settings
            .consent
            .to(&diff(self.original.path(), old, Some(content)))?;
        if granted {
            let changed = self.original.replace(content, MODES);
            changed.map_err(|error| report::cannot_change(&error))?;
        }
        Ok(granted)
    }

    /// What ssh says now, with these options before all others, for a host of each pattern.
    fn answers(&self, options: &[String]) -> Result<Vec<(String, Answer)>, Failure> {
        let config = match self.file.flag() {
            Some(path) if !path.exists() => Some(Path::new("none")),
            flag => flag,
        };
        let ask = |host: String| ssh_query::ask(config, options, &host).map(|answer| (host, answer));
        let answers: Result<_, _> = self.settings.samples().into_iter().map(ask).collect();
        answers.map_err(|error| report::ssh_rejects(&error))
    }

    /// The ProxyCommand: `bowline`, if that is this program to whoever looks for it in the PATH.
    fn command(&self) -> Result<String, Failure> {
        let own = std::env::current_exe().map_err(|error| report::cannot_run("bowline", &error))?;
        let program = match in_path("bowline") {
            Some(found) if is_same(&found, &own) => OsString::from("bowline"),
            _ => own.into_os_string(),
        };
        let mut words = vec![program, "proxy".into()];
        if let Some(path) = self.file.flag() {
            words.extend(["-F".into(), path.into()]);
        }
        match String::from_utf8(ssh::proxy_words(&words)) {
            Ok(line) if !line.contains(char::is_control) => Ok(format!("{line} {TOKENS}")),
            _ => Err(report::no_line_of_ssh(&words)),
        }
    }

    fn print_next_steps(&self) {
        let check = format!("bowline check{}", self.file.shown_flag());
        let next = match self.settings.hosts.iter().find(|host| host.is_a_name()) {
            Some(host) => format!("next: {check} {host}\n"),
            None => format!("next: {check} HOST, with one of these hosts\n"),
        };
        say(&next);
    }

    /// The block is there, and another value comes first.
    fn without_effect(&self, host: &str, answer: &Answer) -> Failure {
        let is_own = |line: &&String| {
            let (file, number) = line.rsplit_once(" line ").unwrap_or_default();
            number.parse() == Ok(block::HOST_LINE) && is_same(Path::new(file), &self.file.path)
        };
        let before = answer.applied.iter().take_while(|line| !is_own(line));
        let before: Vec<_> = before.map(String::as_str).collect();
        let applies = before.len() < answer.applied.len();
        let takes = match answer.use_fdpass {
            true => "ProxyUseFdpass yes".to_owned(),
            false => shown(&answer.route),
        };
        report::not_in_effect(host, &takes, applies.then_some(&before[..]))
    }
}

/// The first program of that name that the PATH leads to.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |file: &PathBuf| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(is_program)
}

impl Answer {
    /// Whether ssh gets to bowline, and gets on with it: it is no program that hands over sockets.
    fn goes_over_bowline(&self, command: &str) -> bool {
        goes_over_bowline(&self.route, command) && !self.use_fdpass
    }
}

/// By the block, or by a line that somebody has written, perhaps with options; its program must be there.
fn goes_over_bowline(route: &Route, command: &str) -> bool {
    let Route::Command(text) = route else { return false };
    let mut words = text.split(' ');
    text == command
        || match (words.next(), words.next()) {
            (Some(program), Some("proxy")) => is_bowline(program),
            _ => false,
        }
}

fn is_bowline(program: &str) -> bool {
    let is_there = match program.contains('/') {
        true => Path::new(program).is_file(),
        false => in_path(program).is_some(),
    };
    is_there && Path::new(program).file_name() == Some("bowline".as_ref())
}

fn shown(route: &Route) -> String {
    match route {
        Route::Command(text) => format!("ProxyCommand {}", crate::wire::Escaped(text)),
        Route::Jump(text) => format!("ProxyJump {}", crate::wire::Escaped(text)),
        Route::Direct => "no ProxyCommand".to_owned(),
    }
}

fn print_replaced(host: &str, route: &Route) {
    let route = match route {
        Route::Direct => return,
        other => shown(other),
    };
    say(&format!(
        "note: until now ssh connects to {host} with `{route}`.\n      \
         The block replaces that, and bowline connects directly. If this host cannot be reached\n      \
         directly, see --path-command and --relay in `bowline proxy --help`.\n"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_user_s_own_counts_if_its_program_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bowline");
        let own = format!("{} proxy --port 4022 %r@%n %p", program.display());
        let goes = |text: &str| goes_over_bowline(&Route::Command(text.to_owned()), "bowline proxy '%r@%n' %p");
        assert!(!goes(&own), "there is no such program");
        fs::write(&program, "").unwrap();
        assert!(goes(&own) && goes("bowline proxy '%r@%n' %p"));
        for other in ["nc %h %p", "sh proxy", "bowline", "", "/bin/sh proxy %h"] {
            assert!(!goes(other), "{other}");
        }
        assert!(!goes_over_bowline(&Route::Direct, "") && !goes_over_bowline(&Route::Jump("bowline proxy".into()), ""));
    }
}
