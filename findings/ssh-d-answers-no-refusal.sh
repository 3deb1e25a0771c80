#!/usr/bin/env bash
# OpenSSH 9.2p1 (Debian 12), `ssh -D`: a connection that the other side cannot make is never refused in SOCKS. The client's
# request gets no reply at all (RFC 1928 section 6 has codes for it); the connection is closed instead.
#
# Seen: a SOCKS5 CONNECT to a port where nothing listens gets the method answer (2 bytes) and then the end of the stream; one to a
# port that is open gets the 10 bytes of success. A client cannot tell "refused there" from "the ssh session has died".
set -euo pipefail
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq openssh-client=1:9.2p1-2+deb12u10 >/dev/null 2>&1 ||
    { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x openssh-client*.deb root
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check asyncssh==2.24.1
cat >server.py <<'P'
import asyncio

import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key])
    print(server.get_port(), flush=True)
    await asyncio.wait_for(asyncio.Event().wait(), 60)


asyncio.run(main())
P
venv/bin/python server.py >port 2>/dev/null &
pids+=($!)
for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
root/usr/bin/ssh -V
root/usr/bin/ssh -F none -N -D 127.0.0.1:18083 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -p "$(cat port)" ann@127.0.0.1 2>/dev/null </dev/null &
pids+=($!)
python3 - <<'P'
import socket
import sys
import time

listener = socket.create_server(("127.0.0.1", 0))
closed = socket.create_server(("127.0.0.1", 0))
closed_port = closed.getsockname()[1]
closed.close()


def reply(port):
    for _ in range(100):
        try:
            stream = socket.create_connection(("127.0.0.1", 18083), timeout=10)
            break
        except OSError:
            time.sleep(0.1)
    else:
        sys.exit("ssh -D does not start")
    stream.sendall(b"\5\1\0")
    assert stream.recv(2) == b"\5\0"
    stream.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big"))
    return stream.recv(64)


got = {"open": reply(listener.getsockname()[1]), "closed": reply(closed_port)}
print(got)
if len(got["open"]) != 10 or got["closed"] != b"":
    sys.exit("changed")
P
