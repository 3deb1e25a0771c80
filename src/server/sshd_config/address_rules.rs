//! Finds the lines of sshd's configuration that may depend on the addresses of a connection.
//!
//! There is a list of what certainly does not depend on them. Keywords of later OpenSSH versions count until they are
//! known.

use std::fs;
use std::path::Path;

use super::files::{ConfigFiles, Line};

/// Files that sshd consults for each connection if it was built with libwrap, as on Debian (hosts_access(5)).
const HOSTS_FILES: [&str; 2] = ["/etc/hosts.allow", "/etc/hosts.deny"];

/// The lines of `files` that may depend on addresses.
pub(super) fn among(files: &ConfigFiles) -> Vec<Line> {
    files
        .lines
        .iter()
        .filter(|line| is_address_rule(line))
        .cloned()
        .collect()
}

fn is_address_rule(line: &Line) -> bool {
    // A command that looks at the connection itself.
    let asks = ["SSH_CLIENT", "SSH_CONNECTION"]
        .iter()
        .any(|name| line.text.contains(name));
    let arguments = line.arguments.as_slice();
    asks || match line.keyword.as_str() {
        "match" => !is_by_user_only(arguments),
        // OpenSSH 9.2 splits at the first @, OpenSSH 10 at the last one: any counts.
        "allowusers" | "denyusers" => arguments.iter().any(|pattern| pattern.contains('@')),
        "authorizedkeyscommand" | "authorizedprincipalscommand" | "rdomain" => {
            arguments.iter().any(|argument| has_token(argument, ['C', 'D']))
        }
        "hostbasedauthentication" => arguments.iter().any(|value| !value.eq_ignore_ascii_case("no")),
        _ => false,
    }
}

/// Whether all criteria of a `Match` depend on the user and the server only.
fn is_by_user_only(arguments: &[String]) -> bool {
    let mut words = arguments.iter().flat_map(|argument| match argument.split_once('=') {
        Some((criterion, value)) => vec![criterion, value],
        None => vec![argument.as_str()],
    });
    while let Some(criterion) = words.next() {
        match criterion.to_ascii_lowercase().as_str() {
            "all" | "invalid-user" => {}
            "user" | "group" | "version" => {
                words.next();
            }
            _ => return false,
        }
    }
    true
}

/// Whether one of these `%` tokens is in a command; `%%` is a percent sign.
fn has_token(argument: &str, tokens: [char; 2]) -> bool {
    let mut characters = argument.chars();
    while let Some(character) = characters.next() {
        if character == '%' && characters.next().is_some_and(|token| tokens.contains(&token)) {
            return true;
        }
    }
    false
}

/// The lines of hosts_access(5) files that concern sshd, if one of these programs uses them.
pub(super) fn of_hosts_files(files: &mut ConfigFiles, programs: &[&Path]) -> Vec<Line> {
    let mut lines = Vec::new();
    for path in HOSTS_FILES.map(Path::new) {
        if !path.exists() {
            files.seen.push(super::files::look(path));
            continue;
        }
        let text = files.read_text(path).unwrap_or_default();
        let rules = (1..).zip(text.lines()).filter(|(_, text)| names_sshd(text));
        lines.extend(rules.map(|(number, text)| Line {
            path: path.to_owned(),
            number,
            text: text.trim().to_owned(),
            keyword: String::new(),
            arguments: Vec::new(),
        }));
    }
    lines.retain(|_| programs.iter().any(|program| uses_libwrap(program)));
    lines
}

/// Whether the list of daemons has sshd, all daemons, or a file of names.
fn names_sshd(text: &str) -> bool {
    let text = text.trim();
    let daemons = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    !text.starts_with('#') && ["sshd", "all", "/"].iter().any(|name| daemons.contains(name))
}

/// Whether a program uses hosts_access(5), or cannot be read.
fn uses_libwrap(program: &Path) -> bool {
    let name = b"libwrap";
    fs::read(program).map_or(true, |content| content.windows(name.len()).any(|window| window == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main");
        fs::write(&path, text).unwrap();
        let files = ConfigFiles::read(&path);
        assert!(files.unreadable.is_none(), "{text}");
        !among(&files).is_empty()
    }

    #[test]
    fn every_criterion_counts_that_may_depend_on_the_connection() {
        for text in [
            "Match Address 192.0.2.0/24",
            "Match User bob Address *",
            "match=address=10.0.0.0/8",
            "\"Match\" \"Local\"Address 127.0.0.1",
            "Match LocalPort 2222",
            "Match Group wheel,!x Host *.example.org",
            "Match RDomain vrf1",
            "Match user bob # x\nMatch Host y",
            "Match User \"\" Host all",
            "Match SomethingNew x",
            "Match exec /bin/true",
            "Match localnetwork 10.0.0.0/8",
            "Match !Address 10.0.0.0/8",
            "Match User bob\n  AllowUsers bob@10.*",
            "DenyUsers eve bob@corp@198.51.100.*",
            "DenyUsers bob@corp",
            "AuthorizedKeysCommand /bin/keys %u %C",
            "AuthorizedPrincipalsCommand /bin/names \"%%%D\"",
            "RDomain %D",
            "HostbasedAuthentication yes",
            "Match User bob\n  ForceCommand case $SSH_CLIENT in 10.*) ;; esac",
        ] {
            assert!(counts(text), "{text}");
        }
    }

    #[test]
    fn what_depends_on_the_user_alone_does_not_count() {
        for text in [
            "Port 22\nListenAddress 192.0.2.1",
            "Match all",
            "Match User bob,address Group wheel",
            "Match user=bob",
            "Match Invalid-User\n  RefuseConnection yes",
            "Match Version OpenSSH_10*",
            "Match User \"a b\" # Address 10.0.0.0/8",
            "AllowUsers bob alice",
            "DenyGroups x@y",
            "AuthorizedKeysCommand /bin/keys %u %%C",
            "RDomain vrf1",
            "HostbasedAuthentication no",
            "# Match Address 10.0.0.0/8",
        ] {
            assert!(!counts(text), "{text}");
        }
    }

    #[test]
    fn lines_of_the_hosts_files_that_name_sshd_count() {
        for text in [
            "sshd: 10.",
            "ALL: ALL",
            "in.ftpd, sshd@192.0.2.1 : x",
            " SSHD:127.0.0.1",
        ] {
            assert!(names_sshd(text), "{text}");
        }
        for text in ["", "# sshd: ALL", "portmap: sshd.example.org"] {
            assert!(!names_sshd(text), "{text}");
        }
    }
}
