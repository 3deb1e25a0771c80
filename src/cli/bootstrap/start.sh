# Runs on the server, as the login user: finds a program of bowline or receives one, starts the server half, and says so.
# POSIX sh. Set before it: m and n (the two halves of the marker of each answer), version, user, key, more.

LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
umask 077
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bowline
state=${XDG_STATE_HOME:-$HOME/.local/state}/bowline/bootstrap
host=$(uname -n)

say() { printf '%s%s %s\n' "$m" "$n" "$*"; }

fail() {
	say failed "$1" "$(printf %s "$2" | tr '\n' ' ')"
	exit 1
}

pause() { sleep 0.2 2>/dev/null || sleep 1; }

# Sets pid. A process is ours if its arguments name the folder: ids are used again, after a reboot for instance.
runs() {
	pid=$(sed -n 's/^ready .* keeper=\([0-9]*\) .*/\1/p' "$1/ready" 2>/dev/null | tail -n 1)
	[ -n "$pid" ] || return 1
	case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in
	*" serve "*" $1 "*) return 0 ;;
	esac
	return 1
}

look() {
	said=$("$1" --version 2>/dev/null) || return
	case $said in
	"bowline "*) say found "${said#bowline }" "$1" ;;
	esac
}

say system "$(uname -s)" "$(uname -m)"
look "$cache/$version/bowline"
look "$HOME/.local/bin/bowline"
own=$(command -v bowline) && look "$own"
for folder in "$state/$host"/*/; do
	folder=${folder%/}
	if runs "$folder"; then say running "${folder##*/}"; fi
done
say ask

# Only one of us starts a server half at a time. Nobody needs the lock for longer than a start takes.
lock() {
	tries=0
	until mkdir "$folder/lock" 2>/dev/null; do
		tries=$((tries + 1))
		if [ $tries = 5 ] && ! [ -d "$folder/lock" ]; then fail write "$(mkdir "$folder/lock" 2>&1)"; fi
		if [ $tries -ge 150 ]; then break; fi
		pause
	done
	trap 'rmdir "$folder/lock" 2>/dev/null' EXIT
}

# Receives the program on standard input, up to its end: SIZE SHA256.
receive() {
	folder=$cache/$version
	new=$folder/bowline.$$
	trap 'rm -f "$new"' EXIT
	problem=$({ mkdir -p "$folder" && printf '#!/bin/sh\n' >"$new" && chmod 755 "$new"; } 2>&1) || fail write "$problem"
	"$new" 2>/dev/null || fail noexec "$folder"
	say send
	problem=$(cat 2>&1 >"$new") || fail write "$problem"
	[ "$(wc -c <"$new")" -eq "$1" ] || fail damaged "$(wc -c <"$new") bytes of $1"
	sum=$({ sha256sum || shasum -a 256 || openssl dgst -sha256 -r; } <"$new" 2>/dev/null)
	case $sum in
	"$2"* | '') ;;
	*) fail damaged "another SHA-256" ;;
	esac
	problem=$("$new" --version 2>&1) || fail run "$problem"
	problem=$(mv -f "$new" "$folder/bowline" 2>&1) || fail write "$problem"
	trap - EXIT
}

lingers() {
	[ "$(loginctl show-user "$(id -un)" -p Linger 2>/dev/null)" = Linger=yes ] && systemd-run --version >/dev/null 2>&1
}

login1() {
	busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager "$1" 2>/dev/null
}

# logind.conf(5): KillUserProcesses ends what belongs to the session of a login.
ends_at_logout() {
	me=\"$(id -un)\"
	[ "$(login1 KillUserProcesses)" = 'b true' ] && grep -q 'session-.*\.scope' /proc/self/cgroup || return
	case $(login1 KillExcludeUsers) in
	*"$me"*) return 1 ;;
	esac
	case $(login1 KillOnlyUsers) in
	'as 0' | *"$me"*) return 0 ;;
	esac
	return 1
}

# What is started here has to stay when this login ends.
expect_to_stay() {
	if ! ends_at_logout || lingers; then return; fi
	loginctl enable-linger >/dev/null 2>&1
	lingers || fail logout "$(id -un)"
	mkdir -p "$state/$host" && : >"$state/$host/lingers"
}

# Runs detached, with the folder's files as output.
detached() {
	: >"$folder/ready" && : >"$folder/log"
	if lingers; then
		systemd-run --user --quiet --collect -p "StandardOutput=append:$folder/ready" \
			-p "StandardError=append:$folder/log" "$@" >/dev/null 2>&1 && return
	fi
	if command -v setsid >/dev/null 2>&1; then
		setsid "$@" </dev/null >>"$folder/ready" 2>>"$folder/log" &
	else
		nohup "$@" </dev/null >>"$folder/ready" 2>>"$folder/log" &
	fi
}

# Starts the server half of a version, unless it runs: VERSION PROGRAM.
start() {
	folder=$state/$host/$1
	problem=$(mkdir -p "$folder" 2>&1) || fail write "$problem"
	lock
	keys=$folder/authorized_keys
	if ! grep -qF "$key" "$keys" 2>/dev/null; then
		problem=$({ printf '%s\n' "$key" >>"$keys"; } 2>&1) || fail write "$problem"
	fi
	if ! runs "$folder"; then
		program=$2
		target=
		# sshd is where this login came in.
		set -- $SSH_CONNECTION
		case $3 in
		'') ;;
		*:*) target="--target [$3]:$4" ;;
		*) target="--target $3:$4" ;;
		esac
		detached "$program" serve --config /dev/null --state-dir "$folder" --runtime-dir "$folder/run" \
			--host-key "$folder/ssh_host_ed25519_key" --only-user "$user" --listen 60000-61000 --listen-tls 60000-61000 --authorized-keys "$keys" \
			--client-address loopback --accept-loopback-match --exit-when-idle 7d $target $more
		tries=0
		until grep -q '^ready ' "$folder/ready" 2>/dev/null; do
			tries=$((tries + 1))
			problem=$(grep '^error: ' "$folder/log") && fail start "$problem"
			if [ $tries -ge 100 ]; then fail start "it is not ready after 20 s"; fi
			pause
		done
	fi
	say "$(tail -n 1 "$folder/ready")"
}

# Ends all of them on this machine, and removes the files.
uninstall() {
	all=
	for folder in "$state/$host"/*/; do
		folder=${folder%/}
		if runs "$folder"; then all="$all $pid" && kill "$pid"; fi
	done
	for pid in $all; do
		tries=0
		while kill -0 "$pid" 2>/dev/null && [ $tries -lt 60 ]; do
			tries=$((tries + 1))
			pause
		done
	done
	if [ -f "$state/$host/lingers" ]; then loginctl disable-linger >/dev/null 2>&1; fi
	problem=$(rm -rf "$state/$host" "$cache" 2>&1) || fail write "$problem"
	rmdir "$state" "${state%/*}" 2>/dev/null
	say removed
}

IFS= read -r answer
trap 'exit 1' HUP INT TERM PIPE
case $answer in
"install "*)
	expect_to_stay
	set -- $answer
	receive "$2" "$3"
	start "$version" "$cache/$version/bowline"
	;;
"start "*)
	expect_to_stay
	answer=${answer#start }
	start "${answer%% *}" "${answer#* }"
	;;
"use "*) start "${answer#use }" '' ;;
uninstall) uninstall ;;
esac
exit 0
