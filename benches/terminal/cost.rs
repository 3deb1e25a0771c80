//! What it costs to stand between ssh and the terminal, on loopback.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::grid::Terminal;
use crate::sides::bowline;
use crate::support::now;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;

/// Each is measured so often, taking turns.
const ROUNDS: usize = 5;

const NAMES: [&str; 3] = ["bowline ssh", "bowline ssh --plain", "ssh"];

/// All three with this remote command.
fn terminals(rig: &Rig, plain: &Rig, remote: &str) -> [impl Fn() -> Terminal; 3] {
    let start = |program: Command| move || Terminal::start(rig.ssh.command("setsid"), &program);
    let arguments = ["-tt", HOST, remote];
    [
        start(bowline(rig, &[], &arguments)),
        start(bowline(rig, &["--plain"], &arguments)),
        start(plain.ssh.ssh(&arguments)),
    ]
}

/// A long text on the terminal.
pub(crate) fn cat(bytes: usize) {
    let (rig, plain) = (Rig::bowline(), Rig::plain());
    let path = rig.ssh.path("text");
    let line = "drwxr-xr-x 2 root root      4096 Nov 26 10:11 some-file-name.txt\n";
    fs::write(&path, line.repeat(bytes / line.len())).expect("the scratch folder");
    // The terminal shows each line end as two bytes.
    let shown = bytes / line.len() * (line.len() + 1);
    let remote = format!("printf begins; read -r line; cat {}", path.display());
    let terminals = terminals(&rig, &plain, &remote);
    let mut seconds = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let at = (round + turn) % 3;
            let mut terminal = terminals[at]();
            while !terminal.contents().contains("begins") {
                assert!(
                    terminal.show_next(now() + Duration::from_secs(30)),
                    "no output: {}",
                    terminal.contents()
                );
            }
            let start = now();
            terminal.press(b"\r");
            terminal.skip(shown);
            seconds[at].push(start.elapsed().as_secs_f64());
        }
    }
    let [wrapped, without, ssh] = seconds.map(|seconds| percentile(seconds, 50));
    println!(
        "cat of {} MB: bowline ssh {wrapped:.2} s, --plain {without:.2} s, ssh {ssh:.2} s; speed {:.2} of --plain, {:.2} of ssh",
        bytes / 1_000_000,
        without / wrapped,
        ssh / wrapped
    );
}

/// A key until it is back.
pub(crate) fn keys(count: usize) {
    let (rig, plain) = (Rig::bowline(), Rig::plain());
    let terminals = terminals(&rig, &plain, "stty -icanon; printf begins; exec cat > /dev/null");
    let mut terminals = terminals.each_ref().map(|start| start());
    for terminal in &mut terminals {
        while !terminal.contents().contains("begins") {
            assert!(
                terminal.show_next(now() + Duration::from_secs(30)),
                "no output: {}",
                terminal.contents()
            );
        }
    }
    let mut times = [const { Vec::new() }; 3];
    for number in 0..count {
        for (terminal, times) in terminals.iter_mut().zip(&mut times) {
            terminal.show_until(now() + Duration::from_millis(5));
            let before = terminal.grid().cursor;
            let start = now();
            terminal.press(&[b'a' + (number % 26) as u8]);
            while terminal.grid().cursor == before {
                assert!(terminal.show_next(start + Duration::from_secs(10)), "a key is lost");
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (name, times) in NAMES.iter().zip(times) {
        let (median, slow) = (percentile(times.clone(), 50), percentile(times, 99));
        println!("a key on loopback: {name}: {median:.2} ms, p99 {slow:.2} ms");
    }
}

fn percentile(mut figures: Vec<f64>, percent: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[((figures.len() - 1) * percent).div_ceil(100)]
}
