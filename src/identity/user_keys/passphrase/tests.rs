use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;
use crate::identity::test_tools::write_script;

/// A pseudo-terminal, seen from the keyboard and the screen.
struct Screen {
    master: File,
    path: PathBuf,
    /// Keeps the terminal open, and reads its settings.
    slave: File,
}

impl Screen {
    fn new() -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = PathBuf::from(OsString::from_vec(ptsname(&master, Vec::new()).unwrap().into_bytes()));
        let noctty = OFlags::NOCTTY.bits().cast_signed();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(noctty)
            .open(&path)
            .unwrap();
        Self {
            master: File::from(master),
            path,
            slave,
        }
    }

    fn prompter(&self) -> Prompter {
        Prompter {
            terminal: Some(self.path.clone()),
            askpass: None,
            prefer_askpass: false,
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the prompt, types `keys`, and returns what the screen showed until then.
    fn answer(&self, keys: &[u8]) -> String {
        let mut shown = String::new();
        while !shown.contains("Passphrase: ") {
            let mut buffer = [0; 256];
            let length = (&self.master).read(&mut buffer).unwrap();
            shown.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(!self.echoes());
        (&self.master).write_all(keys).unwrap();
        shown
    }

    async fn ask_and_answer(&self, keys: &'static [u8]) -> Result<String, SkipReason> {
        let prompter = self.prompter();
        let typing = Self {
            master: self.master.try_clone().unwrap(),
            path: self.path.clone(),
            slave: self.slave.try_clone().unwrap(),
        };
        let typist = tokio::task::spawn_blocking(move || typing.answer(keys));
        let answer = prompter.ask("Passphrase: ").await.map(|answer| answer.to_string());
        typist.await.unwrap();
        assert!(self.echoes(), "the terminal was not put back");
        answer
    }
}

#[tokio::test]
async fn passphrase_typed_at_the_terminal_is_not_shown() {
    let screen = Screen::new();
    assert_eq!(screen.ask_and_answer(b"open sesame\n").await.unwrap(), "open sesame");
    let mut rest = [0; 256];
    let length = (&screen.master).read(&mut rest).unwrap();
    assert_eq!(&rest[..length], b"\r\n");
}

#[tokio::test]
async fn empty_line_and_end_of_input_are_empty_answers() {
    for keys in [b"\n", b"\x04"] {
        assert_eq!(Screen::new().ask_and_answer(keys).await.unwrap(), "");
    }
}

#[tokio::test]
async fn interrupt_at_the_prompt_ends_it() {
    for keys in [b"\x03".as_slice(), b"half of it\x03"] {
        let outcome = Screen::new().ask_and_answer(keys).await;
        assert!(matches!(outcome, Err(SkipReason::Interrupted)), "{outcome:?}");
    }
}

#[tokio::test]
async fn abandoned_prompt_restores_the_terminal() {
    let screen = Screen::new();
    let prompter = screen.prompter();
    let asking = prompter.ask("Passphrase: ");
    let outcome = tokio::time::timeout(std::time::Duration::from_millis(20), asking).await;
    assert!(outcome.is_err());
    assert!(screen.echoes());
}

#[tokio::test]
async fn askpass_answers_where_there_is_no_terminal_or_it_is_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("askpass");
    write_script(&program, "printf '%s\\nmore\\n' \"$1\"");
    let screen = Screen::new();
    for (terminal, prefer_askpass) in [
        (None, false),
        (Some("/nonexistent/tty".into()), false),
        (Some(screen.path), true),
    ] {
        let prompter = Prompter {
            terminal,
            askpass: Some(program.clone().into()),
            prefer_askpass,
        };
        assert_eq!(*prompter.ask("Passphrase: ").await.unwrap(), "Passphrase: ");
    }
}

#[tokio::test]
async fn askpass_that_fails_gives_an_empty_answer() {
    let prompter = Prompter {
        terminal: None,
        askpass: Some("false".into()),
        prefer_askpass: false,
    };
    assert_eq!(*prompter.ask("Passphrase: ").await.unwrap(), "");
}

#[tokio::test]
async fn without_terminal_and_askpass_there_is_no_prompt() {
    let nobody = Prompter {
        terminal: Some("/dev/null".into()),
        askpass: None,
        prefer_askpass: false,
    };
    assert!(matches!(nobody.ask("Passphrase: ").await, Err(SkipReason::NoPrompt)));
    let missing = Prompter {
        terminal: None,
        askpass: Some("/nonexistent/askpass".into()),
        prefer_askpass: true,
    };
    assert!(matches!(
        missing.ask("Passphrase: ").await,
        Err(SkipReason::PromptFailed(ErrorKind::NotFound))
    ));
    let batch = Prompter::from_environment(true);
    assert!(matches!(batch.ask("Passphrase: ").await, Err(SkipReason::NoPrompt)));
}
