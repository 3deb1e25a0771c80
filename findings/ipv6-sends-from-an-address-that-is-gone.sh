#!/usr/bin/env bash
# Linux (6.18): a UDP socket that is bound to an IPv6 address goes on sending from it after the address was deleted. Each send
# succeeds, the packets leave with the dead source, and no answer can come. With IPv4, each send fails with ENETUNREACH at once.
#
# Seen in a network namespace with a second address and a default route over that: after `ip addr del`, sendto() of an IPv4
# socket fails, that of an IPv6 socket succeeds and its packets are seen on the wire; only a new bind() fails (EADDRNOTAVAIL).
# Consequence: a QUIC client that waits for an error from its socket moves at once with IPv4, and with IPv6 sits on a dead address
# until a timeout. It has to follow address messages of the kernel. Root only.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "a network namespace wants root"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >inside.py <<'P'
import errno
import socket
import subprocess
import sys
import time


def sh(line):
    subprocess.run(line, shell=True, check=True)


sh("""
ip link set lo up
ip link add d0 type veth peer name d1
ip link set d1 up
ip link set d0 up
ip addr add 192.0.2.1/24 dev d0
ip addr add 198.51.100.1/24 dev d0
ip addr add 2001:db8:1::1/64 dev d0 nodad
ip addr add 2001:db8:2::1/64 dev d0 nodad
ip route add default via 198.51.100.2
ip -6 route add default via 2001:db8:2::2
ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:01 dev d0
ip -6 neigh add 2001:db8:2::2 lladdr 02:00:00:00:00:01 dev d0
""")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
wire.bind(("d1", 3))
wire.setblocking(False)


def sources():
    """Where the UDP packets came from that have passed."""
    time.sleep(0.2)
    seen = set()
    while True:
        try:
            packet = wire.recv(2000)
        except BlockingIOError:
            return sorted(seen)
        if packet[0] >> 4 == 4 and packet[9] == 17:
            seen.add(socket.inet_ntop(socket.AF_INET, packet[12:16]))
        if packet[0] >> 4 == 6 and packet[6] == 17:
            seen.add(socket.inet_ntop(socket.AF_INET6, packet[8:24]))


def outcome(attempt):
    try:
        attempt()
        return "succeeds"
    except OSError as error:
        return errno.errorcode[error.errno]


seen = []
for family, own, length, peer in (
    (socket.AF_INET, "192.0.2.1", 24, "203.0.113.9"),
    (socket.AF_INET6, "2001:db8:1::1", 64, "2001:db8:9::9"),
):
    bound = socket.socket(family, socket.SOCK_DGRAM)
    bound.bind((own, 0))
    send = lambda: bound.sendto(b"x", (peer, 9))
    before = (outcome(send), sources())
    sh(f"ip addr del {own}/{length} dev d0")
    after = [outcome(send) for _ in range(3)]
    after = (after, sources())
    other = outcome(lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (peer, 9)))
    sources()
    bind = outcome(lambda: socket.socket(family, socket.SOCK_DGRAM).bind((own, 0)))
    print(f"{own}: before {before}; deleted: {after}; another socket {other}; a new bind {bind}")
    seen.append((before[0], after, other, bind))
expected = [
    ("succeeds", (["ENETUNREACH"] * 3, []), "succeeds", "EADDRNOTAVAIL"),
    ("succeeds", (["succeeds"] * 3, ["2001:db8:1::1"]), "succeeds", "EADDRNOTAVAIL"),
]
sys.exit("changed" if seen != expected else 0)
P
echo "Linux $(uname -r)"
unshare -n python3 inside.py
