//! `~`, `%` tokens and `${VARIABLES}` in file names.
//!
//! ssh prints identity files as they were written and expands them later. Its `ControlPath` it expands before it
//! prints: so ssh itself is asked to expand the others, as a `ControlPath`, and nothing of that is imitated here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::super::known_hosts::{KnownHostsCommand, LATER, LATER_TOKENS, split_words};
use super::dump::Dump;
use super::{SshConfig, SshConfigError, SshQuery, run_ssh};

/// Parts the names in the probe; no file name in a configuration has it.
const SEPARATOR: u8 = 0x1f;

/// The home folder that ssh means (the account's, not `$HOME`), from the expansion of `~/.`.
pub(super) fn home_of(probe: Option<PathBuf>) -> Result<PathBuf, SshConfigError> {
    let home = probe
        .as_deref()
        .and_then(|path| path.as_os_str().as_bytes().strip_suffix(b"/."));
    let unusable = || SshConfigError::Unusable {
        field: "controlpath",
        value: probe.clone().unwrap_or_default().into(),
    };
    let home = home.ok_or_else(unusable)?;
    Ok(Path::new("/").join(OsStr::from_bytes(home)))
}

/// Puts the home folder for a leading `~/`.
pub(super) fn tildes(paths: Vec<PathBuf>, home: &Path) -> Vec<PathBuf> {
    let expand = |path: PathBuf| match path.as_os_str().as_bytes().strip_prefix(b"~/") {
        Some(rest) => home.join(OsStr::from_bytes(rest)),
        None => path,
    };
    paths.into_iter().map(expand).collect()
}

/// Has ssh expand the tokens in the names of identity and certificate files, if there are any.
pub(super) async fn expand_tokens(query: &SshQuery, home: &Path, config: &mut SshConfig) -> Result<(), SshConfigError> {
    let names = config.identity_files.iter_mut().chain(&mut config.certificate_files);
    let mut waiting: Vec<&mut PathBuf> = names.filter(|path| has_tokens(path, home)).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let dump = Dump::parse(&run_ssh(query, probe_option(&waiting)).await?);
    let expanded = dump.path("controlpath").unwrap_or_default().into_os_string();
    let parts: Vec<&[u8]> = expanded.as_bytes().split(|byte| *byte == SEPARATOR).collect();
    if parts.len() != waiting.len() {
        return Err(SshConfigError::Unusable {
            field: "controlpath",
            value: expanded,
        });
    }
    for (path, part) in waiting.iter_mut().zip(parts) {
        **path = PathBuf::from(OsStr::from_bytes(part));
    }
    Ok(())
}

/// Takes a `KnownHostsCommand` apart and has ssh expand its arguments, but for the tokens that differ from run to run.
pub(super) async fn known_hosts_command(
    query: &SshQuery,
    line: &OsStr,
) -> Result<Option<KnownHostsCommand>, SshConfigError> {
    let unusable = || SshConfigError::Unusable {
        field: "knownhostscommand",
        value: line.to_owned(),
    };
    let words = split_words(line.as_bytes()).ok_or_else(unusable)?;
    let Some((program, arguments)) = words.split_first() else {
        return Ok(None);
    };
    let program = OsString::from_vec(program.clone());
    if arguments.is_empty() {
        return Ok(KnownHostsCommand::of_words(vec![program]));
    }
    // Something stands before them: a leading `~` is none to ssh there.
    let mut names = vec![PathBuf::from("/")];
    names.extend(
        arguments
            .iter()
            .map(|word| PathBuf::from(OsString::from_vec(postpone(word)))),
    );
    let names: Vec<&mut PathBuf> = names.iter_mut().collect();
    let dump = Dump::parse(&run_ssh(query, probe_option(&names)).await?);
    let expanded = dump.path("controlpath").unwrap_or_default().into_os_string();
    let parts = expanded.as_bytes().split(|byte| *byte == SEPARATOR).skip(1);
    let parts: Vec<OsString> = parts.map(|part| OsStr::from_bytes(part).to_owned()).collect();
    if parts.len() != arguments.len() {
        return Err(unusable());
    }
    Ok(KnownHostsCommand::of_words(
        std::iter::once(program).chain(parts).collect(),
    ))
}

/// Marks the tokens that ssh has for this command alone: it would not expand them anywhere else.
fn postpone(word: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(word.len());
    let mut bytes = word.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match bytes.peek() {
            Some(token) if byte == b'%' && LATER_TOKENS.contains(token) => marked.push(LATER),
            Some(b'%') if byte == b'%' => {
                bytes.next();
                marked.extend(b"%%");
            }
            _ => marked.push(byte),
        }
    }
    marked
}

// A home folder may itself hold a `%`, which is no token; only what the user wrote after it counts.
fn has_tokens(path: &Path, home: &Path) -> bool {
    let written = path.strip_prefix(home).unwrap_or(path).as_os_str().as_bytes();
    written.contains(&b'%') || written.windows(2).any(|pair| pair == b"${")
}

/// `ControlPath="NAME<sep>NAME.."`, quoted as ssh's option parser wants it.
fn probe_option(paths: &[&mut PathBuf]) -> OsString {
    let mut option = b"ControlPath=\"".to_vec();
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            option.push(SEPARATOR);
        }
        for &byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'"' | b'\\') {
                option.push(b'\\');
            }
            option.push(byte);
        }
    }
    option.push(b'"');
    OsString::from_vec(option)
}
