# Makes a root inside a VM that runs on the root's essential packages, unpacked and not configured. The first argument is the serial number of
# the disk with them, the second that of an empty ext4 disk, the third the Debian architecture, the fourth the newest time of a file.
#
# Standard output: the finished root as a tar archive. Standard error: what happens; the lines with `I: ` are the steps.
set -eu
exec 3>&1 1>&2 </dev/null
umask 022
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# What is compiled or dated while packages are installed is the same each time.
export SOURCE_DATE_EPOCH="$4"
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
unset LANG LANGUAGE || :
here=/quiz
root=/quiz/root

step() {
    echo "I: $*"
}

fail() {
    echo "E: $*" >&2
    exit 1
}

device() {
    for disk in /sys/block/*; do
        if [ -r "$disk/serial" ] && [ "$(cat "$disk/serial")" = "$1" ]; then
            echo "/dev/${disk##*/}"
            return
        fi
    done
    fail "there is no disk $1"
}

# dpkg in the new root. Its files are not worth a write to the disk one by one: the VM is thrown away when it fails.
dpkg_in_root() {
    chroot "$root" dpkg "$@"
}

step "preparing a file system"
image=$(device "$1")
disk=$(device "$2")
mkdir -p "$root" "$here/image"
mount -t ext4 -o noatime,nobarrier "$disk" "$root"
rm -rf "$root/lost+found"
chmod 0755 "$root"
mount -t squashfs -o ro "$image" "$here/image"
for entry in "$here"/image/*; do
    case ${entry##*/} in
        quiz) ;;
        *) cp -a "$entry" "$root/" ;;
    esac
done
umount "$here/image"

# What mmdebstrap makes before anything is installed.
for dir in etc/apt/apt.conf.d etc/apt/sources.list.d etc/apt/preferences.d etc/dpkg/dpkg.cfg.d var/cache/apt/archives/partial \
    var/lib/apt/lists/partial var/lib/dpkg/triggers var/lib/dpkg/info var/lib/dpkg/alternatives var/lib/dpkg/updates var/log/apt \
    dev proc sys run tmp mnt usr/sbin; do
    mkdir -p "$root/$dir"
done
chmod 1777 "$root/tmp"
: > "$root/var/lib/dpkg/status"
echo "$3" > "$root/var/lib/dpkg/arch"
cp "$here/sources.list" "$root/etc/apt/sources.list"
cp "$here/extended_states" "$root/var/lib/apt/extended_states"
cp "$here/dpkg.cfg" "$root/etc/dpkg/dpkg.cfg.d/99quiz"
if [ -s "$here/apt.conf" ]; then
    cp "$here/apt.conf" "$root/etc/apt/apt.conf.d/99quiz"
fi
echo '# UNCONFIGURED FSTAB FOR BASE SYSTEM' > "$root/etc/fstab"
# No daemon is to be started.
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --bind /dev "$root/dev"
mount --bind /dev/pts "$root/dev/pts"
mount --bind "$here" "$root/mnt"

step "installing the essential packages"
# None of them can wait for those that it needs: they need each other. They are unpacked already, so that their scripts work.
set --
while read -r deb; do
    set -- "$@" "/mnt/debs/$deb"
done < "$here/essential"
dpkg_in_root --install --force-depends "$@"

step "installing the other packages"
while read -r action names <&4; do
    case $action in
        unpack)
            set --
            for deb in $names; do
                set -- "$@" "/mnt/debs/$deb"
            done
            dpkg_in_root --no-triggers --unpack --auto-deconfigure "$@"
            ;;
        configure)
            # shellcheck disable=SC2086 # They are the words of a list.
            dpkg_in_root --no-triggers --configure $names
            ;;
    esac
done 4< "$here/steps"
dpkg_in_root --configure --pending
unfinished=$(dpkg_in_root --audit)
[ -z "$unfinished" ] || fail "not every package could be installed: $unfinished"

step "cleaning up"
umount "$root/mnt" "$root/dev/pts" "$root/dev" "$root/sys" "$root/proc"
rm -f "$root/usr/sbin/policy-rc.d" "$root/var/log/dpkg.log" "$root/var/log/alternatives.log" "$root/var/cache/ldconfig/aux-cache"
for entry in "$root"/run/* "$root"/tmp/*; do
    case $entry in
        "$root/run/lock") ;;
        *) rm -rf "$entry" ;;
    esac
done
sh "$here/setup" "$root"

step "sending the file system"
tar --directory "$root" --create --file - --sort=name --numeric-owner --one-file-system --format=pax \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --xattrs --xattrs-include='*' --totals . >&3
# What is on the disk does not come back.
umount "$root"
