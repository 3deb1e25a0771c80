//! `bowline setup --server` on the machine itself, whose `/etc` is the test's own: in a mount namespace.

use crate::private::Private;
use crate::support::sshd::make_key;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A machine whose `/etc` is the test's own.
fn machine(test: &str, sshd_config: &str) -> Option<(Private, PathBuf)> {
    let mut private = Private::possible(test)?;
    let etc = private.replace(Path::new("/etc"));
    for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
        if Path::new("/etc").join(name).exists() {
            fs::copy(Path::new("/etc").join(name), etc.join(name)).expect("the scratch folder");
        }
    }
    fs::create_dir_all(etc.join("ssh/sshd_config.d")).expect("the scratch folder");
    make_key(&etc.join("ssh/ssh_host_ed25519_key"), "ed25519");
    fs::write(etc.join("ssh/sshd_config"), sshd_config).expect("the scratch folder");
    fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
    Some((private, etc))
}

#[test]
fn this_machine_is_prepared_and_sshd_asked() {
    let config = "Include /etc/ssh/sshd_config.d/*.conf\nPort 2200\nClientAliveInterval 60\n";
    let Some((private, etc)) = machine("setup --server here", config) else {
        return;
    };
    let told = private
        .run("bowline", &["setup", "--server", "--yes"])
        .expect_code(0)
        .out();
    assert!(told.contains("\n+ExecStart=/usr/local/bin/bowline serve\n"), "{told}");
    assert!(
        !told.contains("note: "),
        "bowline finds sshd where sshd -T says: {told}"
    );
    assert!(told.contains("Open UDP port 2200 "), "{told}");
    assert!(told.contains("This machine does not run systemd: "), "{told}");
    assert!(!told.contains("despite"), "{told}");
    let said = private.run("/usr/sbin/sshd", &["-T"]).expect_code(0).out();
    assert!(said.contains("\nclientaliveinterval 0\n"), "{said}");
    for (since, keyword) in [("9.2", "unusedconnectiontimeout"), ("9.8", "persourcepenalties")] {
        let is_there = etc.join(format!("ssh/sshd_config.d/bowline-{since}.conf")).exists();
        assert_eq!(is_there, said.contains(&format!("\n{keyword} ")), "{since}: {said}");
    }
    private
        .run("bowline", &["setup", "--server", "--undo", "--yes"])
        .expect_code(0);
    assert!(!etc.join("systemd/system/bowline.service").exists());
    assert_eq!(
        fs::read_dir(etc.join("ssh/sshd_config.d")).expect("a folder").count(),
        0
    );
}

#[test]
fn settings_that_come_too_late_are_told() {
    let config = "ClientAliveInterval 60\nInclude /etc/ssh/sshd_config.d/*.conf\n";
    let Some((private, _etc)) = machine("setup --server too late", config) else {
        return;
    };
    let told = private
        .run("bowline", &["setup", "--server", "--yes"])
        .expect_code(0)
        .out();
    assert!(
        told.contains("(ClientAliveInterval x ClientAliveCountMax), despite /etc/ssh/"),
        "{told}"
    );
}

/// Before 9.8 sshd does not know the setting, and later it takes it in no Match block.
#[test]
fn settings_that_sshd_does_not_take_are_taken_out_again() {
    let config = "Match User ann\n  Include /etc/ssh/sshd_config.d/*.conf\n";
    let Some((private, etc)) = machine("setup --server refused", config) else {
        return;
    };
    let boaster = etc.join("sshd");
    let script = "#!/bin/sh\n[ \"$1\" != -V ] || exec echo OpenSSH_9.9\nexec /usr/sbin/sshd \"$@\"\n";
    fs::write(&boaster, script).expect("the scratch folder");
    fs::set_permissions(&boaster, fs::Permissions::from_mode(0o755)).expect("our own");
    fs::create_dir(etc.join("bowline")).expect("the scratch folder");
    let settings = "[serve]\nsshd-binary = \"/etc/sshd\"\n";
    fs::write(etc.join("bowline/bowline.toml"), settings).expect("the scratch folder");
    let outcome = private.run("bowline", &["setup", "--server", "--yes"]).expect_code(69);
    assert!(
        outcome.err().contains("PerSourcePenaltyExemptList"),
        "{}",
        outcome.err()
    );
    assert!(etc.join("systemd/system/bowline.service").exists());
    assert_eq!(
        fs::read_dir(etc.join("ssh/sshd_config.d")).expect("a folder").count(),
        0
    );
    private.run("/usr/sbin/sshd", &["-t"]).expect_code(0);
}

/// systemd, as far as setup sees it: it takes what it is told, and says what the test has it say.
fn add_systemd(private: &mut Private, etc: &Path) {
    let run = private.replace(Path::new("/run"));
    fs::create_dir_all(run.join("systemd/system")).expect("the scratch folder");
    fs::create_dir(run.join("sshd")).expect("the scratch folder");
    let script =
        "#!/bin/sh\necho \"${0##*/} $*\" >>/etc/told\n[ \"$1\" != is-active ] || { cat /etc/state; exit 3; }\n";
    let programs = private.programs();
    for name in ["systemctl", "systemd-sysusers"] {
        fs::write(programs.join(name), script).expect("the scratch folder");
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).expect("our own");
    }
    fs::write(etc.join("state"), "inactive\n").expect("the scratch folder");
}

#[test]
fn a_service_that_runs_without_being_enabled_is_not_pulled_away() {
    let config = "Include /etc/ssh/sshd_config.d/*.conf\n";
    let Some((mut private, etc)) = machine("setup --server --undo of what runs", config) else {
        return;
    };
    add_systemd(&mut private, &etc);
    let setup = || {
        private
            .run("bowline", &["setup", "--server", "--yes"])
            .expect_code(0)
            .out()
    };
    assert!(setup().contains("    systemctl enable --now bowline\n"));
    fs::write(etc.join("state"), "active").expect("the scratch folder");
    let told = setup();
    assert!(
        told.contains("The service is already running.") && !told.contains("enable --now"),
        "{told}"
    );
    let unit = etc.join("systemd/system/bowline.service");
    let undo = || private.run("bowline", &["setup", "--server", "--undo", "--yes"]);
    for state in ["active", "activating", "reloading", "deactivating"] {
        fs::write(etc.join("state"), state).expect("the scratch folder");
        let said = undo().expect_code(64).err();
        assert!(
            said.contains("bowline.service is running; nothing was removed"),
            "{state}: {said}"
        );
        assert!(said.contains("systemctl stop bowline"), "{state}: {said}");
        assert!(unit.exists() && etc.join("ssh/sshd_config.d/bowline.conf").exists());
    }
    fs::write(etc.join("state"), "failed\n").expect("the scratch folder");
    let told = undo().expect_code(0).out();
    assert!(
        told.contains("\nSummary:\n  removed  /etc/systemd/system/bowline.service\n"),
        "{told}"
    );
    assert!(told.contains("done: removed what setup had installed\n"), "{told}");
    assert!(!unit.exists());
    let told = fs::read_to_string(etc.join("told")).expect("systemd was told");
    assert!(
        told.ends_with("systemctl is-active bowline.service\nsystemctl daemon-reload\n"),
        "{told}"
    );
}

#[test]
fn the_sshd_is_the_one_whose_configuration_the_settings_name() {
    // By this one sshd would not start.
    let Some((private, etc)) = machine("setup --server with sshd-config", "Nonsense yes\n") else {
        return;
    };
    fs::create_dir(etc.join("bowline")).expect("the scratch folder");
    let settings = "[serve]\nsshd-config = \"/etc/ssh/inner_config\"\ntarget = \"127.0.0.1:22\"\n";
    fs::write(etc.join("bowline/bowline.toml"), settings).expect("the scratch folder");
    let dry = || {
        private
            .run("bowline", &["setup", "--server", "--dry-run"])
            .expect_code(0)
            .out()
    };
    let told = dry();
    assert!(
        told.contains("note: /etc/ssh/inner_config does not exist, though bowline.toml names it"),
        "{told}"
    );
    let inner = etc.join("ssh/inner_config");
    fs::write(&inner, "Port 2300\n").expect("the scratch folder");
    let told = dry();
    assert!(
        told.contains("note: /etc/ssh/inner_config does not include the folder with these settings"),
        "{told}"
    );

    let text = "Include /etc/ssh/sshd_config.d/*.conf\nPort 2300\nClientAliveInterval 60\n";
    fs::write(&inner, text).expect("the scratch folder");
    let told = private
        .run("bowline", &["setup", "--server", "--yes"])
        .expect_code(0)
        .out();
    assert!(
        !told.contains("does not include") && !told.contains("sshd -t failed"),
        "{told}"
    );
    assert!(told.contains("note: sshd listens on port 2300, "), "{told}");
    let said = private
        .run("/usr/sbin/sshd", &["-T", "-f", "/etc/ssh/inner_config"])
        .expect_code(0)
        .out();
    assert!(said.contains("\nclientaliveinterval 0\n"), "{said}");
    let told = private
        .run("bowline", &["setup", "--server", "--undo", "--yes"])
        .expect_code(0)
        .out();
    assert!(
        told.contains("(reload the sshd that uses /etc/ssh/inner_config)\n"),
        "{told}"
    );
    assert!(!told.contains("try-reload-or-restart"), "{told}");
}
