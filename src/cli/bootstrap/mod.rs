//! A server half that this client starts over ssh, as the login user, at a host that has none.
//!
//! One ordinary ssh login runs `start.sh` there (`login`). What it started is kept in a record ([`record`]), so that the
//! next client goes there directly. The session itself is opened as ever, with a key that is made for this purpose.

mod login;
mod record;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};

use crate::cli::values::Install;
use crate::identity::ssh_config::SshConfig;
use crate::wire::PeerText;

use self::login::{Answer, Login, Question};
pub(super) use self::login::{LOGIN_VARIABLE, is_in_login, login_arguments};
pub(super) use self::record::{Record, RecordFolder, Running};

/// The version of this program, and of the server half that it starts.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why there is no server half that this client could use.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    /// ssh could not be started, or this program not read.
    #[error("cannot run ssh: {0}")]
    Ssh(io::Error),
    /// ssh has said why.
    #[error("ssh did not log in")]
    NoLogin,
    /// Logged in, and nothing of the script's answers came.
    #[error("the login runs no commands there (ForceCommand, or a restricted shell)")]
    NoCommands,
    /// The script ended early.
    #[error("the login ended before the server half was started")]
    Cut,
    /// This program does not run there.
    #[error("that machine is {theirs}, and this program is for {ours}")]
    OtherSystem {
        /// Operating system and processor.
        theirs: PeerText,
        /// The same of this program.
        ours: String,
    },
    /// A folder or file there.
    #[error("the program cannot be stored there: {0}")]
    Write(PeerText),
    /// A mount option.
    #[error("{0} is on a file system that runs no programs (noexec)")]
    NoExec(PeerText),
    /// Other bytes came than were sent.
    #[error("the program did not arrive whole: {0}")]
    Damaged(PeerText),
    /// The loader says which version of which library is missing.
    #[error(
        "that machine has an older C library (or another one) than this program was built for; use a static build of bowline here \
         (packaging/README.md): {0}"
    )]
    OldLibrary(PeerText),
    /// For another reason.
    #[error("the program does not run there: {0}")]
    CannotRun(PeerText),
    /// `bowline serve` failed.
    #[error("it does not start there: {0}")]
    Start(PeerText),
    /// And logind does not let this user linger.
    #[error(
        "that machine ends all processes of a login at its logout (KillUserProcesses=yes); ask its administrator for \
         `loginctl enable-linger {0}`"
    )]
    EndsAtLogout(PeerText),
    /// The server half connects to sshd from the server itself.
    #[error(
        "sshd there accepts your key from this machine but not from the server itself, where a server half connects from \
         (is there a from= in authorized_keys, or an address in AllowUsers?)"
    )]
    AddressRules,
    /// The user said no, now or earlier.
    #[error("it was declined")]
    Declined,
    /// An earlier attempt failed, in a way that lasts.
    #[error("{0}")]
    Earlier(String),
    /// The key or the record cannot be stored here.
    #[error("cannot write the record of the server half: {0}")]
    Record(io::Error),
}

impl BootstrapError {
    /// Whether another attempt today would only repeat it.
    fn lasts(&self) -> bool {
        matches!(
            self,
            BootstrapError::NoCommands
                | BootstrapError::OtherSystem { .. }
                | BootstrapError::NoExec(_)
                | BootstrapError::CannotRun(_)
                | BootstrapError::OldLibrary(_)
                | BootstrapError::AddressRules
                | BootstrapError::EndsAtLogout(_)
        )
    }

    /// Whether the user learns of it elsewhere, or does not want to be told.
    pub(super) fn is_told_elsewhere(&self) -> bool {
        matches!(self, BootstrapError::Declined | BootstrapError::NoLogin)
    }
}

/// What is needed for a login.
pub(super) struct Bootstrap<'a> {
    pub(super) ssh: &'a SshConfig,
    /// Of ssh, for the login.
    pub(super) arguments: Vec<OsString>,
    /// Whether a server half may be put there.
    pub(super) install: Install,
    /// More arguments of `bowline serve`.
    pub(super) relays: Vec<String>,
    pub(super) folder: &'a RecordFolder,
    /// Tells the user.
    pub(super) notice: fn(&str),
}

impl Bootstrap<'_> {
    /// Starts a server half there, or finds the one that runs, and keeps the record of it.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub(super) async fn run(&self) -> Result<Running, BootstrapError> {
        let before = self.folder.read();
        self.check_earlier(before.as_ref())?;
        match self.start().await {
            Ok(running) => {
                self.keep(&Record::Running(running.clone()))?;
                Ok(running)
            }
            Err(error) => {
                self.keep_failure(&error)?;
                Err(error)
            }
        }
    }

    /// So that it is not tried again, if it would fail again.
    pub(super) fn keep_failure(&self, error: &BootstrapError) -> Result<(), BootstrapError> {
        if matches!(error, BootstrapError::Declined) {
            return self.keep(&Record::Declined);
        }
        if !error.lasts() {
            return Ok(());
        }
        self.keep(&Record::Failed(record::Failed {
            why: error.to_string(),
            version: VERSION.to_owned(),
            at: record::now(),
        }))
    }

    /// Whether a login would lead to nothing again.
    fn check_earlier(&self, before: Option<&Record>) -> Result<(), BootstrapError> {
        match before {
            Some(Record::Declined) if self.install == Install::Ask => Err(BootstrapError::Declined),
            Some(Record::Failed(failed)) if failed.counts(VERSION) => Err(BootstrapError::Earlier(failed.why.clone())),
            _ => Ok(()),
        }
    }

    fn keep(&self, record: &Record) -> Result<(), BootstrapError> {
        self.folder.write(record).map_err(BootstrapError::Record)
    }

    async fn start(&self) -> Result<Running, BootstrapError> {
        let key = self.folder.public_key().map_err(BootstrapError::Record)?;
        let host = &self.ssh.alias;
        (self.notice)(&format!(
            "no server half answers at {host}; logging in to start one there"
        ));
        let question = Question {
            version: VERSION,
            user: &self.ssh.user,
            key: &key,
            relays: &self.relays,
        };
        let mut login = Login::start(&self.arguments, &question).map_err(BootstrapError::Ssh)?;
        let findings = login.findings().await?;
        let answer = choose(&findings)?;
        if self.install == Install::Ask && answer.needs_consent() && !is_wanted(host, &answer) {
            login.quit().await;
            return Err(BootstrapError::Declined);
        }
        let sending = |bytes: u64| {
            let size = bytes.div_ceil(1_000_000);
            (self.notice)(&format!("sending bowline {VERSION} ({size} MB) to {host}"));
        };
        let ready = login.answer(&answer, sending).await?;
        Running::of_ready_line(&ready).ok_or_else(|| BootstrapError::Start(PeerText::new(ready)))
    }
}

/// Ends the server half there, and removes it and the record.
///
/// # Errors
/// As of the login.
pub(super) async fn uninstall(arguments: &[OsString], user: &str, folder: &RecordFolder) -> Result<(), BootstrapError> {
    let question = Question {
        version: VERSION,
        user,
        key: "",
        relays: &[],
    };
    let mut login = Login::start(arguments, &question).map_err(BootstrapError::Ssh)?;
    login.findings().await?;
    login.answer(&Answer::Uninstall, |_| ()).await?;
    folder.remove().map_err(BootstrapError::Record)
}

/// What is done with what is there. A program of this version or a later one will do.
fn choose(findings: &login::Findings) -> Result<Answer, BootstrapError> {
    let will_do = |version: &str| parts(version).is_some_and(|found| Some(found) >= parts(VERSION));
    if let Some(version) = findings.running.iter().find(|version| will_do(version)) {
        return Ok(Answer::Use(version.clone()));
    }
    if let Some((version, program)) = findings.found.iter().find(|(version, _)| will_do(version)) {
        return Ok(Answer::Start(version.clone(), program.clone()));
    }
    let ours = format!("Linux {}", std::env::consts::ARCH);
    let theirs = match &*findings.system {
        "Linux arm64" => "Linux aarch64",
        "Linux amd64" => "Linux x86_64",
        other => other,
    };
    if theirs == ours && cfg!(target_os = "linux") {
        return Ok(Answer::Install);
    }
    Err(BootstrapError::OtherSystem {
        theirs: PeerText::new(theirs),
        ours,
    })
}

fn parts(version: &str) -> Option<[u32; 3]> {
    let plain = version.split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Asks on the terminal. Without one the answer is no.
fn is_wanted(host: &str, answer: &Answer) -> bool {
    let Ok(mut terminal) = std::fs::File::options().read(true).write(true).open("/dev/tty") else {
        return false;
    };
    let host = PeerText::new(host);
    let what = match answer {
        Answer::Install => format!("put bowline {VERSION} into your account there (~/.cache/bowline) and start it"),
        _ => "start the bowline that is there as a server half".to_owned(),
    };
    let asked = write!(
        terminal,
        "bowline: {host} has no server half, so this session would end with its connection. {}? It needs no root, \
         and `bowline ssh --uninstall {host}` removes it. [Y/n] ",
        capitalized(&what)
    );
    let mut said = String::new();
    if asked.is_err() || !matches!(BufReader::new(terminal).read_line(&mut said), Ok(1..)) {
        return false;
    }
    is_yes(&said)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// An empty line is a yes.
fn is_yes(said: &str) -> bool {
    ["", "y", "yes"].iter().any(|yes| said.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(running: &[&str], found: &[(&str, &str)], system: &str) -> login::Findings {
        login::Findings {
            running: running.iter().map(|version| (*version).to_owned()).collect(),
            found: found
                .iter()
                .map(|(version, path)| ((*version).to_owned(), (*path).to_owned()))
                .collect(),
            system: system.to_owned(),
        }
    }

    #[test]
    fn what_runs_is_used_before_what_is_there_before_what_is_sent() {
        let here = format!("Linux {}", std::env::consts::ARCH);
        let there = [("999.0.0", "/usr/bin/bowline"), ("0.0.1", "/old")];
        assert_eq!(
            choose(&findings(&["0.0.1", VERSION], &there, &here)).unwrap(),
            Answer::Use(VERSION.to_owned())
        );
        assert_eq!(
            choose(&findings(&["0.0.1"], &there, "Plan9 mips")).unwrap(),
            Answer::Start("999.0.0".to_owned(), "/usr/bin/bowline".to_owned())
        );
        assert_eq!(
            choose(&findings(&["0.0.1"], &there[1..], &here)).unwrap(),
            Answer::Install
        );
    }

    #[test]
    fn nothing_is_sent_to_another_system() {
        for system in ["Linux mips", "Darwin arm64", "FreeBSD amd64", ""] {
            let refused = choose(&findings(&[], &[], system)).unwrap_err();
            assert!(matches!(refused, BootstrapError::OtherSystem { .. }), "{system}");
        }
    }

    #[test]
    fn an_empty_line_is_a_yes() {
        assert!(["\n", "y\n", "YES\n"].into_iter().all(is_yes));
        assert!(!["n\n", "no\n", "never\n"].into_iter().any(is_yes));
    }
}
