# Becomes a systemd that has a machine of its own: process ids, control groups, names, /run, /var and /etc.
# The rest of the file system and the network are shared. Called inside new namespaces; $1: its folder.
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs "$1/etc"
cp -a /etc/. "$1/etc"
cp -a "$1/added-etc/." "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
mkdir /run/lock /run/sshd
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# No setting of the kernel's is its business.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec env -i PATH="$PATH" container=bowline-test SYSTEMD_UNIT_PATH="$1/units" SYSTEMD_GENERATOR_PATH="$1/generators" \
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$1/generators" \
    /lib/systemd/systemd --system --unit=default.target --log-target=console --show-status=no
