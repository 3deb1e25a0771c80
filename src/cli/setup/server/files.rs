//! What `bowline setup --server` installs: the files of `packaging/`, as the administrator's own.

use std::path::Path;

use super::sshd::Version;

/// One of them.
#[derive(Debug)]
pub(super) struct Packaged {
    /// Below the root.
    pub(super) path: &'static str,
    text: &'static str,
    /// For sshd, from this version on.
    since: Option<Version>,
}

/// sshd refuses what it does not know: each of its files is for the versions that do.
const ALL: &[Packaged] = &[
    Packaged {
        path: UNIT,
        text: include_str!("../../../../packaging/systemd/bowline.service"),
        since: None,
    },
    Packaged {
        path: SYSUSERS,
        text: include_str!("../../../../packaging/sysusers.d/bowline.conf"),
        since: None,
    },
    Packaged {
        path: "etc/ssh/sshd_config.d/bowline.conf",
        text: include_str!("../../../../packaging/sshd_config.d/bowline.conf"),
        since: Some(Version(0, 0)),
    },
    Packaged {
        path: "etc/ssh/sshd_config.d/bowline-9.2.conf",
        text: include_str!("../../../../packaging/sshd_config.d/bowline-9.2.conf"),
        since: Some(Version(9, 2)),
    },
    Packaged {
        path: "etc/ssh/sshd_config.d/bowline-9.8.conf",
        text: include_str!("../../../../packaging/sshd_config.d/bowline-9.8.conf"),
        since: Some(Version(9, 8)),
    },
];

/// Before those of packages, which are in `/usr/lib`.
pub(super) const UNIT: &str = "etc/systemd/system/bowline.service";
pub(super) const SYSUSERS: &str = "etc/sysusers.d/bowline.conf";

/// Where packages have the program, and the unit looks for it.
const DEFAULT_PROGRAM: &str = "/usr/bin/bowline";

impl Packaged {
    pub(super) fn all() -> &'static [Packaged] {
        ALL
    }

    /// Whether it belongs beside an sshd of this version; `None` is no sshd at all.
    pub(super) fn is_for(&self, sshd: Option<Version>) -> bool {
        self.since.is_none_or(|since| sshd.is_some_and(|sshd| sshd >= since))
    }

    pub(super) fn is_for_sshd(&self) -> bool {
        self.since.is_some()
    }

    /// Its text, for a program at this place.
    pub(super) fn text(&self, program: &Path) -> String {
        let line = |program: &str| format!("ExecStart={program} ");
        self.text
            .replace(&line(DEFAULT_PROGRAM), &line(&program.display().to_string()))
    }

    /// Whether it is what was installed, wherever the program was then.
    pub(super) fn is_unchanged(&self, content: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(content) else {
            return false;
        };
        let program = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=")?.strip_suffix(" serve"));
        self.text(Path::new(program.unwrap_or(DEFAULT_PROGRAM))) == text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(sshd: Option<Version>) -> Vec<&'static str> {
        let fitting = ALL.iter().filter(|file| file.is_for(sshd));
        fitting.map(|file| file.path.rsplit('/').next().unwrap()).collect()
    }

    #[test]
    fn sshd_gets_only_what_its_version_knows() {
        assert_eq!(paths(None), ["bowline.service", "bowline.conf"]);
        assert_eq!(paths(Some(Version(8, 4))).len(), 3);
        assert_eq!(paths(Some(Version(9, 2))).last(), Some(&"bowline-9.2.conf"));
        assert_eq!(paths(Some(Version(10, 0))).len(), 5);
    }

    #[test]
    fn the_unit_starts_the_program_where_it_is_and_is_known_again() {
        let unit = &ALL[0];
        let text = unit.text(Path::new("/opt/bowline"));
        assert!(text.contains("\nExecStart=/opt/bowline serve\n") && !text.contains(DEFAULT_PROGRAM));
        assert!(unit.is_unchanged(text.as_bytes()) && unit.is_unchanged(unit.text.as_bytes()));
        assert!(!unit.is_unchanged(text.replace("6144", "6145").as_bytes()));
        assert!(!unit.is_unchanged(text.replace(" serve\n", " serve --listen :1\n").as_bytes()));
        for file in ALL {
            assert!(
                file.is_unchanged(file.text(Path::new("/x")).as_bytes()),
                "{}",
                file.path
            );
        }
    }
}
