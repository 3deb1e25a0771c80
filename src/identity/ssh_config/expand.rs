//! Expands `~`, `%` tokens and `${VARIABLES}` in file names.
//!
//! ssh prints identity files as written and expands them later, but it expands `ControlPath` before
//! printing it. So ssh is asked to expand the other names as a `ControlPath`, and bowline does not
//! reimplement the expansion.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::super::known_hosts::{DEFERRED, DEFERRED_TOKENS, KnownHostsCommand, split_words};
use super::dump::Dump;
use super::{SshConfig, SshConfigError, SshQuery, run_ssh};

/// Separates the names in the probe. No file name in a configuration contains this byte.
const SEPARATOR: u8 = 0x1f;

/// The home directory that ssh uses (that of the account, not `$HOME`), from the expansion of
/// `~/.`.
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

/// Replaces a leading `~/` by the home directory.
pub(super) fn tildes(paths: Vec<PathBuf>, home: &Path) -> Vec<PathBuf> {
    let expand = |path: PathBuf| match path.as_os_str().as_bytes().strip_prefix(b"~/") {
        Some(rest) => home.join(OsStr::from_bytes(rest)),
        None => path,
    };
    paths.into_iter().map(expand).collect()
}

/// Lets ssh expand the tokens in the names of identity and certificate files, if there are any.
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

/// Splits a `KnownHostsCommand` into words and lets ssh expand its arguments, except for the tokens
/// that differ from run to run.
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
    // A path comes first, so that ssh does not expand a leading `~` of an argument.
    let mut names = vec![PathBuf::from("/")];
    names.extend(
        arguments
            .iter()
            .map(|word| PathBuf::from(OsString::from_vec(defer(word)))),
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

/// Marks the tokens that ssh expands only for this command.
fn defer(word: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(word.len());
    let mut bytes = word.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match bytes.peek() {
            Some(token) if byte == b'%' && DEFERRED_TOKENS.contains(token) => marked.push(DEFERRED),
            Some(b'%') if byte == b'%' => {
                bytes.next();
                marked.extend(b"%%");
            }
            _ => marked.push(byte),
        }
    }
    marked
}

// The home directory may contain a `%` that is not a token; only what the user wrote after it
// counts.
fn has_tokens(path: &Path, home: &Path) -> bool {
    let written = path.strip_prefix(home).unwrap_or(path).as_os_str().as_bytes();
    written.contains(&b'%') || written.windows(2).any(|pair| pair == b"${")
}

/// `ControlPath="NAME<sep>NAME.."`, quoted for ssh's option parser.
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
