#!/usr/bin/env bash
# Linux (6.18): connect(2) with AF_UNSPEC turns a connected TCP socket back into one that can listen.
#
# Seen: a client socket that was connected, then dissolved by an address of family AF_UNSPEC, takes listen(), at a new port of
# the kernel's choice, and accepts a connection there. Whoever is given a connected socket to keep (by SCM_RIGHTS, or a
# service manager's store) may get back a listener, and TCP_INFO of it has no byte acknowledged any more.
set -euo pipefail
command -v python3 >/dev/null || { echo "python3 is missing"; exit 2; }
seen=$(python3 - <<'P'
import ctypes, socket

peer = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(peer.getsockname())
before = client.getsockname()[1]
nothing = ctypes.create_string_buffer(16)  # a sockaddr of family 0
libc = ctypes.CDLL(None, use_errno=True)
undone = libc.connect(client.fileno(), nothing, 16)
client.listen(1)
after = client.getsockname()[1]
guest = socket.create_connection(("127.0.0.1", after), timeout=2)
host, _ = client.accept()
guest.send(b"x")
print("dissolved" if undone == 0 else "kept", "same port" if before == after else "another port", host.recv(1).decode())
P
)
echo "Linux $(uname -r): $seen"
[ "$seen" = "dissolved another port x" ] || { echo changed; exit 1; }
