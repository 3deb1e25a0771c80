#!/usr/bin/env bash
# OpenSSH 9.2p1 (Debian 12), sshd_config: "for each keyword, the first obtained value will be used" (sshd_config(5)). Of two
# lines of MaxStartups, PerSourceMaxStartups or PerSourceNetBlockSize the last one counts.
#
# Seen: with each keyword twice, `sshd -T` shows the first value of LoginGraceTime, MaxAuthTries, MaxSessions and
# ClientAliveInterval, and the last one of those three. So a file that is included first (Debian's sshd_config.d) cannot set
# them if the main file does, though it can set the others.
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
counts() { # keyword, first value, second value
    printf 'HostKey %s/host\n%s %s\n%s %s\n' "$folder" "$1" "$2" "$1" "$3" >config
    local shown
    shown=$(root/usr/sbin/sshd -T -f config | sed -n "s/^${1,,} //p")
    case "$shown" in "$2"*) echo "$1: first" ;; "$3"*) echo "$1: last" ;; *) echo "$1: $shown" ;; esac
}
{
    counts LoginGraceTime 30 40
    counts MaxAuthTries 3 4
    counts MaxSessions 11 12
    counts PerSourceMaxStartups 13 14
    counts PerSourceNetBlockSize 30:60 31:61
    counts ClientAliveInterval 15 16
    counts MaxStartups 50:30:100 60:30:200
} | tee seen
[ "$(grep -c ': first$' seen)" = 4 ] && [ "$(grep -c ': last$' seen)" = 3 ] || { echo changed; exit 1; }
