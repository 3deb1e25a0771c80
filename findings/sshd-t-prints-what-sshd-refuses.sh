#!/usr/bin/env bash
# OpenSSH 9.2p1 (Debian 12), `sshd -T` and `ssh -G`: what they print has the form of a configuration, but values with blanks lose
# their quotes. Read back, it is refused, or says something else.
#
# Seen: `Banner "/x y"` and `ChrootDirectory "/c d"` are printed without quotes; the output is refused as a file ("extra arguments at
# end of line"), also with `SetEnv "A=b c"` ("Invalid environment") and with ssh's IdentityFile, SetEnv and LocalForward.
# `AuthorizedKeysFile "/a b/keys"` and `UserKnownHostsFile "/x y"`, one file each, are printed like two, and read back as two
# without a word. Without blanks the output reads back equal.
# Consequence: a program that splits these lines at blanks, as their form suggests, gets other paths than sshd uses.
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
sshd_again() { # a line
    printf 'HostKey %s/host\n%s\n' "$folder" "$1" >config
    root/usr/sbin/sshd -T -f config >first || { echo "refused the first time"; return; }
    root/usr/sbin/sshd -T -f first >second 2>err || { echo "refused: $(head -1 err | cut -d' ' -f4-)"; return; }
    cmp -s first second && echo equal || echo different
}
ssh_again() { # a line
    printf '%s\n' "$1" >config
    root/usr/bin/ssh -F config -G host >first 2>/dev/null </dev/null || { echo "refused the first time"; return; }
    root/usr/bin/ssh -F first -G host >second 2>err </dev/null || { echo "refused"; return; }
    cmp -s first second && echo equal || echo different
}
for line in 'Banner /x' 'Banner "/x y"' 'ChrootDirectory "/c d"' 'SetEnv "A=b c"' 'AuthorizedKeysFile "/a b/keys"'; do
    echo "sshd, $line: $(sshd_again "$line")"
done | tee seen
for line in 'UserKnownHostsFile /x' 'UserKnownHostsFile "/x y"' 'IdentityFile "/x y"' 'SetEnv "A=b c"' 'LocalForward "/x y" "/z w"'; do
    echo "ssh, $line: $(ssh_again "$line")"
done | tee -a seen
[ "$(grep -c ": refused" seen)" = 6 ] && [ "$(grep -c ": equal$" seen)" = 4 ] || { echo changed; exit 1; }
