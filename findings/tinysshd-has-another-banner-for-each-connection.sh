#!/usr/bin/env bash
# tinysshd 20230101: the identification line of each connection ends with 8 random characters.
#
# Seen: `SSH-2.0-tinyssh_20230101-1 ` and eight letters and digits, five different ones in five connections. Other servers send
# the same line to everybody. RFC 4253 allows any comment there.
# Consequence: what compares a server's banner with an earlier one (monitoring, a scan, a test of "is it the same server
# behind another path?") sees a change each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq tinysshd=20230101-1 >/dev/null 2>&1 || { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x tinysshd_*.deb root
root/usr/sbin/tinysshd-makekey -q keys
for _ in 1 2 3 4 5; do
    # It speaks first, and ends when nobody answers.
    { timeout 5 root/usr/sbin/tinysshd keys </dev/null 2>/dev/null || true; } | head -n 1 | tr -d '\r' >>lines
done
cat lines
[ "$(wc -l <lines)" = 5 ] && [ "$(sort -u lines | wc -l)" = 5 ] || { echo "changed: not five different lines"; exit 1; }
! grep -qvE '^SSH-2\.0-tinyssh_20230101-1 [A-Za-z0-9]{8}$' lines || { echo "changed: another form"; exit 1; }
