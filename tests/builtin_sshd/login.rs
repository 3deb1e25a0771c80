//! Who gets in.

use crate::harness::{Server, assert_success, text};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

#[test]
fn the_users_key_is_accepted_at_the_unsigned_query_and_logs_in() {
    let server = Server::start();
    let output = server.run(&["-v"], "true", b"");
    assert_success(&output);
    assert!(
        text(&output.stderr).contains("Server accepts key"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_strangers_key_is_refused_at_the_unsigned_query() {
    let server = Server::start();
    let output = server.command("ssh").args(["-v", "stranger", "true"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{said}");
    assert!(said.contains("Permission denied (publickey)"), "{said}");
    assert!(
        said.contains("Offering public key") && !said.contains("Server accepts key"),
        "{said}"
    );
}

#[test]
fn strangers_who_connect_and_say_nothing_keep_nobody_out() {
    let server = Server::start();
    let mut held: Vec<_> = (0..150).map(|_| connect_from(2, server.address)).collect();
    assert_success(&server.run(&[], "true", b""));
    // Those who came first made way; the last are waited for.
    assert!(is_closed(&mut held[0]));
    assert!(!is_closed(held.last_mut().unwrap()));
}

/// From another address of loopback: to the server, another machine.
fn connect_from(host: u8, server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
    socket.bind(&from.into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.into()
}

/// Whether the server has closed it, all that it said before read.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn another_users_name_is_refused_like_an_unknown_key() {
    let server = Server::start();
    let output = server.run(&["-v", "-l", "daemon"], "true", b"");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(255));
    assert!(said.contains("Permission denied (publickey)"), "{said}");
    assert!(!said.contains("Server accepts key"), "{said}");
}

#[test]
fn clients_set_only_listed_variables_and_cannot_change_the_logins_own() {
    let server = Server::start();
    let set = "SetEnv=LC_ALL=C TEST_ONE=1 SECRET=2 HOME=/nowhere";
    let output = server.run(
        &["-o", set],
        "echo $LC_ALL-$TEST_ONE-$SECRET-$HOME-$SSH_CONNECTION",
        b"",
    );
    let home = std::env::var("HOME").unwrap();
    let line = text(&output.stdout);
    assert!(line.starts_with(&format!("C-1--{home}-127.0.0.1 ")), "{line}");
    assert!(
        line.trim_end()
            .ends_with(&format!(" 127.0.0.1 {}", server.address.port())),
        "{line}"
    );
}

#[test]
fn an_agent_can_be_reached_from_the_session_and_leaves_nothing_behind() {
    let server = Server::start();
    let socket = server.path("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::harness::eventually("the agent listens", || socket.exists());
    let mut add = std::process::Command::new("ssh-add");
    let added = add
        .arg("-q")
        .arg(server.path("user"))
        .env("SSH_AUTH_SOCK", &socket)
        .status()
        .unwrap();
    let with_agent = format!("IdentityAgent={}", socket.display());
    let remote = "ssh-add -l && stat -c %a $(dirname $SSH_AUTH_SOCK) && echo $SSH_AUTH_SOCK";
    let output = server.run(&["-A", "-o", &with_agent], remote, b"");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(added.success());
    assert_success(&output);
    let said = text(&output.stdout);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("ED25519"), "{said}");
    assert_eq!(lines[1], "700");
    crate::harness::eventually("the socket is gone", || !std::path::Path::new(lines[2]).exists());
}
