//! The programs that are compared, each with its own sshd.

use std::fs;
use std::process::Command;

use crate::grid::Terminal;
use crate::programs::{self, MoshServer};
use crate::support::BOWLINE;
use crate::support::lab::Lab;
use crate::support::rig::Rig;
use crate::support::ssh::{HOST, SshFiles};

/// What the shell asks for commands with.
pub(crate) const PROMPT: &str = "$ ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `bowline ssh`, as it is.
    Bowline,
    /// With the prediction that it has by default.
    Mosh,
    Ssh,
}

impl Peer {
    pub(crate) const ALL: [Peer; 3] = [Peer::Bowline, Peer::Mosh, Peer::Ssh];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Bowline => "bowline",
            Peer::Mosh => "mosh",
            Peer::Ssh => "ssh",
        }
    }
}

/// One of them, between the lab's `client` and `server`.
pub(crate) struct Side {
    peer: Peer,
    rig: Rig,
    lab_server: crate::support::place::Place,
}

/// A terminal with a shell, and what has to last as long.
pub(crate) struct Shell {
    pub(crate) terminal: Terminal,
    _server: Option<MoshServer>,
}

impl Side {
    pub(crate) fn start(peer: Peer, lab: &Lab) -> Side {
        let rig = match peer {
            Peer::Bowline => Rig::bowline_in(lab),
            Peer::Mosh | Peer::Ssh => Rig::plain_in(lab),
        };
        Side {
            peer,
            rig,
            lab_server: lab.place("server"),
        }
    }

    /// Logs in.
    pub(crate) fn shell(&self) -> Shell {
        let ssh = &self.rig.ssh;
        let remote = remote_shell(ssh);
        let (program, server) = match self.peer {
            Peer::Bowline => (bowline(&self.rig, &[], &["-tt", HOST, &remote]), None),
            Peer::Ssh => (ssh.ssh(&["-tt", HOST, &remote]), None),
            Peer::Mosh => {
                let server = MoshServer::start(&self.lab_server, &remote);
                let mut client = Command::new(programs::found("mosh-client"));
                client.args([&self.lab_server.address.to_string(), &server.port]);
                client.env("MOSH_KEY", &server.key).env("LC_ALL", "C.UTF-8");
                (client, Some(server))
            }
        };
        // `ssh` enters the place by itself.
        let setsid = match self.peer {
            Peer::Ssh => Command::new("setsid"),
            Peer::Bowline | Peer::Mosh => ssh.command("setsid"),
        };
        Shell {
            terminal: Terminal::start(setsid, &program),
            _server: server,
        }
    }
}

/// The shell of a plain rig on loopback.
pub(crate) fn plain_shell(rig: &Rig) -> Shell {
    let remote = remote_shell(&rig.ssh);
    Shell {
        terminal: Terminal::start(Command::new("setsid"), &rig.ssh.ssh(&["-tt", HOST, &remote])),
        _server: None,
    }
}

/// `bowline ssh` in a rig over bowline, with options of its own and arguments of ssh.
pub(crate) fn bowline(rig: &Rig, options: &[&str], arguments: &[&str]) -> Command {
    let mut program = Command::new(BOWLINE);
    program
        .args([
            "ssh",
            "--transport",
            "quic",
            "--port",
            &rig.serve().udp().port().to_string(),
        ])
        .args(options)
        .arg("--state-dir")
        .arg(rig.ssh.state())
        .arg("--runtime-dir")
        .arg(rig.ssh.path("run"))
        .arg("-F")
        .arg(rig.ssh.config())
        .args(arguments);
    program
}

/// A folder with the same files for all, and a shell that knows nothing else.
fn remote_shell(ssh: &SshFiles) -> String {
    let home = ssh.path("remote-home");
    fs::create_dir_all(&home).expect("the scratch folder");
    let lines: String = (1..=200).map(|number| format!("line {number} of the file\n")).collect();
    for (name, text) in [
        ("alpha.txt", lines.as_str()),
        ("notes.txt", "one\nfive words in a line\nthree\n"),
        ("history", "pwd\ncat notes.txt\nls -l /\n"),
    ] {
        fs::write(home.join(name), text).expect("the scratch folder");
    }
    let home = home.display();
    format!(
        "cd {home} && exec env -i HOME={home} PATH=/usr/bin:/bin TERM=xterm LC_ALL=C.UTF-8 LESSHISTFILE=- \
         HISTFILE={home}/history PS1='{PROMPT}' bash --norc --noprofile -i"
    )
}
