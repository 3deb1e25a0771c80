//! What it costs to stand between ssh and the terminal, on loopback.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::grid::Terminal;
use crate::sides::bowline;
use crate::support::now;
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::wait_for;

/// No step takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// Each is measured so often, taking turns.
const ROUNDS: usize = 5;

const NAMES: [&str; 3] = ["bowline ssh", "bowline ssh --plain", "ssh"];

/// All three with this remote command.
fn programs(rig: &Rig, plain: &Rig, remote: &str) -> [impl Fn() -> Command; 3] {
    let arguments = ["-tt".to_owned(), HOST.to_owned(), remote.to_owned()];
    let program = |kind: usize| {
        let arguments = arguments.clone();
        move || {
            let arguments = arguments.each_ref().map(String::as_str);
            match kind {
                0 => bowline(rig, &[], &arguments),
                1 => bowline(rig, &["--plain"], &arguments),
                _ => plain.ssh.ssh(&arguments),
            }
        }
    };
    [0, 1, 2].map(program)
}

/// A long text on a terminal that throws everything away, and in tmux, which shows it.
pub(crate) fn cat(bytes: usize) {
    let (rig, plain) = (Rig::bowline(), Rig::plain());
    let path = rig.ssh.path("text");
    let line = "drwxr-xr-x 2 root root      4096 Nov 26 10:11 some-file-name.txt\n";
    fs::write(&path, line.repeat(bytes / line.len())).expect("the scratch folder");
    // The terminal shows each line end as two bytes.
    let shown = bytes / line.len() * (line.len() + 1);
    let remote = format!(
        "printf begins; read -r line; cat {}; printf ends; read -r line",
        path.display()
    );
    let programs = programs(&rig, &plain, &remote);
    let [mut alone, mut in_tmux] = [const { [const { Vec::new() }; 3] }; 2];
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let at = (round + turn) % 3;
            let program = programs[at]();
            alone[at].push(cat_alone(&rig, &program, shown));
            in_tmux[at].push(cat_in_tmux(&rig, &program));
        }
    }
    for (terminal, seconds) in [("a terminal that does nothing", alone), ("tmux", in_tmux)] {
        let [wrapped, without, ssh] = seconds.map(|seconds| percentile(seconds, 50));
        println!(
            "cat of {} MB in {terminal}: bowline ssh {wrapped:.2} s, --plain {without:.2} s, ssh {ssh:.2} s; \
             speed {:.2} of --plain, {:.2} of ssh",
            bytes / 1_000_000,
            without / wrapped,
            ssh / wrapped
        );
    }
}

fn cat_alone(rig: &Rig, program: &Command, shown: usize) -> f64 {
    let mut terminal = Terminal::start(rig.ssh.command("setsid"), program);
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
    start.elapsed().as_secs_f64()
}

fn cat_in_tmux(rig: &Rig, program: &Command) -> f64 {
    let script = rig.ssh.path("in-tmux");
    fs::write(&script, script_of(program)).expect("the scratch folder");
    let tmux = |arguments: &[&str]| {
        let mut tmux = rig.ssh.command("tmux");
        tmux.current_dir(rig.ssh.path(""))
            .env_remove("TMUX")
            .arg("-S")
            .arg(rig.ssh.path("tmux"));
        run(tmux.args(arguments), LIMIT).expect_code(0).out()
    };
    let shell = format!("exec sh {}", script.display());
    tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &shell]);
    let shows = |text: &str| {
        wait_for(LIMIT, || {
            // A question costs tmux little time if it is not asked without end.
            std::thread::sleep(Duration::from_millis(20));
            tmux(&["capture-pane", "-p"]).contains(text).then_some(())
        })
    };
    shows("begins").expect("a prompt in tmux");
    let start = now();
    tmux(&["send-keys", "Enter"]);
    shows("ends").expect("the end of the text in tmux");
    let seconds = start.elapsed().as_secs_f64();
    tmux(&["kill-server"]);
    seconds
}

/// A shell script that becomes this program.
fn script_of(program: &Command) -> String {
    let quoted = |word: &OsStr| format!("'{}' ", word.to_str().expect("UTF-8").replace('\'', "'\\''"));
    let mut script = String::new();
    for (name, value) in program.get_envs() {
        let name = name.to_str().expect("UTF-8");
        match value {
            Some(value) => script += &format!("export {name}={}\n", quoted(value)),
            None => script += &format!("unset {name}\n"),
        }
    }
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    script + "exec " + &words.map(quoted).collect::<String>()
}

/// A key until it is back.
pub(crate) fn keys(count: usize) {
    let (rig, plain) = (Rig::bowline(), Rig::plain());
    let programs = programs(&rig, &plain, "stty -icanon; printf begins; exec cat > /dev/null");
    let mut terminals = programs.map(|program| Terminal::start(rig.ssh.command("setsid"), &program()));
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
