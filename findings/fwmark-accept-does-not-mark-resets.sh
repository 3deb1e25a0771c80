#!/usr/bin/env bash
# Linux (6.18): with net.ipv4.tcp_fwmark_accept=1 an accepted TCP socket takes over the mark of the SYN, so that a policy rule
# for the mark brings its answers back. The reset for a port where nobody listens has no mark.
#
# A local client connects with IP_TRANSPARENT and SO_MARK from an address that is not this machine's; a rule and a local route
# for the mark lead what is sent to that address back to it. Seen: connect() works if somebody listens. If nobody does, the
# reset goes out by the default route, and connect() runs into its timeout instead of failing with "Connection refused".
# net.ipv4.fwmark_reflect=1 marks resets too, and then it fails at once. Root only.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "a network namespace wants root"; exit 2; }
command -v python3 >/dev/null || { echo "python3 is missing"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/connect.py" <<'P'
import socket, time

server = socket.create_server(("127.0.0.1", 7001))
for port in (7001, 7002):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, 36, 0xB0)  # SO_MARK
    client.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    client.bind(("203.0.113.9", 0))
    client.settimeout(1.5)
    try:
        client.connect(("127.0.0.1", port))
        print("connected")
    except ConnectionRefusedError:
        print("refused")
    except TimeoutError:
        print("timeout")
    client.close()
P
cat >"$folder/inside" <<'S'
set -eu
ip link set lo up
ip link add d0 type veth peer name d1
ip link set d1 up
ip addr add 198.51.100.1/24 dev d0
ip link set d0 up
ip route add default via 198.51.100.254 dev d0
sysctl -qw net.ipv4.tcp_fwmark_accept=1
ip rule add fwmark 0xb0 lookup 123
ip route add local 0.0.0.0/0 dev lo table 123
for reflect in 0 1; do
    sysctl -qw net.ipv4.fwmark_reflect=$reflect
    python3 "$1"
done
S
seen=$(unshare -n sh "$folder/inside" "$folder/connect.py" | tr '\n' ' ')
echo "Linux $(uname -r): listening and closed port without fwmark_reflect, then with it: $seen"
[ "$seen" = "connected timeout connected refused " ] || { echo changed; exit 1; }
