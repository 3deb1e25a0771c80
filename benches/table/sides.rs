//! The programs that are compared, each with its own sshd and user's files, and how they take turns.

use crate::cgroup::Cgroup;
use crate::programs::{self, MoshServer, QuicsshServer};
use crate::support::lab::Lab;
use crate::support::place::Place;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::HOST;
use crate::table::Seen;
use crate::terminal::Terminal;

/// What carries the session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Bowline,
    /// ssh straight over TCP.
    Ssh,
    /// ssh over one QUIC connection.
    Quicssh,
    /// Screens in packets of its own, without prediction of keys; its login by ssh is left out.
    Mosh,
    /// ssh that is started again when it has ended: a new login, and what ran before is gone.
    Autossh,
}

impl Peer {
    /// Those that carry an ssh session, once.
    pub(crate) const PROXIES: [Peer; 3] = [Peer::Bowline, Peer::Ssh, Peer::Quicssh];
    /// Those at whose terminals a user may type. autossh is nothing but ssh there.
    pub(crate) const TERMINALS: [Peer; 4] = [Peer::Bowline, Peer::Ssh, Peer::Quicssh, Peer::Mosh];
    /// All, where the path fails.
    pub(crate) const ALL: [Peer; 5] = [Peer::Bowline, Peer::Ssh, Peer::Quicssh, Peer::Mosh, Peer::Autossh];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Bowline => "bowline",
            Peer::Ssh => "ssh",
            Peer::Quicssh => "quicssh-rs",
            Peer::Mosh => "mosh",
            Peer::Autossh => "autossh",
        }
    }

    fn is_installed(self) -> bool {
        let programs: &[&str] = match self {
            Peer::Bowline | Peer::Ssh => &[],
            Peer::Quicssh => &["quicssh-rs"],
            Peer::Mosh => &["mosh-client", "mosh-server"],
            Peer::Autossh => &["autossh"],
        };
        programs.iter().all(|program| programs::find(program).is_some())
    }

    fn rig(self, client: &Place, server: &Place, quicssh_port: u16) -> Rig {
        let (client, server) = (client.clone(), server.clone());
        match self {
            Peer::Bowline => {
                let options = ServeOptions {
                    place: server,
                    ..ServeOptions::here()
                };
                Rig::between(client, options, |setup| setup)
            }
            Peer::Ssh | Peer::Mosh => Rig::plain_between(client, server),
            Peer::Quicssh => {
                let (program, address) = (programs::found("quicssh-rs"), server.address);
                let proxy = format!(
                    "ProxyCommand {} client quic://{address}:{quicssh_port}",
                    program.display()
                );
                Rig::plain_with(client, server, |setup| setup.option(&proxy))
            }
            // Something has to end ssh. Its usual 45 s and more would be all that is measured.
            Peer::Autossh => Rig::plain_with(client, server, |setup| {
                setup.option("ServerAliveInterval 5").option("ServerAliveCountMax 2")
            }),
        }
    }
}

/// One of them, ready to be used.
pub(crate) struct Side {
    pub(crate) peer: Peer,
    pub(crate) rig: Rig,
    quicssh: Option<QuicsshServer>,
    server: Place,
    pub(crate) cgroup: Cgroup,
}

impl Side {
    fn start(peer: Peer, client: &Place, server: &Place) -> Side {
        let cgroup = Cgroup::new().expect("root, and cgroup v2");
        let port = Place::free_port();
        let (rig, quicssh) = cgroup.start(|| {
            let rig = peer.rig(client, server, port);
            let quicssh =
                (peer == Peer::Quicssh).then(|| QuicsshServer::start(server.clone(), port, rig.sshd.address()));
            (rig, quicssh)
        });
        Side {
            peer,
            rig,
            quicssh,
            server: server.clone(),
            cgroup,
        }
    }

    /// Runs a remote command with a terminal at both ends.
    pub(crate) fn on_terminal(&self, remote: &str) -> Terminal {
        let ssh = &self.rig.ssh;
        match self.peer {
            Peer::Mosh => {
                let server = MoshServer::start(&self.server, remote);
                let mut client = ssh.command(&programs::found("mosh-client").display().to_string());
                client.args([&self.server.address.to_string(), &server.port]);
                client.env("MOSH_KEY", &server.key).env("LC_ALL", "C.UTF-8");
                client.env("MOSH_PREDICTION_DISPLAY", "never");
                Terminal::start(client, Some(server))
            }
            Peer::Autossh => {
                let mut autossh = ssh.command(&programs::found("autossh").display().to_string());
                autossh
                    .args(["-M", "0", "-F"])
                    .arg(ssh.config())
                    .args(["-tt", HOST, remote]);
                autossh.env("AUTOSSH_GATETIME", "0");
                Terminal::start(autossh, None)
            }
            Peer::Bowline | Peer::Ssh | Peer::Quicssh => Terminal::start(ssh.ssh(&["-tt", HOST, remote]), None),
        }
    }

    /// Makes it as if it had not been used.
    fn refresh(&mut self) {
        let quicssh = self.quicssh.take();
        self.quicssh = quicssh.map(|server| self.cgroup.start(|| server.restart()));
    }
}

/// Those that are installed, and those that are not.
pub(crate) struct Sides {
    sides: Vec<Side>,
    missing: Vec<Peer>,
}

impl Sides {
    /// Starts all.
    ///
    /// # Panics
    /// Where there is no cgroup v2.
    pub(crate) fn start(peers: &[Peer], client: &Place, server: &Place) -> Sides {
        let (installed, missing): (Vec<Peer>, Vec<Peer>) = peers.iter().partition(|peer| peer.is_installed());
        let sides = installed.iter().map(|peer| Side::start(*peer, client, server));
        Sides {
            sides: sides.collect(),
            missing,
        }
    }

    /// The same between the lab's `client` and `server`.
    pub(crate) fn start_in(lab: &Lab, peers: &[Peer]) -> Sides {
        Sides::start(peers, &lab.place("client"), &lab.place("server"))
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Side> {
        self.sides.iter()
    }

    /// Measures each so many times; who goes first changes, so that none profits from another's warmth.
    pub(crate) fn take_turns(&mut self, rounds: usize, mut measure: impl FnMut(usize, &Side)) {
        for round in 0..rounds {
            for turn in 0..self.sides.len() {
                let at = (round + turn) % self.sides.len();
                measure(at, &self.sides[at]);
                self.sides[at].refresh();
            }
        }
    }

    /// An empty list for each.
    pub(crate) fn figures(&self) -> Vec<Vec<f64>> {
        vec![vec![]; self.sides.len()]
    }

    /// What was seen of each, and who is not there.
    pub(crate) fn named<T: Into<Seen>>(&self, seen: Vec<T>) -> Vec<(Peer, Seen)> {
        let present = self.sides.iter().map(|side| side.peer);
        let missing = self
            .missing
            .iter()
            .map(|peer| (*peer, Seen::Nothing("is not installed".into())));
        present.zip(seen.into_iter().map(Into::into)).chain(missing).collect()
    }
}

/// Has TCP on both hosts use one of the kernel's congestion controllers. Without BBR it stands still on links that lose
/// packets, so that is what plain ssh is given there.
///
/// # Panics
/// When this kernel has no such controller.
pub(crate) fn use_tcp_control(lab: &Lab, control: &str) {
    for host in ["client", "server"] {
        let set = format!("echo {control} > /proc/sys/net/ipv4/tcp_congestion_control");
        let set = lab.command(host, "sh").args(["-c", &set]).status();
        assert!(set.is_ok_and(|status| status.success()), "this kernel has no {control}");
    }
}
