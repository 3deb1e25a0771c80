//! `bowline setup --server`, on a folder that stands for a machine.

use crate::LIMIT;
use crate::support::process::{Outcome, run};
use crate::support::sshd::make_key;
use crate::support::{BOWLINE, Scratch, measured};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNIT: &str = "etc/systemd/system/bowline.service";

/// A folder that looks like a machine with this machine's sshd.
struct Image {
    scratch: Scratch,
}

impl Image {
    fn new() -> Image {
        let image = Image {
            scratch: Scratch::new(),
        };
        for folder in ["etc/ssh/sshd_config.d", "usr/sbin", "usr/bin", "lib/systemd/system"] {
            fs::create_dir_all(image.scratch.join(folder)).expect("the scratch folder");
        }
        symlink("/usr/sbin/sshd", image.scratch.join("usr/sbin/sshd")).expect("the scratch folder");
        image.write("usr/bin/bowline", "");
        make_key(&image.scratch.join("etc/ssh/key"), "ed25519");
        let root = image.scratch.path().display();
        image.write(
            "etc/ssh/sshd_config",
            &format!("Include {root}/etc/ssh/sshd_config.d/*.conf\nHostKey {root}/etc/ssh/key\n"),
        );
        image
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.scratch.join(name), text).expect("the scratch folder");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.join(name)).expect("installed")
    }

    fn setup(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(BOWLINE);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.scratch.path());
        command.args(["setup", "--server", "--root"]).arg(self.scratch.path());
        run(command.args(arguments), LIMIT)
    }

    /// Every file, with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.scratch.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path if path.is_file() => files.push((path.clone(), fs::read(&path).unwrap_or_default())),
                    _ => {}
                }
            }
        }
        files.sort();
        files
    }
}

#[test]
fn an_image_gets_what_packages_install_and_loses_it_again() {
    let image = Image::new();
    let before = image.files();
    let shown = image.setup(&["--dry-run"]).expect_code(0).out();
    assert!(shown.contains("\n+ExecStart=/usr/bin/bowline serve\n"), "{shown}");
    let refused = image.setup(&[]).expect_code(64);
    assert!(refused.err().contains("--yes"), "{}", refused.err());
    assert_eq!(image.files(), before);

    let told = image.setup(&["--yes"]).expect_code(0).out();
    assert!(
        told.contains("done: all files are installed; no service was enabled or started, no port was opened\n"),
        "{told}"
    );
    let enable = format!("systemctl --root={} enable bowline\n", image.scratch.path().display());
    assert!(told.contains(&enable) && told.contains("Open UDP port 22 "), "{told}");
    for (installed, packaged) in [
        (UNIT, "systemd/bowline.service"),
        ("etc/sysusers.d/bowline.conf", "sysusers.d/bowline.conf"),
        ("etc/ssh/sshd_config.d/bowline.conf", "sshd_config.d/bowline.conf"),
    ] {
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(packaged);
        assert_eq!(image.text(installed), fs::read_to_string(packaged).expect("packaged"));
        let mode = fs::metadata(image.scratch.join(installed))
            .expect("installed")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o644, "{installed}");
    }
    assert_eq!(
        fs::read_dir(image.scratch.join("etc/systemd/system"))
            .expect("made")
            .count(),
        1,
        "not enabled"
    );
    sshd_takes(&image);
    systemd_takes(&image);

    let told = image.setup(&[]).expect_code(0).out();
    assert!(
        told.contains("\nnothing to do: all files are installed already\n"),
        "{told}"
    );
    assert!(told.contains("Open UDP port 22 "), "{told}");
    image.setup(&["--undo", "--yes"]).expect_code(0);
    assert_eq!(image.files(), before);
    let told = image.setup(&["--undo"]).expect_code(0).out();
    assert!(told.starts_with("nothing to do: "), "{told}");
}

/// By its own sshd_config, so that it sees all that was installed.
fn sshd_takes(image: &Image) {
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
    }
    let config = image.scratch.join("etc/ssh/sshd_config");
    let mut command = Command::new("/usr/sbin/sshd");
    let outcome = run(command.args(["-T", "-f"]).arg(config), LIMIT).expect_code(0);
    assert!(outcome.out().contains("\nclientaliveinterval 0\n"), "{}", outcome.out());
    assert_eq!(outcome.err(), "");
}

fn systemd_takes(image: &Image) {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        measured("setup: the unit", "SKIPPED, no systemd-analyze here");
        return;
    }
    let unit = image.scratch.join("bowline.service");
    fs::write(&unit, image.text(UNIT).replace("/usr/bin/bowline", BOWLINE)).expect("the scratch folder");
    let verified = run(
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit),
        LIMIT,
    );
    fs::remove_file(unit).expect("our own file");
    assert_eq!((verified.code, verified.err()), (Some(0), String::new()));
}

#[test]
fn what_the_administrator_has_changed_is_shown_before_and_kept_by_undo() {
    let image = Image::new();
    image.setup(&["--yes"]).expect_code(0);
    let edited = image.text(UNIT).replace("LimitNOFILE=6144", "LimitNOFILE=9999");
    image.write(UNIT, &edited);
    let shown = image.setup(&[]).expect_code(64).out();
    assert!(
        shown.contains("exists with other content, which this change would overwrite\n"),
        "{shown}"
    );
    assert!(shown.contains("\n-LimitNOFILE=9999\n+LimitNOFILE=6144\n"), "{shown}");
    let told = image.setup(&["--undo", "--yes"]).expect_code(0).out();
    assert!(
        told.contains("bowline.service, because it differs from what this version of bowline installs\n"),
        "{told}"
    );
    assert_eq!(image.text(UNIT), edited);
    assert!(!image.scratch.join("etc/sysusers.d/bowline.conf").exists());
}

#[test]
fn what_a_package_has_brought_is_left_to_it() {
    let image = Image::new();
    image.setup(&["--yes"]).expect_code(0);
    image.write("lib/systemd/system/bowline.service", "");
    let told = image.setup(&[]).expect_code(0).out();
    assert!(told.starts_with("nothing to do: a package has installed "), "{told}");
    assert!(
        told.contains("/etc/systemd/system/bowline.service overrides it"),
        "{told}"
    );
    assert!(told.contains("Open UDP port 22 "), "{told}");
    let told = image.setup(&["--undo", "--yes"]).expect_code(0).out();
    assert!(
        told.contains("kept: ") && told.contains("the other files that a package has installed\n"),
        "{told}"
    );
    assert!(!image.scratch.join(UNIT).exists());
    assert!(image.scratch.join("etc/ssh/sshd_config.d/bowline.conf").exists());
    let told = image.setup(&["--undo"]).expect_code(0).out();
    assert!(told.contains("\nnothing to do: "), "{told}");
}

#[test]
fn a_link_is_not_setup_s_and_what_it_leads_to_is_not_removed() {
    let image = Image::new();
    let (link, real) = ("etc/ssh/sshd_config.d/bowline.conf", "etc/real.conf");
    image.setup(&["--yes"]).expect_code(0);
    fs::rename(image.scratch.join(link), image.scratch.join(real)).expect("the scratch folder");
    symlink(image.scratch.join(real), image.scratch.join(link)).expect("the scratch folder");
    let told = image.setup(&["--undo", "--yes"]).expect_code(0).out();
    assert!(told.contains("sshd_config.d/bowline.conf, because "), "{told}");
    assert!(image.scratch.join(real).exists() && !image.scratch.join(UNIT).exists());
}

#[test]
fn a_service_that_is_enabled_is_not_pulled_away() {
    let image = Image::new();
    image.setup(&["--yes"]).expect_code(0);
    let wants = image.scratch.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir(&wants).expect("the scratch folder");
    symlink("/etc/systemd/system/bowline.service", wants.join("bowline.service")).expect("the scratch folder");
    let said = image.setup(&["--undo", "--yes"]).expect_code(64).err();
    assert!(said.contains("systemctl disable --now bowline"), "{said}");
    assert!(image.scratch.join(UNIT).exists());
}

#[test]
fn links_out_of_the_image_and_machines_without_sshd_are_told() {
    let image = Image::new();
    let elsewhere = Scratch::new();
    fs::create_dir(image.scratch.join("etc/systemd")).expect("the scratch folder");
    symlink(elsewhere.path(), image.scratch.join("etc/systemd/system")).expect("the scratch folder");
    let said = image.setup(&["--yes"]).expect_code(73).err();
    assert!(said.contains("leads outside of "), "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a folder").count(), 0);

    let image = Image::new();
    fs::remove_dir_all(image.scratch.join("etc/ssh")).expect("our own");
    image.write("usr/bin/bowline", "");
    let told = image.setup(&["--yes"]).expect_code(0).out();
    assert!(
        told.contains("note: no sshd was found; no settings for sshd are installed\n"),
        "{told}"
    );
    assert!(!image.scratch.join("etc/ssh").exists() && image.scratch.join(UNIT).exists());
}

#[test]
fn the_ports_are_those_of_the_machine_s_own_settings() {
    let image = Image::new();
    fs::create_dir(image.scratch.join("etc/bowline")).expect("the scratch folder");
    image.write(
        "etc/bowline/bowline.toml",
        "[serve]\nlisten = [\":4022\", \"127.0.0.1:5\"]\nlisten-tls = \":443\"\n",
    );
    let told = image.setup(&["--yes"]).expect_code(0).out();
    assert!(
        told.contains("Open UDP port 4022 ") && told.contains("Open TCP port 443 "),
        "{told}"
    );
    assert!(!told.contains("port 22 ") && !told.contains("port 5 "), "{told}");
}

#[test]
fn only_root_may_prepare_this_machine() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let program = scratch.join("bowline");
    fs::copy(BOWLINE, &program).expect("the scratch folder");
    let mut command = Command::new(program);
    command.args(["setup", "--server", "--yes"]).env("HOME", "/nonexistent");
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let said = run(&mut command, LIMIT).expect_code(77).err();
    assert!(said.contains("hint: run: sudo bowline setup --server"), "{said}");
}
