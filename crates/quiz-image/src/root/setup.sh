# Runs outside the new root, whose path is the first argument.
set -eu
for dir in proc sys dev run tmp mnt root quiz lib/modules; do mkdir -p "$1/$dir"; done
# The options by which the packages were installed hold for those that are installed later, too; whoever wrote them.
for dir in etc/dpkg/dpkg.cfg.d etc/apt/apt.conf.d; do
    if [ -e "$1/$dir/99mmdebstrap" ]; then mv "$1/$dir/99mmdebstrap" "$1/$dir/99quiz"; fi
done
# Whoever made them, with whatever mode.
rm -f "$1/etc/machine-id" "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/hosts" "$1/var/lib/dbus/machine-id"
: > "$1/etc/machine-id"
echo 'nameserver 10.0.2.3' > "$1/etc/resolv.conf"
echo quiz > "$1/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 quiz\n::1 localhost ip6-localhost ip6-loopback\n' > "$1/etc/hosts"
sed -i 's/^root:[^:]*:/root::/' "$1/etc/shadow"
