//! Control sockets and their clients.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::SocketType;

use super::*;
use crate::local_socket;
use crate::tasks::Tasks;
use crate::wire::SessionId;

const LONG: Duration = Duration::from_secs(5);

#[derive(Default)]
struct FakeHandler {
    sessions: usize,
    paths: usize,
    ended: Mutex<Vec<KillRequest>>,
}

impl ControlHandler for FakeHandler {
    fn report(&self) -> Boxed<'_, Report> {
        let session = |number: usize| SessionReport::gone(SessionId::new((number as u128).to_be_bytes()), Half::Server);
        Box::pin(std::future::ready(Report {
            sessions: (0..self.sessions).map(session).collect(),
            relay: (self.paths > 0).then(|| relay(self.paths)),
        }))
    }

    fn end(&self, kill: &KillRequest) -> Vec<String> {
        self.ended.lock().unwrap().push(kill.clone());
        kill.sessions.clone()
    }
}

fn relay(paths: usize) -> RelayReport {
    let path = |number: usize| PathReport {
        peer: SocketAddr::from(([192, 0, 2, 7], number as u16)),
        transport: "quic".to_owned(),
        host_key: "SHA256:".to_owned() + &"x".repeat(43),
        bytes_up: u64::MAX,
        bytes_down: u64::MAX,
        age_ms: u64::MAX,
    };
    RelayReport {
        pid: 1,
        udp: Vec::new(),
        tls: Vec::new(),
        registered: 1,
        splices: 9999,
        bytes_up: 0,
        bytes_down: 0,
        paths: (0..paths).map(path).collect(),
    }
}

fn open(folder: &Path, handler: FakeHandler) -> (Arc<FakeHandler>, Tasks) {
    let socket = ControlSocket::open(folder, "client-1").unwrap();
    let (handler, tasks) = (Arc::new(handler), Tasks::new());
    tasks.spawn(
        "control socket",
        socket.run(Arc::clone(&handler) as Arc<dyn ControlHandler>),
    );
    (handler, tasks)
}

fn private() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn connection(folder: &Path) -> std::os::fd::OwnedFd {
    match control_sockets(folder).pop() {
        Some(FoundSocket::Open { connection, pid }) => {
            assert_eq!(pid, Some(std::process::id()));
            connection
        }
        other => panic!("a control socket is open: {other:?}"),
    }
}

#[tokio::test]
async fn everything_that_is_there_is_told() {
    let folder = private();
    let (_shop, _tasks) = open(
        folder.path(),
        FakeHandler {
            sessions: 1000,
            ..FakeHandler::default()
        },
    );
    let answers = send_request(connection(folder.path()), &Request::Status, LONG)
        .await
        .unwrap();
    assert_eq!(answers.len(), 1000);
    let Response::Session(first) = &answers[0] else {
        panic!("a session")
    };
    assert_eq!(first.id, "0".repeat(32));
}

/// All paths in one line would be too long.
#[tokio::test]
async fn a_relay_tells_each_of_its_paths_in_a_line_after_its_own() {
    let folder = private();
    let (_shop, _tasks) = open(
        folder.path(),
        FakeHandler {
            paths: 1000,
            ..FakeHandler::default()
        },
    );
    let answers = send_request(connection(folder.path()), &Request::Status, LONG)
        .await
        .unwrap();
    let told = relay(1000);
    let paths = told.paths.iter().cloned().map(Response::Path);
    let alone = Response::Relay(RelayReport {
        paths: Vec::new(),
        ..told.clone()
    });
    assert_eq!(answers, [alone].into_iter().chain(paths).collect::<Vec<_>>());
}

#[tokio::test]
async fn sessions_are_told_to_end() {
    let folder = private();
    let (handler, _tasks) = open(folder.path(), FakeHandler::default());
    let kill = KillRequest {
        sessions: vec!["1".to_owned()],
        only_detached: true,
    };
    let answers = send_request(connection(folder.path()), &Request::Kill(kill.clone()), LONG)
        .await
        .unwrap();
    assert_eq!(answers, [Response::Ended(vec!["1".to_owned()])]);
    assert_eq!(*handler.ended.lock().unwrap(), [kill]);
}

#[tokio::test]
async fn one_who_does_not_answer_holds_nobody_up() {
    let folder = private();
    let _stopped = ControlSocket::open(folder.path(), "client-1").unwrap();
    let asked = send_request(connection(folder.path()), &Request::Status, Duration::from_millis(50)).await;
    assert!(matches!(asked, Err(ControlError::Silent)), "{asked:?}");
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_removed() {
    let folder = private();
    let file = folder.path().join("client-2.sock");
    drop(local_socket::listen(&file, SocketType::STREAM, 1).unwrap());
    assert!(file.exists());
    assert!(control_sockets(folder.path()).is_empty());
    assert!(!file.exists());
}

#[tokio::test]
async fn a_desk_that_closes_leaves_nothing_behind() {
    let folder = private();
    let (_shop, tasks) = open(folder.path(), FakeHandler::default());
    tasks.shutdown(Duration::ZERO).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_not_understood_is_said_to_be() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    ours.write_all(b"{\"from_the_future\":1}\n").await.unwrap();
    serve_connection(theirs, &FakeHandler::default()).await;
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "\"unsupported\"\n\"done\"\n");
}

#[test]
fn there_is_no_desk_where_others_may_write() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = ControlSocket::open(folder.path(), "client-1").unwrap_err();
    assert!(
        matches!(refused, super::control_socket::OpenSocketError::NotOurs { .. }),
        "{refused}"
    );
}
