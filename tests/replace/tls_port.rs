//! The TCP port for TLS beside the one for QUIC: bound once, and kept by whoever follows.

use crate::support::place::{Place, has_open, socket_at};
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::sshd::TestSshd;
use crate::support::wait_for;
use crate::{LIMIT, UNAVAILABLE};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

fn tls(serve: &Serve) -> SocketAddr {
    let address = serve.ready_field("tls").expect("a tls address in the ready line");
    address.parse().expect("ADDR:PORT")
}

#[test]
fn tls_port_is_the_same_socket_after_crashes_reload_and_replacement() {
    let sshd = TestSshd::start();
    let mut serve = Serve::start(
        &sshd,
        ServeOptions::here().argument("--listen-tls").argument("127.0.0.1:0"),
    );
    let address = tls(&serve);
    let socket = socket_at(address).expect("somebody listens");
    // Whoever comes while there is no worker waits for the next one.
    let connect = || TcpStream::connect(address).expect("the port is open");
    let is_with_worker = |serve: &Serve| {
        connect();
        let worker = serve.half().worker();
        let has_it = wait_for(LIMIT, || has_open(worker, &socket).then_some(()));
        assert!(has_it.is_some(), "{}", serve.log());
        assert_eq!(socket_at(address).as_ref(), Some(&socket));
    };
    is_with_worker(&serve);

    let before = serve.half().kill_worker();
    connect();
    serve.half().worker_after(before);
    is_with_worker(&serve);

    serve.reload();
    is_with_worker(&serve);

    let keeper = serve.half().keeper();
    serve.half().kill_keeper();
    serve.half().keeper_after(keeper);
    let before = serve.half().kill_worker();
    serve.half().worker_after(before);
    is_with_worker(&serve);

    // The port for QUIC says whose place is taken; any port for TLS is then the one it has.
    assert!(serve.replace(None, &[]).code.is_some());
    assert_eq!(tls(&serve), address);
    is_with_worker(&serve);
}

#[test]
fn tls_port_comes_and_goes_with_the_configuration() {
    let sshd = TestSshd::start();
    let scratch = crate::support::Scratch::new();
    let config = scratch.join("bowline.toml");
    fs::write(&config, "").expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here().argument("--config").argument(&config));
    assert_eq!(serve.ready_field("tls"), None);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, Place::free_port()));
    fs::write(&config, format!("[serve]\nlisten-tls = \"{address}\"\n")).expect("the scratch folder");
    serve.reload();
    let socket = socket_at(address).expect("somebody listens");
    assert!(has_open(serve.half().worker(), &socket));
    fs::write(&config, "").expect("the scratch folder");
    serve.reload();
    let is_free = || socket_at(address).is_none().then_some(());
    assert!(wait_for(LIMIT, is_free).is_some(), "{}", serve.log());
}

#[test]
fn whoever_has_the_tls_port_is_named() {
    let rig = Rig::bowline();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let other = TcpListener::bind(anywhere).expect("a port");
    let taken = other.local_addr().expect("a bound socket");
    let arguments = ["--listen-tls", &taken.to_string()];
    let mut second = rig.serve().another(anywhere, &arguments);
    let said = run(&mut second, LIMIT).expect_code(UNAVAILABLE).err();
    assert!(
        said.starts_with(&format!("error: cannot listen on tcp {taken}: ")),
        "{said}"
    );
    assert!(
        said.contains(&format!("\n  process {} (", std::process::id())),
        "{said}"
    );
    assert!(said.contains("choose another port with --listen-tls\n"), "{said}");
    drop(other);

    let sshd = TestSshd::start();
    let options = ServeOptions::here().argument("--listen-tls").argument("127.0.0.1:0");
    let first = Serve::start(&sshd, options);
    let (taken, keeper) = (tls(&first), first.half().keeper());
    let arguments = ["--listen-tls", &taken.to_string()];
    // Its port for QUIC is another, its port for TLS is not.
    let beside = SocketAddr::from((Ipv4Addr::LOCALHOST, Place::free_port()));
    let said = run(&mut first.another(beside, &arguments), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], format!("error: another bowline serves on tcp {taken}"));
    assert!(lines[1].starts_with(&format!("  process {keeper}, ")), "{said}");
    assert_eq!(first.half().keeper(), keeper);
}
