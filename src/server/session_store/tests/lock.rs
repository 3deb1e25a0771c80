//! Two processes and one session store. The other process is this test program, started again.

use super::super::lock::NAME;
use super::*;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

const IS_OTHER: &str = "BOWLINE_TEST_OTHER_WORKER";

/// The other process: takes the lock on its standard input, reports that, and holds it as long as its parent lives.
#[tokio::test]
async fn the_other_worker() {
    if std::env::var_os(IS_OTHER).is_none() {
        return;
    }
    let lock = Arc::new(rustix::stdio::stdin().try_clone_to_owned().unwrap());
    let store: Arc<dyn FdStore> = Arc::new(MapStore::default());
    let opened = SessionStore::open(store, vec![(NAME.to_owned(), lock)]).await;
    let said: &[u8] = if opened.is_ok() {
        b"\n<owned>\n"
    } else {
        b"\n<refused>\n"
    };
    rustix::io::write(rustix::stdio::stderr(), said).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::thread::park();
}

/// Starts it, and waits for its report.
fn other(lock: OwnedFd) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "server::session_store::tests::lock::the_other_worker",
            "--nocapture",
        ])
        .env(IS_OTHER, "1")
        .stdin(lock)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = said.into_iter().find(|line| line.starts_with('<'));
    (child, said.expect("it says one or the other"))
}

#[tokio::test]
async fn a_vault_has_one_owner_until_that_is_dead() {
    let file = memory_file("lock", 1).unwrap();
    let (mut child, said) = other(file.try_clone().unwrap());
    assert_eq!(said, "<owned>");
    let store = Arc::new(MapStore::default());
    store.insert(NAME, vec![Arc::new(file)]);
    store.insert("0", vec![Arc::new(memory_file("session", 1).unwrap())]);
    let refused = SessionStore::open(Arc::clone(&store) as Arc<dyn FdStore>, store.stored()).await;
    assert!(matches!(refused.err(), Some(SessionStoreError::Owned)));
    assert_eq!(store.names(), ["0", NAME], "nothing was touched");
    child.kill().unwrap();
    child.wait().unwrap();
    let (_vault, recovery) = opened(&store).await;
    assert_eq!(recovery.lost.len(), 1);
}

#[tokio::test]
async fn the_owner_keeps_its_lock_while_sessions_come_and_go() {
    let store = Arc::new(MapStore::default());
    let (session_store, kept, _sshd) = session(&store).await;
    session_store.forget(kept.slot);
    let found = store.stored().into_iter().find(|(name, _)| name == NAME);
    let info = format!("/proc/self/fdinfo/{}", found.unwrap().1.as_raw_fd());
    let info = std::fs::read_to_string(info).unwrap();
    assert!(info.contains("POSIX  ADVISORY  WRITE"), "{info}");
}
