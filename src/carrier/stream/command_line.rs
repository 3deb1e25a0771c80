//! Command lines that lead to a TLS port: placeholders and names.

use std::fmt;

/// A command line for `sh -c`. As in ssh's ProxyCommand, `%h` stands for the host, `%p` for the
/// port, `%%` for `%`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CommandLine {
    text: String,
    name: String,
}

/// The host contains characters that a shell might interpret, and is not put into a command line.
#[derive(Debug, thiserror::Error)]
#[error("{host:?} is not a host name or address that may be put into a command line")]
pub struct InvalidHost {
    /// The host.
    pub host: String,
}

impl CommandLine {
    /// Replaces the placeholders in `text`.
    ///
    /// # Errors
    /// It contains `%h`, and the host begins with `-` or has characters that are not allowed in
    /// names and addresses.
    pub fn expand(text: &str, host: &str, port: u16) -> Result<CommandLine, InvalidHost> {
        let mut line = String::new();
        let mut marks = text.split('%');
        line += marks.next().unwrap_or_default();
        while let Some(part) = marks.next() {
            match part.chars().next() {
                Some('h') if is_plain(host) => line.extend([host, &part[1..]]),
                Some('h') => return Err(InvalidHost { host: host.to_owned() }),
                Some('p') => line.extend([&port.to_string(), &part[1..]]),
                // Two in a row: the part between them is empty.
                None => line.extend(["%", marks.next().unwrap_or_default()]),
                Some(_) => line.extend(["%", part]),
            }
        }
        let name = program(&line).to_owned();
        Ok(CommandLine { text: line, name })
    }

    /// Expands several command lines. Names are made unique: `ssh`, `ssh #2`. Duplicates are
    /// removed.
    ///
    /// # Errors
    /// As for one.
    pub fn expand_each<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        host: &str,
        port: u16,
    ) -> Result<Vec<CommandLine>, InvalidHost> {
        let mut lines: Vec<CommandLine> = Vec::new();
        for text in texts {
            let mut line = CommandLine::expand(text, host, port)?;
            if lines.iter().any(|known| known.text == line.text) {
                continue;
            }
            let program = program(&line.text);
            let alike = lines.iter().filter(|known| self::program(&known.text) == program);
            if let before @ 1.. = alike.count() {
                line.name = format!("{program} #{}", before + 1);
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// Its name: the program. The arguments and environment variables may contain secrets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole command line, which may contain secrets.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Shows only the name.
impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandLine({})", self.name)
    }
}

fn is_plain(host: &str) -> bool {
    let may_stand = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    !host.is_empty() && !host.starts_with('-') && host.chars().all(may_stand)
}

/// The name of a command line that does not begin with a plain program name.
const SHELL: &str = "sh";

/// The first word after `NAME=value` words. If only a shell could tell where a value ends, the
/// result is [`SHELL`].
fn program(text: &str) -> &str {
    let mut rest = text.trim_start();
    while is_assignment(rest) {
        match after_word(rest) {
            Some(after) => rest = after.trim_start(),
            None => return SHELL,
        }
    }
    let word = rest.split_whitespace().next().unwrap_or(SHELL);
    let may_stand = |c: char| c.is_alphanumeric() || "_-./+~".contains(c);
    match word.chars().all(may_stand) {
        true => word,
        false => SHELL,
    }
}

fn is_assignment(text: &str) -> bool {
    let Some((name, _)) = text.split_once('=') else {
        return false;
    };
    let name = name.strip_suffix('+').unwrap_or(name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What follows the first word; `None` if a quote is not closed, or the word contains more than
/// quotes.
fn after_word(text: &str) -> Option<&str> {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            ('$' | '`' | '(' | ';' | '&' | '|' | '<' | '>', None) | ('$' | '`', Some('"')) => return None,
            ('\\', None | Some('"')) => {
                chars.next()?;
            }
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            (_, None) if c.is_whitespace() => return Some(&text[at..]),
            _ => {}
        }
    }
    quote.is_none().then_some("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> CommandLine {
        CommandLine::expand(text, "build", 443).unwrap()
    }

    #[test]
    fn placeholders_are_expanded_as_in_ssh() {
        assert_eq!(line("nc %h %p").text(), "nc build 443");
        assert_eq!(line("x %%h %h:%p 100%% %d %").text(), "x %h build:443 100% %d %");
    }

    #[test]
    fn a_host_that_a_shell_might_run_is_refused() {
        for host in [
            "",
            "-oProxyCommand=x",
            "a;b",
            "$(id)",
            "`id`",
            "a b",
            "a\nb",
            "a'b",
            "a|b",
            "münchen",
        ] {
            assert!(CommandLine::expand("nc %h", host, 1).is_err(), "{host:?}");
        }
        assert!(CommandLine::expand("nc %h", "2001:db8::1", 1).is_ok());
        // It is not put into the command line.
        assert!(CommandLine::expand("tunnel %%h %p", "a;b", 1).is_ok());
    }

    #[test]
    fn the_name_is_the_program_and_no_secret_set_before_it() {
        for (text, name) in [
            ("nc -x secret", "nc"),
            ("TOKEN=secret cloudflared access tcp", "cloudflared"),
            (
                "  A=1\tTOKEN='se cret' B=\"se\\\" cret\" C=se\\ cret ./tunnel x",
                "./tunnel",
            ),
            ("TOKEN+=secret nc", "nc"),
            ("TOKEN=$(pass show secret) nc", "sh"),
            ("TOKEN=\"`secret`\" nc", "sh"),
            ("TOKEN='secret", "sh"),
            ("TOKEN=secret; nc", "sh"),
            ("TOKEN=secret", "sh"),
            ("\"my secret\" x", "sh"),
            ("(secret)", "sh"),
            ("", "sh"),
        ] {
            let line = line(text);
            assert_eq!(line.name(), name, "{text}");
            assert!(!format!("{line:?}").contains("secret"), "{line:?}");
        }
    }

    #[test]
    fn two_that_run_the_same_program_have_two_names() {
        let texts = ["ssh -W %h:%p a", "nc %h %p", "X=1 ssh b", "ssh -W %h:%p a", "ssh c"];
        let lines = CommandLine::expand_each(texts, "build", 443).unwrap();
        let names: Vec<_> = lines.iter().map(CommandLine::name).collect();
        assert_eq!(names, ["ssh", "nc", "ssh #2", "ssh #3"]);
    }
}
