#!/usr/bin/env bash
# Crate ssh-key 0.6.7, `authorized_keys::Entry`: lines that sshd accepts and people write every day are refused.
#
# Seen, each with a valid ed25519 key:
#   command="a b" KEY comment    character encoding invalid   (a blank inside of a quoted option)
#   no-pty KEY (no comment)      Base64 encoding error        (an option, and no comment behind the key)
#   ssh-ed25519<two blanks>KEY   length invalid               (more than one blank, or a tab, between the fields)
# while `restrict KEY comment` and `from="10.0.0.0/8,192.168.1.1",no-pty KEY comment` are read.
# OpenSSH 9.2's ssh-keygen -l reads all of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "lines"
version = "0.0.0"
edition = "2021"

[dependencies]
ssh-key = { version = "=0.6.7", default-features = false, features = ["std"] }

[workspace]
T
cat >src/main.rs <<'R'
use ssh_key::authorized_keys::Entry;

fn main() {
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        match line.parse::<Entry>() {
            Ok(_) => println!("read"),
            Err(error) => println!("refused: {error}"),
        }
    }
}
R
ssh-keygen -q -t ed25519 -N '' -C comment -f key
with=$(cat key.pub)
without=${with% comment}
{
    printf 'restrict %s\n' "$with"
    printf 'from="10.0.0.0/8,192.168.1.1",no-pty %s\n' "$with"
    printf 'command="a b" %s\n' "$with"
    printf 'no-pty %s\n' "$without"
    printf '%s\n' "${with/ /  }"
    printf '%s\n' "${with/ /$'\t'}"
} >lines
echo "ssh-keygen reads $(ssh-keygen -l -f lines | wc -l) of $(wc -l <lines) lines"
[ "$(ssh-keygen -l -f lines | wc -l)" = 6 ]
cargo run --quiet <lines >out
paste out lines | cut -c1-90
[ "$(cut -d: -f1 out | tr '\n' ' ')" = 'read read refused refused refused refused ' ] || { echo "changed"; exit 1; }
