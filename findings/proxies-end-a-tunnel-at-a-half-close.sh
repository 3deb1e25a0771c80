#!/usr/bin/env bash
# tinyproxy 1.11.1 (HTTP CONNECT) and microsocks 1.0.3 (SOCKS5), as Debian 12 has them: a half-close ends the whole tunnel.
# If the client shuts down its sending side and then waits for the answer, the answer is lost.
#
# Seen: a server reads to the end of its input, waits 0.3 s and answers 5 bytes. Directly the client gets b'whole'; through
# each of the proxies it gets b''. So whatever ends a request by closing one direction (`tar | ssh host tar x` as raw TCP, git's
# native protocol, `nc -N`) is cut. OpenSSH's own `ssh -D` keeps the other direction open (same test, other program).
set -euo pipefail
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq tinyproxy-bin=1.11.1-2.1+deb12u1 microsocks=1.0.3-2 >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done

cat >tinyproxy.conf <<'C'
Port 18081
Listen 127.0.0.1
Allow 127.0.0.1
Timeout 20
C
root/usr/bin/tinyproxy -d -c tinyproxy.conf >/dev/null 2>&1 &
pids+=($!)
root/usr/bin/microsocks -i 127.0.0.1 -p 18082 >/dev/null 2>&1 &
pids+=($!)

python3 - <<'P'
import socket
import sys
import threading
import time

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]


def serve():
    while True:
        peer, _ = listener.accept()
        while peer.recv(4096):
            pass
        time.sleep(0.3)
        try:
            peer.sendall(b"whole")
        except OSError:
            pass
        peer.close()


threading.Thread(target=serve, daemon=True).start()


def connect(port):
    for _ in range(50):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            time.sleep(0.1)
    sys.exit("a proxy does not start")


def http(proxy):
    stream = connect(proxy)
    stream.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(1)
    assert b" 200 " in head, head
    return stream


def socks(proxy):
    stream = connect(proxy)
    stream.sendall(b"\5\1\0")
    assert stream.recv(2) == b"\5\0"
    stream.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big"))
    assert stream.recv(10)[1] == 0
    return stream


def answer(stream):
    stream.sendall(b"request")
    stream.shutdown(socket.SHUT_WR)
    data = b""
    try:
        while part := stream.recv(4096):
            data += part
    except ConnectionResetError:
        pass
    return data


got = {"direct": answer(connect(port)), "tinyproxy": answer(http(18081)), "microsocks": answer(socks(18082))}
print(got)
if got != {"direct": b"whole", "tinyproxy": b"", "microsocks": b""}:
    sys.exit("changed")
P
