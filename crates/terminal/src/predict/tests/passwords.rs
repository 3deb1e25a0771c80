//! No character of a password is displayed.

use super::*;

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        // Of Steele, Lea and Flood: SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// How a program asks for a password, and what it shows for its characters.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `sudo`: a prompt in a new line, no echo.
    Silent,
    /// A star for each character.
    Stars,
    /// One to three stars for each character.
    ManyStars,
    /// Another character for each.
    Others,
    /// The prompt comes in the line of a question that one key answered.
    SameLine,
    /// A second try after a wrong password.
    Again,
    /// The prompt replaces the line.
    ReplacedLine,
    /// On the alternate screen, in a form.
    Form,
    /// The prompt is longer than the line.
    WrappedPrompt,
    /// The prompt comes late: the first characters are typed ahead.
    Late,
    /// On the last row, with a scroll.
    LastRow,
    /// `read -s` without a prompt.
    NoPrompt,
}

const KINDS: [Kind; 12] = [
    Kind::Silent,
    Kind::Stars,
    Kind::ManyStars,
    Kind::Others,
    Kind::SameLine,
    Kind::Again,
    Kind::ReplacedLine,
    Kind::Form,
    Kind::WrappedPrompt,
    Kind::Late,
    Kind::LastRow,
    Kind::NoPrompt,
];

impl Kind {
    /// What the program writes for the command that asks.
    fn prompt(self) -> &'static [u8] {
        match self {
            Self::Silent | Self::Stars | Self::ManyStars | Self::Others | Self::LastRow => {
                b"\r\n[sudo] password for me: "
            }
            Self::SameLine => b"y Password: ",
            Self::Again => b"\r\nPassword: \r\nSorry, try again.\r\nPassword: ",
            Self::ReplacedLine => b"\r\x1b[KPassword: ",
            Self::Form => b"\x1b[?1049h\x1b[H\x1b[2JUser: me\r\nPassword: ",
            Self::WrappedPrompt => b"\r\nEnter the passphrase for the key '/home/somebody/.ssh/id_ed25519': ",
            Self::Late => b"\r\n",
            Self::NoPrompt => b"\r\n",
        }
    }

    fn is_one_key(self) -> bool {
        matches!(self, Self::SameLine | Self::ReplacedLine)
    }

    fn echo(self, numbers: &mut Numbers) -> Vec<u8> {
        match self {
            Self::Stars | Self::Form => b"*".to_vec(),
            Self::ManyStars => vec![b'*'; usize::try_from(1 + numbers.next(3)).unwrap_or(1)],
            Self::Others => vec![b"#.x-"[usize::try_from(numbers.next(4)).unwrap_or(0)]],
            _ => Vec::new(),
        }
    }
}

/// A shell, and the program that asks.
struct Asking {
    kind: Kind,
    numbers: Numbers,
    is_asking: bool,
    late: usize,
}

impl Host for Asking {
    fn handle_key(&mut self, key: &[u8]) -> Vec<u8> {
        let asks = key == b"\r" || (self.kind.is_one_key() && key == b"y");
        match (self.is_asking, asks) {
            (false, true) => {
                self.is_asking = true;
                self.kind.prompt().to_vec()
            }
            (false, false) => echo(key),
            (true, _) if key == b"\r" => {
                self.is_asking = false;
                b"\r\n$ ".to_vec()
            }
            (true, _) => {
                self.late += 1;
                if matches!(self.kind, Kind::Late) && self.late == 3 {
                    return b"Password: ".to_vec();
                }
                self.kind.echo(&mut self.numbers)
            }
        }
    }
}

fn password(numbers: &mut Numbers) -> String {
    // With the letters of prompts in front, and masks among the rest.
    let alphabet = "Pp[PsSEeUabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789*#.-_!$ yxr";
    let length = 4 + numbers.next(12);
    let characters: Vec<char> = alphabet.chars().collect();
    let pick = |numbers: &mut Numbers| characters[usize::try_from(numbers.next(characters.len() as u64)).unwrap_or(0)];
    (0..length).map(|_| pick(numbers)).collect()
}

/// Runs a command that is confirmed, and types a password: what was displayed meanwhile.
fn ask(kind: Kind, seed: u64) -> Vec<(Position, char)> {
    let mut numbers = Numbers(seed);
    let rtt = [20, 70, 100, 200, 400][usize::try_from(numbers.next(5)).unwrap_or(0)];
    let start = match kind {
        Kind::LastRow => "\x1b[6;1H$ ",
        _ => "$ ",
    };
    let asking = Asking {
        kind,
        numbers: Numbers(seed),
        is_asking: false,
        late: 0,
    };
    let mode = if numbers.next(2) == 0 {
        PredictMode::Always
    } else {
        PredictMode::Adaptive
    };
    let confirmation = if numbers.next(4) == 0 {
        Confirmation::Estimated
    } else {
        Confirmation::Exact
    };
    let mut session = Session::with(mode, confirmation, rtt, start, asking);
    session.type_text("sudo", 30 + numbers.next(300));
    session.wait(2 * rtt + 100);
    session.type_text(" ls", 30 + numbers.next(300));
    session.wait(numbers.next(2 * rtt));
    session.displayed.clear();
    session.key(if kind.is_one_key() { b"y" } else { b"\r" });
    // People read the prompt; a few do not, but not in programs that take one key.
    let reads = if kind.is_one_key() {
        rtt + 60 + numbers.next(1000)
    } else {
        numbers.next(1000)
    };
    session.wait(reads);
    // The command may still be on its way.
    let command = session.overlay().cells;
    session.displayed.clear();
    let pause = 20 + numbers.next(300);
    session.type_text(&password(&mut numbers), pause);
    session.wait(3 * rtt + 300);
    let is_command =
        |at: Position, character: char| command.iter().any(|(place, cell)| *place == at && cell.c == character);
    session.displayed.retain(|(at, character)| !is_command(*at, *character));
    session.displayed
}

#[test]
fn no_character_of_a_password_is_shown_in_10000_prompts_of_12_kinds() {
    for seed in 0..10_000 {
        let kind = KINDS[usize::try_from(seed).unwrap_or(0) % KINDS.len()];
        let shown = ask(kind, seed);
        assert_eq!(shown, [], "{kind:?} with seed {seed}");
    }
}

#[test]
fn the_same_sessions_show_the_command_that_was_typed() {
    let asking = Asking {
        kind: Kind::Silent,
        numbers: Numbers(1),
        is_asking: false,
        late: 0,
    };
    let mut session = Session::new(100, "$ ", asking);
    session.type_text("sudo", 150);
    assert!(session.displayed.iter().any(|(_, character)| *character == 'o'));
}
