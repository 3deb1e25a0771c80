//! `bowline kill`: ends sessions by id, by key, or because nobody is there.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use super::args::KillArgs;
use super::report::{self, Failure};
use super::settings::{Context, SettingsError};
use super::status::{Overview, ask_all, overview, who};
use super::values::SessionName;
use crate::observe::{Half, KillRequest, Request, Response, SessionReport, State};

/// What `bowline kill` works by.
#[derive(Debug, Clone)]
pub(crate) struct KillSettings {
    /// Where sockets may be. Default: the user's runtime folder, and the machine's.
    pub(crate) folders: Vec<PathBuf>,
    /// Which.
    pub(crate) victims: Victims,
}

/// Which sessions are to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Victims {
    /// Each of these names one.
    Named(Vec<SessionName>),
    /// The server half's detached ones.
    Orphans,
    /// The server half's that this key has opened.
    OfKey(String),
}

impl KillSettings {
    /// # Errors
    /// This user has no folders, and none is given.
    pub(super) fn new(args: KillArgs, context: &Context) -> Result<Self, SettingsError> {
        let victims = match args.key {
            _ if args.orphans => Victims::Orphans,
            Some(key) => Victims::OfKey(key.to_string()),
            None => Victims::Named(args.sessions),
        };
        Ok(KillSettings {
            folders: context.runtime_folders()?,
            victims,
        })
    }
}

/// Ends them, and says which.
///
/// # Errors
/// A name that names no session, or several; nothing is ended then. Somebody who has the session does not answer.
pub(super) async fn run(settings: KillSettings) -> Result<(), Failure> {
    let overview = overview(&settings.folders).await;
    let chosen = choose(&overview, &settings.victims)?;
    let only_detached = settings.victims == Victims::Orphans;
    let mut ended = BTreeSet::new();
    let ids: Vec<String> = chosen.iter().map(|session| session.id.clone()).collect();
    for sessions in ids.chunks(KillRequest::MAX_SESSIONS) {
        let request = Request::Kill(KillRequest {
            sessions: sessions.to_vec(),
            only_detached,
        });
        let replies = ask_all(&settings.folders, &request).await;
        for response in replies
            .into_iter()
            .flat_map(|replies| replies.responses.unwrap_or_default())
        {
            if let Response::Ended(sessions) = response {
                ended.extend(sessions);
            }
        }
    }
    tell(&chosen, &ended);
    // One that ended or came back by itself meanwhile is no orphan any more.
    match ids.iter().find(|id| !ended.contains(*id)).filter(|_| !only_detached) {
        Some(id) => Err(report::not_ended(id)),
        None => Ok(()),
    }
}

/// What is to end, each id once.
fn choose<'a>(overview: &'a Overview, victims: &Victims) -> Result<Vec<&'a SessionReport>, Failure> {
    let live = || overview.sessions.iter().filter(|session| session.state != State::Gone);
    let of_server = || live().filter(|session| session.half == Half::Server);
    let chosen = match victims {
        Victims::Named(names) => {
            let mut chosen = Vec::new();
            for name in names {
                chosen.push(named(live(), name)?);
            }
            chosen
        }
        Victims::Orphans | Victims::OfKey(_) if overview.servers.is_empty() => return Err(report::no_server_half()),
        Victims::Orphans => of_server().filter(|session| session.state == State::Detached).collect(),
        Victims::OfKey(key) => of_server()
            .filter(|session| session.key.as_ref() == Some(key))
            .collect(),
    };
    let mut seen = BTreeSet::new();
    Ok(chosen.into_iter().filter(|session| seen.insert(&session.id)).collect())
}

/// The one session of that name: both of its halves may be here.
fn named<'a>(
    sessions: impl Iterator<Item = &'a SessionReport>,
    name: &SessionName,
) -> Result<&'a SessionReport, Failure> {
    let mut fitting = sessions.filter(|session| name.names(&session.id, session.terminal.as_deref()));
    let Some(first) = fitting.next() else {
        return Err(report::no_such_session(name));
    };
    match fitting.find(|other| other.id != first.id) {
        Some(other) => Err(report::several_sessions(name, &[&first.id, &other.id])),
        None => Ok(first),
    }
}

fn tell(chosen: &[&SessionReport], ended: &BTreeSet<String>) {
    let mut text = String::new();
    for session in chosen.iter().filter(|session| ended.contains(&session.id)) {
        let on = session.terminal.as_ref().map(|terminal| format!(" on {terminal}"));
        let who = who(session) + &on.unwrap_or_default();
        text += &format!("ended {} ({})\n", session.id, crate::wire::Escaped(&who));
    }
    if ended.is_empty() && chosen.is_empty() {
        text += "no matching sessions on this machine\n";
    }
    // A closed stdout is not an error.
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::values::Value;
    use super::*;
    use crate::wire::SessionId;

    fn session(byte: u8, half: Half, state: State) -> SessionReport {
        SessionReport {
            state,
            key: (half == Half::Server).then(|| format!("SHA256:{byte}")),
            terminal: (half == Half::Client).then(|| "pts/3".to_owned()),
            ..SessionReport::gone(SessionId::new([byte; 16]), half)
        }
    }

    fn here() -> Overview {
        Overview {
            sessions: vec![
                session(0x11, Half::Client, State::Connected),
                session(0x11, Half::Server, State::Connected),
                session(0x12, Half::Server, State::Detached),
                session(0x13, Half::Server, State::Gone),
                session(0x21, Half::Client, State::Gone),
            ],
            ..Overview::default()
        }
    }

    fn by_name(name: &str) -> Result<Vec<String>, String> {
        let names = Victims::Named(vec![SessionName::parse(name).unwrap()]);
        let overview = here();
        let chosen = choose(&overview, &names).map_err(|failure| failure.one_line())?;
        Ok(chosen.iter().map(|session| session.id.clone()).collect())
    }

    #[test]
    fn a_name_must_name_one_session_that_lives() {
        assert_eq!(by_name("111").unwrap(), ["11".repeat(16)], "both halves of it are here");
        assert!(by_name("1").unwrap_err().contains("several"));
        assert_eq!(by_name("pts/3").unwrap(), ["11".repeat(16)]);
        assert!(by_name("/dev/pts/4").unwrap_err().contains("has the terminal pts/4"));
        assert!(by_name("13").unwrap_err().contains("no session"));
        assert!(by_name("99").unwrap_err().contains("no session"));
    }

    #[test]
    fn nothing_can_be_said_of_orphans_without_a_server_half() {
        assert!(choose(&here(), &Victims::Orphans).is_err());
    }
}
