use std::time::Duration;

use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use russh::keys::ssh_key::{Certificate, PublicKey};
use tempfile::TempDir;

use super::*;
use crate::identity::test_tools::{certify, keygen, opaque_blob, public_text, run};
use crate::wire::ErrorChain;

/// A folder with keys `a`, `b`, `c` and known_hosts files.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            keygen(folder.path(), name, "ed25519", "");
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `TYPE BASE64` of a key.
    fn text(&self, key: &str) -> String {
        public_text(&self.path(key))
    }

    fn offer(&self, key: &str) -> ServerKey {
        let key = PublicKey::from_openssh(&self.text(key)).unwrap();
        ServerKey::from_blob(&key.to_bytes().unwrap()).unwrap()
    }

    fn offer_certificate(&self, path: &Path) -> ServerKey {
        let certificate = Certificate::read_file(path).unwrap();
        ServerKey::from_blob(&certificate.to_bytes().unwrap()).unwrap()
    }

    /// Writes the lines as a known_hosts file, with `{a}` and so on for keys.
    fn file(&self, name: &str, lines: &str) -> PathBuf {
        let text = ["a", "b", "c"].iter().fold(lines.to_owned(), |text, key| {
            text.replace(&format!("{{{key}}}"), &self.text(key))
        });
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn verdict(&self, lines: &str, host: &HostName, offered: &[ServerKey]) -> HostKeyStatus {
        KnownHosts::read(&[self.file("known_hosts", lines)], host).check(offered, SystemTime::now())
    }
}

fn host(name: &str) -> HostName {
    HostName::new(name, 22)
}

/// The line of a `Known` verdict.
fn known_line(verdict: &HostKeyStatus) -> Option<usize> {
    match verdict {
        HostKeyStatus::Known { place, .. } => Some(place.line),
        _ => None,
    }
}

#[test]
fn lines_found_are_those_that_ssh_keygen_finds() {
    let fixture = Fixture::new();
    let hashed = fixture.file(
        "hashed",
        "hidden.example {a}\n[hidden.example]:2222 {b}\n192.0.2.7 {c}\n",
    );
    run("ssh-keygen", ["-q", "-H", "-f", hashed.to_str().unwrap()]);
    let long = (0..3000)
        .map(|n| format!("host{n}.long.example"))
        .collect::<Vec<_>>()
        .join(",");
    let lines = format!(
        "# comment\n\n \t\nplain.example {{a}} comment here\nplain.example\t{{b}}\n\tindented.example  {{a}}\r\n\
         UPPER.Example {{a}}\none,two.example,192.0.2.1 {{b}}\n*.wild.example,!no.wild.example {{a}}\n\
         !*.neg.example,x.neg.example {{a}}\n?.q.example {{c}}\n[plain.example]:2222 {{c}}\n[*.wild.example]:* {{b}}\n\
         @cert-authority *.ca.example {{a}}\n@revoked plain.example {{c}}\n@revoked *\t{{b}} comment\n\
         @cert-authority\ttab.example\t{{a}}\n@cert-authority @revoked two.example {{a}}\n@unknown two.example {{a}}\n\
         {long} {{a}}\n{}.example {{a}}\n# comment with plain.example {{a}}\n,,empty.example {{a}}\n\
         2001:db8::1,[2001:db8::1]:2222 {{a}}\n|1|bad|hash {{a}}\n|1|AAAA {{a}}\n{}last.example {{a}}",
        "y".repeat(1023),
        std::fs::read_to_string(&hashed).unwrap()
    );
    let file = fixture.file("known_hosts", &lines);
    for name in [
        "plain.example",
        "[plain.example]:2222",
        "indented.example",
        "upper.example",
        "one",
        "two.example",
        "192.0.2.1",
        "x.wild.example",
        "no.wild.example",
        "[x.wild.example]:2200",
        "x.neg.example",
        "z.q.example",
        "zz.q.example",
        "h.ca.example",
        "tab.example",
        "host0.long.example",
        "host2999.long.example",
        "empty.example",
        "2001:db8::1",
        "[2001:db8::1]:2222",
        "hidden.example",
        "[hidden.example]:2222",
        "192.0.2.7",
        "last.example",
        "nowhere.example",
    ] {
        let known = KnownHosts::read(std::slice::from_ref(&file), &HostName::alias(name));
        let ours: Vec<usize> = known.entries.iter().map(|entry| entry.place.line).collect();
        assert_eq!(ours, lines_by_ssh_keygen(&file, name), "{name}: {:?}", known.warnings());
    }
}

/// Line numbers from `# Host NAME found: line N`. ssh-keygen exits with an error if it finds none.
fn lines_by_ssh_keygen(file: &Path, name: &str) -> Vec<usize> {
    let output = std::process::Command::new("ssh-keygen")
        .arg("-F")
        .arg(name)
        .arg("-f")
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers = text
        .lines()
        .filter_map(|line| line.strip_prefix("# Host ")?.split_once(" found: line "));
    numbers
        .map(|(_, rest)| rest.split(' ').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn any_offered_key_that_is_known_is_enough() {
    let fixture = Fixture::new();
    let verdict = fixture.verdict(
        "other {a}\nh {b}\n",
        &host("H"),
        &[fixture.offer("a"), fixture.offer("b")],
    );
    assert!(
        matches!(&verdict, HostKeyStatus::Known { place, key: 1 } if place.line == 2),
        "{verdict:?}"
    );
}

#[test]
fn two_keys_of_one_type_are_both_known() {
    let fixture = Fixture::new();
    for key in ["a", "b"] {
        let verdict = fixture.verdict("h {a}\nh {b}\n", &host("h"), &[fixture.offer(key)]);
        assert!(known_line(&verdict).is_some(), "{verdict:?}");
    }
}

#[test]
fn only_keys_of_other_value_is_changed() {
    let fixture = Fixture::new();
    let offered = [fixture.offer("c")];
    let verdict = fixture.verdict("# x\nh {a}\nh {b}\n", &host("h"), &offered);
    let HostKeyStatus::Changed {
        place,
        expected,
        presented,
    } = &verdict
    else {
        panic!("{verdict:?}")
    };
    assert_eq!(place.line, 2);
    assert_eq!(
        expected,
        &[fixture.offer("a").fingerprint(), fixture.offer("b").fingerprint()]
    );
    assert_eq!(presented, &[fixture.offer("c").fingerprint()]);
    let by_ssh_keygen = run("ssh-keygen", ["-l", "-f", fixture.path("c.pub").to_str().unwrap()]);
    assert!(
        by_ssh_keygen.contains(&presented[0].to_string()),
        "{by_ssh_keygen} {}",
        presented[0]
    );
}

#[test]
fn host_without_lines_is_unknown() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.verdict("other {a}\n", &host("h"), &[fixture.offer("a")]),
        HostKeyStatus::Unknown
    );
    assert_eq!(
        fixture.verdict("h {a}\n", &host("h2"), &[fixture.offer("a")]),
        HostKeyStatus::Unknown
    );
}

#[test]
fn revoked_key_is_refused_even_beside_a_known_one() {
    let fixture = Fixture::new();
    for lines in [
        "h {a}\n@revoked h {b}\n",
        "@revoked * {b}\nh {a}\nh {b}\n",
        "@revoked\th {b}\nh {a}\n",
    ] {
        let verdict = fixture.verdict(lines, &host("h"), &[fixture.offer("a"), fixture.offer("b")]);
        let HostKeyStatus::Revoked { fingerprint, .. } = verdict else {
            panic!("{lines}: {verdict:?}")
        };
        assert_eq!(fingerprint, fixture.offer("b").fingerprint());
    }
    let elsewhere = fixture.verdict("@revoked other {b}\nh {b}\n", &host("h"), &[fixture.offer("b")]);
    assert!(known_line(&elsewhere).is_some(), "{elsewhere:?}");
}

#[test]
fn other_port_has_names_of_its_own_and_falls_back_only_to_matches() {
    let fixture = Fixture::new();
    let far = HostName::new("h", 2222);
    let offered = [fixture.offer("a")];
    assert_eq!(
        known_line(&fixture.verdict("h {b}\n[h]:2222 {a}\n", &far, &offered)),
        Some(2)
    );
    assert_eq!(known_line(&fixture.verdict("h {a}\n", &far, &offered)), Some(1));
    assert_eq!(fixture.verdict("h {b}\n", &far, &offered), HostKeyStatus::Unknown);
    assert!(matches!(
        fixture.verdict("h {a}\n[h]:2222 {b}\n", &far, &offered),
        HostKeyStatus::Changed { .. }
    ));
    assert_eq!(
        fixture.verdict("[h]:2222 {a}\n", &host("h"), &offered),
        HostKeyStatus::Unknown
    );
    assert_eq!(
        fixture.verdict("h {a}\n", &HostName::alias("farm"), &offered),
        HostKeyStatus::Unknown
    );
}

#[test]
fn malformed_lines_are_warnings_and_the_rest_counts() {
    let fixture = Fixture::new();
    let lines = "h\nh ssh-ed25519\nh ssh-ed25519 !!!\n@bogus h {b}\n|1|xx|yy {b}\n\
                 h ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA\nh ssh-unheard-of@example.org AAAAGnNzaC11bmhlYXJkLW9mQGV4YW1wbGUub3JnAAAAAXg=\n\
                 h 1024 35 1234567890\nother ssh-ed25519 rubbish-for-another-host\nh {a}\n";
    let known = KnownHosts::read(&[fixture.file("known_hosts", lines)], &host("h"));
    assert_eq!(
        known_line(&known.check(&[fixture.offer("a")], SystemTime::now())),
        Some(10)
    );
    let warned: Vec<usize> = known
        .warnings()
        .iter()
        .map(|warning| match warning {
            Warning::Malformed { place, .. } => place.line,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        warned,
        [1, 2, 3, 4, 5, 6, 8],
        "line 7 is a key, of a type that is not supported"
    );
}

#[test]
fn keys_of_unsupported_types_neither_match_nor_conflict() {
    let fixture = Fixture::new();
    let line = |name: &str| {
        let blob = opaque_blob(name);
        format!("{name} {}", Base64::encode_string(&blob))
    };
    let (new, old) = (line("ssh-mldsa44-ed25519"), line("ssh-dss"));
    let read = |text: &str, name: &HostName| KnownHosts::read(&[fixture.file("known_hosts", text)], name);
    let known = read(&format!("h {new}\nh {old}\nh {new}\n@revoked h {new}\n"), &host("h"));
    assert_eq!(known.warnings(), []);
    assert_eq!(known.fingerprints(), []);
    let HostKeyStatus::Incomparable { place, types } = known.check(&[fixture.offer("a")], SystemTime::now()) else {
        panic!("{known:?}");
    };
    assert_eq!(
        (place.line, &types[..]),
        (1, &["ssh-mldsa44-ed25519".to_owned(), "ssh-dss".into()][..])
    );
    assert_eq!(known.unsupported_types(), types);

    // If there is also a key that can be compared, it makes no difference.
    let known = read(&format!("h {new}\nh {{a}}\n"), &host("h"));
    assert_eq!(
        known_line(&known.check(&[fixture.offer("a")], SystemTime::now())),
        Some(2)
    );
    assert!(matches!(
        known.check(&[fixture.offer("b")], SystemTime::now()),
        HostKeyStatus::Changed { place, expected, .. } if place.line == 2 && expected.len() == 2
    ));
    assert_eq!(known.unsupported_types(), [] as [&str; 0]);

    let with_port = HostName::new("h", 2222);
    let known = read(&format!("[h]:2222 {new}\nh {{a}}\n"), &with_port);
    assert_eq!(
        known_line(&known.check(&[fixture.offer("a")], SystemTime::now())),
        Some(2)
    );
    assert!(matches!(
        known.check(&[fixture.offer("b")], SystemTime::now()),
        HostKeyStatus::Incomparable { .. }
    ));
}

#[test]
fn crlf_line_ends_are_accepted() {
    let fixture = Fixture::new();
    let file = fixture.file(
        "known_hosts",
        "# comment\r\n\r\nh {a}\r\nh {b} comment\r\n@revoked h {c}\r\n",
    );
    let known = KnownHosts::read(&[file], &host("h"));
    assert_eq!(known.entries.len(), 3);
    assert_eq!(known.warnings(), []);
}

#[test]
fn bytes_that_are_not_text_do_no_harm() {
    let fixture = Fixture::new();
    let path = fixture.file("known_hosts", "");
    let good = format!("h {}", fixture.text("a"));
    let text = [
        b"\xff\xfe\0h\xc3 ssh-ed25519 \xff\nh \xff\xff \xff\n\0\0\n".as_slice(),
        good.as_bytes(),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let verdict = KnownHosts::read(&[path], &host("h")).check(&[fixture.offer("a")], SystemTime::now());
    assert_eq!(known_line(&verdict), Some(4));
}

#[test]
fn missing_file_is_silent_and_unreadable_one_a_warning() {
    let fixture = Fixture::new();
    let files = [
        fixture.path("missing"),
        fixture.folder.path().to_owned(),
        fixture.file("known_hosts", "h {a}\n"),
    ];
    let known = KnownHosts::read(&files, &host("h"));
    assert!(known_line(&known.check(&[fixture.offer("a")], SystemTime::now())).is_some());
    assert!(matches!(known.warnings(), [Warning::Unreadable { file, .. }] if file == fixture.folder.path()));
}

#[test]
fn every_key_type_is_read() {
    let fixture = Fixture::new();
    for kind in ["ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048"] {
        let key = keygen(fixture.folder.path(), kind, kind, "");
        let verdict = fixture.verdict(
            &format!("h {}\n", public_text(&key)),
            &host("h"),
            &[fixture.offer(kind)],
        );
        assert!(known_line(&verdict).is_some(), "{kind}: {verdict:?}");
    }
}

#[test]
fn host_certificate_is_known_by_its_authority() {
    let fixture = Fixture::new();
    keygen(fixture.folder.path(), "rsa-ca", "rsa-2048", "");
    for authority in ["b", "rsa-ca"] {
        let certificate = certify(
            &fixture.path(authority),
            &fixture.path("a"),
            &["-h", "-n", "h.example,*.farm"],
        );
        let offered = [fixture.offer_certificate(&certificate)];
        let lines = format!(
            "x {{c}}\n@cert-authority *.example,*.farm,[h.example]:2222 {}\n",
            fixture.text(authority)
        );
        for name in [
            host("H.example"),
            host("box.farm"),
            HostName::new("h.example", 2222),
            HostName::new("h.example", 2200),
        ] {
            assert_eq!(
                known_line(&fixture.verdict(&lines, &name, &offered)),
                Some(2),
                "{authority} {name:?}"
            );
        }
        assert_eq!(
            fixture.verdict(&lines, &host("other.example"), &offered),
            HostKeyStatus::Unknown
        );
        assert_eq!(
            fixture.verdict("@cert-authority *.example {c}\n", &host("h.example"), &offered),
            HostKeyStatus::Unknown
        );
        assert_eq!(
            fixture.verdict(
                &format!("h.example {}", fixture.text(authority)),
                &host("other"),
                &offered
            ),
            HostKeyStatus::Unknown
        );
    }
}

#[test]
fn invalid_certificate_counts_as_its_plain_key() {
    let fixture = Fixture::new();
    let lines = "@cert-authority * {b}\n";
    for (why, options) in [
        ("a user's", ["-n", "h", "-V", "always:forever"].as_slice()),
        ("other name", &["-h", "-n", "other"]),
        ("no name", &["-h"]),
        ("expired", &["-h", "-n", "h", "-V", "20200101:20210101"]),
        ("not yet valid", &["-h", "-n", "h", "-V", "20990101:20991231"]),
        ("critical option", &["-h", "-n", "h", "-O", "critical:x@example"]),
    ] {
        let certificate = certify(&fixture.path("b"), &fixture.path("a"), options);
        let offered = [fixture.offer_certificate(&certificate)];
        assert_eq!(
            fixture.verdict(lines, &host("h"), &offered),
            HostKeyStatus::Unknown,
            "{why}"
        );
        let with_plain = format!("{lines}h {{a}}\n");
        assert_eq!(
            known_line(&fixture.verdict(&with_plain, &host("h"), &offered)),
            Some(2),
            "{why}"
        );
        let with_other = format!("{lines}h {{c}}\n");
        assert!(
            matches!(
                fixture.verdict(&with_other, &host("h"), &offered),
                HostKeyStatus::Changed { .. }
            ),
            "{why}"
        );
    }
}

#[test]
fn certificate_window_is_judged_by_the_time_given() {
    let fixture = Fixture::new();
    let path = certify(
        &fixture.path("b"),
        &fixture.path("a"),
        &["-h", "-n", "h", "-V", "20200101000000Z:20210101000000Z"],
    );
    let certificate = Certificate::read_file(&path).unwrap();
    let offered = [fixture.offer_certificate(&path)];
    let known = KnownHosts::read(&[fixture.file("known_hosts", "@cert-authority h {b}\n")], &host("h"));
    let (from, to) = (certificate.valid_after(), certificate.valid_before());
    for (at, good) in [(from - 1, false), (from, true), (to - 1, true), (to, false)] {
        let verdict = known.check(&offered, std::time::UNIX_EPOCH + Duration::from_secs(at));
        assert_eq!(known_line(&verdict).is_some(), good, "{at}: {verdict:?}");
    }
}

#[test]
fn revoked_authority_or_certified_key_is_refused() {
    let fixture = Fixture::new();
    let certificate = certify(&fixture.path("b"), &fixture.path("a"), &["-h", "-n", "h"]);
    let offered = [fixture.offer_certificate(&certificate)];
    for revoked in ["a", "b"] {
        let lines = format!("@cert-authority h {{b}}\n@revoked h {{{revoked}}}\n");
        assert!(
            matches!(
                fixture.verdict(&lines, &host("h"), &offered),
                HostKeyStatus::Revoked { .. }
            ),
            "{revoked}"
        );
    }
}

#[test]
fn forged_certificate_is_invalid() {
    let fixture = Fixture::new();
    let path = certify(&fixture.path("b"), &fixture.path("a"), &["-h", "-n", "h"]);
    let mut blob = Certificate::read_file(&path).unwrap().to_bytes().unwrap();
    let known = KnownHosts::read(&[fixture.file("known_hosts", "@cert-authority h {b}\n")], &host("h"));
    let verdict = |blob: &[u8]| known.check(&[ServerKey::from_blob(blob).unwrap()], SystemTime::now());
    assert!(known_line(&verdict(&blob)).is_some());
    *blob.last_mut().unwrap() ^= 1;
    assert_eq!(verdict(&blob), HostKeyStatus::Unknown);
}

#[test]
fn hostile_blobs_are_refused_without_panic() {
    assert!(matches!(ServerKey::from_blob(b""), Err(ServerKeyError::Malformed(_))));
    assert!(matches!(
        ServerKey::from_blob(&[0xff; 64]),
        Err(ServerKeyError::Malformed(_))
    ));
    let fixture = Fixture::new();
    let path = certify(&fixture.path("b"), &fixture.path("a"), &["-h", "-n", "h"]);
    let blob = Certificate::read_file(&path).unwrap().to_bytes().unwrap();
    for end in 0..blob.len() {
        assert!(ServerKey::from_blob(&blob[..end]).is_err(), "{end}");
    }
}

#[test]
fn an_error_about_a_blob_that_a_server_sent_is_escaped() {
    let shown = |blob: &[u8]| ErrorChain(&ServerKey::from_blob(blob).unwrap_err()).to_string();
    let malformed = shown(b"\0\0\0\x08\x1b[2Jssh-\0\0\0\0");
    assert!(malformed.contains(r"\u{1b}[2Jssh-"), "{malformed}");
    // ssh-key knows a certificate by the end of its type, and takes any character before it.
    let fixture = Fixture::new();
    let path = certify(&fixture.path("b"), &fixture.path("a"), &["-h", "-n", "h"]);
    let blob = Certificate::read_file(&path).unwrap().to_bytes().unwrap();
    assert_eq!(&blob[4..15], b"ssh-ed25519");
    let mut unknown = blob;
    unknown[5] = 0x1b;
    let unsupported = shown(&unknown);
    assert!(unsupported.contains(r"s\u{1b}h-ed25519"), "{unsupported}");
}

#[test]
fn pin_names_an_offered_key_or_the_tls_key() {
    let fixture = Fixture::new();
    let pin: Pin = fixture.offer("a").fingerprint().to_string().parse().unwrap();
    assert!(pin_matches(&pin, &[fixture.offer("b"), fixture.offer("a")], b""));
    assert!(!pin_matches(&pin, &[fixture.offer("b")], b""));
    let raw = fixture.offer("a").key_data().ed25519().unwrap().0;
    let spki = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".as_slice(), &raw].concat();
    assert!(pin_matches(&pin, &[], &spki));
    assert!(!pin_matches(&pin, &[], &spki[..43]));
    for bad in ["", "SHA256:", "SHA256:abc", "MD5:aa:bb", "abc"] {
        assert!(bad.parse::<Pin>().is_err(), "{bad}");
    }
}

#[test]
fn remembered_key_is_known_to_us_and_to_ssh_keygen() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let path = fixture.path("own");
    let far = HostName::new("H", 2222);
    remember(&path, &far, &fixture.offer("a")).unwrap();
    remember(&path, &far, &fixture.offer("a")).unwrap();
    remember(&path, &host("h"), &fixture.offer("b")).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(lines_by_ssh_keygen(&path, "[h]:2222"), [1]);
    assert_eq!(lines_by_ssh_keygen(&path, "h"), [2]);
    let known = KnownHosts::read(&[path], &far);
    assert_eq!(
        known_line(&known.check(&[fixture.offer("a")], SystemTime::now())),
        Some(1)
    );
}

#[test]
fn remember_mends_a_missing_line_end_and_refuses_odd_names() {
    let fixture = Fixture::new();
    let path = fixture.file("own", "x {b}");
    remember(&path, &host("h"), &fixture.offer("a")).unwrap();
    assert_eq!(lines_by_ssh_keygen(&path, "h"), [2]);
    for name in ["", "a b", "a\nb", "*", "a,b", "|1|x", "[x]", "!h"] {
        let refused = remember(&path, &HostName::alias(name), &fixture.offer("a"));
        assert!(matches!(refused, Err(RememberError::Name { .. })), "{name:?}");
    }
    let nowhere = remember(&fixture.path("no/folder"), &host("h"), &fixture.offer("a"));
    assert!(matches!(nowhere, Err(RememberError::File { .. })));
}

#[tokio::test]
async fn revoked_host_keys_are_found_in_lists_and_in_revocation_lists() {
    let fixture = Fixture::new();
    let list = fixture.file(
        "list",
        "# revoked\nssh-unheard-of@example.org AAAAGnNzaC11bmhlYXJkLW9mQGV4YW1wbGUub3JnAAAAAXg=\n{b} comment\n",
    );
    let krl = fixture.path("krl");
    run(
        "ssh-keygen",
        [
            "-q",
            "-k",
            "-f",
            krl.to_str().unwrap(),
            fixture.path("b.pub").to_str().unwrap(),
        ],
    );
    let certificate = certify(&fixture.path("b"), &fixture.path("a"), &["-h", "-n", "h"]);
    let keygen = Path::new("ssh-keygen");
    for file in [list, krl] {
        let check =
            async |offered: &[ServerKey]| check_revoked_files(std::slice::from_ref(&file), offered, keygen).await;
        assert_eq!(
            check(&[fixture.offer("a"), fixture.offer("c")]).await.unwrap(),
            None,
            "{file:?}"
        );
        let revoked = check(&[fixture.offer("a"), fixture.offer("b")]).await.unwrap().unwrap();
        assert_eq!(
            (revoked.file, revoked.fingerprint),
            (file.clone(), fixture.offer("b").fingerprint())
        );
        let by_authority = check(&[fixture.offer_certificate(&certificate)]).await.unwrap();
        assert!(by_authority.is_some(), "{file:?}");
    }
}

#[tokio::test]
async fn unusable_file_of_revoked_keys_is_an_error() {
    let fixture = Fixture::new();
    let offered = [fixture.offer("a")];
    let check = async |file: PathBuf, keygen: &str| check_revoked_files(&[file], &offered, Path::new(keygen)).await;
    let missing = check(fixture.path("missing"), "ssh-keygen").await;
    assert!(
        matches!(missing, Err(RevocationError::Unreadable { .. })),
        "{missing:?}"
    );
    let rubbish = check(fixture.file("rubbish", "\nnot a key\n"), "ssh-keygen").await;
    assert!(
        matches!(rubbish, Err(RevocationError::Malformed { line: 2, .. })),
        "{rubbish:?}"
    );
    let damaged = fixture.path("damaged");
    std::fs::write(&damaged, b"SSHKRL\n\0rubbish").unwrap();
    let unjudged = check(damaged.clone(), "ssh-keygen").await;
    assert!(
        matches!(unjudged, Err(RevocationError::CheckFailed { .. })),
        "{unjudged:?}"
    );
    let no_program = check(damaged, "/nonexistent/ssh-keygen").await;
    assert!(
        matches!(no_program, Err(RevocationError::NotRunnable { .. })),
        "{no_program:?}"
    );
}
