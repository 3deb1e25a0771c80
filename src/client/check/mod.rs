//! Checks every path to a host: end to end, each alone, all at once.
//!
//! A path works if an authorised probe went through it to a server half and came back with sshd's banner. For one that
//! does not the likely cause is found from what was seen on it, beside it, and by a second look at its address.

mod ask;
mod probe;
mod verdict;
mod witness;

pub use verdict::Verdict;

use super::ClientConfig;
use super::paths::{Knowledge, Paths, ResolveError};
use crate::carrier::Path;
use crate::clock;
use crate::wire::{PeerText, Probed};
use ask::Asker;
use probe::{Finding, Probing};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use witness::{Tcp, knock, say_something_long};

/// What is to be checked.
pub struct CheckConfig {
    /// As for a session. `connect_timeout` bounds each path, without the time that the user takes.
    pub client: ClientConfig,
    /// sshd's TCP port: whether the host lives is seen there, where a path fails.
    pub ssh_port: u16,
}

/// A path, and how it did.
#[derive(Debug)]
pub struct Checked {
    /// The path.
    pub path: Path,
    /// From the first packet to the end of the handshake; `None` if it did not come to that.
    pub handshake: Option<Duration>,
    /// From the first packet to sshd's banner, without the time that the user took.
    pub banner: Option<Duration>,
    /// Most bytes of UDP payload that QUIC found to fit, so far.
    pub mtu: Option<u16>,
    /// Whether it works, and if not the likely cause.
    pub verdict: Verdict,
    /// What was seen, in the words of the one who saw it.
    pub detail: Option<PeerText>,
    /// The server half's answer.
    pub answer: Option<Probed>,
    /// Whether no key of the host was known before: ssh will ask.
    pub is_unknown_host: bool,
    /// Where other keys of the host are recorded than those it proved: the name, and the file.
    pub recorded: Option<(String, PathBuf)>,
}

/// Every path, and what did not even become one.
#[derive(Debug)]
pub struct CheckedAll {
    /// In the order in which they would be dialed.
    pub paths: Vec<Checked>,
    /// Relays whose names lead nowhere, each with the reason.
    pub unlocated: Vec<String>,
    /// Where sshd itself was connected to, without a login, because no path works and the cause was not certain.
    pub asked_sshd: Vec<SocketAddr>,
}

/// Probes every path to a host.
///
/// Ends within `connect_timeout`, but for what the user takes to unlock a key, and two seconds where no path works.
///
/// # Errors
/// The name leads nowhere.
pub async fn check(config: CheckConfig) -> Result<CheckedAll, ResolveError> {
    let CheckConfig { client, ssh_port } = config;
    let knowledge = Knowledge {
        state_dir: client.state_dir.clone(),
        host_keys: client.trust.known_keys(),
    };
    let is_unknown_host = knowledge.host_keys.is_empty();
    let resolved = Paths::resolve(client.place.clone(), knowledge.clone()).await?;
    let (paths, unlocated) = (resolved.all(), resolved.unlocated());
    let (findings, mut witnesses) = probe_all(&Arc::new(client), &paths, knowledge, ssh_port).await;
    let asked_sshd = ask_sshd(&findings, &mut witnesses, ssh_port).await;
    let verdicts = verdict::judge(&findings, &witnesses);
    let checked = findings.into_iter().zip(verdicts);
    let checked = checked.map(|(finding, verdict)| finding.checked(verdict, is_unknown_host));
    Ok(CheckedAll {
        paths: checked.collect(),
        unlocated,
        asked_sshd,
    })
}

/// Where no path works, and one of them ended in silence though the host lives: whether it is the long packets that get
/// lost. Gives whom it asked.
async fn ask_sshd(findings: &[Finding], witnesses: &mut HashMap<IpAddr, Tcp>, ssh_port: u16) -> Vec<SocketAddr> {
    let mut asked = JoinSet::new();
    for ip in verdict::doubtful_hosts(findings, witnesses) {
        let sshd = sshd_at(ip, ssh_port, findings.iter().map(|finding| &finding.path));
        asked.spawn(async move { (sshd, say_something_long(sshd).await) });
    }
    let answers = asked.join_all().await;
    witnesses.extend(answers.iter().map(|(sshd, seen)| (sshd.ip(), *seen)));
    answers.into_iter().map(|(sshd, _)| sshd).collect()
}

/// All at once. Halfway a second look is taken at the addresses where some path did not come through by then.
async fn probe_all(
    client: &Arc<ClientConfig>,
    paths: &[Path],
    knowledge: Knowledge,
    ssh_port: u16,
) -> (Vec<Finding>, HashMap<IpAddr, Tcp>) {
    let half = client.connect_timeout / 2;
    let halfway = clock::now() + half;
    let asker = Arc::new(Asker::new(Arc::clone(client)));
    let mut probes = JoinSet::new();
    for (place, path) in paths.iter().enumerate() {
        let probing = Probing::new(
            Arc::clone(client),
            Arc::clone(&asker),
            path.clone(),
            &knowledge.host_keys,
        );
        probes.spawn(async move { (place, probing.run().await) });
    }
    let mut findings: Vec<Option<Finding>> = paths.iter().map(|_| None).collect();
    loop {
        tokio::select! {
            Some(ended) = probes.join_next() => keep(&mut findings, ended),
            () = sleep_until(halfway.into()), if !probes.is_empty() => break,
            else => break,
        }
    }
    let mut looks = JoinSet::new();
    for ip in doubtful(paths, &findings) {
        let sshd = sshd_at(ip, ssh_port, paths.iter());
        looks.spawn(async move { (ip, knock(sshd, half).await) });
    }
    while let Some(ended) = probes.join_next().await {
        keep(&mut findings, ended);
    }
    let witnesses = looks.join_all().await.into_iter().collect();
    (all_of(paths, findings), witnesses)
}

/// One for each path: of a probe that panicked that is all that is known.
fn all_of(paths: &[Path], findings: Vec<Option<Finding>>) -> Vec<Finding> {
    let each = paths.iter().zip(findings);
    each.map(|(path, finding)| finding.unwrap_or_else(|| Finding::fault(path.clone())))
        .collect()
}

fn keep(findings: &mut [Option<Finding>], ended: Result<(usize, Finding), tokio::task::JoinError>) {
    // Nobody aborts a probe, and one that panicked is told by its absence.
    if let Ok((place, finding)) = ended {
        findings[place] = Some(finding);
    }
}

/// Addresses to which a straight path did not come through, each once.
fn doubtful(paths: &[Path], findings: &[Option<Finding>]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (path, finding) in paths.iter().zip(findings) {
        let came_through = finding.as_ref().is_some_and(|finding| finding.handshake.is_some());
        if let Some(ip) = straight_to(path).filter(|ip| !came_through && !found.contains(ip)) {
            found.push(ip);
        }
    }
    found
}

/// sshd's address at `ip`, in the zone of the paths that lead there.
fn sshd_at<'a>(ip: IpAddr, port: u16, mut paths: impl Iterator<Item = &'a Path>) -> SocketAddr {
    let straight = paths.find_map(|path| match path {
        Path::Quic(address) | Path::Tls(address) => Some(*address).filter(|address| address.ip() == ip),
        Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => None,
    });
    let mut sshd = straight.unwrap_or(SocketAddr::new(ip, port));
    sshd.set_port(port);
    sshd
}

/// The host at the other end of a straight path.
fn straight_to(path: &Path) -> Option<IpAddr> {
    match path {
        Path::Quic(address) | Path::Tls(address) => Some(address.ip()),
        Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_panicked_is_told_and_no_path_is_left_out() {
        let paths = [1, 2].map(|port| Path::Quic(std::net::SocketAddr::from(([127, 0, 0, 1], port))));
        let findings = all_of(&paths, vec![None, Some(Finding::fault(paths[1].clone()))]);
        assert_eq!(verdict::judge(&findings, &HashMap::new()), [Verdict::Broken; 2]);
        let first = findings.into_iter().next().expect("one a path");
        let told = first.checked(Verdict::Broken, false);
        assert_eq!(told.path, paths[0]);
        assert!(told.detail.is_some_and(|detail| detail.contains("fault of bowline")));
    }
}
