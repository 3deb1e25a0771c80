#!/usr/bin/env bash
# libssh 0.10.6 (Debian 12), `ssh_options_parse_config`: an exclusion in a Host line counts only if it stands before the pattern
# that matches.
#
# Seen, for the host `h`: `Host !h *` does not apply, as with ssh; `Host * !h` does, and ssh skips it. `Host H` applies too (ssh
# compares Host lines with case). `Match canonical` and `Match canonical host h` apply without canonicalization (ssh applies them
# only in its second pass). The lists of `Match host *,!h` are read as ssh reads them.
# Consequence: with `Host * !bastion`, the usual order, programs on libssh use the block's settings for the bastion as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=0.10.6-0+deb12u3
apt-get download -qq libssh-4=$version >/dev/null 2>&1 || { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x ./*.deb root
LIBRARY=$(find "$folder/root" -name 'libssh.so.4') python3 - <<'P'
import ctypes
import os
import subprocess
import sys

library = ctypes.CDLL(os.environ["LIBRARY"])
library.ssh_new.restype = ctypes.c_void_p
library.ssh_options_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
library.ssh_options_parse_config.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
library.ssh_options_get.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
HOST, USER = 0, 4


def by_libssh():
    session = library.ssh_new()
    library.ssh_options_set(session, HOST, b"h")
    if library.ssh_options_parse_config(session, b"config") != 0:
        return "refused"
    value = ctypes.c_char_p()
    found = library.ssh_options_get(session, USER, ctypes.byref(value)) == 0
    return "applies" if found and value.value == b"block" else "skipped"


def by_ssh():
    command = ["ssh", "-F", "config", "-G", "h"]
    told = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    return "applies" if "user block" in told.stdout.splitlines() else "skipped"


CASES = {
    "Host !h *": ("skipped", "skipped"),
    "Host * !h": ("skipped", "applies"),
    "Match host *,!h": ("skipped", "skipped"),
    "Host H": ("skipped", "applies"),
    "Match host h": ("applies", "applies"),
    "Match canonical": ("skipped", "applies"),
    "Match canonical host h": ("skipped", "applies"),
}
seen = {}
for line in CASES:
    with open("config", "w") as file:
        file.write(f"{line}\n  User block\n")
    seen[line] = (by_ssh(), by_libssh())
    print(f"{line}: ssh {seen[line][0]}, libssh {seen[line][1]}")
if seen != CASES:
    sys.exit("changed")
P
