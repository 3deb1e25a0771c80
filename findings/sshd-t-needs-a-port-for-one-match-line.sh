#!/usr/bin/env bash
# OpenSSH 9.2p1 (Debian 12), `sshd -T`: one `Match LocalPort` block makes the plain dump fail, even if the block changes nothing
# of interest. No other criterion does that.
#
# Seen, without -C: `Match LocalPort 2222` ends with status 255 and "'Match LocalPort' in configuration but 'lport' not in
# connection test specification."; `Match Address`, `Match User`, `Match Host` and `Match LocalAddress` are skipped and the global
# settings are printed. `-C lport=22` alone is enough.
# Consequence: a program that reads host key paths or ports from `sshd -T` works until somebody adds such a block.
set -euo pipefail
folder=$(mktemp -d)
made=
trap 'rm -rf "$folder"; [ -z "$made" ] || rmdir /run/sshd' EXIT
cd "$folder"
version=1:9.2p1-2+deb12u10
apt-get download -qq openssh-server=$version openssh-client=$version >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
[ "$(id -u)" = 0 ] || { echo "sshd -T wants root"; exit 2; }
[ -d /run/sshd ] || { mkdir -p /run/sshd; made=yes; }
root/usr/bin/ssh-keygen -q -t ed25519 -N '' -f host
dump() {
    printf 'HostKey %s/host\nMatch %s\n    Banner none\n' "$folder" "$1" >config
    shift
    root/usr/sbin/sshd -T -f config "$@" >out 2>err && echo "prints $(wc -l <out | sed 's/[0-9][0-9]*/many/') lines" || echo "status $?: $(head -1 err)"
}
for criterion in 'User ann' 'Address 192.0.2.0/24' 'Host *.example.org' 'LocalAddress 192.0.2.1' 'LocalPort 2222'; do
    echo "Match $criterion: $(dump "$criterion")"
done | tee seen
echo "Match LocalPort 2222, -C lport=22: $(dump 'LocalPort 2222' -C lport=22)" | tee -a seen
[ "$(grep -c 'prints many lines' seen)" = 5 ] && grep -q "^Match LocalPort 2222: status 255: .*'lport' not in" seen || { echo changed; exit 1; }
