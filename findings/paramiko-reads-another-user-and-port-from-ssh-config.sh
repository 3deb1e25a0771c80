#!/usr/bin/env bash
# paramiko 5.1.0, `SSHConfig`: four kinds of line give other values than `ssh -G` does, without an error.
#
# Seen: `User ann # comment` gives the user "ann # comment" (ssh: "ann"). `Include` is skipped, so a port in an included file is not
# seen. `Match user bob` before the `Host` block that sets `User bob` matches (ssh evaluates it in order, so it does not).
# `ProxyJump none`, which switches a later ProxyJump off, is given to the caller as a host named "none".
# Consequence: the same alias leads programs that use paramiko to another account or port than ssh.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check paramiko==5.1.0
printf 'Host h\n Port 99\n' >included
venv/bin/python - <<'P'
import os
import subprocess
import sys

import paramiko

CASES = [
    ("Host h\n User ann # comment\n", "user", "ann", "ann # comment"),
    (f"Include {os.getcwd()}/included\nHost h\n User ann\n", "port", "99", None),
    ("Match user bob\n Port 5\nHost h\n User bob\n", "port", "22", "5"),
    ("Host h\n ProxyJump none\nHost *\n ProxyJump j\n", "proxyjump", None, "none"),
]
changed = False
for text, key, by_ssh, by_paramiko in CASES:
    with open("config", "w") as file:
        file.write(text)
    told = subprocess.run(["ssh", "-F", "config", "-G", "h"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    ssh = dict(line.split(" ", 1) for line in told.stdout.splitlines() if " " in line).get(key)
    seen = paramiko.SSHConfig.from_path("config").lookup("h").get(key)
    print(f"{text.replace(os.getcwd(), '')!r}: {key} is {ssh!r} to ssh, {seen!r} to paramiko")
    changed |= (ssh, seen) != (by_ssh, by_paramiko)
if changed:
    sys.exit("changed")
P
