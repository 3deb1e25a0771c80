//! How long a key takes to come back: bowline beside plain ssh (with the kernel's BBR), in a network of namespaces with a
//! round trip of 50 ms, at several rates of loss. Both sides type at the same time, so that both meet the same moments of
//! the machine.
//!
//! `cargo bench --bench keys`, as root. `BOWLINE_BENCH_KEYS` changes the number of keys. The figures go to
//! `target/bench/keys.json` too.

#![allow(clippy::print_stdout, reason = "a bench reports")]

#[path = "../tests/scenarios/mod.rs"]
mod scenarios;
#[path = "../tests/support/mod.rs"]
mod support;

use scenarios::keys::{Echoes, Typist};
use serde_json::{Value, json};
use std::path::Path;
use std::thread;
use support::lab::Lab;
use support::rig::Rig;

const CLIENT: &str = "delay=25";
/// Percent each way, and by which part of the keys a link with so much loss is measured: plain ssh needs seconds for some.
const LOSSES: [(u32, usize); 4] = [(0, 1), (1, 1), (5, 1), (20, 3)];
const PERCENTILES: [usize; 4] = [50, 90, 95, 99];

fn main() {
    let keys = std::env::var("BOWLINE_BENCH_KEYS").map_or(500, |keys| keys.parse().expect("a number"));
    if !Lab::possible("the echo of keys") {
        return;
    }
    println!(
        "echo of a key, RTT 50 ms, ms: p50 / p90 / p95 / p99 of {keys} keys ({} at 20 %)",
        keys / 3
    );
    let rows: Vec<Value> = LOSSES.iter().map(|(loss, part)| measure(*loss, keys / part)).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).expect("the target folder");
    let text = format!("{:#}\n", json!({ "rtt_ms": 50, "echo_ms": rows }));
    std::fs::write(folder.join("keys.json"), text).expect("the target folder");
}

fn measure(loss: u32, keys: usize) -> Value {
    let lab = Lab::up(&[("client", CLIENT), ("server", "")]);
    for host in ["client", "server"] {
        let bbr = "echo bbr > /proc/sys/net/ipv4/tcp_congestion_control";
        let set = lab.command(host, "sh").args(["-c", bbr]).status();
        assert!(set.is_ok_and(|status| status.success()), "this kernel has no BBR");
    }
    let sides = [("bowline", Rig::bowline_in(&lab)), ("ssh", Rig::plain_in(&lab))];
    let typists = sides.map(|(name, rig)| (name, Typist::start(&rig), rig));
    lab.set("client", &format!("{CLIENT},loss={loss}"));
    let typing = typists.map(|(name, typist, rig)| (name, thread::spawn(move || typist.types(keys)), rig));
    let mut row = json!({ "loss_percent": loss, "keys": keys });
    for (name, echoes, _rig) in typing {
        let echoes = figures(&echoes.join().expect("every key comes back"));
        let shown: Vec<_> = echoes.iter().map(|ms| format!("{ms:.0}")).collect();
        println!("{loss:>3} % loss  {name:<8} {}", shown.join(" / "));
        row[name] = json!(echoes);
    }
    row
}

fn figures(echoes: &Echoes) -> Vec<f64> {
    let ms = |percent: &usize| echoes.percentile(*percent).as_secs_f64() * 1000.0;
    PERCENTILES.iter().map(ms).collect()
}
