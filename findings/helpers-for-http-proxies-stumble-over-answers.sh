#!/usr/bin/env bash
# Programs that people use as ProxyCommand for an HTTP proxy, as Debian 12 has them: corkscrew 2.0, nc.openbsd 1.219 and socat
# 1.7.4.4 cannot cope with valid answers to CONNECT.
#
# Seen: if the head of the answer arrives in two pieces, corkscrew passes the second piece on to ssh as if the server had said it.
# nc ends with "Too many proxy headers received" at 100 header lines and "proxy read too long" at a line of 3,000 characters,
# socat at the long line only. proxytunnel 1.10 and connect-proxy 1.105 take all of these. The answer 201 (any 2xx means success,
# RFC 9110 section 9.3.6) is an error for all but corkscrew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq corkscrew=2.0-14 netcat-openbsd=1.219-1 socat=1.7.4.4-2 proxytunnel=1.10.20210604-2 connect-proxy=1.105-1.3 \
    libbsd0=0.11.7-2 libmd0=1.0.4-2 >/dev/null 2>&1 || { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH=$folder/root/usr/bin:$folder/root/bin:$PATH LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
python3 - <<'P'
import socket
import subprocess
import sys
import threading
import time

GREETING = b"SSH-2.0-server\r\n"
PLAIN = b"HTTP/1.1 200 Connection established\r\n\r\n"
ANSWERS = {
    "an ordinary answer": [PLAIN],
    "a head in two pieces": [PLAIN[:20], PLAIN[20:]],
    "100 header lines": [PLAIN[:-2] + b"".join(b"X-%d: y\r\n" % line for line in range(100)) + b"\r\n"],
    "a line of 3,000 characters": [PLAIN[:-2] + b"Via: " + b"x" * 3000 + b"\r\n\r\n"],
    "201": [b"HTTP/1.1 201 Created\r\n\r\n"],
}
PROGRAMS = {
    "corkscrew": lambda port: ["corkscrew", "127.0.0.1", port, "host", "22"],
    "nc": lambda port: ["nc.openbsd", "-X", "connect", "-x", f"127.0.0.1:{port}", "host", "22"],
    "socat": lambda port: ["socat", "-", f"PROXY:127.0.0.1:host:22,proxyport={port}"],
    "proxytunnel": lambda port: ["proxytunnel", "-q", "-p", f"127.0.0.1:{port}", "-d", "host:22"],
    "connect-proxy": lambda port: ["connect-proxy", "-H", f"127.0.0.1:{port}", "host", "22"],
}


def proxy(pieces):
    """A proxy that gives one client this answer and then what the server says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b""
        try:
            while b"\r\n\r\n" not in request:
                request += peer.recv(1)
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(0.5)
            peer.sendall(GREETING)
            peer.recv(1)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return str(listener.getsockname()[1])


def outcome(program, pieces):
    command = PROGRAMS[program](proxy(pieces))
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(2)
    running.kill()
    said = running.communicate()[0]
    return "greeting" if said == GREETING else "more than that" if said.endswith(GREETING) else "nothing"


expected = {
    ("corkscrew", "a head in two pieces"): "more than that",
    ("nc", "100 header lines"): "nothing",
    ("nc", "a line of 3,000 characters"): "nothing",
    ("socat", "a line of 3,000 characters"): "nothing",
    ("nc", "201"): "nothing",
    ("socat", "201"): "nothing",
    ("proxytunnel", "201"): "nothing",
    ("connect-proxy", "201"): "nothing",
}
changed = False
for name, pieces in ANSWERS.items():
    seen = {program: outcome(program, pieces) for program in PROGRAMS}
    print(f"{name}: " + ", ".join(f"{program} gives ssh {what}" for program, what in seen.items()))
    changed |= any(what != expected.get((program, name), "greeting") for program, what in seen.items())
sys.exit("changed" if changed else 0)
P
