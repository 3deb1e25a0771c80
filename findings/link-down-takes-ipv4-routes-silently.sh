#!/usr/bin/env bash
# Linux (6.18) with iproute2 6.1: when an interface is set down, its IPv4 routes go without any route message; IPv6 sends one for
# each. An IPv4 address that is deleted takes the default route that depended on it along, silently too.
#
# Seen in a network namespace: `ip monitor route` prints "Deleted" lines for the IPv6 routes, none for the IPv4 routes, though
# `ip route` shows that both are gone. A program that keeps a table from RTM_DELROUTE messages keeps dead IPv4 routes.
# It must read the table again after each link or address message. Root only.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "a network namespace wants root"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export folder
cat >"$folder/inside" <<'S'
set -eu
ip link add d0 type veth peer name d1
ip link set d1 up
ip link set d0 up
ip addr add 192.0.2.1/24 dev d0
ip -6 addr add 2001:db8::1/64 dev d0 nodad
ip route add default via 192.0.2.254
ip -6 route add default via 2001:db8::fe
ip monitor route >"$folder/down" & watch=$!
sleep 0.5
ip link set d0 down
sleep 0.5
kill $watch
ip -4 route >"$folder/left"
ip link set d0 up
ip addr replace 192.0.2.1/24 dev d0
ip route replace default via 192.0.2.254
ip -4 monitor route >"$folder/address" & watch=$!
sleep 0.5
ip addr del 192.0.2.1/24 dev d0
sleep 0.5
kill $watch
ip -4 route >>"$folder/left"
S
unshare -n sh "$folder/inside"
four=$(grep -c '^Deleted.*192\.0\.2' "$folder/down" || true)
six=$(grep -c '^Deleted.*2001:db8' "$folder/down" || true)
default=$(grep -c 'default' "$folder/address" || true)
echo "Linux $(uname -r): link down: $six IPv6 and $four IPv4 messages; address deleted: $default message of the default route; IPv4 routes left: $(wc -l <"$folder/left")"
[ "$six" -gt 0 ] && [ "$four" = 0 ] && [ "$default" = 0 ] && [ ! -s "$folder/left" ] || { echo changed; cat "$folder/down" "$folder/address" "$folder/left"; exit 1; }
