//! `--authorized-keys FILE`: the file decides who may open, also where only the keeper may read it.

mod support;

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::process::run;
use support::rig::Rig;
use support::serve::ServeOptions;
use support::sshd::{make_key, public_key};
use support::{BOWLINE, Scratch};

const UNAVAILABLE: i32 = 69;
const REFUSED: i32 = 77;

const LIMIT: Duration = Duration::from_secs(30);

/// A file that nobody but its owner may read, in a folder that nobody else may enter.
struct KeyFile {
    scratch: Scratch,
}

impl KeyFile {
    fn new() -> KeyFile {
        let scratch = Scratch::new();
        DirBuilder::new()
            .mode(0o700)
            .create(scratch.join("private"))
            .expect("the scratch folder");
        make_key(&scratch.join("stranger"), "ed25519");
        KeyFile { scratch }
    }

    fn path(&self) -> PathBuf {
        self.scratch.join("private/keys")
    }

    /// As editors do: a new file in the place of the old one.
    fn write(&self, key: &Path) {
        let new = self.scratch.join("private/new");
        fs::write(&new, format!("# who may open\n{}\n", public_key(key))).expect("the scratch folder");
        fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("our own file");
        fs::rename(new, self.path()).expect("the scratch folder");
    }
}

#[test]
fn a_file_that_only_root_may_read_decides_and_an_edit_counts_at_the_next_open() {
    let file = KeyFile::new();
    let stranger = file.scratch.join("stranger");
    file.write(&stranger);
    let options = ServeOptions::here().argument("--authorized-keys").argument(file.path());
    let rig = Rig::with(options, |setup| setup);
    let user = rig.sshd.user_key();
    let refused = || run(&mut rig.ssh.proxy(), LIMIT).expect_code(REFUSED);
    refused();

    file.write(&user);
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    // In place, to the same length.
    let key = public_key(&stranger);
    fs::write(file.path(), format!("# who may open\n{key}\n")).expect("the scratch folder");
    refused();
    fs::write(file.path(), format!("no-such-option {key}\n{}\n", public_key(&user))).expect("the scratch folder");
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    assert!(rig.serve().logged("no-such-option") > 0, "{}", rig.serve().log());

    fs::remove_file(file.path()).expect("our own file");
    refused();
    let named = file.path().display().to_string();
    assert!(rig.serve().logged(&named) > 0, "{}", rig.serve().log());
    file.write(&user);
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
}

#[test]
fn a_file_that_cannot_be_read_at_the_start_is_named_and_nothing_is_served() {
    let scratch = Scratch::new();
    for path in [scratch.join("no-such-file"), scratch.path().to_owned()] {
        let mut command = Command::new(BOWLINE);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(scratch.join("state"))
            .arg("--authorized-keys")
            .arg(&path);
        let outcome = run(&mut command, LIMIT).expect_code(UNAVAILABLE);
        assert_eq!(outcome.out(), "", "not ready");
        let said = outcome.err();
        assert!(said.contains(&path.display().to_string()), "names the file: {said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        assert!(said.contains("\nhint: "), "what to do: {said}");
    }
}
