//! What is typed.

/// What a key is typed into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Lines of a shell, with corrections.
    Editing,
    History,
    Completion,
    Vim,
    Less,
    Python,
}

impl Part {
    pub(crate) const ALL: [Part; 6] = [
        Part::Editing,
        Part::History,
        Part::Completion,
        Part::Vim,
        Part::Less,
        Part::Python,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Editing => "line editing",
            Part::History => "history",
            Part::Completion => "completion",
            Part::Vim => "vim",
            Part::Less => "less",
            Part::Python => "python",
        }
    }
}

/// One key.
pub(crate) struct Key {
    pub(crate) bytes: Vec<u8>,
    /// `None`: not counted.
    pub(crate) part: Option<Part>,
    /// A user waits here until the program has done what was asked.
    pub(crate) waits: bool,
}

pub(crate) struct Script(pub(crate) Vec<Key>);

/// `<` and `>` stand around keys with a name; `|` behind a key: the user waits there. Not at the end of vim and less: mosh
/// knows one screen only, and shows something else then.
const ROUND: &[(Part, &str)] = &[
    (
        Part::Editing,
        "echo the brwn<left><left>o<right><right> fox<cr>|echo abd<bs>c<cr>|ls -l no<bs><bs>alpha.txt > /dev/null<cr>|\
         grep -c five notes.txt<cr>|echo 'one two' thre<bs><bs><bs><bs>ten<cr>|",
    ),
    (
        Part::History,
        "<up><up><cr>|<up><bs><bs>zz<cr>|<up><up><up>|<down><down><down>|true<cr>|<up><left><left>x<bs><cr>|",
    ),
    (
        Part::Completion,
        "cat no<tab>|<cr>|ls al<tab>| <bs><cr>|wc -l alp<tab>|no<tab>|<cr>|",
    ),
    (Part::Editing, "vim -u NONE -i NONE -N -n notes.txt<cr>|"),
    (
        Part::Vim,
        "i|hello wordl<bs><bs>ld<cr>and a second lnie<bs><bs><bs>ine<esc>|k|x|A more<esc>|:q!<cr>",
    ),
    (Part::Editing, "less alpha.txt<cr>|"),
    (Part::Less, " |j|j|k|/line 90<cr>|g|q"),
    (Part::Editing, "python3 -q<cr>|"),
    (
        Part::Python,
        "x = 6 * 7<cr>|print(x)<cr>|[n for n in range(4)]<cr>|'abd'<left><bs>c<cr>|exit()<cr>|",
    ),
];

impl Script {
    pub(crate) fn of_rounds(rounds: usize) -> Script {
        // At the top of an empty screen.
        let clear = || Key {
            bytes: b"\x0c".to_vec(),
            part: None,
            waits: true,
        };
        let mut keys = vec![clear()];
        // The round-trip time is known, and the programs have seen one echo, when it begins.
        let warm_up = "t|r|u|e|<cr>|true<cr>|true<cr>|";
        keys.extend(parse(warm_up).map(|(bytes, waits)| Key {
            bytes,
            part: None,
            waits,
        }));
        for _ in 0..rounds {
            for (part, text) in ROUND {
                if !matches!(part, Part::Vim | Part::Less | Part::Python) {
                    keys.push(clear());
                }
                keys.extend(parse(text).map(|(bytes, waits)| Key {
                    bytes,
                    part: Some(*part),
                    waits,
                }));
            }
        }
        Script(keys)
    }

    pub(crate) fn counted(&self) -> usize {
        self.0.iter().filter(|key| key.part.is_some()).count()
    }
}

/// Keys, and whether the user waits behind each.
fn parse(text: &str) -> impl Iterator<Item = (Vec<u8>, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (bytes, mut after) = next_key(rest)?;
        let waits = after.strip_prefix('|').inspect(|stripped| after = stripped).is_some();
        rest = after;
        Some((bytes, waits))
    })
}

fn next_key(text: &str) -> Option<(Vec<u8>, &str)> {
    for (name, bytes) in [
        ("<cr>", "\r"),
        ("<bs>", "\x7f"),
        ("<tab>", "\t"),
        ("<esc>", "\x1b"),
        ("<up>", "\x1b[A"),
        ("<down>", "\x1b[B"),
        ("<right>", "\x1b[C"),
        ("<left>", "\x1b[D"),
    ] {
        if let Some(rest) = text.strip_prefix(name) {
            return Some((bytes.into(), rest));
        }
    }
    let first = text.chars().next()?;
    Some((first.to_string().into_bytes(), &text[first.len_utf8()..]))
}
