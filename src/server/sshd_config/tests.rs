use tempfile::TempDir;

use super::*;
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

    /// Keywords that differ for this real client and for 127.0.0.1.
    fn differences(&self, user: &str, address: &str) -> Vec<String> {
        let comparison = self
            .sshd
            .compare(connection(user, address), connection(user, "127.0.0.1"))
            .unwrap();
        comparison
            .differences
            .into_iter()
            .map(|difference| difference.keyword)
            .collect()
    }
}

fn connection<'a>(user: &'a str, address: &str) -> Connection<'a> {
    let address: IpAddr = address.parse().unwrap();
    let local = if address.is_loopback() {
        "127.0.0.1:22"
    } else {
        "203.0.113.1:22"
    };
    Connection {
        user,
        address,
        local: local.parse().unwrap(),
    }
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
fn match_blocks_for_addresses_make_a_difference_and_their_lines_are_named() {
    let fixture = Fixture::new(
        "PasswordAuthentication no\nMatch User bob\n  AllowTcpForwarding no\n\
         Match Address 192.0.2.0/24\n  PasswordAuthentication yes\n  Banner /etc/issue",
    );
    assert_eq!(fixture.differences("bob", "192.0.2.1"), ["passwordauthentication"]);
    assert_eq!(fixture.differences("bob", "198.51.100.1"), [""; 0]);

    let comparison = fixture
        .sshd
        .compare(connection("bob", "192.0.2.1"), connection("bob", "127.0.0.1"))
        .unwrap();
    assert_eq!(comparison.differences[0].real, ["yes"]);
    assert_eq!(comparison.differences[0].loopback, ["no"]);
    let [line] = &comparison.lines[..] else {
        panic!("{:?}", comparison.lines)
    };
    assert_eq!((line.line, line.text.as_str()), (5, "Match Address 192.0.2.0/24"));
    assert_eq!(Some(&line.path), fixture.sshd.config.as_ref());
}

#[test]
fn a_match_for_loopback_is_a_difference_for_everybody_else() {
    let fixture = Fixture::new("PermitRootLogin no\nMatch Address 127.0.0.0/8\n  PermitRootLogin yes");
    assert_eq!(fixture.differences("root", "192.0.2.1"), ["permitrootlogin"]);
    assert_eq!(fixture.differences("root", "127.0.0.1"), [""; 0]);
    let fixture = Fixture::new("Match LocalAddress 127.0.0.1\n  X11Forwarding yes");
    assert_eq!(fixture.differences("root", "2001:db8::1"), ["x11forwarding"]);
}

#[test]
fn cosmetic_differences_do_not_count() {
    let lines = COSMETIC.map(|keyword| match keyword {
        "banner" => "Banner /etc/issue",
        "channeltimeout" => "ChannelTimeout session:*=1h",
        "clientalivecountmax" => "ClientAliveCountMax 9",
        "clientaliveinterval" => "ClientAliveInterval 9",
        "ipqos" => "IPQoS none",
        "loglevel" => "LogLevel VERBOSE",
        "rekeylimit" => "RekeyLimit 1G",
        "unusedconnectiontimeout" => "UnusedConnectionTimeout 9",
        "x11displayoffset" => "X11DisplayOffset 9",
        other => panic!("{other} is not tried"),
    });
    let fixture = Fixture::new(&format!("Match Address 192.0.2.1\n{}", lines.join("\n")));
    assert_eq!(fixture.differences("bob", "192.0.2.1"), [""; 0]);
}

#[test]
fn users_allowed_or_denied_by_address_are_a_difference() {
    let denied = Fixture::new("DenyUsers eve@192.0.2.*");
    assert_eq!(denied.differences("eve", "192.0.2.1"), ["denyusers"]);
    assert_eq!(denied.differences("eve", "198.51.100.1"), [""; 0]);
    assert_eq!(denied.differences("bob", "192.0.2.1"), [""; 0]);
    let allowed = Fixture::new("AllowUsers bob@127.0.0.1 alice al*@192.0.2.0/24");
    assert_eq!(allowed.differences("bob", "192.0.2.1"), ["allowusers"]);
    assert_eq!(allowed.differences("alice", "192.0.2.1"), [""; 0]);
    assert_eq!(allowed.differences("alan", "192.0.2.1"), ["allowusers"]);
}

#[test]
fn names_of_hosts_that_sshd_would_look_up_cannot_be_compared() {
    let by_name = "Match Host *.example.org\n  PasswordAuthentication no";
    assert_eq!(Fixture::new(by_name).differences("bob", "192.0.2.1"), [""; 0]);
    let with_dns = Fixture::new(&format!("UseDNS yes\n{by_name}"));
    assert_eq!(with_dns.differences("bob", "192.0.2.1"), ["match host"]);
    let users = Fixture::new("UseDNS yes\nDenyUsers bob@*.example.org");
    assert_eq!(users.differences("bob", "192.0.2.1"), ["denyusers"]);
    assert_eq!(users.differences("alice", "192.0.2.1"), [""; 0]);
}

#[test]
fn a_user_name_cannot_smuggle_in_another_address() {
    let fixture = Fixture::new("");
    let smuggled = connection("bob,addr=127.0.0.1", "192.0.2.1");
    let result = fixture.sshd.compare(smuggled, connection("bob", "127.0.0.1"));
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
