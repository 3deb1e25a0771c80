//! Link-local addresses, which mean nothing without their zone.

use crate::LIMIT;
use crate::support::lab::Lab;
use crate::support::place::Place;
use crate::support::process::run;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{HOST, SshSetup};
use crate::support::sshd::{TestSshd, public_key};

#[test]
fn a_host_at_a_link_local_address_is_reached_in_its_zone() {
    if !Lab::possible("ssh_config: link-local addresses") {
        return;
    }
    let lab = Lab::up(&[("client", ""), ("server", "")]);
    let place = lab.place("server");
    let address = ["-6", "address", "add", "fe80::77/64", "dev", "lo", "nodad"];
    run(place.command("ip").args(address), LIMIT).expect_code(0);
    let sshd = TestSshd::start_at(place.clone(), "ListenAddress ::");
    let port = Place::free_port();
    let serve = Serve::start(
        &sshd,
        ServeOptions {
            place: place.clone(),
            ..ServeOptions::here()
        }
        .argument("--listen")
        .argument(format!("[::]:{port}")),
    );
    let known_hosts: String = (sshd.host_keys().iter())
        .map(|key| format!("[fe80::77%lo]:{} {}\n", sshd.port(), public_key(key)))
        .collect();
    let setup = SshSetup::bowline(&sshd, port).at(place).known_hosts(&known_hosts);
    let ssh = setup.option("HostName fe80::77%%lo").write();
    assert_eq!(ssh.remote("echo in", LIMIT).expect_code(0).out(), "in\n");
    assert_eq!(serve.logged("event=\"opened\""), 1, "{}", serve.log());
    let told = run(&mut ssh.check(&[]), LIMIT).expect_code(0).out();
    assert!(told.contains("quic [fe80::77%1]:"), "{told}");
    assert_eq!(
        ssh.remote("echo in", LIMIT).expect_code(0).out(),
        "in\n",
        "{HOST} by what is remembered of it"
    );
}
