//! Who is there already, where `bowline serve` wants to be.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Exit, Failure, cannot_listen};
use crate::cli::serve::holders::Holder;
use crate::identity::statement::HostKeyWarning;
use crate::server::handover::{Endpoint, Protocol};
use crate::server::ipc::{KeeperInfo, TakeoverRefusal};
use crate::server::sshd_config::Obstacle;
use crate::server::takeover::TakeoverError;

/// Another bowline serves at the address.
pub(crate) fn another_serves(endpoint: Endpoint, who: &KeeperInfo) -> Failure {
    let failure = there(endpoint).fact(facts(who));
    match who.managed {
        false => failure.hint("--replace takes over from it and keeps its sessions"),
        true => failure.hint(
            "a service manager runs it: systemctl reload applies new settings, systemctl restart starts the \
             program again; both keep its sessions",
        ),
    }
}

/// Somebody else has the address, or a bowline that cannot be asked.
pub(crate) fn in_use(endpoint: Endpoint, error: &io::Error, holders: &[Holder], folder: &Path) -> Failure {
    let bowline = holders.iter().find(|holder| holder.is_keeper());
    if let Some(keeper) = bowline {
        return there(endpoint)
            .fact(format_args!("process {}", keeper.pid))
            .hint(format_args!(
                "its control socket is not in {}; to take over from it and keep its sessions, run this again with \
                --runtime-dir FOLDER --replace, where FOLDER is its runtime folder",
                folder.display()
            ));
    }
    let failure = cannot_listen(option(endpoint), endpoint, error);
    holders.iter().fold(failure, |failure, holder| {
        failure.fact(format_args!("process {} ({}) uses it", holder.pid, holder.name))
    })
}

/// A server half that takes no session is of no use to anybody.
pub(crate) fn too_few_descriptors(limit: usize, needed: usize, usual: usize) -> Failure {
    let what = format_args!("this process may open only {limit} files, which is too few for one session");
    Failure::new(Exit::Unavailable, what)
        .fact(format_args!(
            "one session needs a limit of {needed}; --max-sessions needs {usual}"
        ))
        .hint(
            "raise the hard limit of open files: LimitNOFILE= in the unit, ulimit -n in a shell, --ulimit \
            nofile= for a container",
        )
}

/// The question whether a key may open would let everybody in.
pub(crate) fn accepts_any_key(identification: &str) -> Failure {
    let what = "the SSH server at the target accepts every key, so --auth sshd would let everybody in";
    Failure::new(Exit::Unavailable, what)
        .fact(format_args!("it identifies itself as {identification}"))
        .fact("it would accept a key for root that bowline generated just now")
        .hint(
            "with --auth none, only the SSH login inside the session decides; with --authorized-keys FILE, the \
             keys in FILE may open sessions",
        )
}

/// Root can use none of sshd's host keys.
pub(crate) fn no_host_keys(warnings: &[HostKeyWarning]) -> Failure {
    let what = "none of sshd's host keys can be used, and clients that know the host would refuse any other key";
    let failure = warnings
        .iter()
        .fold(Failure::new(Exit::Unavailable, what), Failure::fact);
    let is_of_sshd_alone = |warning: &HostKeyWarning| {
        matches!(
            warning,
            HostKeyWarning::UnsupportedType { .. } | HostKeyWarning::PublicOnly { .. }
        )
    };
    if warnings.iter().any(is_of_sshd_alone) {
        return failure.hint(
            "give sshd one more host key, in a file and of a common type: `ssh-keygen -A` creates the missing \
             ones in /etc/ssh; then add a line such as `HostKey /etc/ssh/ssh_host_ed25519_key` to sshd_config \
             and reload sshd. Clients that know the host learn the new key automatically (UpdateHostKeys)",
        );
    }
    failure.hint(
        "pass the host keys that clients know to --host-key, or the configuration that names them to \
         --sshd-config; for an SSH server other than OpenSSH, create a key for --host-key with ssh-keygen; \
         clients then have to learn it",
    )
}

/// What an administrator does so that sessions are opened.
pub(crate) fn opens_refused(obstacle: &Obstacle) -> String {
    let see = "let sshd see the clients' own addresses (--client-address real)";
    match obstacle {
        Obstacle::Rules { .. } => format!(
            "{see}; or remove these lines; or use --accept-loopback-match, if these lines may treat every client \
             either like 127.0.0.1 or like an address that they do not match"
        ),
        Obstacle::Files(_) => format!("let bowline read that file, for example by running it as root; or {see}"),
        Obstacle::Sshd(_) => format!(
            "fix the error that sshd reports (`sshd -t` shows it too), or name another configuration or sshd \
             with --sshd-config and --sshd-binary; bowline tries again when the next session opens; or {see}"
        ),
        Obstacle::Elsewhere { .. } => {
            "run bowline serve on that machine; or use --accept-loopback-match, if the sshd there has no rules \
             about client addresses: it sees only this machine's address"
                .to_owned()
        }
        Obstacle::SharedPenalties {
            instead: Some(instead), ..
        } => format!(
            "use --target {instead}, where the same sshd listens; systemctl reload bowline does the \
            same"
        ),
        Obstacle::SharedPenalties { .. } => format!(
            "let sshd listen on 127.0.0.1 too, with PerSourceNetBlockSize 32, and use that as --target; or \
             {see}; or turn off PerSourcePenalties"
        ),
    }
}

/// With any port asked for, it is not clear whose place is meant.
pub(crate) fn several_serve<'a>(all: impl Iterator<Item = &'a KeeperInfo>) -> Failure {
    let failure = Failure::new(Exit::Unavailable, "several bowline server halves run on this machine");
    let failure = all.fold(failure, |failure, who| {
        failure.fact(format_args!("{} on {}", facts(who), endpoints(who)))
    });
    failure.hint("pass the port of the one to replace to --listen")
}

/// The running one listens at every address, and this one wants one of them, or the other way round.
pub(crate) fn overlaps(endpoint: Endpoint, who: &KeeperInfo) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format_args!("cannot listen on {endpoint}: this overlaps with an address of the running bowline"),
    )
    .fact(format_args!("{} on {}", facts(who), endpoints(who)))
    .hint(format_args!(
        "pass the addresses of the running one to {}, or stop it first",
        option(endpoint)
    ))
}

/// The running one keeps its place.
pub(crate) fn cannot_take_over(who: &KeeperInfo, error: &TakeoverError) -> Failure {
    let failure = Failure::from_error(Exit::Unavailable, error);
    let mut failure = Failure {
        what: format!("cannot take over from the running bowline: {}", failure.what),
        ..failure
    };
    failure.facts.insert(0, facts(who));
    match error {
        TakeoverError::OtherUser { .. } => failure.hint("run this one as the same user as the running one"),
        TakeoverError::Refused(TakeoverRefusal::Managed) => failure
            .fact("a service manager runs it, and would end the new process together with it")
            .hint("use systemctl reload or systemctl restart instead; both keep its sessions"),
        TakeoverError::Refused(TakeoverRefusal::Version { .. })
        | TakeoverError::Handover(_)
        | TakeoverError::UnexpectedReply => failure
            .fact(format_args!("this one is version {}", env!("CARGO_PKG_VERSION")))
            .hint(format_args!(
                "the two versions are not compatible. To end its sessions and start again: kill {}",
                who.keeper
            )),
        TakeoverError::Refused(TakeoverRefusal::Ending) => failure.hint("it is stopping: try again"),
        TakeoverError::Foreign { .. } => failure.hint("its worker may be compromised: see its log, then kill it"),
        TakeoverError::Lost(_) => failure.hint("it continues to run; try again, or see its log"),
    }
}

/// It is there and hangs. Without a worker that goes on its sessions depend on it.
pub(crate) fn does_not_answer(
    endpoint: Endpoint,
    keeper: &Holder,
    worker: Option<&Holder>,
    was_tried: bool,
) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        format_args!("another bowline serves on {endpoint} but does not answer"),
    );
    let state = |holder: &Holder| if holder.runs() { "runs" } else { "is stopped" };
    let failure = failure.fact(format_args!("process {} {}", keeper.pid, state(keeper)));
    let failure = match worker {
        Some(worker) => failure.fact(format_args!("its worker, process {}, {}", worker.pid, state(worker))),
        None => failure.fact("its worker is dead"),
    };
    if !was_tried && worker.is_some_and(Holder::runs) {
        return failure.hint("--replace takes over from it and keeps its sessions");
    }
    failure.hint(format_args!(
        "kill -CONT {pid} resumes it if it is stopped; kill -KILL {pid} ends it, and also its sessions if its \
         worker is dead",
        pid = keeper.pid
    ))
}

fn there(endpoint: Endpoint) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("another bowline serves on {endpoint}"))
}

fn facts(who: &KeeperInfo) -> String {
    format!(
        "process {}, version {}, running for {}",
        who.keeper,
        who.version,
        rough(who.age)
    )
}

fn endpoints(who: &KeeperInfo) -> String {
    let endpoints: Vec<String> = who.endpoints().map(|endpoint| endpoint.to_string()).collect();
    endpoints.join(", ")
}

/// What says where to listen.
pub(crate) fn option(endpoint: Endpoint) -> &'static str {
    match endpoint.protocol {
        Protocol::Udp => "--listen",
        Protocol::Tcp => "--listen-tls",
    }
}

/// In its largest unit.
fn rough(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let (length, name) = units
        .into_iter()
        .find(|(length, _)| seconds >= *length)
        .unwrap_or((1, "s"));
    format!("{} {name}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_told_in_its_largest_unit() {
        let told = |seconds| rough(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 7199, 86_400, 864_000].map(told),
            ["0 s", "59 s", "1 min", "1 h", "1 d", "10 d"]
        );
    }
}
