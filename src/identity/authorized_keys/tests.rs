use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use russh::keys::ssh_key::PublicKey;
use tempfile::TempDir;

use super::*;
use crate::identity::statement::parse_key;

/// A folder with keys and the file under test.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn key(&self, name: &str) -> ProvenKey {
        let path = self.folder.path().join(name);
        keygen(&["-q", "-t", "ed25519", "-N", "", "-f", path.to_str().unwrap()]);
        proven(
            &PublicKey::read_openssh_file(path.with_extension("pub"))
                .unwrap()
                .to_bytes()
                .unwrap(),
        )
    }

    fn certificate(&self, ca: &str, name: &str, options: &[&str]) -> ProvenKey {
        let path = |name: &str| self.folder.path().join(name);
        let (ca, public) = (path(ca), path(&format!("{name}.pub")));
        keygen(
            &[
                &["-q", "-s", ca.to_str().unwrap(), "-I", "id"],
                options,
                &[public.to_str().unwrap()],
            ]
            .concat(),
        );
        let certificate = Certificate::read_file(&path(&format!("{name}-cert.pub"))).unwrap();
        proven(&certificate.to_bytes().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("authorized_keys")
    }

    /// Writes the file, `{name}` standing for that key's line.
    fn write(&self, lines: &str, keys: &[&str]) {
        let mut content = lines.to_owned();
        for name in keys {
            let public = std::fs::read_to_string(self.folder.path().join(format!("{name}.pub"))).unwrap();
            content = content.replace(&format!("{{{name}}}"), public.trim());
        }
        std::fs::write(self.path(), content).unwrap();
        std::fs::set_permissions(self.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> AuthorizedKeys {
        AuthorizedKeys::load(&self.path()).unwrap()
    }
}

fn proven(blob: &[u8]) -> ProvenKey {
    let (key, certificate) = parse_key(blob).unwrap();
    ProvenKey {
        blob: blob.to_vec().into(),
        key,
        certificate,
    }
}

fn keygen(arguments: &[&str]) {
    let done = Command::new("ssh-keygen").args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// 2026-01-01, before the dates in these tests where they matter.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn permits(keys: &AuthorizedKeys, key: &ProvenKey, address: &str) -> KeyDecision {
    keys.permits(key, "me", address.parse().unwrap(), now()).unwrap()
}

#[test]
fn a_key_is_accepted_by_its_line_and_a_stranger_by_none() {
    let fixture = Fixture::new();
    let (known, stranger) = (fixture.key("known"), fixture.key("stranger"));
    fixture.write("# people\n\ncommand=\"a b\",no-pty {known} me@home\n", &["known"]);
    let keys = fixture.load();
    assert_eq!(permits(&keys, &known, "192.0.2.1"), KeyDecision::Accepted { line: 3 });
    assert_eq!(permits(&keys, &stranger, "192.0.2.1"), KeyDecision::Unknown);
    assert!(keys.warnings().is_empty());
}

#[test]
fn from_option_matches_the_real_address_of_the_client() {
    let fixture = Fixture::new();
    let key = fixture.key("key");
    fixture.write(
        "from=\"10.0.0.0/8,!10.9.*\" {key}\nfrom=\"192.0.2.1/24\" {key}\n",
        &["key"],
    );
    let keys = fixture.load();
    let refused = |line| KeyDecision::Refused {
        line,
        reason: RefusalReason::Source,
    };
    assert_eq!(permits(&keys, &key, "10.1.2.3"), KeyDecision::Accepted { line: 1 });
    assert_eq!(permits(&keys, &key, "10.9.2.3"), refused(2));
    assert_eq!(permits(&keys, &key, "192.0.2.1"), refused(2));
    assert_eq!(permits(&keys, &key, "127.0.0.1"), refused(2));
}

#[test]
fn a_key_expires_at_its_time_and_a_later_line_may_still_accept_it() {
    let fixture = Fixture::new();
    let key = fixture.key("key");
    fixture.write("expiry-time=\"20251231Z\" {key}\n", &["key"]);
    let keys = fixture.load();
    let expired = KeyDecision::Refused {
        line: 1,
        reason: RefusalReason::Expired,
    };
    assert_eq!(permits(&keys, &key, "10.0.0.1"), expired);
    fixture.write(
        "expiry-time=\"20251231Z\" {key}\nexpiry-time=\"20260102Z\" {key}\n",
        &["key"],
    );
    assert_eq!(permits(&keys, &key, "10.0.0.1"), KeyDecision::Accepted { line: 2 });
}

#[test]
fn certificates_need_their_ca_a_principal_the_time_and_the_source() {
    let fixture = Fixture::new();
    let (ca, _) = (fixture.key("ca"), fixture.key("user"));
    let certificate = |options: &[&str]| fixture.certificate("ca", "user", options);
    fixture.write("cert-authority {ca}\n", &["ca"]);
    let keys = fixture.load();
    let refused = |reason| KeyDecision::Refused { line: 1, reason };
    let verdict = |key: &ProvenKey| permits(&keys, key, "192.0.2.1");

    let good = certificate(&["-n", "you,me", "-V", "20250101:20300101"]);
    assert_eq!(verdict(&good), KeyDecision::Accepted { line: 1 });
    assert_eq!(
        verdict(&certificate(&["-n", "you"])),
        refused(RefusalReason::Principals)
    );
    assert_eq!(verdict(&certificate(&[])), refused(RefusalReason::Principals));
    assert_eq!(
        verdict(&certificate(&["-n", "me", "-V", "20200101:20210101"])),
        refused(RefusalReason::CertificateTime)
    );
    assert_eq!(
        verdict(&certificate(&["-n", "me", "-V", "20290101:20300101"])),
        refused(RefusalReason::CertificateTime)
    );
    let from = |list: &str| certificate(&["-n", "me", "-O", &format!("source-address={list}")]);
    assert_eq!(verdict(&from("192.0.2.0/24")), KeyDecision::Accepted { line: 1 });
    assert_eq!(verdict(&from("10.0.0.0/8")), refused(RefusalReason::Source));
    assert_eq!(
        verdict(&certificate(&["-n", "me", "-O", "force-command=date"])),
        KeyDecision::Accepted { line: 1 }
    );
    assert_eq!(
        verdict(&certificate(&["-n", "me", "-O", "critical:new=1"])),
        refused(RefusalReason::CriticalOption)
    );
    assert_eq!(verdict(&ca), KeyDecision::Unknown);

    fixture.write("{ca}\n", &["ca"]);
    assert_eq!(verdict(&good), KeyDecision::Unknown);
    fixture.write("cert-authority,principals=\"a,you\" {ca}\n", &["ca"]);
    assert_eq!(verdict(&certificate(&["-n", "you"])), KeyDecision::Accepted { line: 1 });
    assert_eq!(verdict(&certificate(&["-n", "me"])), refused(RefusalReason::Principals));
}

#[test]
fn a_certified_key_is_not_accepted_by_the_line_of_the_bare_key() {
    let fixture = Fixture::new();
    let (_, user) = (fixture.key("ca"), fixture.key("user"));
    let certificate = fixture.certificate("ca", "user", &["-n", "me"]);
    fixture.write("{user}\n", &["user"]);
    let keys = fixture.load();
    assert_eq!(permits(&keys, &certificate, "192.0.2.1"), KeyDecision::Unknown);
    assert_eq!(permits(&keys, &user, "192.0.2.1"), KeyDecision::Accepted { line: 1 });
}

#[test]
fn malformed_lines_are_skipped_with_a_warning() {
    let fixture = Fixture::new();
    let key = fixture.key("key");
    fixture.write("garbage\nno-such-option {key}\n\u{0}\u{7f}\n{key}\n", &["key"]);
    std::fs::set_permissions(fixture.path(), std::fs::Permissions::from_mode(0o664)).unwrap();
    let keys = fixture.load();
    assert_eq!(permits(&keys, &key, "192.0.2.1"), KeyDecision::Accepted { line: 4 });
    let name = "no-such-option".to_owned();
    let expected = [
        Warning::Writable { mode: 0o664 },
        Warning::Line {
            line: 1,
            error: LineError::Key,
        },
        Warning::Line {
            line: 2,
            error: LineError::UnknownOption { name },
        },
        Warning::Line {
            line: 3,
            error: LineError::Key,
        },
    ];
    assert_eq!(keys.warnings(), expected);
}

#[test]
fn a_changed_file_is_read_again_and_a_missing_one_accepts_nobody() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.key("first"), fixture.key("second"));
    fixture.write("{first}\n", &["first"]);
    let keys = fixture.load();
    assert_eq!(permits(&keys, &second, "192.0.2.1"), KeyDecision::Unknown);
    let replacement = fixture.folder.path().join("replacement");
    std::fs::copy(fixture.folder.path().join("second.pub"), &replacement).unwrap();
    std::fs::rename(replacement, fixture.path()).unwrap();
    assert_eq!(permits(&keys, &second, "192.0.2.1"), KeyDecision::Accepted { line: 1 });
    assert_eq!(permits(&keys, &first, "192.0.2.1"), KeyDecision::Unknown);

    std::fs::remove_file(fixture.path()).unwrap();
    let verdict = keys.permits(&second, "me", "192.0.2.1".parse().unwrap(), now());
    assert!(matches!(verdict, Err(AuthorizedKeysError::Read { .. })));
    assert!(matches!(
        AuthorizedKeys::load(Path::new("/dev/zero")),
        Err(AuthorizedKeysError::TooLong { .. })
    ));
}

#[test]
fn a_file_opened_by_somebody_else_is_read_only_when_it_has_changed() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.key("first"), fixture.key("second"));
    fixture.write("{first}\n", &["first"]);
    let keys = AuthorizedKeys::unread(&fixture.path());
    let verdict = |key: &ProvenKey| keys.decide(key, "me", "192.0.2.1".parse().unwrap(), now());
    assert_eq!(verdict(&first), KeyDecision::Unknown);
    let refresh = || keys.refresh(open_key_file(&fixture.path()).unwrap()).unwrap();
    assert!(refresh());
    assert!(!refresh());
    assert_eq!(verdict(&first), KeyDecision::Accepted { line: 1 });
    fixture.write("# new\n{second}\n", &["second"]);
    assert!(refresh());
    assert_eq!(verdict(&first), KeyDecision::Unknown);
    assert_eq!(verdict(&second), KeyDecision::Accepted { line: 2 });

    // A folder can be opened but not read.
    let folder = open_key_file(fixture.folder.path()).unwrap();
    assert!(matches!(keys.refresh(folder), Err(AuthorizedKeysError::Read { .. })));
    assert_eq!(verdict(&second), KeyDecision::Unknown);
}

#[test]
fn line_with_restrictions_allows_no_unrestricted_login() {
    let fixture = Fixture::new();
    let (key, other) = (fixture.key("key"), fixture.key("other"));
    fixture.write(
        "from=\"10.0.0.0/8\" {key}\ncommand=\"true\" {key}\n{key}\nno-x11-forwarding {other}\n",
        &["key", "other"],
    );
    let keys = fixture.load();
    let verdict = |key: &ProvenKey, address: &str| {
        keys.permits_everything(key, "me", address.parse().unwrap(), now())
            .unwrap()
    };
    let refused = KeyDecision::Refused {
        line: 2,
        reason: RefusalReason::Restricted,
    };
    assert_eq!(verdict(&key, "10.0.0.1"), KeyDecision::Accepted { line: 1 });
    assert_eq!(verdict(&key, "192.0.2.1"), refused);
    assert_eq!(verdict(&other, "192.0.2.1"), KeyDecision::Accepted { line: 4 });
}
