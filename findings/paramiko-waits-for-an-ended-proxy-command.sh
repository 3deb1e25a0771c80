#!/usr/bin/env bash
# paramiko 5.1.0: that a proxy command has ended after a second is not noticed. The client waits for its banner timeout (15 s by
# default), and the error names neither the exit status nor what the command wrote to stderr.
#
# Seen: `ProxyCommand("sh -c 'sleep 1; echo no route >&2; exit 3'")`, then `Transport(..).start_client()`:
#   SSHException: Error reading SSH protocol banner, after 15 s.
# Plain OpenSSH reports the same command within milliseconds ("Connection closed by UNKNOWN port 65535").
# Consequence: a ProxyCommand cannot fail fast under paramiko (ansible's paramiko connection, fabric, sshtunnel).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check paramiko==5.1.0
"$folder/venv/bin/python" - 2>/dev/null <<'P'
import sys
import time

import paramiko

start = time.monotonic()
try:
    paramiko.Transport(paramiko.ProxyCommand("sh -c 'sleep 1; echo no route >&2; exit 3'")).start_client(timeout=60)
    sys.exit("unexpected: a transport started over a command that has ended")
except paramiko.SSHException as error:
    took, text = time.monotonic() - start, str(error)
print(f"paramiko {paramiko.__version__}: {text!r} after {took:.1f} s")
if took < 10:
    sys.exit("changed: the end of the command is noticed")
if "no route" in text or "3" in text:
    sys.exit("changed: the error tells what the command said")
P
