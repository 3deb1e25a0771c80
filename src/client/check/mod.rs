//! Checks every path to a host end to end, all at the same time.
//!
//! A path works if an authorized probe reached a server half through it and returned sshd's banner. For other paths
//! the likely cause is derived from what happened on this path, on other paths, and from a TCP probe of the host.

mod authorization;
mod diagnosis;
mod probe;
mod tcp_probe;

pub use diagnosis::Diagnosis;

use super::ClientConfig;
use super::paths::{LookupContext, Paths, ResolveError};
use crate::carrier::Path;
use crate::clock;
use crate::wire::{PeerText, Probed};
use authorization::Authorizer;
use probe::{PathProbe, ProbeResult};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tcp_probe::{PortState, probe_long_packet, probe_port};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Settings of a check.
pub struct CheckConfig {
    /// As for a session. `connect_timeout` limits each path, not counting the time that the user takes.
    pub client: ClientConfig,
    /// sshd's TCP port. If a path fails, it is probed to see whether the host is up.
    pub ssh_port: u16,
}

/// The result for one path.
#[derive(Debug)]
pub struct CheckedPath {
    /// The path.
    pub path: Path,
    /// Time from the first packet to the end of the handshake; `None` if the handshake did not complete.
    pub handshake: Option<Duration>,
    /// Time from the first packet to sshd's banner, not counting the time that the user took.
    pub banner: Option<Duration>,
    /// Largest UDP payload that QUIC has found to work so far.
    pub mtu: Option<u16>,
    /// Whether all keys have signed, because the server half cannot be asked which one it would accept.
    pub all_keys_sign: bool,
    /// Whether the path works, and if not, the likely cause.
    pub diagnosis: Diagnosis,
    /// The error message that was received.
    pub detail: Option<PeerText>,
    /// The server half's answer.
    pub answer: Option<Probed>,
    /// Whether no key of the host was known: ssh will ask the user.
    pub is_unknown_host: bool,
    /// If the host proved other keys than the recorded ones: the name and the file of the record.
    pub recorded: Option<(String, PathBuf)>,
}

/// The results for all paths, and relays that could not be resolved.
#[derive(Debug)]
pub struct CheckReport {
    /// In the order in which they would be dialed.
    pub paths: Vec<CheckedPath>,
    /// Relays that could not be resolved, with the reason.
    pub unresolved_relays: Vec<String>,
    /// Addresses at which this check connected to sshd itself, without a login, because no path works and the cause
    /// was not certain.
    pub asked_sshd: Vec<SocketAddr>,
}

/// Probes every path to a host.
///
/// Takes at most `connect_timeout`, plus the time that the user takes to unlock keys, plus two seconds if no path
/// works.
///
/// # Errors
/// The host name cannot be resolved.
pub async fn check(config: CheckConfig) -> Result<CheckReport, ResolveError> {
    let CheckConfig { client, ssh_port } = config;
    let context = LookupContext {
        state_dir: client.state_dir.clone(),
        host_keys: client.trust.known_keys(),
    };
    let is_unknown_host = context.host_keys.is_empty();
    let resolved = Paths::resolve(client.target.clone(), context.clone()).await?;
    let (paths, unresolved_relays) = (resolved.all(), resolved.unresolved_relays());
    let (results, mut tcp_probes) = probe_all(&Arc::new(client), &paths, context, ssh_port).await;
    let asked_sshd = ask_sshd(&results, &mut tcp_probes, ssh_port).await;
    let diagnoses = diagnosis::diagnose(&results, &tcp_probes);
    let checked = results.into_iter().zip(diagnoses);
    let checked = checked.map(|(result, diagnosis)| result.checked(diagnosis, is_unknown_host));
    Ok(CheckReport {
        paths: checked.collect(),
        unresolved_relays,
        asked_sshd,
    })
}

/// If no path works and one of them got no answer although the host is up: probes whether long packets are lost.
/// Returns the addresses that were contacted.
async fn ask_sshd(
    results: &[ProbeResult],
    tcp_probes: &mut HashMap<IpAddr, PortState>,
    ssh_port: u16,
) -> Vec<SocketAddr> {
    let mut asked = JoinSet::new();
    for ip in diagnosis::hosts_to_test(results, tcp_probes) {
        let sshd = sshd_at(ip, ssh_port, results.iter().map(|result| &result.path));
        asked.spawn(async move { (sshd, probe_long_packet(sshd).await) });
    }
    let answers = asked.join_all().await;
    tcp_probes.extend(answers.iter().map(|(sshd, seen)| (sshd.ip(), *seen)));
    answers.into_iter().map(|(sshd, _)| sshd).collect()
}

/// Probes all paths at the same time. After half the time, probes the TCP port of each host to which some path has
/// not completed its handshake.
async fn probe_all(
    client: &Arc<ClientConfig>,
    paths: &[Path],
    context: LookupContext,
    ssh_port: u16,
) -> (Vec<ProbeResult>, HashMap<IpAddr, PortState>) {
    let half = client.connect_timeout / 2;
    let halfway = clock::now() + half;
    let authorizer = Arc::new(Authorizer::new(Arc::clone(client)));
    let mut probes = JoinSet::new();
    for (index, path) in paths.iter().enumerate() {
        let probe = PathProbe::new(
            Arc::clone(client),
            Arc::clone(&authorizer),
            path.clone(),
            &context.host_keys,
        );
        probes.spawn(async move { (index, probe.run().await) });
    }
    let mut results: Vec<Option<ProbeResult>> = paths.iter().map(|_| None).collect();
    loop {
        tokio::select! {
            Some(ended) = probes.join_next() => keep(&mut results, ended),
            () = sleep_until(halfway.into()), if !probes.is_empty() => break,
            else => break,
        }
    }
    let mut looks = JoinSet::new();
    for ip in unreached(paths, &results) {
        let sshd = sshd_at(ip, ssh_port, paths.iter());
        looks.spawn(async move { (ip, probe_port(sshd, half).await) });
    }
    while let Some(ended) = probes.join_next().await {
        keep(&mut results, ended);
    }
    let tcp_probes = looks.join_all().await.into_iter().collect();
    (all_of(paths, results), tcp_probes)
}

/// One result per path; a probe that panicked has only the fact that it did.
fn all_of(paths: &[Path], results: Vec<Option<ProbeResult>>) -> Vec<ProbeResult> {
    let each = paths.iter().zip(results);
    each.map(|(path, result)| result.unwrap_or_else(|| ProbeResult::fault(path.clone())))
        .collect()
}

fn keep(results: &mut [Option<ProbeResult>], ended: Result<(usize, ProbeResult), tokio::task::JoinError>) {
    // Probes are never aborted. One that panicked has no result, and is reported as such.
    if let Ok((index, result)) = ended {
        results[index] = Some(result);
    }
}

/// Addresses of direct paths that have not completed a handshake, each once.
fn unreached(paths: &[Path], results: &[Option<ProbeResult>]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (path, result) in paths.iter().zip(results) {
        let came_through = result.as_ref().is_some_and(|result| result.handshake.is_some());
        if let Some(ip) = direct_host(path).filter(|ip| !came_through && !found.contains(ip)) {
            found.push(ip);
        }
    }
    found
}

/// sshd's address at `ip`, with the IPv6 zone of the paths to it.
fn sshd_at<'a>(ip: IpAddr, port: u16, mut paths: impl Iterator<Item = &'a Path>) -> SocketAddr {
    let straight = paths.find_map(|path| match path {
        Path::Quic(address) | Path::Tls(address) => Some(*address).filter(|address| address.ip() == ip),
        Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => None,
    });
    let mut sshd = straight.unwrap_or(SocketAddr::new(ip, port));
    sshd.set_port(port);
    sshd
}

/// The address of the host, if the path is direct.
fn direct_host(path: &Path) -> Option<IpAddr> {
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
        let results = all_of(&paths, vec![None, Some(ProbeResult::fault(paths[1].clone()))]);
        assert_eq!(diagnosis::diagnose(&results, &HashMap::new()), [Diagnosis::Broken; 2]);
        let first = results.into_iter().next().expect("one per path");
        let told = first.checked(Diagnosis::Broken, false);
        assert_eq!(told.path, paths[0]);
        assert!(
            told.detail
                .is_some_and(|detail| detail.contains("internal error in bowline"))
        );
    }
}
