# shellcheck shell=sh
# A fresh machine looks for programs: prints its enabled units and its packages, each
# ended by a line with a form feed, before it, and again after it.
#
# TREE is the machine's system, which is only read; SCRATCH an empty directory;
# REPOSITORY this one, and PROGRAMS what the machine has for a cache. In mount and
# process namespaces of its own: all that is mounted here goes with them.
set -eu

mount -t tmpfs tmpfs "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
root=$SCRATCH/root
mount -t overlay -o "lowerdir=$TREE,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/src" "$root/var/cache/anchord"
mount --bind "$REPOSITORY" "$root/src"
mount --bind "$PROGRAMS" "$root/var/cache/anchord"
for file in /etc/resolv.conf /etc/hosts; do
	[ ! -f $file ] || cat $file >"$root$file"
done

# shellcheck disable=SC2016 # it is for the shell inside
exec chroot "$root" env --unset=ANCHORD_CACHE PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -euc '
	state() {
		find /etc/systemd/system /etc/rc?.d -type l 2>/dev/null | LC_ALL=C sort
		printf "\f\n"
		dpkg-query --show --showformat "\${Package} \${Version} \${db:Status-Status}\n"
		printf "\f\n"
	}
	cd /src
	state
	for list in demo test lint; do
		scripts/deps $list >/tmp/said 2>&1 || { cat /tmp/said /var/cache/anchord/tools-*.log; exit 1; }
	done
	printf "\f\n"
	state
'
