//! Rust source as far as the rules of the house need it: tokens with lines, paths, functions.
//!
//! Not a parser: it knows comments, literals, `use` trees, paths and braces.

/// A word or a mark, and the line it stands in, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// Empty for a literal.
    pub(crate) text: String,
    /// Of a string: what is between the quotation marks, escapes as written. `None` for all else.
    pub(crate) string: Option<String>,
    pub(crate) line: usize,
}

/// A path as written, `use` trees unfolded: `crate::wire::Offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace, both counted.
    pub(crate) lines: usize,
}

/// All tokens of `text` but comments; literals are one token without a text each.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, kept) = next_token(rest, first);
        let (piece, after) = rest.split_at(length);
        match kept {
            Kept::Word => found.push(Token {
                text: piece.to_owned(),
                string: None,
                line,
            }),
            Kept::Literal => found.push(Token {
                text: String::new(),
                string: between_quotes(piece),
                line,
            }),
            Kept::Nothing => {}
        }
        line += piece.matches('\n').count();
        rest = after;
    }
    found
}

/// The tokens before the first `#[cfg(test)] mod NAME {`: what is built into the program. A module in a file of its own may stand
/// anywhere.
pub(crate) fn production(tokens: &[Token]) -> &[Token] {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let begins_tests = |window: &[Token]| {
        window.iter().zip(marker).all(|(token, word)| token.text == word) && window[marker.len() + 1].text == "{"
    };
    let start = tokens.windows(marker.len() + 2).position(begins_tests);
    &tokens[..start.unwrap_or(tokens.len())]
}

/// Every path of at least two segments.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let glued = at > 0 && [".", "::"].contains(&tokens[at - 1].text.as_str());
        if is_name(&tokens[at]) && !glued {
            at = unfold(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Every function with a body, with its length.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].text == "fn"
            && is_name(&pair[1])
            && let Some(end) = body_end(tokens, at)
        {
            let line = pair[0].line;
            found.push(Function {
                name: pair[1].text.clone(),
                line,
                lines: tokens[end].line - line + 1,
            });
        }
    }
    found
}

enum Kept {
    Word,
    Literal,
    Nothing,
}

fn between_quotes(literal: &str) -> Option<String> {
    let (start, end) = (literal.find('"')?, literal.rfind('"')?);
    (start < end && !literal.starts_with('\'')).then(|| literal[start + 1..end].to_owned())
}

fn next_token(rest: &str, first: char) -> (usize, Kept) {
    if first.is_whitespace() {
        (first.len_utf8(), Kept::Nothing)
    } else if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), Kept::Nothing)
    } else if rest.starts_with("/*") {
        (block_comment(rest), Kept::Nothing)
    } else if let Some(length) = string(rest) {
        (length, Kept::Literal)
    } else if first == '\'' {
        character_or_lifetime(rest)
    } else if first.is_alphanumeric() || first == '_' {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        (end, Kept::Word)
    } else if rest.starts_with("::") {
        (2, Kept::Word)
    } else {
        (first.len_utf8(), Kept::Word)
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        let (step, change) = match here {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        depth += change;
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a string literal of any kind, when `rest` starts with one.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !"bcr".contains(c)).filter(|length| *length <= 2)?;
    let hashes = rest[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix + hashes;
    if !rest[start..].starts_with('"') || (hashes > 0 && !rest[..prefix].ends_with('r')) {
        return None;
    }
    if rest[..prefix].ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(
            rest[start + 1..]
                .find(&end)
                .map_or(rest.len(), |found| start + 1 + found + end.len()),
        );
    }
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(start + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

fn character_or_lifetime(rest: &str) -> (usize, Kept) {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((after, _))) => {
            let end = rest[after + 1..]
                .find('\'')
                .map_or(rest.len(), |found| after + 1 + found + 1);
            (end, Kept::Literal)
        }
        (Some(_), Some((end, '\''))) => (end + 1, Kept::Literal),
        _ => (1, Kept::Nothing),
    }
}

fn is_name(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the path or `use` tree at `at`, below `prefix`: where it ends.
fn unfold(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = tokens[at].line;
    let mut segments = prefix.to_vec();
    loop {
        segments.push(tokens[at].text.clone());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        if text(at) == "{" {
            return unfold_group(tokens, at + 1, &segments, found);
        }
        if !tokens.get(at).is_some_and(is_name) {
            break;
        }
    }
    if segments.len() > 1 {
        found.push(Path { segments, line });
    }
    at
}

fn unfold_group(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "}" => return at + 1,
            "as" => at += 2,
            _ if is_name(token) => at = unfold(tokens, at, prefix, found),
            "*" => {
                found.push(Path {
                    segments: [prefix, &["*".to_owned()]].concat(),
                    line: token.line,
                });
                at += 1;
            }
            _ => at += 1,
        }
    }
    at
}

/// The token that closes the body of the function at `at`; `None` where it has none.
fn body_end(tokens: &[Token], at: usize) -> Option<usize> {
    let (mut round, mut curly) = (0, 0);
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => round += 1,
            ")" | "]" => round -= 1,
            ";" if round == 0 && curly == 0 => return None,
            "{" => curly += 1,
            "}" => {
                curly -= 1;
                if curly == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}
