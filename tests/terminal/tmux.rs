//! `bowline ssh` in the panes of a real tmux.

use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::wait_for;
use crate::{Desk, LIMIT};

/// A tmux of this test, with two panes, and `bowline ssh` in each of them.
struct Tmux {
    desk: Desk,
}

impl Tmux {
    fn start() -> Tmux {
        let tmux = Tmux {
            desk: Desk::of(Rig::gated(|setup| setup)),
        };
        let shell = |name: &str| {
            format!(
                "./bssh --predict always --fallback none -F ssh_config -t {HOST} \"PS1='{name}> ' exec bash --norc --noprofile\""
            )
        };
        tmux.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            &shell("one"),
        ]);
        tmux.run(&["split-window", "-d", &shell("two")]);
        for (pane, prompt) in ["one>", "two>"].iter().enumerate() {
            tmux.wait_for_text(pane, prompt);
        }
        tmux
    }

    fn run(&self, arguments: &[&str]) -> String {
        let ssh = &self.desk.rig.ssh;
        let mut tmux = ssh.command("tmux");
        tmux.current_dir(ssh.path(""))
            .env_remove("TMUX")
            .arg("-S")
            .arg(ssh.path("tmux"));
        run(tmux.args(arguments), LIMIT).expect_code(0).out()
    }

    fn press(&self, pane: usize, keys: &str) {
        self.run(&["send-keys", "-t", &format!(":.{pane}"), "-l", keys]);
    }

    fn text(&self, pane: usize) -> String {
        self.run(&["capture-pane", "-p", "-t", &format!(":.{pane}")])
    }

    #[track_caller]
    fn wait_for_text(&self, pane: usize, text: &str) {
        let found = wait_for(LIMIT, || self.text(pane).contains(text).then_some(()));
        assert!(found.is_some(), "no {text:?} in pane {pane}:\n{}", self.text(pane));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn two_in_one_tmux_do_not_disturb_each_other() {
    let tmux = Tmux::start();
    let names = ["one", "two"];
    for letter in "echo is-".chars() {
        (0..2).for_each(|pane| tmux.press(pane, &letter.to_string()));
    }
    for (pane, name) in names.iter().enumerate() {
        tmux.press(pane, &format!("{name}-$((1+1))\r"));
        tmux.wait_for_text(pane, &format!("\nis-{name}-2\n{name}>"));
    }
    tmux.desk.rig.gate().cut();
    for (pane, name) in names.iter().enumerate() {
        tmux.press(pane, &format!("echo out-{name}"));
        tmux.wait_for_text(pane, "bowline: no answer for ");
    }
    tmux.desk.rig.gate().restore();
    for (pane, name) in names.iter().enumerate() {
        tmux.press(pane, "\r");
        tmux.wait_for_text(pane, &format!("\nout-{name}\n{name}>"));
        let gone = wait_for(LIMIT, || (!tmux.text(pane).contains("bowline: ")).then_some(()));
        assert!(gone.is_some(), "{}", tmux.text(pane));
        let expected =
            format!("{name}> echo is-{name}-$((1+1))\nis-{name}-2\n{name}> echo out-{name}\nout-{name}\n{name}>");
        assert_eq!(tmux.text(pane).trim_end(), expected);
    }
}
