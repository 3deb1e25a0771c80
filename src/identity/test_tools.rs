//! OpenSSH's tools and small replacement programs, for tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use russh::keys::ssh_key::PrivateKey;

use super::private_key;

/// Writes an executable shell script.
pub(crate) fn write_script(path: &Path, body: &str) {
    // Written by another process: a descriptor open for writing here could leak into the child of
    // another test, and running the script would then fail with "text file busy".
    let script = format!("#!/bin/sh\n{body}\n");
    run(
        "sh",
        [
            OsStr::new("-c"),
            "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"".as_ref(),
            "sh".as_ref(),
            script.as_ref(),
            path.as_ref(),
        ],
    );
}

/// Runs a program that must succeed, and returns its standard output.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Reads a private key without a passphrase.
pub(crate) fn read_key(path: &Path) -> PrivateKey {
    private_key::decode(&std::fs::read_to_string(path).unwrap(), None).unwrap()
}

/// Makes a key pair `folder/name` with ssh-keygen. `kind` is for example `ed25519`, `ecdsa-384`,
/// `rsa-2048`.
pub(crate) fn keygen(folder: &Path, name: &str, kind: &str, passphrase: &str) -> PathBuf {
    let path = folder.join(name);
    let (algorithm, bits) = kind
        .split_once('-')
        .map_or((kind, None), |(algorithm, bits)| (algorithm, Some(bits)));
    let mut arguments = vec![
        "-q",
        "-t",
        algorithm,
        "-N",
        passphrase,
        "-C",
        name,
        "-f",
        path.to_str().unwrap(),
    ];
    if let Some(bits) = bits {
        arguments.extend(["-b", bits]);
    }
    run("ssh-keygen", arguments);
    path
}

/// Signs the public key of `key` with the CA at `authority`, and returns the certificate's path.
pub(crate) fn certify(authority: &Path, key: &Path, options: &[&str]) -> PathBuf {
    let mut public = key.as_os_str().to_owned();
    public.push(".pub");
    let mut arguments = vec!["-q", "-s", authority.to_str().unwrap(), "-I", "test"];
    arguments.extend(options);
    arguments.push(public.to_str().unwrap());
    run("ssh-keygen", arguments);
    let mut certificate = key.as_os_str().to_owned();
    certificate.push("-cert.pub");
    certificate.into()
}

/// `TYPE BASE64` of the public key of `key`, without the comment.
pub(crate) fn public_text(key: &Path) -> String {
    let text = std::fs::read_to_string(format!("{}.pub", key.display())).unwrap();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A certificate signed by a certificate signed by a certificate and so on, about `length` bytes
/// long.
pub(crate) fn tower_of_certificates(length: usize) -> Vec<u8> {
    let mut tower = Vec::new();
    while tower.len() < length {
        let mut certificate = Vec::new();
        put_string(&mut certificate, b"ssh-ed25519-cert-v01@openssh.com");
        put_string(&mut certificate, b"nonce");
        put_string(&mut certificate, &[7; 32]);
        // Serial, type, id, principals, valid after and before, options, extensions, reserved.
        certificate.extend([0; 8 + 4 + 4 + 4 + 8 + 8 + 4 + 4 + 4]);
        put_string(&mut certificate, &tower);
        put_string(&mut certificate, b"signature");
        tower = certificate;
    }
    tower
}

/// Runs `task` on a stack that deep recursion would overflow at once.
pub(crate) fn on_a_small_stack<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(128 * 1024);
    thread.spawn(task).unwrap().join().unwrap()
}

/// A public key of a type with this name. The content belongs to no real key.
pub(crate) fn opaque_blob(name: &str) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, name.as_bytes());
    put_string(&mut blob, &[7; 1344]);
    blob
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}
