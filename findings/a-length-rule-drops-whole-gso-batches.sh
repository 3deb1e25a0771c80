#!/usr/bin/env bash
# Linux (6.18) with nftables 1.0.6: a rule on the length of packets sees a UDP GSO batch as one packet while it travels between
# network namespaces (containers, virtual machines). So a router's `meta length > 1500 drop` lets every single datagram of 1,200
# bytes pass, and drops ten of them that were sent by one sendmsg with UDP_SEGMENT. The sender gets no error and no ICMP.
#
# Seen: of 10 datagrams sent one by one, 10 arrive; of 10 sent as one batch, 0; without the rule 10 of 10 again.
# To QUIC this is a path on which handshakes, acknowledgements and keepalives work and bulk data does not. Root only.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "network namespaces want root"; exit 2; }
command -v nft >/dev/null || { echo "nft is missing (package nftables)"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/send.py" <<'P'
import socket
import sys

UDP_SEGMENT = 103
stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stream.connect(("198.51.100.1", 4000))
if sys.argv[1] == "batch":
    stream.setsockopt(socket.SOL_UDP if hasattr(socket, "SOL_UDP") else 17, UDP_SEGMENT, 1200)
    stream.send(b"x" * 12000)
else:
    for _ in range(10):
        stream.send(b"x" * 1200)
P
cat >"$folder/count.py" <<'P'
import socket

stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stream.bind(("198.51.100.1", 4000))
print("ready", flush=True)
stream.settimeout(1)
count = 0
try:
    while True:
        stream.recv(2000)
        count += 1
except TimeoutError:
    print(count)
P
cat >"$folder/inside" <<'S'
set -eu
mount -t tmpfs none /run
for name in client router server; do ip netns add $name; ip -n $name link set lo up; done
ip link add c0 netns client type veth peer name r0 netns router
ip link add s0 netns server type veth peer name r1 netns router
ip -n client addr add 192.0.2.1/24 dev c0; ip -n client link set c0 up
ip -n router addr add 192.0.2.254/24 dev r0; ip -n router link set r0 up
ip -n router addr add 198.51.100.254/24 dev r1; ip -n router link set r1 up
ip -n server addr add 198.51.100.1/24 dev s0; ip -n server link set s0 up
ip -n client route add default via 192.0.2.254
ip -n server route add default via 198.51.100.254
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
round() {
    ip netns exec server python3 "$folder/count.py" >"$folder/counted" & count=$!
    while ! [ -s "$folder/counted" ]; do sleep 0.05; done
    ip netns exec client python3 "$folder/send.py" $1
    wait $count
    tail -1 "$folder/counted"
}
echo "no rule, batch: $(round batch)"
ip netns exec router nft 'add table ip t; add chain ip t f { type filter hook forward priority 0; }; add rule ip t f meta l4proto udp meta length > 1500 drop'
echo "rule, single: $(round single)"
echo "rule, batch: $(round batch)"
S
export folder
echo "Linux $(uname -r), $(nft --version)"
unshare -nm sh "$folder/inside" | tee "$folder/seen"
printf 'no rule, batch: 10\nrule, single: 10\nrule, batch: 0\n' | cmp -s - "$folder/seen" || { echo changed; exit 1; }
