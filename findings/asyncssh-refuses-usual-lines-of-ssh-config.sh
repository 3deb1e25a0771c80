#!/usr/bin/env bash
# asyncssh 2.24.1, reading ~/.ssh/config: some lines that OpenSSH has always taken end the connection attempt of every host, since
# the whole file is refused.
#
# Seen: `Match exec "test 1 = 1"`, a command with arguments in quotes as ssh_config(5) shows it, is "Invalid match condition 1":
# the quotes are gone before the words are counted. A comment behind a value is "Extra data at end". `ServerAliveInterval 1m` and
# `ConnectTimeout none` are no integers. An IdentityFile that does not exist, which ssh skips, raises FileNotFoundError. A quoted
# command of one word, a comment behind a Host line and `IdentityFile none` are taken. `ssh -G` takes all of them.
# Consequence: a `Match exec` line of a ProxyCommand's documentation breaks ansible-like programs on the same machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check asyncssh==2.24.1
venv/bin/python - <<'P'
import subprocess
import sys

import asyncssh

LINES = {
    'Match exec "test 1 = 1"\n User a\n': "ConfigParseError",
    'Match host h exec "test 1 = 1"\n User a\n': "ConfigParseError",
    "Host h\n User a # comment\n": "ConfigParseError",
    "Host h\n ServerAliveInterval 1m\n": "ConfigParseError",
    "Host h\n ConnectTimeout none\n": "ConfigParseError",
    "Host h\n IdentityFile /nonexistent/key\n": "FileNotFoundError",
    'Match exec "true"\n User a\n': "taken",
    "Host h # comment\n User a\n": "taken",
    "Host h\n IdentityFile none\n": "taken",
}
changed = False
for text, expected in LINES.items():
    with open("config", "w") as file:
        file.write(text)
    ssh = subprocess.run(["ssh", "-F", "config", "-G", "h"], capture_output=True, stdin=subprocess.DEVNULL)
    try:
        asyncssh.SSHClientConnectionOptions(config=["config"], host="h")
        seen = "taken"
    except Exception as error:
        seen = type(error).__name__
    print(f"{text!r}: ssh {'takes it' if ssh.returncode == 0 else 'refuses it'}, asyncssh: {seen}")
    changed |= ssh.returncode != 0 or seen != expected
if changed:
    sys.exit("changed")
P
