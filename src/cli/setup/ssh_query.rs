//! What ssh makes of its configuration for a host: `ssh -v -G`, in ssh's own words.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::identity::ssh_config::OuterQueries;

/// How ssh would get to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// The ProxyCommand, as it is written.
    Command(String),
    /// ProxyJump.
    Jump(String),
    Direct,
}

/// ssh's answer for one host.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) route: Route,
    /// The program of the ProxyCommand is to hand over a connected socket.
    pub(super) use_fdpass: bool,
    /// Names are made canonical, if ssh goes straight at least.
    pub(super) canonical: bool,
    /// All else that it says: `keyword value`.
    pub(super) others: Vec<String>,
    /// The files it read, in this order.
    pub(super) read: Vec<PathBuf>,
    /// The `Host` and `Match` lines that apply, in this order: `/home/ann/.ssh/config line 3`.
    pub(super) applied: Vec<String>,
}

/// What a block of ours sets, and what it takes the place of.
const ROUTE_KEYWORDS: &[&str] = &[
    "proxycommand",
    "proxyjump",
    "proxyusefdpass",
    "serveraliveinterval",
    "canonicalizehostname",
];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    /// It cannot be started.
    #[error("cannot run ssh: {0}")]
    NotRunnable(io::Error),
    /// This process was started by the `ssh -G` of another question about the same host.
    #[error("ssh -G for {host} is already running, and its configuration runs bowline again")]
    AskedAlready {
        /// The host.
        host: String,
    },
    /// It does not take its configuration as it is.
    #[error("ssh rejects its configuration")]
    Rejected {
        /// In its words.
        said: Vec<String>,
    },
}

/// Asks about `host`; `config` is ssh's `-F`, `options` are such as stand before all else (`-o`).
///
/// # Errors
/// There is no ssh, or it rejects its configuration.
pub(super) fn ask(config: Option<&Path>, options: &[String], host: &str) -> Result<Answer, SshError> {
    let options = options.iter().flat_map(|option| ["-o", option]);
    let arguments: Vec<&str> = ["-v", "-G"].into_iter().chain(options).collect();
    let (out, err) = run(config, &arguments, host)?;
    let option = |name| out.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let route = option("proxycommand ").map(Route::Command);
    let route = route.or_else(|| option("proxyjump ").map(Route::Jump));
    let is_off = |value: &String| value == "no" || value == "false";
    let is_other = |line: &&str| !ROUTE_KEYWORDS.contains(&line.split(' ').next().unwrap_or_default());
    let after = |line: &str, mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim_end().to_owned());
    Ok(Answer {
        route: route.unwrap_or(Route::Direct),
        canonical: option("canonicalizehostname ").is_some_and(|value| !is_off(&value)),
        others: out.lines().filter(is_other).map(str::to_owned).collect(),
        use_fdpass: option("proxyusefdpass ").is_some_and(|value| value == "yes"),
        read: (err
            .lines()
            .filter_map(|line| after(line, "debug1: Reading configuration data ")))
        .map(PathBuf::from)
        .collect(),
        applied: (err
            .lines()
            .filter_map(|line| line.split_once(": Applying options for ")))
        .filter_map(|(line, _)| after(line, "debug1: "))
        .collect(),
    })
}

/// The user's home folder as ssh sees it: it asks the user database and ignores `$HOME`.
///
/// # Errors
/// There is no ssh.
pub(super) fn home() -> Result<Option<PathBuf>, SshError> {
    // ssh expands a ControlPath before it prints it.
    let (out, _) = run(Some("none".as_ref()), &["-G", "-o", "ControlPath=~/."], "x")?;
    let printed = out.lines().find_map(|line| line.strip_prefix("controlpath "));
    Ok(printed.and_then(|path| path.strip_suffix("/.")).map(PathBuf::from))
}

fn run(config: Option<&Path>, arguments: &[&str], host: &str) -> Result<(String, String), SshError> {
    let asked = OuterQueries::here();
    if asked.is_repeated(host) {
        return Err(SshError::AskedAlready { host: host.to_owned() });
    }
    let mut command = Command::new("ssh");
    asked.mark(&mut command, host);
    if let Some(file) = config {
        command.arg("-F").arg(file);
    }
    command.args(arguments).args(["--", host]);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(SshError::NotRunnable)?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let noise = ["debug1: ", "OpenSSH_", "Pseudo-terminal "];
        let said = err
            .lines()
            .filter(|line| !noise.iter().any(|noise| line.starts_with(noise)));
        return Err(SshError::Rejected {
            said: said.map(str::to_owned).collect(),
        });
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_names_the_way_the_files_and_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let [config, more] = ["config", "more"].map(|name| folder.path().join(name));
        std::fs::write(&more, "Host box\n  ProxyCommand nc %h %p\n").unwrap();
        let text = format!(
            "Include {}\nHost box\n  LogLevel QUIET\n  ProxyJump a\n",
            more.display()
        );
        std::fs::write(&config, text).unwrap();
        let answer = ask(Some(&config), &[], "box").unwrap();
        assert_eq!(answer.route, Route::Command("nc %h %p".to_owned()));
        assert_eq!(answer.read, [config.clone(), more.clone()]);
        assert_eq!(
            answer.applied,
            [
                format!("{} line 1", more.display()),
                format!("{} line 2", config.display())
            ]
        );
        std::fs::write(&more, "").unwrap();
        assert_eq!(
            ask(Some(&config), &[], "box").unwrap().route,
            Route::Jump("a".to_owned())
        );
        assert_eq!(ask(Some(&config), &[], "other").unwrap().route, Route::Direct);
        std::fs::write(&more, "Nonsense yes\n").unwrap();
        let Err(SshError::Rejected { said }) = ask(Some(&config), &[], "box") else {
            panic!("nonsense is taken")
        };
        assert!(
            said[0].contains("more: line 1: Bad configuration option: nonsense"),
            "{said:?}"
        );
    }
}
