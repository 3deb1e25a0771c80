#!/usr/bin/env bash
# tmux 3.3a (Debian 12) passes over sequences of the VT family that xterm, for which programs inside it are often
# written, carries out.
#
# Seen, each in a fresh window:
#   insert mode, soft reset (CSI ! p), X over "abc"   Xabc: the soft reset leaves insert mode on
#   é repeated three times (CSI 3 b)                  é: only ASCII characters are repeated
#   two tabs forward (CSI 2 I), X                     X in column 1: the cursor stays
# (a repeated three times gives aaaa, as it should, and `CSI 4 l` ends insert mode.)
set -euo pipefail
folder=$(mktemp -d)
tmux() { LD_LIBRARY_PATH=$(echo root/usr/lib/*-linux-gnu) root/usr/bin/tmux -L "$1" -f /dev/null "${@:2}"; }
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMUX_TMPDIR=$folder LC_ALL=C.UTF-8
apt-get download -qq tmux=3.3a-3 libutempter0=1.2.1-3 libevent-core-2.1-7=2.1.12-stable-8 >/dev/null 2>&1 ||
    { echo "the pinned packages are not to be had any more"; exit 2; }
for package in *.deb; do dpkg -x "$package" root; done
count=0
shows() { # what, bytes for printf
    count=$((count + 1))
    tmux "s$count" new-session -d -x 30 -y 4 "printf '$2'; printf '\\033[4;1Hdone'; exec sleep 20"
    for _ in $(seq 50); do
        tmux "s$count" capture-pane -p >screen
        grep -q '^done' screen && break
        sleep 0.1
    done
    tmux "s$count" kill-server
    printf '%s: %s\n' "$1" "$(sed 's/ *$//; q' screen)"
}
{
    shows 'soft reset' 'abc\r\033[4h\033[!pX'
    shows 'end of insert mode' 'abc\r\033[4h\033[4lX'
    shows 'repeated a' 'a\033[3b'
    shows 'repeated é' 'é\033[3b'
    shows 'two tabs' '\033[2IX'
} | tee seen
diff seen - <<'E' || { echo "changed"; exit 1; }
soft reset: Xabc
end of insert mode: Xbc
repeated a: aaaa
repeated é: é
two tabs: X
E
