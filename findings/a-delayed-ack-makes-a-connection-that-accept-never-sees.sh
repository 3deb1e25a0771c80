#!/usr/bin/env bash
# Linux (6.18): if TCP_QUICKACK is set to 0 before connect(), the last packet of the handshake is held back for up to 200 ms.
# connect() succeeds all the same. Closed at once with SO_LINGER 0, the connection ends by RST, and the listener's accept() never
# returns it.
#
# Seen, 20 connections each over loopback: with the option accept() returns 0 of them, without it 20. So "connect() has returned"
# does not mean that the other program will ever hear of the connection.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import platform; print("Linux", platform.release())'
python3 - <<'P'
import socket
import struct
import sys
import time

COUNT = 20
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
listener.settimeout(0.5)


def accepted(quick):
    for _ in range(COUNT):
        stream = socket.socket()
        if not quick:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.connect(listener.getsockname())
        stream.close()
    time.sleep(0.5)
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except TimeoutError:
        return count


seen = {"usual": accepted(True), "TCP_QUICKACK 0": accepted(False)}
print(f"accepted of {COUNT}: {seen}")
if seen != {"usual": COUNT, "TCP_QUICKACK 0": 0}:
    sys.exit("changed")
P
