use tempfile::TempDir;

use super::*;
use crate::clock;
use crate::server::ask_sshd::testing::keygen;

/// A configuration file for the real sshd.
struct Fixture {
    folder: TempDir,
    sshd: SshdConfig,
}

impl Fixture {
    fn new(lines: &str) -> Self {
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        keygen(folder.path(), "host", "ed25519");
        let config = folder.path().join("sshd_config");
        fs::write(&config, format!("HostKey {}/host\n{lines}\n", folder.path().display())).unwrap();
        let sshd = SshdConfig {
            config: Some(config),
            ..SshdConfig::default()
        };
        Self { folder, sshd }
    }

    fn check(&self) -> LoopbackCheck {
        LoopbackCheck::new(self.sshd.clone(), "127.0.0.1:22".parse().unwrap())
    }

    fn append(&self, lines: &str) {
        let config = self.sshd.config.as_ref().unwrap();
        let text = fs::read_to_string(config).unwrap() + lines;
        fs::write(config, text).unwrap();
    }
}

fn obstacle(check: &mut LoopbackCheck) -> Option<String> {
    check.obstacle(clock::now).map(|obstacle| match obstacle {
        Obstacle::Files(error) => format!("{obstacle}: {error}"),
        Obstacle::Sshd(error) => format!("{obstacle}: {error}"),
        obstacle => obstacle.to_string(),
    })
}

#[test]
fn host_keys_and_ports_come_from_sshd() {
    let fixture = Fixture::new("Port 2222\nPort 2223\nListenAddress 127.0.0.1");
    let settings = fixture.sshd.settings().unwrap();
    assert_eq!(settings.ports(), [2222, 2223]);
    assert_eq!(settings.host_key_files(), [fixture.folder.path().join("host")]);
    assert_eq!(settings.host_certificate_files(), Vec::<PathBuf>::new());
}

#[test]
fn settings_that_kill_detached_sessions_are_warned_about_with_a_line_that_mends_them() {
    let fixture = Fixture::new(
        "ClientAliveInterval 15\nChannelTimeout session:*=30m\nUnusedConnectionTimeout 5m\nLoginGraceTime 20\n\
         MaxStartups 3\nPerSourceMaxStartups 2\nPubkeyAuthentication no",
    );
    let warnings = fixture.sshd.settings().unwrap().warnings();
    let seconds = Duration::from_secs;
    let value = "session:*=30m".to_owned();
    let expected = [
        SshdWarning::ClientAlive { after: seconds(45) },
        SshdWarning::ChannelTimeout { value },
        SshdWarning::UnusedConnectionTimeout { after: seconds(300) },
        SshdWarning::LoginGraceTime { after: seconds(20) },
        SshdWarning::MaxStartups { start: 3 },
        SshdWarning::PerSourceMaxStartups { most: 2 },
        SshdWarning::NoPublicKeys,
    ];
    assert_eq!(warnings, expected);
    let lines: Vec<_> = warnings.iter().map(SshdWarning::mending_line).collect();
    assert_eq!(Fixture::new(&lines.join("\n")).sshd.settings().unwrap().warnings(), []);
}

#[test]
fn settings_are_told_whatever_match_blocks_there_are() {
    let fixture = Fixture::new(
        "Port 2222\nMatch LocalPort 2222\n  Banner /a\nMatch Address 10.0.0.0/8\n  Banner /b\n\
         Match LocalAddress 127.0.0.1\n  Banner /c\nMatch Host x\n  Banner /d\nMatch Group x\n  Banner /e",
    );
    assert_eq!(fixture.sshd.settings().unwrap().ports(), [2222]);
    let from = |address: &str| Connection {
        user: "bob",
        address: address.parse().unwrap(),
        local: "192.0.2.1:22".parse().unwrap(),
    };
    let banner = |address: &str| {
        fixture
            .sshd
            .settings_for(from(address))
            .unwrap()
            .value("banner")
            .map(str::to_owned)
    };
    assert_eq!(banner("10.1.1.1").as_deref(), Some("/b"));
    assert_eq!(banner("192.0.2.9").as_deref(), Some("none"));
}

#[test]
fn nothing_is_opened_as_long_as_a_line_looks_at_addresses() {
    let fixture = Fixture::new("PermitRootLogin no\nMatch User bob\n  X11Forwarding no");
    let mut check = fixture.check();
    assert_eq!(obstacle(&mut check), None);
    fixture.append("Match User root Address 10.9.0.0/16\n  PermitRootLogin no\nMatch LocalPort 2222\n");
    let config = fixture.sshd.config.as_ref().unwrap().display().to_string();
    let expected = format!(
        "sshd has rules that depend on where a client connects from: {config}:5: Match User root Address 10.9.0.0/16 (and \
         1 more)"
    );
    assert_eq!(obstacle(&mut check), Some(expected));
    fs::write(&config, format!("HostKey {}/host\n", fixture.folder.path().display())).unwrap();
    assert_eq!(obstacle(&mut check), None);
}

#[test]
fn a_file_that_comes_into_an_included_folder_counts_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&format!("Include {}/*.conf", folder.path().display()));
    let mut check = fixture.check();
    assert_eq!(obstacle(&mut check), None);
    fs::write(folder.path().join("a.conf"), "DenyUsers bob@corp@198.51.100.*\n").unwrap();
    let text = obstacle(&mut check).unwrap();
    assert!(text.ends_with("a.conf:1: DenyUsers bob@corp@198.51.100.*"), "{text}");
}

#[test]
fn what_cannot_be_read_is_tried_again_and_never_taken_for_harmless() {
    let fixture = Fixture::new("NoSuchOption yes");
    let mut check = fixture.check();
    let start = clock::now();
    let text = obstacle(&mut check).unwrap();
    assert!(
        text.contains("cannot read sshd's configuration") && text.contains("bad configuration option"),
        "{text}"
    );
    fixture.append("X");
    assert!(obstacle(&mut check).is_some());
    let good = format!("HostKey {}/host\n", fixture.folder.path().display());
    fs::write(fixture.sshd.config.as_ref().unwrap(), good).unwrap();
    assert_eq!(obstacle(&mut check), None, "a changed file counts at once");

    let missing = SshdConfig {
        binary: fixture.folder.path().join("sshd"),
        config: fixture.sshd.config.clone(),
    };
    let mut check = LoopbackCheck::new(missing.clone(), "127.0.0.1:22".parse().unwrap());
    assert!(obstacle(&mut check).is_some());
    std::os::unix::fs::symlink("/usr/sbin/sshd", &missing.binary).unwrap();
    assert_eq!(obstacle(&mut check), None);
    fs::remove_file(fixture.folder.path().join("host")).unwrap();
    fixture.append("# changed\n");
    let broken = check.obstacle(|| start).is_some();
    let is_old = fixture.sshd.settings().is_err();
    assert_eq!(broken, is_old, "only before -G are keys needed");
    keygen(fixture.folder.path(), "host", "ed25519");
    if is_old {
        assert!(
            check.obstacle(|| start).is_some(),
            "no file of the configuration has changed, and it is too early"
        );
        assert!(check.obstacle(|| start + Duration::from_secs(2)).is_none());
    }
}

#[test]
fn the_configuration_of_another_machine_is_not_known() {
    let fixture = Fixture::new("");
    let mut check = LoopbackCheck::new(fixture.sshd.clone(), "203.0.113.1:22".parse().unwrap());
    assert!(matches!(check.obstacle(clock::now), Some(Obstacle::Elsewhere { .. })));
}

#[test]
fn host_keys_are_found_while_sshd_cannot_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.conf"), "HostCertificate /c\nhostkey=\"/a b\"\n").unwrap();
    let fixture = Fixture::new(&format!("NoSuchOption yes\nInclude {}/*.conf", folder.path().display()));
    assert!(fixture.sshd.settings().is_err());
    let expected = (
        vec![fixture.folder.path().join("host"), "/a b".into()],
        vec![PathBuf::from("/c")],
    );
    assert_eq!(fixture.sshd.host_key_lines(), expected);
    let missing = SshdConfig {
        config: Some("/nonexistent".into()),
        ..SshdConfig::default()
    };
    assert_eq!(missing.host_key_lines().0, DEFAULT_HOST_KEYS.map(PathBuf::from));
}

#[test]
fn a_user_name_cannot_smuggle_in_another_address() {
    let fixture = Fixture::new("");
    let result = fixture.sshd.settings_for(Connection {
        user: "bob,addr=127.0.0.1",
        address: "192.0.2.1".parse().unwrap(),
        local: "192.0.2.1:22".parse().unwrap(),
    });
    assert!(matches!(result, Err(SshdConfigError::UserName { .. })));
}

#[test]
fn a_broken_configuration_and_a_missing_sshd_are_reported() {
    let fixture = Fixture::new("NoSuchOption yes");
    let said = match fixture.sshd.settings() {
        Err(SshdConfigError::Failed { said, .. }) => said,
        other => panic!("{other:?}"),
    };
    assert!(said.contains("1 bad configuration option"), "{said}");
    let missing = SshdConfig {
        binary: "/nonexistent/sshd".into(),
        config: None,
    };
    assert!(matches!(missing.settings(), Err(SshdConfigError::Run { .. })));
}

#[test]
fn the_stand_in_key_is_private_and_removed() {
    let key = StandInKey::new().unwrap();
    let path = key.path.clone();
    assert!(PrivateKey::read_openssh_file(&path).is_ok());
    let other = StandInKey::new().unwrap();
    assert_ne!(other.path, path);
    drop(key);
    assert!(!path.exists());
}
