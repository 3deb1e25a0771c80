//! A server half that cannot be reached directly, and relays that start and stop.

use crate::scenarios::ticker::Ticker;
use crate::scenarios::transfers;
use crate::support::lab::Lab;
use crate::support::relay::{REGISTERED, Relay};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured_time, now, wait_for};
use crate::{MAX_PLANNED_GAP, lab};
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Behind a NAT, which drops connections from outside.
const SERVER: (&str, &str) = ("server", "nat");
/// Limit on a machine under load.
const MAX_RECOVERY: Duration = Duration::from_millis(1500);
#[test]
fn relays_may_die_in_turn_under_a_transfer_and_a_running_session() {
    let hosts = [SERVER, ("r1", ""), ("r2", "")];
    let Some((_turn, lab)) = lab("relays killed in turn", &hosts) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1")), Relay::start(lab.place("r2"))];
    let rig = Rig::relayed_in(&lab, &relays);
    let ticker = Ticker::start(&rig);
    // A standby is opened some seconds after the first path became the lead.
    let stood_by = |times| {
        wait_for(Duration::from_secs(30), || {
            (rig.ssh.proxy_logged("event=\"standby\"") > times).then_some(())
        })
    };
    assert!(stood_by(0).is_some(), "a carrier stands by: {}", rig.ssh.proxy_log());
    let mut gaps = vec![];
    scope(|scope| {
        let transfer = scope.spawn(|| transfers::scp_both_ways(&rig, 16 << 20));
        for turn in 0..4 {
            let standbys = rig.ssh.proxy_logged("event=\"standby\"");
            let registered = rig.serve().logged("event=\"registered\"");
            let killed = now();
            relays[turn % 2].kill();
            sleep(Duration::from_secs(3));
            gaps.push(ticker.longest_silence_since(killed));
            relays[turn % 2].start_again();
            // The next relay to be killed must not be the only one.
            let back = wait_for(REGISTERED, || {
                (rig.serve().logged("event=\"registered\"") > registered).then_some(())
            });
            assert!(back.is_some(), "registered again: {}", rig.serve().log());
            assert!(
                stood_by(standbys).is_some(),
                "again one stands by: {}",
                rig.ssh.proxy_log()
            );
        }
        transfer.join().expect("equal files");
    });
    gaps.iter()
        .for_each(|gap| measured_time("longest silence around the end of a relay", *gap));
    // The median, because a single gap depends on the machine as much as on bowline.
    gaps.sort();
    assert!(gaps[gaps.len() / 2] <= MAX_PLANNED_GAP, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= MAX_RECOVERY), "{gaps:?}");
    ticker.finish_in_order();
}

#[test]
fn a_host_that_nobody_knew_is_found_at_its_relay_once_it_has_proved_its_keys() {
    let Some((_turn, lab)) = lab("a relay for an unknown host", &[("server", ""), ("r1", "")]) else {
        return;
    };
    let relay = Relay::start(lab.place("r1"));
    let options = ServeOptions::here().argument("--relay").argument(relay.name());
    let rig = Rig::with_in(&lab, options, |setup| {
        let setup = setup.known_hosts("").option("StrictHostKeyChecking no");
        setup.proxy_arguments(&["--relay", &relay.name()])
    });
    // Opened directly; the host keys proved then are used to find it at the relay.
    let ticker = Ticker::start(&rig);
    let stands_by = wait_for(REGISTERED, || (rig.ssh.proxy_logged("path=relay") > 0).then_some(()));
    assert!(stands_by.is_some(), "a carrier stands by: {}", rig.ssh.proxy_log());
    ticker.finish_in_order();
}

#[test]
fn a_relay_that_is_cut_off_and_one_that_answers_garbage_only_make_a_path_fail() {
    let hosts = [SERVER, ("r1", ""), ("r2", ""), ("r3", "")];
    let Some((_turn, lab)) = lab("a relay cut off, another gone mad", &hosts) else {
        return;
    };
    let mut relays = vec![Relay::start(lab.place("r1")), Relay::start(lab.place("r2"))];
    let rig = Rig::relayed_in(&lab, &relays);
    let mut ticker = Ticker::start(&rig);
    lab.cut("r1");
    let after = ticker.next_line_after(now() + Duration::from_millis(200), Duration::from_secs(30));
    measured_time("output after a relay was cut off", after);
    lab.restore("r1");
    relays[0].kill();
    let mad = GarbageServer::at(&lab, "r1");
    sleep(Duration::from_secs(5));
    let silence = ticker.longest_silence_since(now() - Duration::from_secs(5));
    measured_time("longest silence beside a relay that answers garbage", silence);
    let outcome = rig.ssh.remote("exit 7", Duration::from_secs(30)).expect_code(7);
    measured_time("ssh from start to end beside it", outcome.took);
    let asked = wait_for(REGISTERED, || mad.was_asked().then_some(()));
    assert!(asked.is_some(), "somebody came to the mad one");
    ticker.finish_in_order();
}

/// A server that answers everything on port 443 with garbage.
struct GarbageServer {
    asked: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl GarbageServer {
    fn at(lab: &Lab, host: &str) -> GarbageServer {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (udp, tcp) = lab.sockets(host, 443);
        let seen = asked.clone();
        std::thread::spawn(move || answer_udp(&udp, &seen));
        let seen = asked.clone();
        std::thread::spawn(move || answer_tcp(&tcp, &seen));
        GarbageServer { asked }
    }

    fn was_asked(&self) -> bool {
        self.asked.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(120);

fn answer_udp(socket: &UdpSocket, asked: &std::sync::atomic::AtomicBool) {
    let end: Instant = now() + NEVER;
    let mut buffer = [0; 2048];
    while now() < end {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            asked.store(true, std::sync::atomic::Ordering::SeqCst);
            buffer[..length]
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(13));
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn answer_tcp(listener: &TcpListener, asked: &std::sync::atomic::AtomicBool) {
    let end: Instant = now() + NEVER;
    while now() < end {
        if let Ok((mut stream, _)) = listener.accept() {
            asked.store(true, std::sync::atomic::Ordering::SeqCst);
            let _ = stream.write_all(&[0x16, 3, 3, 0xff, 0xff, 1, 2, 3]);
        }
    }
}
