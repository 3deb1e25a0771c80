//! Client and server on two machines: a cable that is cut, and firewalls.

use super::server::{LIMIT, LOGS_IN, Server, Special, may_run};
use crate::support::data::MIB;
use crate::support::flow::{End, Flow};
use crate::support::process::Running;
use crate::support::relay::Relay;
use crate::support::wait_for;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How long the cable is cut.
const CUT: Duration = Duration::from_secs(5);

const NO_UDP: &str = "meta l4proto udp drop;";

fn two_machines() -> Server {
    Server::with(Special {
        has_cable: true,
        ..Special::default()
    })
}

/// A session over which every byte comes back.
struct Echo {
    ssh: Running,
    received: Arc<Flow>,
    sent: Arc<Flow>,
    enough: Arc<AtomicBool>,
    /// One reads, one writes.
    threads: [std::thread::JoinHandle<()>; 2],
}

impl Echo {
    fn start(server: &Server) -> Echo {
        let (ssh, stdin, stdout) = Running::start_piped(&mut server.ssh(&["box", "cat; exit 7"]));
        let (sent, received) = (Arc::new(Flow::new(9)), Arc::new(Flow::new(9)));
        let enough = Arc::new(AtomicBool::new(false));
        let writes = {
            let (sent, enough) = (sent.clone(), enough.clone());
            move || sent.send(stdin, |_| (!enough.load(SeqCst)).then_some(1 << 14))
        };
        let reads = {
            let received = received.clone();
            move || received.check(stdout)
        };
        Echo {
            ssh,
            received,
            sent,
            enough,
            threads: [std::thread::spawn(writes), std::thread::spawn(reads)],
        }
    }

    /// Bytes come back, from now on too.
    #[track_caller]
    fn goes_on(&self, after: &str) {
        let before = self.received.bytes();
        let went_on = wait_for(LIMIT, || (self.received.bytes() > before + MIB).then_some(()));
        assert!(went_on.is_some(), "after {after}: {}", self.ssh.err_so_far());
    }

    #[track_caller]
    fn finish(self) {
        self.enough.store(true, SeqCst);
        let outcome = self.ssh.finish(LIMIT).expect_code(7);
        for thread in self.threads {
            thread.join().expect("no panic there");
        }
        assert_eq!(self.received.end(), Some(End::Clean));
        assert_eq!(self.received.wrong(), None);
        assert_eq!(self.received.bytes(), self.sent.bytes(), "{}", outcome.err());
    }
}

#[test]
fn a_session_at_a_fresh_account_survives_a_blocked_udp_a_cut_cable_and_a_new_address() {
    if !may_run() {
        return;
    }
    let server = two_machines();
    server.expect_session(&[]);
    let (cable, echo) = (server.cable(), Echo::start(&server));
    echo.goes_on("the start");
    cable.filter(NO_UDP);
    echo.goes_on("UDP was blocked");
    cable.at_client("link set wire0 down");
    std::thread::sleep(CUT);
    let before = echo.received.bytes();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(echo.received.bytes(), before, "the cable is cut");
    cable.at_client("link set wire0 up");
    echo.goes_on("the cable was cut");
    // In this order: with the first address of a prefix, Linux removes the others.
    cable.at_client("addr del 198.18.255.1/24 dev wire0");
    cable.at_client("addr add 198.18.255.3/24 dev wire0");
    echo.goes_on("the client's address changed");
    cable.filter("");
    cable.filter("meta l4proto tcp drop;");
    echo.goes_on("TCP was blocked instead of UDP");
    echo.finish();
    cable.filter("");
    server.expect_session(&[]);
    assert_eq!(server.logins(), 4, "{}", server.log());
}

#[test]
fn where_udp_never_passes_the_session_uses_the_tcp_port() {
    if !may_run() {
        return;
    }
    let server = two_machines().with_program();
    server.cable().filter(NO_UDP);
    server.expect_session(&[]);
    let next = server.expect_session(&[]);
    assert_eq!(next.err(), "", "nothing has to be said");
    assert_eq!((server.logins(), server.keepers().len()), (3, 1));
}

#[test]
fn where_only_sshs_port_is_open_one_line_names_the_ports_and_the_session_is_plain() {
    if !may_run() {
        return;
    }
    let server = two_machines().with_program();
    let only_ssh = format!("tcp dport {} accept; drop;", server.port());
    server.cable().filter(&only_ssh);
    let first = server
        .expect_plain(&[], "if there are firewalls, open UDP port 6")
        .err();
    assert!(first.contains(LOGS_IN) && first.contains(" or TCP port 6"), "{first}");
    let again = server
        .expect_plain(&[], "if there are firewalls, open UDP port 6")
        .err();
    assert_eq!(again.lines().count(), 1, "{again}");
    assert_eq!(server.logins(), 3);
    server.cable().filter(&format!("meta l4proto udp accept; {only_ssh}"));
    server.expect_session(&[]);
}

#[test]
fn a_relay_leads_to_it_where_only_sshs_port_is_open() {
    if !may_run() {
        return;
    }
    let server = two_machines().with_program();
    let relay = Relay::start(server.cable().client());
    let from_relay = format!("udp sport {0} accept; tcp sport {0} accept;", relay.address().port());
    let only_ssh = format!("{from_relay} tcp dport {} accept; drop;", server.port());
    server.cable().filter(&only_ssh);
    let name = format!("--relay={}", relay.name());
    server.expect_session(&[&name]);
    assert_eq!(server.logins(), 2);
    let next = server.expect_session(&[&name]);
    assert_eq!((next.err().as_str(), server.logins()), ("", 3));
}
