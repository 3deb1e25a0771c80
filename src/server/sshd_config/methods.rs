//! Finds users for whom sshd accepts no key first, so that asking about a key is useless.

use std::fmt;

use super::files::ConfigFiles;
use super::{Line, Settings, SshdConfig};

/// Users whose login begins with another method than a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoKeyFirst {
    /// The `Match` block of these users; `None`: all users outside of such blocks.
    block: Option<Line>,
    /// Their AuthenticationMethods.
    methods: String,
}

impl fmt::Display for NoKeyFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block {
            Some(line) => write!(f, "the users of {line}"),
            None => f.write_str("all users outside of Match blocks that say otherwise"),
        }
    }
}

impl NoKeyFirst {
    /// Their AuthenticationMethods.
    #[must_use]
    pub fn methods(&self) -> &str {
        &self.methods
    }
}

impl SshdConfig {
    /// Users whose AuthenticationMethods do not let a login begin with a key. `settings` are those outside of `Match`
    /// blocks.
    #[must_use]
    pub fn without_key_first(&self, settings: &Settings) -> Vec<NoKeyFirst> {
        let usual = settings.values("authenticationmethods").join(" ");
        let mut found = Vec::new();
        if !begin_with_key(&usual) {
            found.push(NoKeyFirst {
                block: None,
                methods: usual,
            });
        }
        found.extend(in_blocks(&ConfigFiles::read(self.file()).lines));
        found
    }
}

fn in_blocks(lines: &[Line]) -> Vec<NoKeyFirst> {
    let (mut found, mut block) = (Vec::new(), None::<&Line>);
    for line in lines {
        match &*line.keyword {
            "match" => block = Some(line),
            "authenticationmethods" if !begin_with_key(&line.arguments.join(" ")) => {
                // A block in an included file ends with the file.
                let block = block.filter(|block| block.path == line.path);
                found.extend(block.map(|block| NoKeyFirst {
                    block: Some(block.clone()),
                    methods: line.arguments.join(" "),
                }));
            }
            _ => {}
        }
    }
    found
}

/// Whether one of these lists begins with a key. If there is none, every method is allowed.
fn begin_with_key(methods: &str) -> bool {
    let mut lists = methods.split_whitespace().peekable();
    lists.peek().is_none() || lists.any(|list| matches!(list.split([',', ':']).next(), Some("publickey" | "any")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_whose_users_cannot_begin_with_a_key_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sshd_config");
        let text = "Port 22\nMatch User ann\n  AuthenticationMethods publickey,password\nMatch Group staff\n  \
                    AuthenticationMethods password,publickey keyboard-interactive\nMatch User bob\n  \
                    AuthenticationMethods password publickey\n";
        std::fs::write(&config, text).unwrap();
        let sshd = SshdConfig {
            config: Some(config.clone()),
            ..SshdConfig::default()
        };
        let told = |settings: &str| {
            let found = sshd.without_key_first(&Settings::parse(settings));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let staff = format!("the users of {}:4: Match Group staff", config.display());
        for any in ["authenticationmethods any\n", ""] {
            assert_eq!(told(any), std::slice::from_ref(&staff));
        }
        let everybody = "all users outside of Match blocks that say otherwise".to_owned();
        assert_eq!(told("authenticationmethods password,publickey\n"), [everybody, staff]);
    }
}
