//! One ssh login that runs `start.sh` on the server and reads its answers.
//!
//! The login shell may be csh or fish, and may print what it likes. So the remote command is one word for sh that every
//! shell passes on, the script comes on standard input, and each answer stands behind a random marker.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::BootstrapError;
use crate::cli::proxy::is_over_bowline;
use crate::cli::ssh::{SshArguments, split_option};
use crate::random;
use crate::wire::PeerText;

const SCRIPT: &str = include_str!("start.sh");

/// Set for the ssh of a login, and for its ProxyCommand, which may be a bowline again (in a script, for example).
pub(in crate::cli) const LOGIN_VARIABLE: &str = "BOWLINE_LOGS_IN";

/// Whether this process is the way of such a login.
pub(in crate::cli) fn is_in_login() -> bool {
    std::env::var_os(LOGIN_VARIABLE).is_some()
}

/// ssh's options that lead to the host, or say how to log in.
const KEPT_OPTIONS: &[u8] = b"46BbCcFIiJKklmopPqv";

/// How long the script may take for its first answers once ssh has logged in: a slow login shell on a slow machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same until the server half is ready; the script gives up earlier.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Most bytes in a line of answers.
const MAX_LINE: usize = 8 << 10;

/// Most bytes that a login shell may print before the first answer.
const MAX_BANNER: usize = 1 << 20;

/// What the script is told at its start.
pub(super) struct Question<'a> {
    pub(super) version: &'a str,
    /// The user's name on the server.
    pub(super) user: &'a str,
    /// The key that may open sessions, as in authorized_keys.
    pub(super) key: &'a str,
    /// Relays that the server half registers with.
    pub(super) relays: &'a [String],
}

/// What is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Operating system and processor, as uname(1) names them.
    pub(super) system: String,
    /// Programs that run: version and path.
    pub(super) found: Vec<(String, String)>,
    /// Versions of the server halves that run.
    pub(super) running: Vec<String>,
}

/// What the script is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Receive this program and start it.
    Install,
    /// Start that program: version and path.
    Start(String, String),
    /// The server half of this version runs.
    Use(String),
    Uninstall,
}

impl Answer {
    /// Whether something new is started.
    pub(super) fn needs_consent(&self) -> bool {
        matches!(self, Answer::Install | Answer::Start(..))
    }
}

/// A running login.
pub(super) struct Login {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Answers,
}

/// ssh's arguments for a login to the same host: those of the ssh that runs this ProxyCommand, without forwardings, command
/// and terminal. `given` are its arguments, `host` stands in if they are not known.
pub(in crate::cli) fn login_arguments(given: &[OsString], host: &str) -> Vec<OsString> {
    let ssh = SshArguments::read(given.to_vec());
    let mut arguments = Vec::new();
    for (letter, value) in ssh.options() {
        let is_ours = letter == b'o' && value.is_some_and(is_our_option);
        if KEPT_OPTIONS.contains(&letter) && !is_ours {
            arguments.push(OsString::from(format!("-{}", char::from(letter))));
            arguments.extend(value.map(OsStr::to_owned));
        }
    }
    arguments.push("--".into());
    arguments.push(ssh.destination().map_or_else(|| host.into(), OsStr::to_owned));
    arguments
}

/// What `bowline ssh` has put there, or a login must not have.
fn is_our_option(option: &OsStr) -> bool {
    let (name, value) = split_option(option);
    match name.to_ascii_lowercase().as_slice() {
        b"proxycommand" => std::str::from_utf8(value).is_ok_and(is_over_bowline),
        b"proxyusefdpass" | b"serveraliveinterval" | b"connecttimeout" => true,
        _ => false,
    }
}

/// Options that stand first, so they win over all others.
fn first_options(marker: &str) -> Vec<String> {
    let mut options: Vec<String> = [
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "Tunnel=no",
        "RequestTTY=no",
        "RemoteCommand=none",
        "ControlMaster=no",
        "ControlPath=none",
        "ServerAliveInterval=10",
        "PermitLocalCommand=yes",
    ]
    .map(str::to_owned)
    .into();
    // ssh runs it as soon as it has logged in.
    options.push(format!("LocalCommand=echo {marker} login"));
    options
}

impl Login {
    /// Starts ssh, and gives it the script.
    ///
    /// # Errors
    /// ssh cannot be started.
    pub(super) fn start(arguments: &[OsString], question: &Question<'_>) -> io::Result<Login> {
        let halves = [random::bytes::<8>(), random::bytes::<8>()].map(|half| data_encoding::HEXLOWER.encode(&half));
        let marker = halves.concat();
        let script = script(&halves, question);
        let mut command = Command::new("ssh");
        for option in first_options(&marker) {
            command.arg("-o").arg(option);
        }
        if configured_proxy(arguments).is_some_and(|proxy| is_over_bowline(&proxy)) {
            command.args(["-o", "ProxyCommand=none"]);
        }
        // The destination and the `--` before it come last. What the user has set for these wins.
        let (options, destination) = arguments.split_at(arguments.len().saturating_sub(2));
        command.arg("-T").args(options);
        command.args(["-o", "Compression=yes", "-o", "ConnectTimeout=20"]);
        command.args(destination);
        // The script is read byte by byte, because what follows it is for the script to read.
        command.arg(format!(
            "exec sh -c 'eval \"$(dd bs=1 count={} 2>/dev/null)\"'",
            script.len()
        ));
        command.env(LOGIN_VARIABLE, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Login {
            child,
            stdin,
            answers: Answers {
                stdout,
                marker,
                unread: Vec::new(),
                script: script.into_bytes(),
            },
        })
    }

    /// Waits for the login, and for what is there.
    ///
    /// # Errors
    /// ssh did not log in, or the login runs no commands.
    pub(super) async fn findings(&mut self) -> Result<Findings, BootstrapError> {
        let script = std::mem::take(&mut self.answers.script);
        if let Some(stdin) = &mut self.stdin {
            // If it cannot be written, there is no answer either.
            let _ = stdin.write_all(&script).await;
        }
        match self.answers.next().await {
            Some(login) if login == "login" => {}
            _ => return Err(BootstrapError::NoLogin),
        }
        let asked = timeout(ANSWER_TIMEOUT, self.answers.findings()).await;
        asked.ok().flatten().ok_or(BootstrapError::NoCommands)
    }

    /// Ends it without any change there.
    pub(super) async fn quit(mut self) {
        drop(self.stdin.take());
        let _ = timeout(ANSWER_TIMEOUT, self.child.wait()).await;
    }

    /// Has the script act, and waits for the result: the `ready` line of a server half that runs. `sending` is told the
    /// size of the program when the script asks for it.
    ///
    /// # Errors
    /// What went wrong there.
    pub(super) async fn answer(&mut self, answer: &Answer, sending: impl Fn(u64)) -> Result<String, BootstrapError> {
        let program = match answer {
            Answer::Install => Some(Program::own().map_err(BootstrapError::Ssh)?),
            _ => None,
        };
        let line = match (answer, &program) {
            (Answer::Install, Some(program)) => format!("install {} {}\n", program.length, program.sha256),
            (Answer::Start(version, path), _) => format!("start {version} {path}\n"),
            (Answer::Use(version), _) => format!("use {version}\n"),
            (Answer::Uninstall | Answer::Install, _) => "uninstall\n".to_owned(),
        };
        let mut stdin = self.stdin.take().ok_or(BootstrapError::Cut)?;
        // A failure is followed by the script's own words, or by the end of its answers.
        let _ = stdin.write_all(line.as_bytes()).await;
        let mut stdin = Some(stdin);
        loop {
            let next = timeout(START_TIMEOUT, self.answers.next()).await;
            let said = next.ok().flatten().ok_or(BootstrapError::Cut)?;
            let (word, rest) = said.split_once(' ').unwrap_or((&said, ""));
            match word {
                "send" => {
                    if let (Some(program), Some(stdin)) = (&program, stdin.take()) {
                        sending(program.length);
                        program.send(stdin).await;
                    }
                }
                "failed" => return Err(failure(rest)),
                "ready" | "removed" => return Ok(said),
                _ => {}
            }
        }
    }
}

/// The ProxyCommand that is in effect for these arguments; `None` if there is none or ssh does not say.
fn configured_proxy(arguments: &[OsString]) -> Option<String> {
    let asked = std::process::Command::new("ssh")
        .arg("-G")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let said = String::from_utf8_lossy(&asked.ok()?.stdout).into_owned();
    said.lines()
        .find_map(|line| line.strip_prefix("proxycommand "))
        .map(str::to_owned)
}

fn script(halves: &[String; 2], question: &Question<'_>) -> String {
    let relays: Vec<String> = question.relays.iter().map(|relay| format!("--relay {relay}")).collect();
    let mut script = String::new();
    // The marker stands nowhere in one piece: a login that returns its input gives no answers.
    for (name, value) in [
        ("m", &*halves[0]),
        ("n", &*halves[1]),
        ("version", question.version),
        ("user", question.user),
        ("key", question.key),
        ("more", &*relays.join(" ")),
    ] {
        script += &format!("{name}='{}'\n", value.replace('\'', "'\\''"));
    }
    script + SCRIPT
}

fn failure(said: &str) -> BootstrapError {
    let (kind, text) = said.split_once(' ').unwrap_or((said, ""));
    if let Some(missing) = missing_library(text.trim()).filter(|_| kind == "run") {
        return BootstrapError::OldLibrary(missing);
    }
    let text = PeerText::new(text.trim());
    match kind {
        "noexec" => BootstrapError::NoExec(text),
        "run" => BootstrapError::CannotRun(text),
        "damaged" => BootstrapError::Damaged(text),
        "start" => BootstrapError::Start(text),
        "logout" => BootstrapError::EndsAtLogout(text),
        _ => BootstrapError::Write(text),
    }
}

/// In the words of glibc's loader, or of a shell for a program whose loader is not there.
fn missing_library(said: &str) -> Option<PeerText> {
    if let Some((_, after)) = said.rsplit_once("version `GLIBC_") {
        let version = after.split('\'').next().unwrap_or_default();
        return Some(PeerText::new(format!("GLIBC_{version} is missing")));
    }
    let is_missing = said.ends_with("not found") || said.ends_with("No such file or directory");
    is_missing.then(|| PeerText::new(said))
}

/// The lines behind the marker in what the login prints.
struct Answers {
    stdout: ChildStdout,
    marker: String,
    unread: Vec<u8>,
    /// What to write first.
    script: Vec<u8>,
}

impl Answers {
    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let mut passed = 0;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                passed += line.len();
                let line = String::from_utf8_lossy(&line);
                // A banner may end without a line break.
                if let Some((_, answer)) = line.trim_end().split_once(&*self.marker) {
                    return Some(answer.trim_start().to_owned());
                }
                continue;
            }
            if self.unread.len() > MAX_LINE {
                let rest = self.unread.len() - self.marker.len();
                passed += rest;
                self.unread.drain(..rest);
            }
            if passed > MAX_BANNER {
                return None;
            }
            let mut bytes = [0; 4096];
            match self.stdout.read(&mut bytes).await {
                Ok(count @ 1..) => self.unread.extend_from_slice(&bytes[..count]),
                _ => return None,
            }
        }
    }

    /// What is there, up to the script's question; `None` if it does not ask.
    async fn findings(&mut self) -> Option<Findings> {
        let mut findings = Findings::default();
        loop {
            let said = self.next().await?;
            let mut words = said.splitn(2, ' ');
            let (word, rest) = (words.next()?, words.next().unwrap_or_default());
            match word {
                "system" => findings.system = rest.to_owned(),
                "running" => findings.running.push(rest.to_owned()),
                "found" => findings.found.extend(
                    rest.split_once(' ')
                        .map(|(version, path)| (version.to_owned(), path.to_owned())),
                ),
                "ask" => return Some(findings),
                _ => {}
            }
        }
    }
}

/// Not by its path: the file there may have been replaced since.
fn own_file() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => std::env::current_exe(),
    }
}

/// This program's own file.
struct Program {
    file: File,
    length: u64,
    sha256: String,
}

impl Program {
    fn own() -> io::Result<Program> {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut file = File::open(own_file()?)?;
        let mut length = 0;
        let mut bytes = vec![0; 1 << 16];
        loop {
            let count = io::Read::read(&mut file, &mut bytes)?;
            if count == 0 {
                break;
            }
            digest.update(&bytes[..count]);
            length += count as u64;
        }
        io::Seek::rewind(&mut file)?;
        Ok(Program {
            file,
            length,
            sha256: data_encoding::HEXLOWER.encode(digest.finish().as_ref()),
        })
    }

    /// If it cannot be sent, the script says why.
    async fn send(&self, mut stdin: ChildStdin) {
        let Ok(file) = self.file.try_clone() else { return };
        let mut file = tokio::fs::File::from_std(file);
        let _ = tokio::io::copy(&mut file, &mut stdin).await;
        let _ = stdin.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(given: &[&str]) -> Vec<String> {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        login_arguments(&given, "host")
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_login_has_the_way_and_the_keys_and_neither_forwardings_nor_a_command() {
        assert_eq!(
            login(&[
                "-p", "22", "-NfL", "1:a:2", "-i", "key", "-t", "-A", "-J", "jump", "ann@box", "-v", "make", "-j"
            ]),
            ["-p", "22", "-i", "key", "-J", "jump", "-v", "--", "ann@box"]
        );
        assert_eq!(login(&[]), ["--", "host"]);
    }

    #[test]
    fn a_login_does_not_go_through_bowline_but_through_other_programs() {
        let ours = "ProxyCommand='/opt/b w/bowline' proxy --fallback tcp -- '%r@%n' %p";
        assert_eq!(
            login(&[
                "-o",
                ours,
                "-o",
                "ProxyUseFdpass=no",
                "-o",
                "ServerAliveInterval=0",
                "box"
            ]),
            ["--", "box"]
        );
        // As packaging/build-static names it, for example.
        let this = std::env::current_exe().unwrap();
        let under_another_name = format!("ProxyCommand='{}' proxy -- '%r@%n' %p", this.display());
        assert_eq!(login(&["-o", &under_another_name, "box"]), ["--", "box"]);
        assert_eq!(
            login(&["-o", "ProxyCommand=nc %h %p", "-o", "User=ann", "box"]),
            ["-o", "ProxyCommand=nc %h %p", "-o", "User=ann", "--", "box"]
        );
    }

    #[test]
    fn a_missing_library_is_named_by_the_last_version_that_its_loader_misses() {
        let loader = "run x: /lib/libc.so.6: version `GLIBC_2.33' not found (required by x) x: /lib/libc.so.6: version \
                      `GLIBC_2.34' not found (required by x)";
        let said = failure(loader).to_string();
        assert!(said.ends_with("(packaging/README.md): GLIBC_2.34 is missing"), "{said}");
        let said = failure("run sh: 7: bowline.8: not found").to_string();
        assert!(
            said.contains("static build") && said.ends_with("bowline.8: not found"),
            "{said}"
        );
        let said = failure("run Killed").to_string();
        assert_eq!(said, "the program does not run there: Killed");
    }

    #[test]
    fn a_quote_in_a_name_does_not_end_the_word_of_the_script() {
        let question = Question {
            version: "1.0.0",
            user: "o'neil; rm",
            key: "",
            relays: &["r1.example.org".to_owned()],
        };
        let script = script(&["a".to_owned(), "b".to_owned()], &question);
        assert!(script.contains("user='o'\\''neil; rm'\n"), "{script}");
        assert!(script.contains("more='--relay r1.example.org'\n"));
        assert!(!script.contains("ab "));
    }
}
