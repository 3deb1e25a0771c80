//! Text that somebody else wrote: escaped when it comes in, so that nothing kept or shown of it disturbs a terminal or a log.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::ops::Deref;

/// Most bytes that are kept of one text, after escaping. No field of the protocol has more.
const MAX_TEXT: usize = 1024;

/// Most bytes of a [`UserName`].
pub const MAX_USER: usize = 256;

/// Text of a peer, a proxy, a program or any other stranger. It holds no control character, no line break and nothing that
/// changes the direction of text or cannot be seen: these stand as escapes (`\n`, `\u{1b}`). At most 1 KiB.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerText(String);

impl PeerText {
    /// What `said` shows, escaped. What was escaped before stays as it is.
    pub fn new(said: impl fmt::Display) -> PeerText {
        let mut text = Bounded(String::new());
        // An error means that the bound is reached: the rest is left out.
        let _ = write!(Escaping(&mut text), "{said}");
        PeerText(text.0)
    }

    /// The same of bytes; what is not UTF-8 is replaced.
    pub fn from_bytes(said: &[u8]) -> PeerText {
        // A byte makes three bytes at most, and never less than one character.
        PeerText::new(String::from_utf8_lossy(&said[..said.len().min(MAX_TEXT)]))
    }

    /// An error of a library that may quote the peer, with its causes, in one line.
    pub fn of_error(error: &(dyn Error + 'static)) -> PeerText {
        PeerText::new(ErrorChain(error))
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for PeerText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its backslashes are escapes already.
        write!(f, "\"{}\"", self.0)
    }
}

impl From<&str> for PeerText {
    fn from(said: &str) -> PeerText {
        PeerText::new(said)
    }
}

impl From<String> for PeerText {
    fn from(said: String) -> PeerText {
        PeerText::new(said)
    }
}

impl PartialEq<str> for PeerText {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for PeerText {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// An error of a library whose words may quote the peer: shown with all its causes in one line, escaped.
pub struct Quoting<E>(pub E);

impl<E> From<E> for Quoting<E> {
    fn from(error: E) -> Quoting<E> {
        Quoting(error)
    }
}

impl<E> Deref for Quoting<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.0
    }
}

impl<E: Error + 'static> fmt::Display for Quoting<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&PeerText::of_error(&self.0))
    }
}

impl<E: fmt::Debug> fmt::Debug for Quoting<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&PeerText::new(format_args!("{:?}", self.0)))
    }
}

/// Its causes are in its own words: they could be shown unescaped otherwise.
impl<E: Error + 'static> Error for Quoting<E> {}

/// What it shows, escaped as [`PeerText`] is, and as long as it is: for texts of our own that may quote somebody.
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// What an error and its causes say, without the causes that were quoted already.
pub fn error_texts<'a>(error: &'a (dyn Error + 'a)) -> impl Iterator<Item = String> + 'a {
    let mut told = String::new();
    let mut next = Some(error);
    std::iter::from_fn(move || {
        while let Some(error) = next {
            let text = error.to_string();
            next = error.source();
            if !told.contains(&text) {
                told = format!("{told}\n{text}");
                return Some(text);
            }
        }
        None
    })
}

/// [`error_texts`] in one line.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in error_texts(self.0).enumerate() {
            f.write_str(if at == 0 { "" } else { ": " })?;
            f.write_str(&text)?;
        }
        Ok(())
    }
}

/// Writes escapes in place of what must not be obeyed.
struct Escaping<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if is_active(c) {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// A text that takes no more than [`MAX_TEXT`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_TEXT {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Whether a terminal, an editor or a reader of lines would do something else with it than show it: control characters,
/// separators of lines, what changes the direction of text (UAX 9), and what has no width.
pub fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The name of a user on the server's machine, such as sshd can be asked about: 1 to [`MAX_USER`] bytes, nothing that
/// [`is_active`], and no `-` in front, which programs take for an option.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName(String);

/// A text that is no user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserName {
    /// It has no characters.
    #[error("the user name is empty")]
    Empty,
    /// It has more than [`MAX_USER`] bytes.
    #[error("the user name has {length} bytes, {MAX_USER} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It begins with `-`.
    #[error("the user name begins with `-`")]
    Option,
    /// It has a control character, a line break, or a character that cannot be seen.
    #[error("the user name has the character U+{:04X} in it", u32::from(*.character))]
    Character {
        /// The first such character.
        character: char,
    },
}

impl UserName {
    /// # Errors
    /// `InvalidUserName`: what is wrong with it.
    pub fn new(name: impl Into<String>) -> Result<UserName, InvalidUserName> {
        let name = name.into();
        if name.is_empty() {
            return Err(InvalidUserName::Empty);
        }
        if name.len() > MAX_USER {
            return Err(InvalidUserName::TooLong { length: name.len() });
        }
        if name.starts_with('-') {
            return Err(InvalidUserName::Option);
        }
        match name.chars().find(|c| is_active(*c)) {
            Some(character) => Err(InvalidUserName::Character { character }),
            None => Ok(UserName(name)),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for UserName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<&str> for UserName {
    type Error = InvalidUserName;

    fn try_from(name: &str) -> Result<UserName, InvalidUserName> {
        UserName::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;

    #[test]
    fn nothing_of_a_strangers_text_is_obeyed() {
        let said = PeerText::new("\u{1b}[2J\r\nerror: \u{9b}31m \u{202e}gpj.exe\u{2028}\0 fine ü");
        assert_eq!(
            said,
            r"\u{1b}[2J\r\nerror: \u{9b}31m \u{202e}gpj.exe\u{2028}\u{0} fine ü"
        );
        assert_eq!(format!("{said:?}"), format!("\"{said}\""));
        assert_eq!(PeerText::from_bytes(b"a\xff\x1b"), "a\u{fffd}\\u{1b}");
    }

    #[test]
    fn an_error_tells_its_causes_once_and_escaped() {
        #[derive(Debug, thiserror::Error)]
        #[error("closed by peer\n")]
        struct Closed(#[source] io::Error);
        let error = Quoting(Closed(io::Error::other("\u{1b}c bye")));
        assert_eq!(error.to_string(), r"closed by peer\n: \u{1b}c bye");
        assert!(error.source().is_none());
        assert!(!format!("{error:?}").chars().any(is_active));
        assert_eq!(Quoting(io::Error::other("twice")).to_string(), "twice");
    }

    #[test]
    fn user_names_are_such_as_programs_can_be_given() {
        for good in ["ada", "björn", "ada@corp.example", "DOMAIN\\ada", "a-b", "ada lovelace"] {
            assert_eq!(UserName::new(good).unwrap().as_str(), good);
        }
        let character = |character| InvalidUserName::Character { character };
        for (bad, why) in [
            ("", InvalidUserName::Empty),
            ("-oProxyCommand=x", InvalidUserName::Option),
            ("a\0b", character('\0')),
            ("a\nb", character('\n')),
            ("a\u{7f}", character('\u{7f}')),
            ("a\u{85}", character('\u{85}')),
            ("\u{202e}a", character('\u{202e}')),
        ] {
            assert_eq!(UserName::new(bad), Err(why), "{bad:?}");
        }
        assert_eq!(
            UserName::new("x".repeat(257)),
            Err(InvalidUserName::TooLong { length: 257 })
        );
        assert!(UserName::new("x".repeat(256)).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_harmless_bounded_and_escaped_once(said: String, times in 1_usize..40) {
            let text = PeerText::new(said.repeat(times));
            prop_assert!(!text.chars().any(is_active));
            prop_assert!(text.len() <= MAX_TEXT);
            prop_assert_eq!(&PeerText::new(&text), &text);
        }
    }
}
