//! What the processes of these tests do: the test binary starts itself as a keeper, which starts it as a worker.

use std::{
    fs,
    io::{Seek, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use super::super::*;
use crate::server::{
    handover::{FdStore as _, disconnect},
    ipc::{Reply, Request, Response, fd_bundle, seqpacket},
    sshd_config::SshdWarning,
    worker::{inheritance::WorkerInheritance, keeper_client::KeeperClient},
    worker_user::choose_worker_user,
};
use crate::tasks::Tasks;

/// Environment variables that tell a test process its role, and where to report.
pub(super) const ROLE: &str = "BOWLINE_TEST_KEEPER_ROLE";
pub(super) const REPORT_TO: &str = "BOWLINE_TEST_KEEPER_REPORT_TO";
/// The path of the program, and of the file that stands in for its configuration.
pub(super) const PROGRAM: &str = "BOWLINE_TEST_KEEPER_PROGRAM";
pub(super) const CONFIGURATION: &str = "BOWLINE_TEST_KEEPER_CONFIGURATION";

/// The most descriptors that these keepers store.
pub(super) const STORE_LIMIT: usize = 3000;

/// 1 MiB that no accident could reproduce, followed by the configuration.
fn settings() -> std::io::Result<Vec<u8>> {
    let noise = (0..1024 * 1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    let configuration = fs::read(std::env::var_os(CONFIGURATION).unwrap())?;
    Ok(noise.chain(configuration).collect())
}

pub(super) fn test_arguments(name: &str) -> Vec<std::ffi::OsString> {
    [
        "--exact",
        &format!("server::supervisor::tests::roles::{name}"),
        "--nocapture",
    ]
    .map(Into::into)
    .into()
}

/// Not a test of its own: the keeper's process.
#[test]
fn role_keeper() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let keeper = match seqpacket::is_seqpacket(rustix::stdio::stdin()) {
        true => {
            let handover = Handover::take().unwrap();
            let listeners = handover.listeners().iter().map(Listener::try_clone);
            // As if a configuration could not be read.
            let plan = settings().map(|settings| plan(listeners.map(Result::unwrap).collect(), settings));
            Keeper::resume(handover, plan.ok(), request_handler())
        }
        false => {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let listeners = vec![Listener::Udp(udp), Listener::Tcp(tcp)];
            Keeper::start(plan(listeners, settings().unwrap()), request_handler())
        }
    };
    end(keeper)
}

/// Not a test of its own: a keeper that a worker starts.
#[test]
fn role_restarted() {
    if std::env::var_os(ROLE).is_some() {
        let handover = Handover::take().unwrap();
        assert_eq!(handover.handler_settings(), b"answers");
        end(Keeper::resume(handover, None, request_handler()));
    }
}

fn end(keeper: Result<Keeper, KeeperError>) {
    std::process::exit(match keeper.and_then(Keeper::run) {
        Ok(KeeperEnd::Stopped | KeeperEnd::Replaced) => 0,
        Ok(KeeperEnd::WorkerGaveUp { code }) => code,
        Err(_) => 99,
    })
}

fn plan(listeners: Vec<Listener>, worker_settings: Vec<u8>) -> WorkerPlan {
    let role = std::env::var(ROLE).unwrap();
    let sidecar = role.contains("sidecar").then(|| SidecarPlan {
        program: "/bin/sleep".into(),
        args: vec!["1000".into()],
        stdin: None,
    });
    WorkerPlan {
        program: std::env::var_os(PROGRAM).unwrap().into(),
        args: test_arguments("role_worker"),
        keeper_args: test_arguments("role_restarted"),
        reload_args: Some(test_arguments("role_keeper")),
        listeners,
        worker_settings,
        handler_settings: b"answers".into(),
        store_limit: STORE_LIMIT,
        user: choose_worker_user(None).unwrap(),
        sidecar,
        control_listener: None,
        manager: ServiceManager::default(),
        client_address_name: String::new(),
        addresses: None,
        stops_when_idle: false,
        grace: Duration::from_millis(if role.contains("impatient") { 300 } else { 30_000 }),
    }
}

fn request_handler() -> RequestHandler {
    Box::new(|request| {
        Reply::from(match request {
            Request::ConnectToSshd { .. } | Request::StopIdle => Response::Unavailable,
            Request::OpenKeyFile => return open_file(),
            Request::MayOpen => Response::MayOpen { obstacle: None },
            Request::SshdLimits { user, .. } if user == "unasked" => Response::Unavailable,
            Request::SshdLimits {
                user,
                local_address,
                local_port,
            } => {
                let value = format!("{user} {local_address} {local_port}");
                Response::SshdLimits {
                    limits: vec![SshdWarning::ChannelTimeout { value }],
                }
            }
        })
    })
}

/// Not a test of its own: the worker's process.
#[test]
fn role_worker() {
    let Some(report_to) = std::env::var_os(REPORT_TO) else {
        return;
    };
    let report_to: SocketAddr = report_to.to_str().unwrap().parse().unwrap();
    let inheritance = WorkerInheritance::take().unwrap();
    let socket = udp_of(&inheritance);
    socket.connect(report_to).unwrap();
    let configuration = String::from_utf8_lossy(&inheritance.worker_settings[1024 * 1024..]).into_owned();
    let started = format!("started {} {configuration}", std::process::id());
    socket.send(started.as_bytes()).unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work(inheritance));
}

async fn work(inheritance: WorkerInheritance) {
    let tasks = Tasks::new();
    let kept = inheritance.stored.clone();
    let listeners = describe_listeners(&inheritance.listeners);
    let socket = udp_of(&inheritance);
    let keeper = inheritance.control.connect(&tasks).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let deaf = std::env::var(ROLE).unwrap().contains("deaf");
    loop {
        let mut order = [0; 1000];
        let length = tokio::select! {
            length = socket.recv(&mut order) => length.unwrap(),
            () = async { keeper.stop_token().cancelled().await }, if !deaf => {
                let stop = keeper.how_to_stop();
                socket.send(format!("stopping {stop:?}").as_bytes()).await.unwrap();
                if std::env::var(ROLE).unwrap().contains("slow") {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                if stop == Some(Stop::HandOver) {
                    keeper.hand_over().await;
                }
                std::process::exit(0);
            }
        };
        let order = String::from_utf8(order[..length].to_vec()).unwrap();
        let (order, argument) = order.split_once(' ').unwrap_or((&order, ""));
        let report = match order {
            "exit" => std::process::exit(argument.parse().unwrap()),
            "status" => fs::read_to_string("/proc/thread-self/status").unwrap(),
            "stdin" => fs::read_link("/proc/self/fd/0").unwrap().display().to_string(),
            "ask" => format!("{:?}", keeper.request(request(argument)).await.unwrap().response),
            "open" => read_all(keeper.request(Request::OpenKeyFile).await.unwrap()),
            "store" => store(&keeper, argument).await,
            "remove" => {
                // A barrier: returns after the removal was handled.
                keeper.remove(argument);
                keeper.put("barrier", Vec::new()).await.unwrap();
                "removed".to_owned()
            }
            "kept" => describe(&kept),
            "listeners" => listeners.clone(),
            "ready" => {
                keeper.ready();
                keeper.put("barrier", Vec::new()).await.unwrap();
                "ready".to_owned()
            }
            "babble" => {
                rustix::net::send(babble_socket(), b"?", rustix::net::SendFlags::empty()).unwrap();
                continue;
            }
            _ => format!("what is {order}"),
        };
        socket.send(report.as_bytes()).await.unwrap();
    }
}

fn udp_of(inheritance: &WorkerInheritance) -> UdpSocket {
    match &inheritance.listeners[0] {
        Listener::Udp(socket) => socket.try_clone().unwrap(),
        Listener::Tcp(_) => panic!("in another order than that of the plan"),
    }
}

/// Each socket's address and inode.
fn describe_listeners(listeners: &[Listener]) -> String {
    let each = listeners.iter().map(|listener| {
        let inode = rustix::fs::fstat(listener).unwrap().st_ino;
        format!("{} {inode}", listener.endpoint().unwrap())
    });
    each.collect::<Vec<_>>().join(", ")
}

/// `NAME CONTENT`: a memfd with that content; `NAME socket`, `NAME fresh`: descriptors that may not be stored; `NAME
/// *COUNT`: many; `NAME connection`: a TCP connection; `NAME turned`: one that is made to listen afterwards.
async fn store(keeper: &KeeperClient, what: &str) -> String {
    let (name, content) = what.split_once(' ').unwrap();
    let connected = Arc::new(OwnedFd::from(connection()));
    let memory = |content: &str| Arc::new(fd_bundle::sealed_memory("test", content.as_bytes()).unwrap());
    let descriptors = match (content, content.strip_prefix('*')) {
        ("socket", _) => vec![vec![Arc::new(
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into(),
        )]],
        ("fresh", _) => vec![vec![Arc::new(fresh_stream())]],
        ("connection" | "turned", _) => vec![vec![Arc::clone(&connected)]],
        (_, Some(count)) => vec![vec![memory("many"); MAX_AT_ONCE]; count.parse::<usize>().unwrap() / MAX_AT_ONCE],
        _ => vec![vec![memory(content)]],
    };
    for batch in descriptors {
        if let Err(error) = keeper.put(name, batch).await {
            return format!("{error:?}");
        }
    }
    if content == "turned" {
        disconnect(&*connected);
        rustix::net::listen(&connected, 1).unwrap();
    }
    "stored".to_owned()
}

/// The other end stays open as long as this process.
fn connection() -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::mem::forget(listener.accept().unwrap());
    connection
}

fn fresh_stream() -> OwnedFd {
    let kind = rustix::net::SocketType::STREAM;
    rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap()
}

const MAX_AT_ONCE: usize = 100;

/// `NAME=CONTENT ..`; several of the same name and content are counted.
fn describe(kept: &[(String, Arc<OwnedFd>)]) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for (name, kept) in kept {
        let content = match rustix::net::getpeername(kept) {
            Ok(_) => b"connection".to_vec(),
            Err(_) => fd_bundle::read_sealed(kept.as_fd(), 100).unwrap().to_vec(),
        };
        *counts
            .entry(format!("{name}={}", String::from_utf8_lossy(&content)))
            .or_default() += 1;
    }
    let described = counts.into_iter().map(|(what, count)| match count {
        1 => what,
        _ => format!("{what} x{count}"),
    });
    described.collect::<Vec<_>>().join(" ")
}

/// Instead of a file of keys: a file that only the keeper can read, just written.
fn open_file() -> Reply {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(format!("by {}", std::process::id()).as_bytes()).unwrap();
    file.rewind().unwrap();
    Reply {
        response: Response::KeyFile,
        descriptor: Some(file.into()),
    }
}

fn read_all(reply: Reply) -> String {
    assert_eq!(reply.response, Response::KeyFile);
    std::io::read_to_string(fs::File::from(reply.descriptor.unwrap())).unwrap()
}

fn request(user: &str) -> Request {
    Request::SshdLimits {
        user: user.to_owned(),
        local_address: "2001:db8::7".parse().unwrap(),
        local_port: 22,
    }
}

/// Finds the control socket of this worker.
fn babble_socket() -> OwnedFd {
    let sockets = (3..100).filter_map(|number| {
        // SAFETY: only borrowed for this expression; a closed one fails with EBADF.
        #[allow(unsafe_code)]
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        fd.try_clone_to_owned().ok()
    });
    sockets
        .into_iter()
        .find(|fd| seqpacket::is_seqpacket(fd.as_fd()))
        .unwrap()
}
