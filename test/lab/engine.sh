# shellcheck shell=sh
# The first process of an engine. It is started in new mount and process
# namespaces and in the lab's network namespace, and becomes dockerd in a root
# made of a Debian tree.
#
# TREE is only read: an overlay takes what is written. DOCKERD is the program to
# run in place of the tree's own, if not empty, and FIREWALL its backend. DATA is
# the directory on a real file system for what is written and for the engine's
# storage, RUN the directory in which the socket has to appear, VISIBLE the host's
# directories, one a line, that a container can mount. Everything here goes when
# the namespaces go.
set -eu

mount --make-rprivate /
root=$DATA/root
mkdir -p "$DATA/docker" "$DATA/upper" "$DATA/work" "$root"
mount -t overlay -o "lowerdir=$TREE,upperdir=$DATA/upper,workdir=$DATA/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
# A new sysfs shows the interfaces of the lab; the old one those of the machine.
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mkdir -p "$root/var/lib/docker"
mount --bind "$DATA/docker" "$root/var/lib/docker"
printf '%s\n' "$RUN" "$VISIBLE" | while read -r dir; do
	mkdir -p "$root$dir"
	mount --bind "$dir" "$root$dir"
done
dockerd=$(chroot "$root" sh -c 'command -v dockerd')
if [ -n "$DOCKERD" ]; then
	mount --bind "$DOCKERD" "$root$dockerd"
fi
# Names are resolved by what a test sets up, never by the machine's resolver.
echo nameserver 127.0.0.1 >"$root/etc/resolv.conf"

# runc needs / to be a mount point, so chroot would not do.
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old

# docker-init is tini: it reaps what dead containers leave. The second socket is
# the one that containers mount, at the place where everybody has it.
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
	docker-init -s -- dockerd \
	--host "unix://$RUN/docker.sock" --host unix:///run/docker.sock \
	--exec-root /run/docker --pidfile /run/docker.pid \
	--data-root /var/lib/docker \
	--cgroup-parent "/$CGROUP" ${FIREWALL:+--firewall-backend "$FIREWALL"}
