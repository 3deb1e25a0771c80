#!/usr/bin/env bash
# gpg-agent of GnuPG 2.2.40 (Debian 12) in the place of ssh-agent: it answers "success" to requests that it does not carry out.
#
# Seen: ssh-add says "Certificate added", and the list has the plain key only. `ssh-add -D` says "All identities removed" and
# `ssh-add -d` "Identity removed", and each key is still listed and signs. A key with a lifetime of 1 s is listed after 3 s.
# Consequence: whoever has a certificate in a file and its key in gpg-agent logs in with the certificate only if ssh reads the
# file (CertificateFile). An agent's "success" is no proof; its list is.
set -euo pipefail
folder=$(mktemp -d)
trap 'gpgconf --kill gpg-agent 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
version=2.2.40-1.1+deb12u2
apt-get download -qq "gpg-agent=$version" "gpgconf=$version" >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
PATH=$folder/root/usr/bin:$PATH
export GNUPGHOME=$folder/home
mkdir -m 700 "$GNUPGHOME"
# A pinentry that gives one passphrase to all questions.
printf '#!/bin/sh\necho OK\nwhile read -r word _; do [ "$word" = GETPIN ] && echo "D word"; echo OK; done\n' >pinentry
chmod +x pinentry
printf 'enable-ssh-support\ndisable-scdaemon\npinentry-program %s\n' "$folder/pinentry" >"$GNUPGHOME/gpg-agent.conf"
ssh-keygen -q -t ed25519 -N '' -f authority
ssh-keygen -q -t ed25519 -N '' -f key
ssh-keygen -q -t ecdsa -N '' -f brief
ssh-keygen -q -s authority -I name -n user key.pub
cat >inside <<'I'
export SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket)
listed() { ssh-add -L 2>/dev/null | cut -d' ' -f1 | tr '\n' ' '; }
ssh-add key 2>&1 | grep -o 'Certificate added'
echo "listed: $(listed)"
rm key-cert.pub
ssh-add -t 1 brief 2>&1 | grep -o 'Lifetime set to 1 seconds'
sleep 3
echo "listed: $(listed)"
ssh-add -d key 2>&1 | grep -o 'Identity removed'
ssh-add -D 2>&1 | grep -o 'All identities removed'
echo "listed: $(listed)"
echo text >text
ssh-keygen -Y sign -f key.pub -n file text >/dev/null 2>&1 && [ -s text.sig ] && echo "the removed key signs"
I
gpg-agent --quiet --daemon bash inside 2>/dev/null | tee seen
cat >expected <<'E'
Certificate added
listed: ssh-ed25519 
Lifetime set to 1 seconds
listed: ssh-ed25519 ecdsa-sha2-nistp256 
Identity removed
All identities removed
listed: ssh-ed25519 ecdsa-sha2-nistp256 
the removed key signs
E
cmp -s seen expected || { echo changed; exit 1; }
