#!/usr/bin/env bash
# paramiko 5.1.0: a key in the agent that refuses to sign ends the whole connection; the keys behind it are never tried. A key that
# was added for other hosts (`ssh-add -h`, OpenSSH 8.9 and later) is such a key, and so is one whose confirmation is denied.
#
# Seen: agent with [key for another host, right key], server that accepts the right key: SSHException "No existing session".
# With the right key alone the login works. ssh(1) and asyncssh 2.24.1 log in with both agents: they ask for the server's opinion
# of each public key first, and take the next key if one does not sign.
set -euo pipefail
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check paramiko==5.1.0 asyncssh==2.24.1
for name in elsewhere right other_host; do ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$name"; done
printf 'other %s\n' "$(cut -d' ' -f1,2 other_host.pub)" >known_hosts
eval "$(ssh-agent -s)" >/dev/null
pids+=("$SSH_AGENT_PID")
cat >server.py <<'P'
import asyncio

import asyncssh


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        asyncssh.SSHServer, "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys="right.pub"
    )
    print(server.get_port(), flush=True)
    await asyncio.wait_for(asyncio.Event().wait(), 60)


asyncio.run(main())
P
cat >login.py <<'P'
import asyncio
import sys

import asyncssh
import paramiko

port = int(sys.argv[1])


def by_paramiko():
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", port, username="ann", look_for_keys=False)
    client.close()


async def by_asyncssh():
    async with asyncssh.connect("127.0.0.1", port, username="ann", config=None, known_hosts=None):
        pass


def tried(login):
    try:
        login()
        return "in"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


print(f"paramiko {tried(by_paramiko)}; asyncssh {tried(lambda: asyncio.run(by_asyncssh()))}")
P
venv/bin/python server.py >port 2>/dev/null &
pids+=($!)
for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
ssh-add -q right
alone=$(venv/bin/python login.py "$(cat port)" 2>/dev/null)
ssh-add -q -D
ssh-add -q -H known_hosts -h other elsewhere
ssh-add -q right
both=$(venv/bin/python login.py "$(cat port)" 2>/dev/null)
printf 'right key alone:     %s\nbehind another one:  %s\n' "$alone" "$both"
[ "$alone" = 'paramiko in; asyncssh in' ] && [ "$both" = 'paramiko SSHException: No existing session; asyncssh in' ] || { echo changed; exit 1; }
