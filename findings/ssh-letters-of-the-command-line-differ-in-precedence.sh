#!/usr/bin/env bash
# OpenSSH 9.2p1 (Debian 12), ssh: "the first obtained value will be used" (ssh_config(5)). If an option is given twice on the
# command line, once as a letter and once by -o, the letter's place counts for some letters only.
#
# Seen with `ssh -G`: of `-o Port=1 -p 2` and `-o User=a -l b` the first one counts, whichever it is. -S, -b, -e, -c and -m count
# in either order, though they set ControlPath, BindAddress, EscapeChar, Ciphers and MACs. -A, -C, -X and -t beat a `no` that
# stands before or after them.
# Consequence: a program that appends its own `-p` to a user's options may be overruled, and one that appends `-S` may not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=1:9.2p1-2+deb12u10
apt-get download -qq openssh-client=$version >/dev/null 2>&1 || { echo "the pinned package is not to be had any more"; exit 2; }
dpkg -x ./*.deb root
asks() { # keyword, options
    local keyword=$1
    shift
    root/usr/bin/ssh -F none -G "$@" host 2>/dev/null </dev/null | sed -n "s/^$keyword //p"
}
who() { # keyword, letter, its value, value by -o
    local keyword=$1 letter=$2 by_letter=$3 by_option=$4 option_first letter_first
    option_first=$(asks "$keyword" -o "$keyword=$by_option" "$letter" "$by_letter")
    letter_first=$(asks "$keyword" "$letter" "$by_letter" -o "$keyword=$by_option")
    case "$option_first/$letter_first" in
        "$by_option/$by_letter") echo "$letter and $keyword: the first one" ;;
        "$by_letter/$by_letter") echo "$letter and $keyword: always $letter" ;;
        *) echo "$letter and $keyword: $option_first, $letter_first" ;;
    esac
}
flag() { # keyword, letter, value that the letter gives
    local keyword=$1 letter=$2 wanted=$3
    if [ "$(asks "$keyword" -o "$keyword=no" "$letter")/$(asks "$keyword" "$letter" -o "$keyword=no")" = "$wanted/$wanted" ]; then
        echo "$letter and $keyword=no: always $letter"
    else
        echo "$letter and $keyword=no: otherwise"
    fi
}
{
    who port -p 2 1
    who user -l b a
    who controlpath -S /b /a
    who bindaddress -b 192.0.2.2 192.0.2.1
    who escapechar -e b a
    who ciphers -c aes256-ctr aes128-ctr
    who macs -m hmac-sha2-512 hmac-sha2-256
    flag forwardagent -A yes
    flag compression -C yes
    flag forwardx11 -X yes
    flag requesttty -t true
} | tee seen
[ "$(grep -c ': the first one$' seen)" = 2 ] && [ "$(grep -c ': always -' seen)" = 9 ] || { echo changed; exit 1; }
