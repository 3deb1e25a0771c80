//! The programs that are compared, each with its own sshd and user's files, and how they take turns.

use crate::cgroup::Cgroup;
use crate::support::lab::Lab;
use crate::support::place::Place;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;

/// What carries the session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Bowline,
    /// ssh straight over TCP.
    Ssh,
}

impl Peer {
    pub(crate) const ALL: [Peer; 2] = [Peer::Bowline, Peer::Ssh];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Bowline => "bowline",
            Peer::Ssh => "ssh",
        }
    }

    /// All that is needed to use it from one place to another.
    pub(crate) fn between(self, client: Place, server: Place) -> Rig {
        match self {
            Peer::Ssh => Rig::plain_between(client, server),
            Peer::Bowline => {
                let options = ServeOptions {
                    place: server,
                    ..ServeOptions::here()
                };
                Rig::between(client, options, |setup| setup)
            }
        }
    }
}

/// One of them, ready to be used.
pub(crate) struct Side {
    pub(crate) peer: Peer,
    pub(crate) rig: Rig,
    pub(crate) cgroup: Cgroup,
}

pub(crate) struct Sides(Vec<Side>);

impl Sides {
    /// Starts all.
    ///
    /// # Panics
    /// Where there is no cgroup v2.
    pub(crate) fn start(rig: impl Fn(Peer) -> Rig) -> Sides {
        let sides = Peer::ALL.map(|peer| {
            let cgroup = Cgroup::new().expect("root, and cgroup v2");
            let rig = cgroup.start(|| rig(peer));
            Side { peer, rig, cgroup }
        });
        Sides(sides.into())
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Side> {
        self.0.iter()
    }

    /// Measures each so many times; who goes first changes, so that none profits from another's warmth.
    pub(crate) fn take_turns(&self, rounds: usize, mut measure: impl FnMut(usize, &Side)) {
        for round in 0..rounds {
            for turn in 0..self.0.len() {
                let at = (round + turn) % self.0.len();
                measure(at, &self.0[at]);
            }
        }
    }

    /// An empty list for each.
    pub(crate) fn figures(&self) -> Vec<Vec<f64>> {
        vec![vec![]; self.0.len()]
    }

    pub(crate) fn named(&self, figures: Vec<Vec<f64>>) -> Vec<(Peer, Vec<f64>)> {
        self.0.iter().map(|side| side.peer).zip(figures).collect()
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
