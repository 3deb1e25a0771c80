//! What packages install: accepted by the programs that read it, and of one mind with the program's defaults.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::manager::Unit;
use support::process::{Outcome, run};
use support::sshd;
use support::{BOWLINE, Scratch, measured};

const LIMIT: Duration = Duration::from_secs(30);

/// Descriptors in the store beside those of sessions: the lock, the closed sessions, and room for more.
const RESERVE: u64 = 16;

/// The exposure that `systemd-analyze security` gives bowline.service, times ten; 96 without any hardening.
const MOST_EXPOSURE: u32 = 24;

#[test]
fn the_limits_of_the_unit_are_those_of_the_default_number_of_sessions() {
    let help = run(Command::new(BOWLINE).args(["serve", "--help"]), LIMIT)
        .expect_code(0)
        .out();
    let default = help
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .split_once("Maximum number of sessions [default: ")
        .and_then(|(_, rest)| rest.split_once(']')?.0.parse::<u64>().ok())
        .expect("serve --help names the default of --max-sessions");
    let unit = Unit::read(&packaged("systemd/bowline.service"));
    let store = unit.store_max as u64;
    assert!(store >= 2 * default + RESERVE, "{store} for {default} sessions");
    assert!(
        unit.limit_nofile.expect("a limit") >= store + 1024,
        "the process opens more than it stores"
    );
}

#[test]
fn the_unit_gives_up_neither_its_sessions_nor_its_worker() {
    let path = packaged("systemd/bowline.service");
    let text = fs::read_to_string(&path).expect("packaged");
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "Restart=always",
        "RestartSec=20ms",
        "StartLimitIntervalSec=0",
        "RuntimeDirectoryPreserve=restart",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line}");
    }
    let unit = Unit::read(&path);
    assert!(
        unit.timeout_stop > Duration::from_secs(8),
        "longer than a worker may take to end"
    );
}

#[test]
fn systemd_accepts_the_units() {
    if !has_systemd_analyze("the units") {
        return;
    }
    for name in ["bowline.service", "bowline-sshd.service", "bowline-relay.service"] {
        let (_scratch, unit) = installed(name);
        let verified = run(
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit),
            LIMIT,
        );
        assert_eq!((verified.code, verified.err()), (Some(0), String::new()), "{name}");
    }
}

#[test]
fn systemd_finds_little_exposed_in_the_server_half() {
    if !has_systemd_analyze("exposure") {
        return;
    }
    let (_scratch, unit) = installed("bowline.service");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", &format!("--threshold={MOST_EXPOSURE}")]);
    let outcome: Outcome = run(command.arg(unit), LIMIT);
    measured("exposure", outcome.out().lines().last().unwrap_or_default());
    outcome.expect_code(0);
}

#[test]
fn this_sshd_accepts_the_drop_ins_of_its_version() {
    let scratch = Scratch::new();
    let key = scratch.join("key");
    support::sshd::make_key(&key, "ed25519");
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
    }
    let version = sshd::version();
    let mut accepted = 0;
    for (since, name) in [
        (0, "bowline.conf"),
        (902, "bowline-9.2.conf"),
        (908, "bowline-9.8.conf"),
    ] {
        let config = scratch.join(name);
        let drop_in = packaged("sshd_config.d").join(name);
        fs::write(
            &config,
            format!("HostKey {}\nInclude {}\n", key.display(), drop_in.display()),
        )
        .expect("written");
        let mut command = Command::new("/usr/sbin/sshd");
        let outcome = run(command.arg("-t").arg("-f").arg(&config), LIMIT);
        if version >= since {
            assert_eq!((outcome.code, outcome.err()), (Some(0), String::new()), "{name}");
            accepted += 1;
        } else {
            assert!(outcome.code != Some(0), "{name} says that sshd {version} refuses it");
        }
    }
    measured(
        "drop-ins for this sshd",
        format_args!("{accepted} of 3, version {version}"),
    );
}

#[test]
fn the_worker_has_a_user_of_the_name_that_the_keeper_looks_for() {
    let text = fs::read_to_string(packaged("sysusers.d/bowline.conf")).expect("packaged");
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, [r#"u bowline - "bowline server half" - -"#]);
    let keeper = fs::read_to_string(root().join("src/server/worker_user.rs")).expect("a source");
    assert!(keeper.contains(r#"const DEFAULT_USERS: [&str; 2] = ["bowline", "nobody"];"#));
}

#[test]
fn the_package_for_debian_has_every_unit_and_every_drop_in_that_stands_here() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let named: Vec<_> = deb["systemd-units"]
        .as_array()
        .expect("units")
        .iter()
        .map(|unit| format!("{}.service", unit["unit-name"].as_str().expect("a name")))
        .collect();
    for unit in fs::read_dir(packaged("systemd")).expect("packaged").flatten() {
        let unit = unit.file_name().into_string().expect("a plain name");
        assert!(named.contains(&unit), "{unit}");
    }
    let linked = fs::read_to_string(packaged("debian/postinst")).expect("packaged");
    for drop_in in fs::read_dir(packaged("sshd_config.d")).expect("packaged").flatten() {
        let drop_in = drop_in.file_name().into_string().expect("a plain name");
        let since = drop_in
            .strip_prefix("bowline-")
            .and_then(|name| name.strip_suffix(".conf"));
        if let Some(since) = since {
            let line = linked.lines().find(|line| line.trim().starts_with("for since in "));
            let line = line.expect("a line with all versions");
            let mut versions = line.split([' ', ';']);
            assert!(versions.any(|version| version == since), "{drop_in}");
        }
    }
}

#[test]
fn the_image_of_the_relay_is_no_root_and_sets_what_the_relay_reads() {
    let text = fs::read_to_string(packaged("Containerfile.relay")).expect("packaged");
    let user = text.lines().find_map(|line| line.strip_prefix("USER "));
    assert!(
        user.is_some_and(|user| !user.starts_with('0') && user != "root"),
        "{user:?}"
    );
    let help = run(Command::new(BOWLINE).args(["relay", "--help"]), LIMIT)
        .expect_code(0)
        .out();
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    let set: Vec<_> = words.filter(|(name, _)| name.starts_with("BOWLINE_")).collect();
    for (name, value) in &set {
        assert!(help.contains(&format!("[env: {name}]")), "{name}");
        let port = value.strip_prefix(':');
        assert!(
            port.is_none_or(|port| text.contains(&format!("EXPOSE {port}/udp {port}/tcp"))),
            "{name} listens at a port that the image does not expose"
        );
    }
    assert_eq!(set.len(), 4, "{set:?}");
}

/// `bowline setup --server` shows them as a diff before it asks.
#[test]
fn what_is_installed_fits_into_80_columns_with_the_mark_of_a_diff() {
    for folder in ["systemd", "sysusers.d", "sshd_config.d"] {
        for file in fs::read_dir(packaged(folder)).expect("packaged").flatten() {
            for line in fs::read_to_string(file.path()).expect("packaged").lines() {
                assert!(line.chars().count() < 79, "{}: {line}", file.path().display());
            }
        }
    }
}

#[test]
fn everything_packaged_is_in_its_readme() {
    let readme = fs::read_to_string(packaged("README.md")).expect("packaged");
    for folder in ["systemd", "sysusers.d", "sshd_config.d"] {
        for file in fs::read_dir(packaged(folder)).expect("packaged").flatten() {
            let name = format!("packaging/{folder}/{}", file.file_name().display());
            assert!(readme.contains(&format!("| `{name}` |")), "{name}");
        }
    }
    assert!(readme.contains("| `packaging/Containerfile.relay` |"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packaged(name: &str) -> PathBuf {
    root().join("packaging").join(name)
}

/// The unit as a package installs it, for the program of this build.
fn installed(name: &str) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let text = fs::read_to_string(packaged("systemd").join(name)).expect("packaged");
    let unit = scratch.join(name);
    fs::write(&unit, text.replace("/usr/bin/bowline", BOWLINE)).expect("the scratch folder");
    (scratch, unit)
}

fn has_systemd_analyze(test: &str) -> bool {
    let has = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !has {
        measured(test, "SKIPPED, no systemd-analyze here");
    }
    has
}
