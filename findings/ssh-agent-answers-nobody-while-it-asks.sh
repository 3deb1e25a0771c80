#!/usr/bin/env bash
# ssh-agent of OpenSSH 9.2p1: while it asks a person whether a key may be used (`ssh-add -c`), it answers nobody else. A login
# with another key, and even a list of the keys, waits until the person has answered.
#
# Seen, with a confirmation that takes 4 s: `ssh-add -l`, started half a second later, takes 3.5 s instead of a few milliseconds.
# Consequence: a program that gives an agent a few seconds to list its keys fails because of somebody else's question.
set -euo pipefail
folder=$(mktemp -d)
agent=
trap '[ -z "$agent" ] || kill "$agent"; rm -rf "$folder"' EXIT
cd "$folder"
version=1:9.2p1-2+deb12u10
apt-get download -qq "openssh-client=$version" >/dev/null 2>&1 || { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x ./*.deb root
PATH=$folder/root/usr/bin:$PATH
ssh-keygen -q -t ed25519 -N '' -f asked
ssh-keygen -q -t ed25519 -N '' -f other
printf '#!/bin/sh\nsleep 4\n' >yes
chmod +x yes
export SSH_ASKPASS=$folder/yes SSH_ASKPASS_REQUIRE=force SSH_AUTH_SOCK=$folder/socket
ssh-agent -D -a "$SSH_AUTH_SOCK" >/dev/null &
agent=$!
for _ in $(seq 50); do [ -S "$SSH_AUTH_SOCK" ] && break; sleep 0.1; done
ssh-add -q -c asked
ssh-add -q other
milliseconds() {
    local start
    start=$(date +%s%3N)
    "$@" >/dev/null 2>&1
    echo $(($(date +%s%3N) - start))
}
alone=$(milliseconds ssh-add -l)
echo text >text
ssh-keygen -Y sign -f asked.pub -n file text >/dev/null 2>&1 &
signing=$!
sleep 0.5
beside=$(milliseconds ssh-add -l)
wait $signing
echo "a list of the keys takes $alone ms, and $beside ms while the agent asks"
[ "$alone" -lt 1500 ] && [ "$beside" -gt 2500 ] || { echo changed; exit 1; }
