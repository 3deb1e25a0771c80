use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::identity::test_tools::{on_a_small_stack, opaque_blob, read_key, tower_of_certificates};
use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use ssh_key::PublicKey;

const SPKI: &[u8] = b"a TLS key, to whom it is opaque";

#[test]
fn host_statement_is_valid_for_one_tls_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let host_key = read_key(&keygen(folder.path(), "host", "ed25519"));
    let statement = sign_host(&host_key, None, SPKI).unwrap();
    let proven = verify_host(&statement, SPKI).unwrap();
    assert_eq!(&proven.key, host_key.public_key().key_data());
    assert_eq!(proven.certificate, None);
    assert_eq!(proven.blob, statement.key);
    assert!(matches!(
        verify_host(&statement, b"another TLS key"),
        Err(StatementError::Signature(SshsigError::BadSignature))
    ));
}

#[test]
fn statement_with_another_key_is_invalid() {
    let folder = tempfile::tempdir().unwrap();
    let honest = sign_host(&read_key(&keygen(folder.path(), "honest", "ed25519")), None, SPKI).unwrap();
    let thief = sign_host(&read_key(&keygen(folder.path(), "thief", "ed25519")), None, SPKI).unwrap();
    let mixed = Statement {
        key: honest.key,
        signature: thief.signature,
    };
    assert!(matches!(
        verify_host(&mixed, SPKI),
        Err(StatementError::OtherSigner { .. })
    ));
}

#[test]
fn a_certificate_statement_is_signed_by_the_certified_key() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host, other) = three_keys(folder.path());
    let certificate = certify(&ca, &host, &["-h", "-n", "build.example.org"]);
    let statement = sign_host(&read_key(&host), Some(&certificate), SPKI).unwrap();
    let proven = verify_host(&statement, SPKI).unwrap();
    assert_eq!(&proven.key, read_key(&host).public_key().key_data());
    assert_eq!(
        proven.certificate.as_deref().unwrap().to_bytes().unwrap(),
        certificate.to_bytes().unwrap()
    );

    let stolen = Statement {
        signature: sign_host(&read_key(&other), None, SPKI).unwrap().signature,
        ..statement
    };
    assert!(matches!(
        verify_host(&stolen, SPKI),
        Err(StatementError::OtherSigner { .. })
    ));
    assert!(matches!(
        sign_host(&read_key(&other), Some(&certificate), SPKI),
        Err(StatementError::CertificateOfAnotherKey)
    ));
}

#[test]
fn certificates_of_the_wrong_type_or_with_a_forged_field_are_invalid() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host, _) = three_keys(folder.path());
    let for_users = certify(&ca, &host, &["-n", "root"]);
    let statement = sign_host(&read_key(&host), Some(&for_users), SPKI).unwrap();
    assert!(matches!(
        verify_host(&statement, SPKI),
        Err(StatementError::CertificateType { .. })
    ));

    let good = sign_host(
        &read_key(&host),
        Some(&certify(&ca, &host, &["-h", "-n", "good.example"])),
        SPKI,
    )
    .unwrap();
    let at = good
        .key
        .windows(12)
        .position(|window| window == b"good.example")
        .unwrap();
    let mut forged = good.key.to_vec();
    forged[at..at + 4].copy_from_slice(b"evil");
    let forged = Statement {
        key: forged.into(),
        ..good
    };
    assert!(matches!(
        verify_host(&forged, SPKI),
        Err(StatementError::CertificateSignature(SshsigError::BadSignature))
    ));
}

#[test]
fn authorization_is_valid_for_exactly_these_fields() {
    let folder = tempfile::tempdir().unwrap();
    let user_key = read_key(&keygen(folder.path(), "user", "ecdsa"));
    let fields = OpenFields {
        exporter: &[1; 32],
        server_spki: b"server",
        client_spki: b"client",
        session: SessionId::new([2; 16]),
        user: "me",
        version: 1,
    };
    let signature = sshsig::sign(&user_key, OPEN_NAMESPACE, &open_message(fields)).unwrap();
    let authorization = Authorization {
        key: user_key.public_key().to_bytes().unwrap().into(),
        signature: signature.into(),
    };
    let proven = verify_open(&authorization, &open_message(fields)).unwrap();
    assert_eq!(&proven.key, user_key.public_key().key_data());

    let others = [
        OpenFields {
            exporter: &[3; 32],
            ..fields
        },
        OpenFields {
            server_spki: b"serverc",
            client_spki: b"lient",
            ..fields
        },
        OpenFields {
            client_spki: b"other",
            ..fields
        },
        OpenFields {
            session: SessionId::new([4; 16]),
            ..fields
        },
        OpenFields { user: "you", ..fields },
        OpenFields { version: 2, ..fields },
    ];
    for other in others {
        assert!(verify_open(&authorization, &open_message(other)).is_err(), "{other:?}");
    }
}

#[test]
fn host_statement_is_not_an_authorization() {
    let folder = tempfile::tempdir().unwrap();
    let key = read_key(&keygen(folder.path(), "key", "ed25519"));
    let Statement { key, signature } = sign_host(&key, None, SPKI).unwrap();
    let authorization = Authorization { key, signature };
    assert!(matches!(
        verify_open(&authorization, &host_message(SPKI)),
        Err(StatementError::Signature(SshsigError::OtherNamespace { .. }))
    ));
}

#[test]
fn key_blobs_are_bounded_and_have_one_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let key = read_key(&keygen(folder.path(), "key", "ed25519"));
    let mut blob = key.public_key().to_bytes().unwrap();
    assert!(parse_key(&blob).is_ok());
    blob.push(0);
    assert!(matches!(parse_key(&blob), Err(StatementError::Key(_))));
    assert!(matches!(
        parse_key(&[0; MAX_KEY_LEN + 1]),
        Err(StatementError::KeyTooLong { .. })
    ));
    assert!(matches!(parse_key(b""), Err(StatementError::Key(_))));
}

#[test]
fn deeply_nested_certificates_are_refused_without_recursion() {
    let tower = tower_of_certificates(MAX_KEY_LEN - 300);
    assert!((MAX_KEY_LEN / 2..=MAX_KEY_LEN).contains(&tower.len()));
    let verdict = on_a_small_stack(move || parse_key(&tower).map(|_| ()));
    assert!(matches!(verdict, Err(StatementError::Key(_))), "{verdict:?}");
}

#[test]
fn host_keys_are_read_in_all_formats_that_sshd_reads() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, kind, format) in [
        ("openssh-ed25519", "ed25519", None),
        ("openssh-rsa", "rsa", None),
        ("pem-rsa", "rsa", Some("PEM")),
        ("pkcs8-rsa", "rsa", Some("PKCS8")),
        ("pkcs8-ecdsa", "ecdsa", Some("PKCS8")),
        ("pem-ecdsa", "ecdsa", Some("PEM")),
    ] {
        let path = keygen(folder.path(), name, kind);
        if let Some(format) = format {
            ssh_keygen(&["-q", "-p", "-N", "", "-m", format, "-f", path.to_str().unwrap()]);
        }
        paths.push(path);
    }
    let (keys, warnings) = load_host_keys(&paths, &[]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(keys.len(), paths.len());
    for key in keys {
        let public = PublicKey::read_openssh_file(key.path.with_extension("pub")).unwrap();
        let [statement] = &key.statements(SPKI).unwrap()[..] else {
            panic!("one statement")
        };
        assert_eq!(verify_host(statement, SPKI).unwrap().key, *public.key_data());
    }
}

#[test]
fn host_certificates_find_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host, other) = three_keys(folder.path());
    certify(&ca, &host, &["-h", "-n", "a"]);
    let beside = folder.path().join("host-cert.pub");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::copy(&beside, &elsewhere).unwrap();
    certify(&ca, &host, &["-h", "-n", "b"]);
    let (keys, warnings) = load_host_keys(std::slice::from_ref(&host), &[elsewhere.clone(), beside]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(keys[0].certificates.len(), 2);
    assert_eq!(keys[0].statements(SPKI).unwrap().len(), 3);

    let (_, warnings) = load_host_keys(&[other], &[elsewhere]);
    assert!(matches!(warnings[..], [HostKeyWarning::StrayCertificate { .. }]));
}

#[test]
fn host_keys_that_cannot_be_used_are_left_out_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let good = keygen(folder.path(), "good", "ed25519");
    let open = keygen(folder.path(), "open", "ed25519");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let locked = keygen(folder.path(), "locked", "ed25519");
    ssh_keygen(&["-q", "-p", "-N", "secret", "-f", locked.to_str().unwrap()]);
    let locked_pem = keygen(folder.path(), "locked-pem", "rsa");
    ssh_keygen(&[
        "-q",
        "-p",
        "-N",
        "secret",
        "-m",
        "PEM",
        "-f",
        locked_pem.to_str().unwrap(),
    ]);
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "no key\n").unwrap();
    std::fs::set_permissions(&garbage, PermissionsExt::from_mode(0o600)).unwrap();
    let short = folder.path().join("short");
    ssh_keygen(&["-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", short.to_str().unwrap()]);

    let absent = folder.path().join("absent");
    let (future, public) = (future_key(folder.path()), good.with_extension("pub"));
    let paths = [
        good.clone(),
        good,
        open,
        locked,
        locked_pem,
        garbage,
        short,
        future,
        public,
        absent,
    ];
    let (keys, warnings) = load_host_keys(&paths, &[]);
    assert_eq!(keys.len(), 1);
    use HostKeyWarning as W;
    assert!(
        matches!(
            warnings[..],
            [
                W::Unprotected { mode: 0o644, .. },
                W::Encrypted { .. },
                W::Encrypted { .. },
                W::NotAKey { .. },
                W::CannotSign { .. },
                W::UnsupportedType { .. },
                W::PublicOnly { .. },
                W::Read { .. }
            ]
        ),
        "{warnings:?}"
    );
}

/// A public key of a type that is not supported.
fn future_key(folder: &Path) -> PathBuf {
    let (path, blob) = (folder.join("future.pub"), opaque_blob("ssh-mldsa44-ed25519"));
    let text = Base64::encode_string(&blob);
    std::fs::write(&path, format!("ssh-mldsa44-ed25519 {text}\n")).unwrap();
    path
}

fn three_keys(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let make = |name| keygen(folder, name, "ed25519");
    (make("ca"), make("host"), make("other"))
}

fn keygen(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let path = folder.join(name);
    ssh_keygen(&["-q", "-t", kind, "-N", "", "-f", path.to_str().unwrap()]);
    path
}

fn certify(ca: &Path, key: &Path, options: &[&str]) -> Certificate {
    let (ca, public) = (ca.to_str().unwrap(), key.with_extension("pub"));
    ssh_keygen(&[&["-q", "-s", ca, "-I", "id"], options, &[public.to_str().unwrap()]].concat());
    let path = format!("{}-cert.pub", key.display());
    Certificate::read_file(Path::new(&path)).unwrap()
}

fn ssh_keygen(arguments: &[&str]) {
    let done = Command::new("ssh-keygen").args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}
