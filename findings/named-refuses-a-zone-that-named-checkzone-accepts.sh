#!/usr/bin/env bash
# BIND 9.18.49 (Debian 12): a zone with 101 records of one name and type. named-checkzone calls it "OK"; named does not load it
# ("too many records") and answers SERVFAIL for all of the zone.
#
# Seen: with 100 records both accept it, with 101 only named-checkzone does. The limit is `max-records-per-type`, 100 unless set;
# named-checkzone does not know it.
# Consequence: a list of services in SRV records that grows beyond 100 takes down every other name of its zone, after a check
# that passed.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; wait; rm -rf "$folder"' EXIT
cd "$folder"
version=1:9.18.49-1~deb12u3
apt-get download -qq bind9=$version bind9-utils=$version bind9-libs=$version >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
root/usr/sbin/named -v || { echo "a library that named wants is not here"; exit 2; }
zone() { # records
    printf '$TTL 60\n@ SOA ns a 1 60 60 60 60\n@ NS ns\nns A 192.0.2.1\n'
    for number in $(seq "$1"); do printf '_service._udp SRV 0 0 443 relay%s\n' "$number"; done
}
cat >named.conf <<CONF
options { directory "$folder"; listen-on port 35353 { 127.0.0.1; }; listen-on-v6 { none; }; pid-file none; session-keyfile none;
    recursion no; dnssec-validation no; };
controls { };
zone "example.org" { type primary; file "zone"; };
CONF
for records in 100 101; do
    zone $records >zone
    if root/usr/bin/named-checkzone -q example.org zone; then echo "$records records, named-checkzone: OK"; else echo "$records records, named-checkzone: refused"; fi
    root/usr/sbin/named -f -g -n 1 -c named.conf >log 2>&1 &
    pid=$!
    for _ in $(seq 100); do grep -q ' running$' log && break; sleep 0.1; done
    kill $pid
    wait $pid || true
    pid=
    if grep -q 'example.org/IN: loaded serial' log; then echo "$records records, named: loaded"; else echo "$records records, named: $(grep -o 'not loaded due to errors' log | head -1), $(grep -o 'too many records' log | head -1)"; fi
done | tee seen
diff - seen <<'SEEN' >/dev/null || { echo changed; exit 1; }
100 records, named-checkzone: OK
100 records, named: loaded
101 records, named-checkzone: OK
101 records, named: not loaded due to errors, too many records
SEEN
