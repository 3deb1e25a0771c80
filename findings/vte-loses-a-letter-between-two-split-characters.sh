#!/usr/bin/env bash
# Crate vte 0.15.0 (the parser of alacritty and of vt100): a letter that arrives between the end of one character
# of several bytes and the beginning of the next is lost, if reads split both characters.
#
# Seen with the text "xéaéy" (é is C3 A9) in three reads, `x C3`, `A9 a C3`, `A9 y`: the parser prints "xééy". In one
# read, byte by byte, or with another letter behind the "a" in the second read, it prints the whole text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "split"
version = "0.0.0"
edition = "2021"

[dependencies]
vte = "=0.15.0"

[workspace]
T
cat >src/main.rs <<'R'
use vte::{Parser, Perform};

#[derive(Default)]
struct Printed(String);

impl Perform for Printed {
    fn print(&mut self, character: char) {
        self.0.push(character);
    }
}

fn main() {
    let text = "xéaéy".as_bytes();
    let longer = "xéabéy".as_bytes();
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    for (how, reads) in [
        ("one read", vec![text]),
        ("each byte", bytes),
        ("three reads", vec![&text[..2], &text[2..5], &text[5..]]),
        ("three reads, two letters", vec![&longer[..2], &longer[2..6], &longer[6..]]),
    ] {
        let (mut parser, mut printed) = (Parser::new(), Printed::default());
        for read in reads {
            parser.advance(&mut printed, read);
        }
        println!("{how}: {}", printed.0);
    }
}
R
cargo run --quiet | tee out
diff out - <<'E' || { echo "changed"; exit 1; }
one read: xéaéy
each byte: xéaéy
three reads: xééy
three reads, two letters: xéabéy
E
