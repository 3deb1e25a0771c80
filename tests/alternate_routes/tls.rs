//! UDP is blocked: from the start, during a session, and again and again.

use crate::scenarios::ticker::Ticker;
use crate::scenarios::transfers;
use crate::support::data;
use crate::support::lab::Lab;
use crate::support::process::{Running, read_within};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{measured, measured_time, now, wait_for};
use crate::{MAX_PLANNED_GAP, lab};
use std::io::{Read, Write};
use std::thread::{scope, sleep, spawn};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn a_session_goes_on_over_tls_when_udp_is_blocked_and_returns_to_quic() {
    let Some((_turn, lab)) = lab("UDP blocked in mid-session", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    let mut ticker = Ticker::start(&rig);
    let blocked = now();
    lab.drop_udp("client", true);
    // Packets that are on their way still arrive.
    sleep(Duration::from_millis(100));
    let took = ticker.next_line_after(blocked + Duration::from_millis(100), Duration::from_secs(30));
    measured_time("output over TLS after UDP was blocked", took);
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(rig.ssh.proxy_logged("carrier=tls"), 1, "one change of paths");
    sleep(Duration::from_secs(4));
    lab.drop_udp("client", false);
    let freed = now();
    let back = wait_for(Duration::from_secs(60), || {
        (rig.ssh.proxy_logged("path_upgraded") > 0).then(now)
    });
    measured_time("back on QUIC", back.expect("on QUIC within a minute") - freed);
    sleep(Duration::from_secs(1));
    let gap = ticker.longest_silence_since(freed);
    measured_time("longest silence of the way back", gap);
    assert!(gap <= MAX_PLANNED_GAP, "{gap:?}");
    ticker.finish_in_order();
}

#[test]
fn a_carrier_that_stands_by_hides_that_udp_is_blocked() {
    let Some((_turn, lab)) = lab("UDP blocked beside a standby", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    let mut silences: Vec<Duration> = (1..=3).map(|turn| block_beside_a_standby(&lab, &rig, turn)).collect();
    // The median, because a single gap depends on the machine as much as on bowline.
    silences.sort();
    assert!(silences[1] <= MAX_PLANNED_GAP, "{silences:?}");
}

/// Blocks UDP for some seconds during a new session on QUIC, and returns the longest silence.
fn block_beside_a_standby(lab: &Lab, rig: &Rig, turn: usize) -> Duration {
    let ticker = Ticker::start(rig);
    let stands_by = wait_for(Duration::from_secs(30), || {
        (rig.ssh.proxy_logged("event=\"standby\"") >= turn).then_some(())
    });
    assert!(stands_by.is_some(), "a carrier stands by: {}", rig.ssh.proxy_log());
    let blocked = now();
    lab.drop_udp("client", true);
    sleep(Duration::from_secs(2));
    let silence = ticker.longest_silence_since(blocked);
    measured_time("longest silence when UDP was blocked beside a standby", silence);
    ticker.finish_in_order();
    lab.drop_udp("client", false);
    silence
}

#[test]
fn what_is_sent_arrives_although_only_the_way_out_is_blocked_and_output_flows() {
    const SENT: usize = 4 << 20;
    // Output is frequent enough that the path is never silent.
    const REMOTE: &str = "while :; do echo tick; sleep 0.03; done & sha256sum; kill $!";
    let Some((_turn, lab)) = lab("UDP blocked one way", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    let (mut running, mut stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, REMOTE]));
    read_within(&mut stdout, &mut [0; 50], LIMIT).expect("the session is up");
    let stands_by = || (rig.ssh.proxy_logged("event=\"standby\"") > 0).then_some(());
    assert!(wait_for(LIMIT, stands_by).is_some(), "{}", rig.ssh.proxy_log());
    let blocked = now();
    lab.drop_udp_out("client", true);
    let bytes = data::random_bytes(7, SENT);
    let expected = data::hash_bytes(&bytes).0;
    let sender = spawn(move || stdin.write_all(&bytes));
    let receiver = spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    assert!(running.ended(LIMIT), "it hangs: {}", rig.ssh.proxy_log());
    measured_time("4 MiB sent while the way out was blocked for UDP", blocked.elapsed());
    sender.join().expect("it only sends").expect("all was taken");
    let text = receiver.join().expect("it only reads").expect("text");
    assert!(text.contains(&expected), "{expected}: {}", &text[text.len().min(200)..]);
    assert!(blocked.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_transfer_loses_nothing_while_udp_comes_and_goes() {
    let Some((_turn, lab)) = lab("transfers while UDP comes and goes", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    lab.set("client", "delay=25,rate=40");
    scope(|scope| {
        let transfer = scope.spawn(|| transfers::scp_both_ways(&rig, 24 << 20));
        while !transfer.is_finished() {
            for blocked in [true, false] {
                lab.drop_udp("client", blocked);
                sleep(Duration::from_secs(2));
            }
        }
        transfer.join().expect("equal files");
    });
    measured("resumes while UDP came and went", rig.resumes());
    assert!(rig.ssh.proxy_logged("carrier=tls") > 0, "TLS was used");
}

#[test]
fn a_session_opens_over_tls_where_udp_is_blocked() {
    let Some((_turn, lab)) = lab("open over TLS", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    lab.drop_udp("client", true);
    let outcome = rig.ssh.remote("exit 7", Duration::from_secs(20)).expect_code(7);
    measured_time("ssh over TLS from start to end, RTT 50 ms", outcome.took);
    lab.drop_tcp("client", true);
    lab.drop_udp("client", false);
    let outcome = rig.ssh.remote("exit 8", Duration::from_secs(20)).expect_code(8);
    assert_eq!(outcome.err(), "", "nothing on the user's screen");
}
