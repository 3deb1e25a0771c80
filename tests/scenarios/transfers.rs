//! Files that must arrive whole: rsync, scp, sftp, git.

use super::LIMIT;
use crate::support::data::{hash_file, hash_tree, random_file, random_tree};
use crate::support::measured;
use crate::support::process::{Outcome, run};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use std::path::Path;
use std::time::Duration;

/// A folder of mixed files up by rsync, and down again to another place.
pub fn rsync_both_ways(rig: &Rig, size: u64) {
    let (source, remote, back) = (
        rig.ssh.path("rsync-a"),
        rig.ssh.path("rsync-b"),
        rig.ssh.path("rsync-c"),
    );
    random_tree(&source, 1, 12, size);
    let up = run(&mut rig.ssh.rsync(&[slash(&source), at_host(&slash(&remote))]), LIMIT).expect_code(0);
    assert_eq!(hash_tree(&source), hash_tree(&remote), "what rsync has brought up");
    let down = run(&mut rig.ssh.rsync(&[at_host(&slash(&remote)), slash(&back)]), LIMIT).expect_code(0);
    assert_eq!(hash_tree(&source), hash_tree(&back), "what rsync has brought back");
    report("rsync", size, &up, &down);
}

/// One file up by scp, and down again.
pub fn scp_both_ways(rig: &Rig, size: u64) {
    let (source, remote, back) = (rig.ssh.path("scp-a"), rig.ssh.path("scp-b"), rig.ssh.path("scp-c"));
    random_file(&source, 2, size);
    let up = run(&mut rig.ssh.scp(&[text(&source), at_host(&text(&remote))]), LIMIT).expect_code(0);
    assert_eq!(hash_file(&source), hash_file(&remote), "what scp has brought up");
    let down = run(&mut rig.ssh.scp(&[at_host(&text(&remote)), text(&back)]), LIMIT).expect_code(0);
    assert_eq!(hash_file(&source), hash_file(&back), "what scp has brought back");
    report("scp", size, &up, &down);
}

/// One file put and got by sftp in one session.
pub fn sftp_put_and_get(rig: &Rig, size: u64) {
    let (source, remote, back) = (rig.ssh.path("sftp-a"), rig.ssh.path("sftp-b"), rig.ssh.path("sftp-c"));
    random_file(&source, 3, size);
    let batch = format!(
        "put {} {}\nget {} {}\n",
        text(&source),
        text(&remote),
        text(&remote),
        text(&back)
    );
    let outcome = run(&mut rig.ssh.sftp(&batch), LIMIT).expect_code(0);
    assert_eq!(hash_file(&source), hash_file(&remote), "what sftp has put");
    assert_eq!(hash_file(&source), hash_file(&back), "what sftp has got");
    measured("sftp", format_args!("{:.1} MB/s put and get", rate(2 * size, &outcome)));
}

/// A clone, a commit, a push; the pushed commit is what the remote then has, and both ends are sound.
pub fn git_clone_and_push(rig: &Rig, size: u64) {
    let git = |arguments: &[&str]| run(&mut rig.ssh.git(arguments), LIMIT).expect_code(0);
    let (seed, bare, clone) = (
        rig.ssh.path("git-seed"),
        rig.ssh.path("git-bare"),
        rig.ssh.path("git-clone"),
    );
    let (seed, bare, clone) = (text(&seed), text(&bare), text(&clone));
    git(&["init", "-q", &seed]);
    random_tree(&Path::new(&seed).join("tree"), 4, 20, size);
    git(&["-C", &seed, "add", "."]);
    git(&["-C", &seed, "commit", "-qm", "first"]);
    git(&["clone", "-q", "--bare", &seed, &bare]);
    let cloned = git(&["clone", "-q", &at_host(&bare), &clone]);
    assert_eq!(
        hash_tree(&Path::new(&seed).join("tree")),
        hash_tree(&Path::new(&clone).join("tree")),
        "the clone"
    );
    random_file(&Path::new(&clone).join("more"), 5, size);
    git(&["-C", &clone, "add", "."]);
    git(&["-C", &clone, "commit", "-qm", "second"]);
    let pushed = git(&["-C", &clone, "push", "-q", "origin", "HEAD"]);
    let head = |dir: &str| git(&["-C", dir, "rev-parse", "HEAD"]).out();
    assert_eq!(head(&clone), head(&bare), "the pushed commit");
    git(&["-C", &bare, "fsck", "--full", "--strict"]);
    report("git", size, &pushed, &cloned);
}

fn report(what: &str, size: u64, up: &Outcome, down: &Outcome) {
    measured(
        what,
        format_args!("{:.1} MB/s up, {:.1} MB/s down", rate(size, up), rate(size, down)),
    );
}

/// Megabytes a second, start and login included.
fn rate(size: u64, outcome: &Outcome) -> f64 {
    size as f64 / 1e6 / outcome.took.max(Duration::from_millis(1)).as_secs_f64()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// rsync copies the content of a folder whose name ends so.
fn slash(path: &Path) -> String {
    format!("{}/", path.display())
}

fn at_host(path: &str) -> String {
    format!("{HOST}:{path}")
}
