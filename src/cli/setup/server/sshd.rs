//! The sshd of the machine that is prepared.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::server::sshd_config::{Settings, SshdConfig, SshdWarning};

/// Where its configuration is unless it is told otherwise.
const DEFAULT_CONFIG: &str = "/etc/ssh/sshd_config";

/// Of OpenSSH: 9.2 is `Version(9, 2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

/// What is known of it.
#[derive(Debug)]
pub(super) struct Sshd {
    asked: SshdConfig,
    /// `None`: it was not asked, or does not tell.
    version: Option<Version>,
    /// Whether its configuration includes `/etc/ssh/sshd_config.d`, where its settings go whichever file it reads first.
    pub(super) includes: bool,
}

impl Sshd {
    /// Looks at the one below `root`; `None` where there is no configuration for one.
    ///
    /// Another system's program is not run: it may be for another machine, and is not this one's to trust.
    pub(super) fn find(root: &Path, asked: SshdConfig) -> Option<Self> {
        let named = config(&asked);
        let text = fs::read(root.join(named.strip_prefix("/").unwrap_or(named))).ok()?;
        Some(Sshd {
            version: (root == Path::new("/")).then(|| version(&asked.binary)).flatten(),
            includes: includes(&String::from_utf8_lossy(&text)),
            asked,
        })
    }

    /// The file that it reads first.
    pub(super) fn config(&self) -> &Path {
        config(&self.asked)
    }

    /// The least that it is.
    pub(super) fn at_least(&self) -> Version {
        self.version.unwrap_or(Version(0, 0))
    }

    pub(super) fn has_version(&self) -> bool {
        self.version.is_some()
    }

    /// `sshd -t`.
    ///
    /// # Errors
    /// What it says against its configuration.
    pub(super) fn test(&self) -> Result<(), String> {
        let mut command = Command::new(&self.asked.binary);
        command.arg("-t").stdin(Stdio::null());
        if let Some(config) = &self.asked.config {
            command.arg("-f").arg(config);
        }
        match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
            Err(error) => Err(format!("cannot run {}: {error}", self.asked.binary.display())),
        }
    }

    /// What still ends sessions in an outage although a file that is there says otherwise.
    pub(super) fn ineffective(&self) -> Vec<String> {
        let warnings = self.settings().map(|settings| settings.warnings()).unwrap_or_default();
        let in_spite = |warning: SshdWarning| {
            let file = warning.drop_in().filter(|file| Path::new(file).exists())?;
            Some(format!("{warning}, despite {file}"))
        };
        warnings.into_iter().filter_map(in_spite).collect()
    }

    /// The ports where it listens; none where it does not say.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.settings().map(|settings| settings.ports()).unwrap_or_default()
    }

    fn settings(&self) -> Option<Settings> {
        self.asked.settings().ok()
    }
}

fn config(asked: &SshdConfig) -> &Path {
    asked.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
}

/// Old ones do not know `-V`, and name their version in their answer to that.
fn version(binary: &Path) -> Option<Version> {
    let output = Command::new(binary).arg("-V").stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    parse_version(&String::from_utf8_lossy(&said))
}

fn parse_version(said: &str) -> Option<Version> {
    let mut numbers = said
        .split_once("OpenSSH_")?
        .1
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some(Version(major, minor)),
        _ => None,
    }
}

fn includes(config: &str) -> bool {
    config.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("include"))
            && words.any(|word| word.contains("sshd_config.d/"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_every_kind_of_answer() {
        assert_eq!(parse_version("OpenSSH_9.8p1, OpenSSL 3"), Some(Version(9, 8)));
        let usage = "unknown option -- V\nOpenSSH_8.4p1 Debian-5\nusage: sshd";
        assert_eq!(parse_version(usage), Some(Version(8, 4)));
        assert_eq!(parse_version("OpenSSH_10.0p2"), Some(Version(10, 0)));
        assert_eq!(parse_version("Dropbear v2022.83"), None);
        assert!(Version(10, 0) > Version(9, 8));
    }

    #[test]
    fn an_include_of_the_folder_is_found() {
        assert!(includes("Port 22\n  include /etc/ssh/sshd_config.d/*.conf\n"));
        assert!(!includes(
            "# Include /etc/ssh/sshd_config.d/*.conf\nInclude /etc/other\n"
        ));
    }
}
