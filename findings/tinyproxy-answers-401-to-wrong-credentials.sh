#!/usr/bin/env bash
# tinyproxy 1.11.1 (Debian 12): a proxy that wants other credentials answers 407 with Proxy-Authenticate (RFC 9110 section
# 15.5.8). tinyproxy does so where there are none, and answers 401 with WWW-Authenticate where they are wrong, which says that
# the server behind it refuses.
#
# Seen: 407 to a CONNECT without credentials, 401 to one with a wrong password, and to neither the field of the other.
set -euo pipefail
folder=$(mktemp -d)
proxy=
trap '[ -z "$proxy" ] || kill "$proxy"; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq tinyproxy-bin=1.11.1-2.1+deb12u1 >/dev/null 2>&1 ||
    { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x tinyproxy-bin_*.deb root
port=$((20000 + RANDOM % 20000))
printf 'Port %s\nListen 127.0.0.1\nBasicAuth ada secret\nConnectPort 9\n' "$port" >config
root/usr/bin/tinyproxy -d -c config >log 2>&1 &
proxy=$!
for _ in $(seq 50); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
answer() { # further lines of the request
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n%s\r\n' "$1" >&3
    timeout 5 cat <&3 | tr -d '\r' | grep -E '^(HTTP|Proxy-Authenticate|WWW-Authenticate)' || true
    exec 3>&-
}
{
    echo "no credentials:"
    answer ''
    echo "a wrong password:"
    answer "Proxy-Authorization: Basic $(printf 'ada:wrong' | base64)"$'\r\n'
} | tee seen
[ "$(tr '\n' ' ' <seen | sed -E 's/ realm="[^"]*"//g')" = "no credentials: HTTP/1.0 407 Proxy Authentication Required Proxy-Authenticate: Basic a wrong password: HTTP/1.0 401 Unauthorized WWW-Authenticate: Basic " ] ||
    { echo changed; exit 1; }
