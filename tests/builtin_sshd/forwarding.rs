//! Forwarded connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Server, assert_success, echo_server, echoed, echoed_tcp, noise, run_with_input, text, user_name};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_local_port_reaches_through_with_both_ends_apart() {
    let server = Server::start();
    let socket = server.path("socket");
    let forward = format!("{}:127.0.0.1:{}", socket.display(), echo_server());
    let client = server.start_ssh(&["-L", &forward], "echo ready; cat");
    assert_eq!(client.first_line, "ready");
    let stream = UnixStream::connect(&socket).unwrap();
    let end = stream.try_clone().unwrap();
    let answer = echoed(
        stream,
        move || end.shutdown(std::net::Shutdown::Write).unwrap(),
        b"through",
    );
    assert_eq!(answer, "hello through");
}

#[test]
fn stdin_and_stdout_can_be_forwarded() {
    let server = Server::start();
    let mut command = server.command("ssh");
    command.args(["-W", &format!("127.0.0.1:{}", echo_server()), "target"]);
    let output = run_with_input(command, b"through");
    assert_success(&output);
    assert_eq!(text(&output.stdout), "hello through");
}

#[test]
fn a_jump_through_the_server_reaches_a_server() {
    let server = Server::start();
    let output = server.run(&["-J", "jump"], "cat; exit 5", b"jumped");
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("jumped", Some(5))
    );
}

#[test]
fn socks_reaches_through_and_says_when_nobody_listens() {
    let server = Server::start();
    let (socks, nobody) = (free_port(), free_port());
    let client = server.start_ssh(&["-D", &format!("127.0.0.1:{socks}")], "echo ready; cat");
    assert_eq!(client.first_line, "ready");
    let ask = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", socks)).unwrap();
        stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1]).unwrap();
        stream.write_all(&port.to_be_bytes()).unwrap();
        let mut answer = Vec::new();
        // Two bytes for the method and ten for the request, or the end.
        let _ = Read::by_ref(&mut stream).take(12).read_to_end(&mut answer);
        (stream, answer)
    };
    let (stream, answer) = ask(echo_server());
    assert_eq!(answer[..4], [5, 0, 5, 0]);
    assert_eq!(echoed_tcp(stream, b"socks"), "hello socks");
    assert_eq!(
        ask(nobody).1.len(),
        2,
        "a refused connection is closed after the method"
    );
}

#[test]
fn a_remote_port_comes_to_the_client_until_it_is_taken_back() {
    let server = Server::start();
    let control = format!("ControlPath={}", server.path("control").display());
    let master = server.start_ssh(&["-M", "-o", &control], "echo ready; cat");
    assert_eq!(master.first_line, "ready");
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", echo_server());
    let tell_master = |what: &str| {
        let mut command = server.command("ssh");
        command.args(["-o", &control, "-O", what, "-R", &forward, "target"]);
        assert_success(&command.output().unwrap());
    };
    tell_master("forward");
    assert_eq!(
        echoed_tcp(TcpStream::connect(("127.0.0.1", port)).unwrap(), b"remote"),
        "hello remote"
    );
    tell_master("cancel");
    crate::harness::eventually("the port is closed", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}

#[test]
fn a_remote_port_can_be_any_free_one() {
    let server = Server::start();
    let forward = format!("0:127.0.0.1:{}", echo_server());
    let mut command = server.ssh(&["-R", &forward], "cat");
    let mut client = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(client.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    let port: u16 = line
        .split(' ')
        .nth(2)
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("{line}"));
    assert_eq!(
        echoed_tcp(TcpStream::connect(("127.0.0.1", port)).unwrap(), b"any"),
        "hello any"
    );
    drop(client.stdin.take());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let status = client.wait().unwrap();
    assert!(status.success(), "{status}: {rest}");
    crate::harness::eventually("the port is closed", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}

/// Trusts every server: there is one.
struct Trusting;

impl russh::client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// Sends through the server, then the end, CLOSE and a goodbye. Before that one answer is waited for: a socket closed
/// with bytes unread resets its connection, and loses some on its own.
async fn send_and_leave(server: &Server, port: u16, bytes: Vec<u8>) {
    let key = russh::keys::PrivateKey::read_openssh_file(server.path("user")).unwrap();
    let key = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let mut client = russh::client::connect(Arc::default(), server.address, Trusting)
        .await
        .unwrap();
    assert!(client.authenticate_publickey(user_name(), key).await.unwrap().success());
    let channel = client
        .channel_open_direct_tcpip("127.0.0.1", u32::from(port), "127.0.0.1", 1)
        .await
        .unwrap();
    channel.data_bytes(bytes).await.unwrap();
    channel.eof().await.unwrap();
    channel.close().await.unwrap();
    let _answered = client.channel_open_session().await.unwrap();
    client
        .disconnect(russh::Disconnect::ByApplication, "", "")
        .await
        .unwrap();
    let _ = client.await;
}

/// Reads all, but slowly: at most 64 KiB in 5 ms.
fn read_slowly(sink: &TcpListener) -> Vec<u8> {
    let mut stream = sink.accept().unwrap().0;
    let (mut received, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    while let count @ 1.. = stream.read(&mut buffer).unwrap() {
        received.extend_from_slice(&buffer[..count]);
        std::thread::sleep(Duration::from_millis(5));
    }
    received
}

#[test]
fn the_last_bytes_of_a_client_that_has_gone_are_still_delivered() {
    let server = Server::start();
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = sink.local_addr().unwrap().port();
    let reader = std::thread::spawn(move || read_slowly(&sink));
    // More than the sockets on the way hold: the client goes while the server still has some.
    let sent = noise(16 * 1024 * 1024);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(send_and_leave(&server, port, sent.clone()));
    let received = reader.join().unwrap();
    assert!(
        received == sent,
        "{} of {} bytes, or others",
        received.len(),
        sent.len()
    );
}
