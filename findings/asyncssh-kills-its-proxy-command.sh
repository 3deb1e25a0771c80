#!/usr/bin/env bash
# asyncssh 2.24.1: at the orderly end of a connection the proxy command is ended by SIGKILL. It sees neither the end of its
# input nor a signal that it could catch, so it cannot deliver, store or report anything at the end.
#
# Seen: a relay in Python as proxy command, which writes down SIGHUP, SIGTERM and SIGINT, the end of stdin, and its own
# orderly end. After `async with asyncssh.connect(.., proxy_command=..)` has run one command and closed: nothing is written.
# OpenSSH sends SIGHUP, paramiko and libssh send SIGTERM, PuTTY closes the input.
set -euo pipefail
folder=$(mktemp -d)
sshd=
trap '[ -z "$sshd" ] || kill "$sshd"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncssh==2.24.1

cat >"$folder/relay.py" <<'P'
import os
import signal
import socket
import sys
import threading

log = open(sys.argv[2], "a", buffering=1)
log.write("started\n")
for name in ("SIGHUP", "SIGTERM", "SIGINT"):
    signal.signal(getattr(signal, name), lambda *_, name=name: log.write(name + "\n"))
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))


def upwards():
    while data := os.read(0, 65536):
        peer.sendall(data)
    log.write("end of input\n")
    peer.shutdown(socket.SHUT_WR)


threading.Thread(target=upwards, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)
log.write("orderly end\n")
P
cat >"$folder/server.py" <<'P'
import asyncio
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


async def greet(process):
    process.stdout.write("hello\n")
    process.exit(0)


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=greet)
    print(server.get_port(), flush=True)
    await asyncio.wait_for(asyncio.Event().wait(), 60)


asyncio.run(main())
P
cat >"$folder/client.py" <<'P'
import asyncio
import sys

import asyncssh

folder, port = sys.argv[1:]
command = f"{sys.executable} {folder}/relay.py {port} {folder}/log"


async def main():
    async with asyncssh.connect(
        "127.0.0.1", username="ann", known_hosts=None, client_keys=None, config=None, proxy_command=command
    ) as connection:
        print((await connection.run("greet")).stdout.strip())


asyncio.run(main())
P
"$folder/venv/bin/python" "$folder/server.py" >"$folder/port" &
sshd=$!
for _ in $(seq 100); do [ -s "$folder/port" ] && break; sleep 0.1; done
"$folder/venv/bin/python" "$folder/client.py" "$folder" "$(cat "$folder/port")"
sleep 1
echo "the proxy command wrote:"
cat "$folder/log"
[ "$(cat "$folder/log")" = started ] || { echo "changed: the proxy command is told of the end"; exit 1; }
