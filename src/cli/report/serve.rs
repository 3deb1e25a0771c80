//! Who is there already, where `bowline serve` wants to be.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Exit, Failure, cannot_listen};
use crate::cli::serve::holders::Holder;
use crate::identity::statement::HostKeyWarning;
use crate::server::keeper::{Endpoint, KeeperInfo, Protocol, TakeoverError, TakeoverRefusal};
use crate::server::sshd_config::Obstacle;

/// Another bowline serves at the address.
pub(crate) fn another_serves(endpoint: Endpoint, who: &KeeperInfo) -> Failure {
    let failure = there(endpoint).fact(facts(who));
    match who.managed {
        false => failure.hint("--replace takes its place and keeps its sessions"),
        true => failure.hint(
            "a service manager runs it: systemctl reload makes it read its settings anew, systemctl restart runs it anew; \
             both keep its sessions",
        ),
    }
}

/// Somebody else has the address, or a bowline that cannot be asked.
pub(crate) fn in_use(endpoint: Endpoint, error: &io::Error, holders: &[Holder], folder: &Path) -> Failure {
    let bowline = holders.iter().find(|holder| holder.is_keeper());
    if let Some(keeper) = bowline {
        return there(endpoint).fact(format_args!("process {}", keeper.pid)).hint(format_args!(
            "its sockets are not in {}: name its own folder by --runtime-dir, and --replace takes its place and keeps its \
             sessions",
            folder.display()
        ));
    }
    let failure = cannot_listen(option(endpoint), endpoint, error);
    holders.iter().fold(failure, |failure, holder| {
        failure.fact(format_args!("process {} ({}) has it", holder.pid, holder.name))
    })
}

/// A server half that takes no session is of no use to anybody.
pub(crate) fn too_few_descriptors(limit: usize, needed: usize, usual: usize) -> Failure {
    let what = format_args!("this process may open {limit} files, which leaves none for a session");
    Failure::new(Exit::Unavailable, what)
        .fact(format_args!("one session needs a limit of {needed}, --max-sessions of them need {usual}"))
        .hint("raise the hard limit of open files: LimitNOFILE= in the unit, ulimit -n in a shell, --ulimit nofile= of a container")
}

/// The question whether a key may open would let everybody in.
pub(crate) fn accepts_any_key(identification: &str) -> Failure {
    let what = "the SSH server at the target says yes to every key, so asking it decides nothing (--auth sshd)";
    Failure::new(Exit::Unavailable, what)
        .fact(format_args!("it calls itself {identification}"))
        .fact("it was asked about a key that was made a moment ago, and would accept it for root")
        .hint(
            "--auth none says that the login inside is to decide alone; --authorized-keys names a file whose keys may open \
             sessions",
        )
}

/// Root can use none of sshd's host keys.
pub(crate) fn no_host_keys(warnings: &[HostKeyWarning]) -> Failure {
    let what = "none of sshd's host keys can be used, and clients that know the host refuse any other key";
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
            "give sshd one more host key, in a file and of a usual type: `ssh-keygen -A` makes those that are missing in \
             /etc/ssh; then add a line such as `HostKey /etc/ssh/ssh_host_ed25519_key` to sshd_config and reload sshd. Clients \
             that know the host learn it by themselves (UpdateHostKeys)",
        );
    }
    failure.hint(
        "name the host keys that clients know with --host-key, or the configuration that names them with --sshd-config; \
         with another SSH server, ssh-keygen makes a key for --host-key that clients then have to learn",
    )
}

/// What an administrator does so that sessions are opened.
pub(crate) fn opens_refused(obstacle: &Obstacle) -> String {
    let see = "let sshd see where clients come from (--client-address real)";
    match obstacle {
        Obstacle::Rules { .. } => format!(
            "{see}; or remove these lines; or say --accept-loopback-match, if everybody may have what these lines give to \
             127.0.0.1 and what they give to no address"
        ),
        Obstacle::Files(_) => format!("let bowline read that file, as root for instance; or {see}"),
        Obstacle::Sshd(_) => format!(
            "mend what sshd says (`sshd -t` says it too); --sshd-config and --sshd-binary name another configuration and \
             another sshd. It is tried again at the next open; or {see}"
        ),
        Obstacle::Elsewhere { .. } => {
            "run bowline serve on that machine; or say --accept-loopback-match, if sshd there has \
             no rules that depend on where a client connects from: it sees this machine's address"
                .to_owned()
        }
        Obstacle::SharedPenalties {
            instead: Some(instead), ..
        } => format!("use --target {instead}, where the same sshd listens; systemctl reload bowline does so too"),
        Obstacle::SharedPenalties { .. } => format!(
            "have sshd listen on 127.0.0.1 too, with PerSourceNetBlockSize 32, and use that as --target; or {see}; or turn \
             PerSourcePenalties off"
        ),
    }
}

/// With any port asked for, it is not clear whose place is meant.
pub(crate) fn several_serve<'a>(all: impl Iterator<Item = &'a KeeperInfo>) -> Failure {
    let failure = Failure::new(Exit::Unavailable, "several bowlines serve here");
    let failure = all.fold(failure, |failure, who| {
        failure.fact(format_args!("{} on {}", facts(who), endpoints(who)))
    });
    failure.hint("name the port of the one to replace with --listen")
}

/// The running one listens at every address, and this one wants one of them, or the other way round.
pub(crate) fn overlaps(endpoint: Endpoint, who: &KeeperInfo) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format_args!("cannot listen on {endpoint} as long as the running bowline listens where it does"),
    )
    .fact(format_args!("{} on {}", facts(who), endpoints(who)))
    .hint(format_args!(
        "give the addresses of the running one to {}, or stop it first",
        option(endpoint)
    ))
}

/// The running one keeps its place.
pub(crate) fn cannot_take_over(who: &KeeperInfo, error: &TakeoverError) -> Failure {
    let failure = Failure::from_error(Exit::Unavailable, error);
    let mut failure = Failure {
        what: format!("cannot take the place of the running bowline: {}", failure.what),
        ..failure
    };
    failure.facts.insert(0, facts(who));
    match error {
        TakeoverError::OtherUser { .. } => failure.hint("run this one as the user of the running one"),
        TakeoverError::Refused(TakeoverRefusal::Managed) => failure
            .fact("a service manager runs it, and would end all of it")
            .hint("systemctl reload or systemctl restart do the same, and keep its sessions"),
        TakeoverError::Refused(TakeoverRefusal::Version { .. })
        | TakeoverError::Handover(_)
        | TakeoverError::UnexpectedReply => failure
            .fact(format_args!("this one is version {}", env!("CARGO_PKG_VERSION")))
            .hint(format_args!(
                "the versions are too far apart. To end its sessions and start anew: kill {}",
                who.keeper
            )),
        TakeoverError::Refused(TakeoverRefusal::Ending) => failure.hint("it is about to end: try again"),
        TakeoverError::Foreign { .. } => {
            failure.hint("its worker may have been broken into: see its log, then kill it")
        }
        TakeoverError::Lost(_) => failure.hint("it goes on; try again, or see its log"),
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
        format_args!("another bowline serves on {endpoint}, and does not answer"),
    );
    let state = |holder: &Holder| if holder.runs() { "runs" } else { "is stopped" };
    let failure = failure.fact(format_args!("process {} {}", keeper.pid, state(keeper)));
    let failure = match worker {
        Some(worker) => failure.fact(format_args!("its worker, process {}, {}", worker.pid, state(worker))),
        None => failure.fact("its worker is dead"),
    };
    if !was_tried && worker.is_some_and(Holder::runs) {
        return failure.hint("--replace takes its place and keeps its sessions");
    }
    failure.hint(format_args!(
        "kill -CONT {pid} wakes a stopped one; kill -KILL {pid} ends it, and its sessions if its worker is not alive",
        pid = keeper.pid
    ))
}

fn there(endpoint: Endpoint) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("another bowline serves on {endpoint}"))
}

fn facts(who: &KeeperInfo) -> String {
    format!(
        "process {}, version {}, for {}",
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
