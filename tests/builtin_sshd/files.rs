//! sftp, scp and rsync.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Server, assert_success, noise, run_with_input, text};

fn sftp(server: &Server, batch: &str) -> Output {
    let mut command = server.command("sftp");
    command.args(["-b", "-", "target"]);
    run_with_input(command, batch.as_bytes())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn sftp_puts_and_gets_big_files_byte_for_byte() {
    let server = Server::start();
    let (local, remote, back) = (server.path("local"), server.path("remote"), server.path("back"));
    // Not a multiple of any packet.
    fs::write(&local, noise(64 * 1024 * 1024 + 12345)).unwrap();
    let (local_name, remote_name, back_name) = (local.display(), remote.display(), back.display());
    let output = sftp(
        &server,
        &format!("put {local_name} {remote_name}\nget {remote_name} {back_name}\n"),
    );
    assert_success(&output);
    assert!(fs::read(&local).unwrap() == fs::read(&remote).unwrap());
    assert!(fs::read(&local).unwrap() == fs::read(&back).unwrap());
}

#[test]
fn sftp_does_to_files_what_it_is_asked() {
    let server = Server::start();
    let folder = server.path("folder");
    let inside = folder.display();
    fs::write(server.path("local"), "content").unwrap();
    fs::set_permissions(server.path("local"), fs::Permissions::from_mode(0o640)).unwrap();
    let local = server.path("local");
    let local = local.display();
    let batch = format!(
        "mkdir {inside}\nput -p {local} {inside}/a\nput {local} {inside}/b\nchmod 600 {inside}/b\n\
         rename {inside}/b {inside}/c\nln -s a {inside}/link\nln {inside}/a {inside}/hard\n\
         mkdir {inside}/gone\nrmdir {inside}/gone\nput {local} {inside}/rm\nrm {inside}/rm\n\
         ls -l {inside}\ncd {inside}\npwd\ndf {inside}\n"
    );
    let output = sftp(&server, &batch);
    assert_success(&output);
    let said = text(&output.stdout);
    assert!(
        said.lines()
            .any(|line| line.starts_with("-rw-r-----") && line.ends_with(" a")),
        "{said}"
    );
    assert!(
        said.lines()
            .any(|line| line.starts_with("lrwx") && line.ends_with(" link")),
        "{said}"
    );
    assert!(said.contains(&format!("Remote working directory: {inside}")), "{said}");
    assert_eq!(mode(&folder.join("a")), 0o640);
    assert_eq!(mode(&folder.join("c")), 0o600);
    assert_eq!(fs::read_link(folder.join("link")).unwrap(), Path::new("a"));
    assert_eq!(fs::metadata(folder.join("a")).unwrap().nlink(), 2);
    assert_eq!(
        fs::metadata(folder.join("a")).unwrap().mtime(),
        fs::metadata(server.path("local")).unwrap().mtime()
    );
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "c", "hard", "link"]);
}

#[test]
fn sftp_lists_a_folder_of_a_thousand_files() {
    let server = Server::start();
    let folder = server.path("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..1000 {
        fs::write(folder.join(format!("file-{number:04}")), "").unwrap();
    }
    let output = sftp(&server, &format!("ls -1 {}\n", folder.display()));
    assert_success(&output);
    assert_eq!(
        text(&output.stdout)
            .lines()
            .filter(|line| line.contains("file-"))
            .count(),
        1000
    );
}

#[test]
fn sftp_says_why_it_cannot() {
    let server = Server::start();
    let output = sftp(&server, &format!("get {}/missing\n", server.path("nowhere").display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not found"), "{}", text(&output.stderr));
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::write(root.join("deep/er/noise"), noise(3 * 1024 * 1024 + 1)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn assert_same_tree(one: &Path, other: &Path) {
    let output = Command::new("diff").arg("-r").arg(one).arg(other).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(mode(&one.join("run")), mode(&other.join("run")));
}

fn scp_both_ways(legacy: &[&str]) {
    let server = Server::start();
    tree(&server.path("tree"));
    let scp = |from: &str, to: &str| {
        let mut command = server.command("scp");
        assert_success(
            &command
                .args(legacy)
                .args(["-q", "-r", "-p", from, to])
                .output()
                .unwrap(),
        );
    };
    let (there, back) = (server.path("there"), server.path("back"));
    scp(
        server.path("tree").to_str().unwrap(),
        &format!("target:{}", there.display()),
    );
    scp(&format!("target:{}", there.display()), back.to_str().unwrap());
    assert_same_tree(&server.path("tree"), &there);
    assert_same_tree(&server.path("tree"), &back);
}

#[test]
fn scp_copies_trees_both_ways() {
    scp_both_ways(&[]);
}

#[test]
fn scp_of_the_old_protocol_does_too() {
    scp_both_ways(&["-O"]);
}

#[test]
fn rsync_copies_trees_both_ways() {
    let server = Server::start();
    tree(&server.path("tree"));
    let rsync = |from: String, to: String| {
        let mut command = Command::new("rsync");
        command.args([
            "-a",
            "-e",
            &format!("ssh -F {}", server.path("config").display()),
            &from,
            &to,
        ]);
        assert_success(&command.output().unwrap());
    };
    let (there, back) = (server.path("there"), server.path("back"));
    rsync(
        format!("{}/", server.path("tree").display()),
        format!("target:{}/", there.display()),
    );
    rsync(format!("target:{}/", there.display()), format!("{}/", back.display()));
    assert_same_tree(&server.path("tree"), &there);
    assert_same_tree(&server.path("tree"), &back);
}
