#!/usr/bin/env bash
# Linux (6.18) as a NAT: a UDP flow is a stream, which is kept for 120 s, only if packets pass both ways later than 2 s after its
# first one. What was exchanged within the first 2 s does not count, however much it was.
#
# Seen through a masquerading router: 1,000 questions and answers within 2 s leave an entry that is forgotten after 30 s (and that
# is not ASSURED, so it is the first to go when the table is full); three within 4.2 s leave one of 120 s.
# Consequence: a QUIC client that opens, transfers and then rests has to send its first keepalive within 30 s even where the NAT
# keeps streams for two minutes. The documents of nf_conntrack_udp_timeout_stream do not say when a flow is one. Root only.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "network namespaces want root"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
export PATH=$folder/root/usr/sbin:$PATH LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
cat >inside <<'I'
set -eu
mount -t tmpfs none /run
mkdir /run/netns
ip netns add router
ip netns add server
ip link set lo up
ip link add c0 type veth peer name r0 netns router
ip -n router link add r1 type veth peer name s0 netns server
ip addr add 192.0.2.2/24 dev c0
ip link set c0 up
ip -n router addr add 192.0.2.1/24 dev r0
ip -n router addr add 198.51.100.1/24 dev r1
ip -n router link set r0 up
ip -n router link set r1 up
ip -n server addr add 198.51.100.2/24 dev s0
ip -n server link set s0 up
ip route add default via 192.0.2.1
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
ip netns exec router nft 'add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }; add rule ip nat out oifname r1 masquerade'
ip netns exec server python3 -c "
import socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(('198.51.100.2', 7))
while True:
    here.sendto(*here.recvfrom(2000))" &
trap "kill $!" EXIT
sleep 1
python3 - <<'P'
import re
import socket
import subprocess
import sys
import time


def exchange(count, pause):
    """So many questions with their answers. Gives what the router knows of the flow: seconds left, and whether it is assured."""
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.settimeout(5)
    ours.connect(("198.51.100.2", 7))
    for turn in range(count):
        time.sleep(pause if turn else 0)
        ours.send(b"x")
        ours.recv(10)
    table = subprocess.check_output("ip netns exec router conntrack -L -p udp 2>/dev/null", shell=True, text=True)
    entry = next(line for line in table.splitlines() if f"sport={ours.getsockname()[1]} " in line)
    return int(re.match(r"udp +17 (\d+)", entry)[1]), "ASSURED" in entry


start = time.monotonic()
fast = exchange(1000, 0.0005)
took = time.monotonic() - start
slow = exchange(3, 2.1)
print(f"1,000 exchanges in {took:.1f} s: {fast[0]} s left, assured: {fast[1]}; 3 in 4.2 s: {slow[0]} s left, assured: {slow[1]}")
if took > 1.9:
    sys.exit("too slow a machine to tell")
sys.exit(0 if fast[0] <= 30 and not fast[1] and slow[0] > 100 and slow[1] else "changed")
P
I
echo "Linux $(uname -r)"
unshare -n --mount sh inside
