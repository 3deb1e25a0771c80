#!/usr/bin/env bash
# paramiko 5.1.0: one `@cert-authority` or `@revoked` line makes the whole known_hosts file unreadable. `HostKeys(file)`, and with
# it `load_system_host_keys(file)`, raises InvalidHostKey, so no other host of the file is known either.
#
# Seen: a file with a line for `box` alone finds the key of `box`; the same file with a marker line for another host behind it
# raises. `ssh-keygen -F box` finds the key in both, as sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT" describes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check paramiko==5.1.0
ssh-keygen -q -t ed25519 -N '' -C '' -f key
printf 'box %s\n' "$(cat key.pub)" >plain
for marker in cert-authority revoked; do
    { cat plain; printf '@%s *.example.org %s\n' "$marker" "$(cat key.pub)"; } >"$marker"
    ssh-keygen -F box -f "$marker" >/dev/null
done
venv/bin/python - <<'P'
import sys

import paramiko


def look(name):
    try:
        return "known" if paramiko.HostKeys(name).lookup("box") else "unknown"
    except Exception as error:
        return type(error).__name__


seen = {name: look(name) for name in ("plain", "cert-authority", "revoked")}
print(f"paramiko {paramiko.__version__}: {seen}")
if seen != {"plain": "known", "cert-authority": "InvalidHostKey", "revoked": "InvalidHostKey"}:
    sys.exit("changed")
P
