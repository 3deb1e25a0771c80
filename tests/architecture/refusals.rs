//! Every message by which bowline refuses has a row in `docs/refusals.md`, every row a message, and no message claims what bowline
//! does not know.
//!
//! Messages are found in the source by where they stand: see [`messages`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{Token, functions, production, tokens};
use super::{PRODUCT, ROOT, Source, is_test_file, report, sources};

const PAGE: &str = "docs/refusals.md";

/// What a message may say only as a possibility, and why bowline cannot know it.
///
/// A sentence that has one of these needs one of [`CONDITIONS`], too. Case does not count; names such as `udp-blocked` are one word.
const CLAIMS: &[(&[&str], &str)] = &[
    (
        &["firewall", "dropped by"],
        "a packet that is lost says nothing of who dropped it",
    ),
    (&["blocked", "filtered"], SILENCE),
    (&["is down", "are down", "is offline", "is not running"], SILENCE),
    (
        &["hangs", "is well", "is not well"],
        "whether an answer comes is all that is known",
    ),
    (&["overloaded"], "an answer that comes late says nothing of the reason"),
    (
        &["crashed", "rebooted"],
        "a connection that ends says nothing of the reason",
    ),
    (
        &["reinstalled", "attack", "listening in"],
        "a host that was installed anew and somebody in its place look the same",
    ),
    (
        &["broken into"],
        "a process that breaks the protocol may also be a faulty one",
    ),
    (
        &["intercept", "intercepts", "intercepted"],
        "a foreign certificate does not say who made it, nor for what",
    ),
    (
        &["provider", "your network", "the router"],
        "nothing on a path says whose it is, nor which part of it failed",
    ),
    (
        &["your key"],
        "which of the keys the user means is not known: there may have been none to offer",
    ),
    (&["misconfigured"], "a setting may be as its owner wants it"),
];

/// Of what says nothing.
const SILENCE: &str = "silence is all that is seen: a lost packet, a closed port and a host without power look alike";

/// Words that make a possibility of a claim. So do a question, and an alternative behind a comma: a bare `or` joins words, not causes.
const CONDITIONS: &[&str] = &["if", "may", "might", "whether", "perhaps"];

#[test]
fn every_refusal_has_its_row_with_cause_and_remedy() {
    let page = Page::read();
    let missing = messages(&all_sources())
        .into_iter()
        .filter(|message| !page.has(&message.text));
    report(missing.map(|message| {
        format!(
            "{}: {:?} is not explained: add a row to {PAGE}, `{}` | cause | what to do",
            message.place, message.text, message.text
        )
    }));
}

#[test]
fn every_code_and_verdict_has_its_row() {
    let page = Page::read();
    let names = names(&all_sources());
    assert!(names.len() > 30, "{names:?}");
    let missing = names.into_iter().filter(|(name, _)| !page.has(name));
    report(missing.map(|(name, place)| format!("{place}: `{name}` is not explained: add a row to {PAGE}")));
}

#[test]
fn every_row_is_about_a_message_that_there_is() {
    let page = Page::read();
    let known: BTreeSet<String> = all_sources()
        .iter()
        .flat_map(strings)
        .map(|(_, text)| shown(&text))
        .collect();
    let stale = page.rows.iter().flat_map(|row| {
        let gone = row.messages.iter().filter(|message| !known.contains(*message));
        gone.map(|message| {
            format!(
                "{PAGE}:{}: no message `{message}` in src: change or remove the row",
                row.line
            )
        })
    });
    report(stale.collect::<Vec<_>>().into_iter());
}

#[test]
fn every_row_says_what_the_cause_is_and_what_to_do() {
    let page = Page::read();
    assert!(page.rows.len() > 100, "{} rows", page.rows.len());
    let bare = page.rows.iter().filter(|row| !row.is_whole);
    report(bare.map(|row| {
        format!(
            "{PAGE}:{}: a row has three cells: messages in backticks, the cause, what to do",
            row.line
        )
    }));
}

#[test]
fn no_message_claims_what_bowline_does_not_know() {
    let all = all_sources();
    let said = all.iter().flat_map(|source| {
        let strings = strings(source).into_iter();
        strings.map(|(line, text)| (format!("{}:{line}", source.place), shown(&text)))
    });
    report(said.flat_map(|(place, text)| {
        claims(&text).into_iter().map(move |(word, why)| {
            format!(
                "{place}: {text:?} claims {word:?}, and {why}: say what was seen, or make it a possibility (if, may, a question)"
            )
        })
    }));
}

/// A message that a user or an administrator reads.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    place: String,
    text: String,
}

/// The texts of errors, failures, refusals and ends, and the words of verdicts. Those without a word of their own are left out: they
/// quote others.
fn messages(sources: &[Source]) -> Vec<Message> {
    let mut found = BTreeMap::new();
    for source in sources {
        let all = tokens(&source.text);
        let all = production(&all);
        let telling = TELLING.iter().find(|(place, _)| *place == source.place);
        let literals: Vec<&Token> = match telling {
            Some((_, function)) => body_of(function, all).iter().filter(is_string).collect(),
            None => (0..all.len())
                .flat_map(|at| messages_at(&source.place, &all[at..]))
                .collect(),
        };
        for token in literals {
            let text = shown(token.string.as_deref().unwrap_or_default());
            if text.chars().any(char::is_alphabetic) {
                let place = format!("{}:{}", source.place, token.line);
                found.entry(text).or_insert(place);
            }
        }
    }
    found.into_iter().map(|(text, place)| Message { place, text }).collect()
}

/// Files of which one function tells, each of its strings a message. Hints stand there too.
const TELLING: &[(&str, &str)] = &[("src/cli/check/words.rs", "meaning")];

fn body_of<'a>(name: &str, all: &'a [Token]) -> &'a [Token] {
    let named = functions(all).into_iter().find(|function| function.name == name);
    let function = named.expect("the function is there");
    let start = all.partition_point(|token| token.line < function.line);
    let end = all.partition_point(|token| token.line < function.line + function.lines);
    &all[start..end]
}

/// The literals of a message that begins right here.
fn messages_at<'a>(place: &str, rest: &'a [Token]) -> Vec<&'a Token> {
    let is_server = place.starts_with("src/server/") || place.starts_with("src/relay/");
    let found = of_error(rest).or_else(|| of_failure(rest)).or_else(|| of_log(rest));
    let mut found: Vec<&Token> = found.into_iter().chain(of_prepared_failure(rest)).collect();
    if place.starts_with("src/cli/report") && starts_with(rest, &["what", ":", "format", "!"]) {
        found.extend(directly(&rest[2..]));
    }
    if ["src/cli/serve", "src/cli/relay", "src/cli/sshd"]
        .iter()
        .any(|start| place.starts_with(start))
    {
        found.extend(of_warning(rest));
    }
    if is_server {
        found.extend(of_refusal(rest).or_else(|| of_end(rest)));
        found.extend(of_formatted_refusal(rest));
    }
    found
}

/// `#[error("..")]`.
fn of_error(rest: &[Token]) -> Option<&Token> {
    let is_error = starts_with(rest, &["#", "[", "error", "("]);
    is_error.then(|| directly(&rest[4..])).flatten()
}

/// `Failure::new(exit, "..")`.
fn of_failure(rest: &[Token]) -> Option<&Token> {
    if starts_with(rest, &["Failure", "::", "new", "("]) {
        let arguments = until_closed(&rest[3..]);
        let comma = arguments.iter().position(|token| token.text == ",")?;
        return arguments[comma..].iter().find(is_string);
    }
    None
}

/// How many tokens after `let what = ..;` the failure that tells it stands at most.
const FAR: usize = 60;

/// `let what = "..";`, or several in a `match`, for a failure that follows.
fn of_prepared_failure(rest: &[Token]) -> Vec<&Token> {
    if !starts_with(rest, &["let", "what", "="]) {
        return Vec::new();
    }
    let (statement, after) = rest.split_at(until_semicolon(rest).len());
    let near = &after[..after.len().min(FAR)];
    let is_told = near
        .windows(3)
        .any(|three| starts_with(three, &["Failure", "::", "new"]));
    statement.iter().filter(|token| is_told && is_string(token)).collect()
}

/// A text beside the code of a refusal, or the one that strangers hear.
fn of_refusal(rest: &[Token]) -> Option<&Token> {
    if starts_with(rest, &["const", "OPENS_REFUSED"]) {
        return until_semicolon(rest).iter().find(is_string);
    }
    if starts_with(rest, &["(", "code", ","]) {
        return directly(&rest[3..]);
    }
    let is_code = rest.len() > 4
        && ["RefusalCode", "RelayRefusalCode"].contains(&rest[0].text.as_str())
        && rest[1].text == "::"
        && rest[3].text == ",";
    is_code.then(|| directly(&rest[4..])).flatten()
}

/// `let message = format!("..")`, or several in a `match`: the text of a refusal that follows.
fn of_formatted_refusal(rest: &[Token]) -> Vec<&Token> {
    if !starts_with(rest, &["let", "message", "="]) {
        return Vec::new();
    }
    let statement = until_semicolon(rest);
    let formatted = (0..statement.len()).filter(|at| statement[*at].text == "format");
    formatted.filter_map(|at| directly(&statement[at..])).collect()
}

/// Why a session ended, as its client hears it.
fn of_end(rest: &[Token]) -> Option<&Token> {
    let starts: [&[&str]; 4] = [
        &["entry", ".", "end", "("],
        &["Order", "::", "End", "("],
        &["Bury", "("],
        &["const", "KILLED", ":", "&", "str", "="],
    ];
    let start = starts.into_iter().find(|words| starts_with(rest, words))?;
    let said = &rest[start.len()..];
    directly(if starts_with(said, &["&"]) { &said[1..] } else { said })
}

/// The sentence of a log line whose event is a refusal.
fn of_log(rest: &[Token]) -> Option<&Token> {
    let is_refusal = starts_with(rest, &["event", "="])
        && rest
            .get(2)
            .is_some_and(|token| token.string.as_deref() == Some("refused"));
    is_refusal
        .then(|| until_semicolon(&rest[3..]).iter().find(is_string))
        .flatten()
}

/// What a command that serves warns of, at its start above all: `warn!(field, "..")`.
fn of_warning(rest: &[Token]) -> Option<&Token> {
    if !starts_with(rest, &["warn", "!", "("]) {
        return None;
    }
    let arguments = until_closed(&rest[2..]);
    let is_field = |at: usize| arguments[at - 1].text == "=";
    let mut sentences = (1..arguments.len()).filter(|at| is_string(&&arguments[*at]) && !is_field(*at));
    sentences.next().map(|at| &arguments[at])
}

fn is_string(token: &&Token) -> bool {
    token.string.is_some()
}

fn starts_with(rest: &[Token], words: &[&str]) -> bool {
    rest.len() >= words.len() && rest.iter().zip(words).all(|(token, word)| token.text == *word)
}

/// A string that stands first, or first in `format!(..)`.
fn directly(rest: &[Token]) -> Option<&Token> {
    let at = if starts_with(rest, &["format", "!", "("]) || starts_with(rest, &["format_args", "!", "("]) {
        3
    } else {
        0
    };
    rest.get(at).filter(is_string)
}

/// From the opening parenthesis to its counterpart.
fn until_closed(rest: &[Token]) -> &[Token] {
    let mut depth = 0_i32;
    let end = rest.iter().position(|token| {
        depth += match token.text.as_str() {
            "(" => 1,
            ")" => -1,
            _ => 0,
        };
        depth == 0
    });
    &rest[..end.unwrap_or(rest.len())]
}

fn until_semicolon(rest: &[Token]) -> &[Token] {
    let end = rest.iter().position(|token| token.text == ";");
    &rest[..end.unwrap_or(rest.len())]
}

/// Names that programs read, each with its place: codes of refusals, diagnoses.
fn names(sources: &[Source]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in sources {
        let all = tokens(&source.text);
        for window in production(&all).windows(7) {
            let kind = window[0].text.as_str();
            let is_path = window[1].text == "::";
            let name = match (source.place.as_str(), kind) {
                ("crates/proto/src/wire/refusal.rs", "RefusalCode" | "RelayRefusalCode")
                    if is_path && window[3].text == "," =>
                {
                    &window[4]
                }
                ("src/client/check/diagnosis.rs", "Diagnosis") if is_path && starts_with(&window[3..], &["=", ">"]) => {
                    &window[5]
                }
                _ => continue,
            };
            if let Some(text) = &name.string {
                found.push((text.clone(), format!("{}:{}", source.place, name.line)));
            }
        }
    }
    found
}

/// Every string of the program, with its line.
fn strings(source: &Source) -> Vec<(usize, String)> {
    let all = tokens(&source.text);
    production(&all)
        .iter()
        .filter_map(|token| Some((token.line, token.string.clone()?)))
        .collect()
}

fn all_sources() -> Vec<Source> {
    let all = PRODUCT.iter().flat_map(|folder| sources(folder));
    all.filter(|source| !is_test_file(&source.place)).collect()
}

/// A string of the source as the page shows it: lines joined, escapes resolved, each placeholder an ellipsis.
fn shown(literal: &str) -> String {
    let mut text = String::new();
    let mut rest = literal.chars().peekable();
    while let Some(character) = rest.next() {
        match (character, rest.peek().copied()) {
            ('\\', Some('\n')) => while rest.next_if(|next| next.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                rest.next();
                text.push('\n');
            }
            ('\\', Some(escaped)) => {
                rest.next();
                text.push(escaped);
            }
            ('{', Some('{')) | ('}', Some('}')) => {
                rest.next();
                text.push(character);
            }
            ('{', _) => {
                while rest.next().is_some_and(|inside| inside != '}') {}
                text.push('…');
            }
            _ => text.push(character),
        }
    }
    text
}

/// What is claimed without a condition in the same sentence.
fn claims(text: &str) -> Vec<(&'static str, &'static str)> {
    let text = text.to_lowercase();
    let sentences = text.split_inclusive(['?', ';']).flat_map(|part| part.split(". "));
    let bare = sentences.filter(|sentence| !is_possibility(sentence));
    let mut found = Vec::new();
    for sentence in bare {
        for (words, why) in CLAIMS {
            let claimed = words.iter().filter(|word| has_words(sentence, word));
            found.extend(claimed.map(|word| (*word, *why)));
        }
    }
    found
}

fn is_possibility(sentence: &str) -> bool {
    sentence.ends_with('?')
        || sentence.contains(", or ")
        || CONDITIONS.iter().any(|condition| has_words(sentence, condition))
}

/// Whether `words` stand in the text, not as a part of longer ones.
fn has_words(text: &str, words: &str) -> bool {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_');
    text.match_indices(words).any(|(start, _)| {
        !is_inside(text[..start].chars().next_back()) && !is_inside(text[start + words.len()..].chars().next())
    })
}

/// `docs/refusals.md`, as far as it is tables of messages.
struct Page {
    rows: Vec<Row>,
}

/// `messages | cause | what to do`.
struct Row {
    line: usize,
    messages: Vec<String>,
    is_whole: bool,
}

impl Page {
    fn read() -> Page {
        let text = std::fs::read_to_string(Path::new(ROOT).join(PAGE)).expect(PAGE);
        Page::parse(&text)
    }

    fn parse(text: &str) -> Page {
        let lines = text.lines().enumerate();
        let mut is_about_messages = false;
        let mut rows = Vec::new();
        for (index, line) in lines {
            if !line.starts_with('|') {
                is_about_messages = false;
            } else if line.starts_with("| message |") {
                is_about_messages = true;
            } else if is_about_messages && !line.starts_with("|---") {
                rows.push(Row::parse(index + 1, line));
            }
        }
        Page { rows }
    }

    fn has(&self, message: &str) -> bool {
        self.rows
            .iter()
            .any(|row| row.messages.iter().any(|known| known == message))
    }
}

impl Row {
    fn parse(line: usize, text: &str) -> Row {
        let text = text.replace("\\|", "\u{0}");
        let cells: Vec<&str> = text.trim_matches('|').split('|').map(str::trim).collect();
        let messages = code_spans(cells.first().unwrap_or(&""));
        Row {
            line,
            is_whole: cells.len() == 3 && !messages.is_empty() && cells.iter().all(|cell| !cell.is_empty()),
            messages: messages.into_iter().map(|span| span.replace('\u{0}', "|")).collect(),
        }
    }
}

/// What stands between runs of backticks of one length; a run of two may enclose single ones, beside a space.
fn code_spans(cell: &str) -> Vec<String> {
    let mut spans = Vec::new();
    let mut rest = cell;
    while let Some(start) = rest.find('`') {
        let fence: String = rest[start..].chars().take_while(|c| *c == '`').collect();
        let after = &rest[start + fence.len()..];
        let Some(end) = after.find(&fence) else { break };
        // Runs that are longer than the fence belong to the text: `` x `y` ``.
        let longest = after[end..].chars().take_while(|c| *c == '`').count();
        let end = end + longest - fence.len();
        let span = &after[..end];
        let span = if fence.len() > 1 { span.trim() } else { span };
        spans.push(span.to_owned());
        rest = &after[end + fence.len()..];
    }
    spans
}

/// The rules themselves, on samples.
mod self_test {
    use super::*;

    fn found(place: &str, text: &str) -> Vec<String> {
        let source = Source {
            place: place.to_owned(),
            text: text.to_owned(),
        };
        messages(&[source]).into_iter().map(|message| message.text).collect()
    }

    #[test]
    fn a_message_is_found_wherever_one_stands() {
        for (place, text) in [
            ("src/a.rs", "#[error(\"x {} y\", f())] struct A;"),
            ("src/a.rs", "#[error(\n \"x {z:?} \\\n  y\")] struct A;"),
            (
                "src/cli/a.rs",
                "fn f() { Failure::new(Exit::Usage, \"x {{}} y\").hint(\"no\") }",
            ),
            (
                "src/cli/a.rs",
                "fn f() { Failure::new(g(a, b), format_args!(\"x {} y\", env!(\"V\"))) }",
            ),
            (
                "src/cli/a.rs",
                "fn f() { let what = \"x {} y\"; Failure::new(Exit::Usage, what) }",
            ),
            (
                "src/server/a.rs",
                "fn f() { refusal(RefusalCode::Busy, format!(\"x {} y\", a)) }",
            ),
            (
                "src/server/a.rs",
                "fn f() { let message = match a { 0 => format!(\"x {} y\", a) }; }",
            ),
            ("src/relay/a.rs", "fn f() { (RelayRefusalCode::Busy, \"x {} y\") }"),
            (
                "src/cli/a.rs",
                "fn f() { let what = match a { 0 => format!(\"x {} y\", a) }; Failure::new(Exit::Usage, what) }",
            ),
            ("src/relay/a.rs", "fn f() { (code, \"x {} y\") }"),
            (
                "src/cli/serve/a.rs",
                "fn f() { warn!(event = \"no\", hint, \"x {} y\", f(\"no\")); }",
            ),
            ("src/server/a.rs", "fn f() { entry.end(&format!(\"x {} y\", a)) }"),
            ("src/server/a.rs", "fn f() { Order::End(\"x {} y\".to_owned()) }"),
            (
                "src/server/a.rs",
                "fn f() { info!(event = \"refused\", user, \"x {} y\"); }",
            ),
            (
                "src/cli/check/words.rs",
                "fn meaning() { match a { Verdict::A => { \"x {} y\" } } }",
            ),
        ] {
            assert_eq!(found(place, text).len(), 1, "{text}: {:?}", found(place, text));
            assert!(
                ["x … y", "x {} y"].contains(&&*found(place, text)[0]),
                "{text}: {:?}",
                found(place, text)
            );
        }
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        for text in [
            "#[error(transparent)] struct A;",
            "#[error(\"{code}: {message}\")] struct A;",
            "// #[error(\"x\")]",
            "#[cfg(test)]\nmod tests { #[error(\"x\")] struct A; }",
        ] {
            assert_eq!(found("src/a.rs", text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_claim_is_found_and_a_possibility_passes() {
        for text in [
            "UDP blocked: nothing came back",
            "is it there? A firewall drops it",
            "the host is down or off",
            "if you like: try again; the host was reinstalled",
            "sshd hangs.",
        ] {
            assert_eq!(claims(text).len(), 1, "{text}");
        }
        for text in [
            "UDP may be blocked: nothing came back",
            "does a firewall drop it?",
            "the host is down, or it drops all packets",
            "if the host was reinstalled: remove its key",
            "nothing came back",
            "udp-blocked",
        ] {
            assert_eq!(claims(text), [], "{text}");
        }
    }

    #[test]
    fn a_page_is_read_by_its_rows() {
        let page = "| message | cause | what to do |\n|---|---|---|\n| `a …`<br>`` b `c` `` | x | y |\n| `d` | x |\n\n| 64 | `e` |\n";
        let page = Page::parse(page);
        assert!(page.has("a …") && page.has("b `c`") && !page.has("e"));
        assert_eq!(
            page.rows.iter().map(|row| row.is_whole).collect::<Vec<_>>(),
            [true, false]
        );
    }
}
