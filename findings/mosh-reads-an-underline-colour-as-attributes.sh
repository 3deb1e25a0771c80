#!/usr/bin/env bash
# mosh 1.4.0: its terminal reads the numbers of an underline colour (`CSI 58;2;R;G;B m`) as attributes of their own. A red of 7
# shows the text in reverse, a green of 8 hides it. And colours written with colons, as ISO 8613-6 has them, are dropped.
#
# Seen at mosh-client's output: `CSI 58;2;7;8;9 m` arrives as `CSI 0;7;8 m` (reverse, hidden); `CSI 38:2::4:5:6 m`, faint,
# strikethrough and curly underline do not arrive; italic and `CSI 38;2;1;2;3 m` do. Of other sequences, hyperlinks, the shape of
# the cursor and a clipboard text without a named selection are lost; with the selection `c` the text arrives.
# Consequence: spell checking and diagnostics of editors can hide words, depending on a colour.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq mosh=1.4.0-1+b1 libprotobuf32=3.21.12-3+deb12u1 >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH=$folder/root/usr/bin:$PATH LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
export FOLDER=$folder LC_ALL=C.UTF-8 TERM=xterm-256color
python3 - <<'P'
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

FOLDER = os.environ["FOLDER"]
SENT = {
    "underline colour": (b"\x1b[58;2;7;8;9mx\x1b[m", b"\x1b[0;7;8mx"),
    "colour with colons": (b"\x1b[38:2::4:5:6mx\x1b[m", b"Ax"),
    "colour with semicolons": (b"\x1b[38;2;1;2;3mx\x1b[m", b"\x1b[0;38;2;1;2;3mx"),
    "italic": (b"\x1b[3mx\x1b[m", b"\x1b[0;3mx"),
    "faint": (b"\x1b[2mx\x1b[m", b"Ax"),
    "strikethrough": (b"\x1b[9mx\x1b[m", b"Ax"),
    "curly underline": (b"\x1b[4:3mx\x1b[m", b"Ax"),
    "hyperlink": (b"\x1b]8;;http://example.org/\x1b\\x\x1b]8;;\x1b\\", b"AxZ"),
    "cursor shape": (b"\x1b[5 q", b"AZ"),
    "clipboard, selection c": (b"\x1b]52;c;dGV4dA==\x07", b"\x1b]52;c;dGV4dA==\x07AZ"),
    "clipboard, no selection": (b"\x1b]52;;dGV4dA==\x07", b"AZ"),
}


def shown(sequence):
    """What mosh-client writes for it, between A and Z on an empty screen."""
    with open("said", "wb") as file:
        file.write(b"A" + sequence + b"Z\n")
    say = f"sleep 1.5; cat {FOLDER}/said; sleep 60"
    command = ["mosh-server", "new", "-i", "127.0.0.1", "-c", "256", "--", "sh", "-c", say]
    told = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    port, key = re.search(r"MOSH CONNECT (\d+) (\S+)", told.stdout).groups()
    server = int(re.search(r"pid = (\d+)", told.stderr).group(1))
    client, terminal = pty.fork()
    if client == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.environ["MOSH_KEY"] = key
        os.execvp("mosh-client", ["mosh-client", "127.0.0.1", port])
    output = b""
    end = time.monotonic() + 6
    while time.monotonic() < end and b"Z\r\n" not in output:
        if select.select([terminal], [], [], 0.1)[0]:
            output += os.read(terminal, 65536)
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    os.kill(server, signal.SIGKILL)
    # Its first repaint ends with the modes of the mouse.
    return output[output.rfind(b"\x1b[?1005l") :]


changed = False
for name, (sequence, expected) in SENT.items():
    output = shown(sequence)
    as_expected = expected in output
    changed |= not as_expected
    print(f"{name}: {'as described' if as_expected else output}")
sys.exit("changed" if changed else 0)
P
