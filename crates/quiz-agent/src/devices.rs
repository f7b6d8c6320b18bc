//! Makes links in `/dev` under the names that the user knows devices by. Not for making the
//! devices.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_proto::{Device, Link};

/// How many partitions get a link. OpenZFS gives its disks a first and a ninth partition.
const PARTITIONS: u32 = 9;

/// Makes a link. A partition's link dangles until the partition is made, where udev would make the
/// link only then.
pub fn link(link: &Link) -> io::Result<()> {
    let target = match &link.target {
        Device::Serial(serial) => crate::disks::disk(serial)?.to_string_lossy().into_owned(),
        Device::Path(path) => path.clone(),
    };
    if let Some(parent) = Path::new(&link.path).parent() {
        fs::create_dir_all(parent)?;
    }
    replace(&target, &link.path)?;
    if link.partitions {
        for n in 1..=PARTITIONS {
            replace(&partition(&target, n), &partition(&link.path, n))?;
        }
    }
    Ok(())
}

/// The major number of partitions and devices that have no own one. The kernel hands out its minor
/// numbers in order of appearance.
const EXTENDED: u32 = 259;

/// How many of those minor numbers are marked as ready.
const AS_THEY_COME: u32 = 64;

/// Marks the devices that links lead to, and their partitions, as ready in udev's database.
/// Programs that ask libudev otherwise wait for half a minute and give up. OpenZFS's programs do so
/// after they have partitioned a disk.
pub fn settle(links: &[Link]) -> io::Result<()> {
    const DATABASE: &str = "/run/udev/data";
    // An old libudev counts a device as ready if it has a link, and the link has to exist.
    const READY: &str = "disk/quiz-ready";
    if links.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(DATABASE)?;
    fs::create_dir_all("/dev/disk")?;
    replace("/dev/null", &format!("/dev/{READY}"))?;
    let ready = |major: u32, minor: u32| fs::write(format!("{DATABASE}/b{major}:{minor}"), format!("S:{READY}\nI:1\n"));
    for link in links {
        let Ok(device) = fs::canonicalize(&link.path) else { continue };
        let Some(name) = device.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some((major, minor, minors)) = numbers(name) {
            // Partitions beyond the device's own minor numbers have extended ones.
            (0..=PARTITIONS.min(minors.saturating_sub(1))).try_for_each(|n| ready(major, minor + n))?;
        }
    }
    (0..AS_THEY_COME).try_for_each(|minor| ready(EXTENDED, minor))
}

/// Major and minor number of a block device, and how many minor numbers it and its partitions have.
fn numbers(name: &str) -> Option<(u32, u32, u32)> {
    let attribute = |of: &str| fs::read_to_string(format!("/sys/class/block/{name}/{of}")).ok();
    let dev = attribute("dev")?;
    let (major, minor) = dev.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, attribute("range")?.trim_end().parse().ok()?))
}

/// Makes the kernel read the partitions of a disk again, which the host may have changed.
pub fn look_again(serial: &str) -> io::Result<()> {
    /// `_IO(0x12, 95)`, encoded for this architecture.
    const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
    let disk = fs::File::open(crate::disks::disk(serial)?)?;
    // SAFETY: BLKRRPART takes no argument.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART as _) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A disk that cannot have partitions has none that changed.
            e if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            e => Err(io::Error::other(format!("reading the partitions of the disk {serial}: {e}"))),
        },
    }
}

fn replace(target: &str, path: &str) -> io::Result<()> {
    match symlink(target, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            symlink(target, path)
        }
        other => other,
    }
}

/// The name of a partition. The kernel's is `vda1`, or `ram0p1` if the device's name ends in a
/// digit; udev's below `/dev/disk` is `disk1-part1`.
fn partition(device: &str, n: u32) -> String {
    if device.starts_with("/dev/disk/") {
        return format!("{device}-part{n}");
    }
    let between = if device.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{device}{between}{n}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        assert_eq!(super::partition("/dev/vda", 1), "/dev/vda1");
        assert_eq!(super::partition("/dev/ram0", 12), "/dev/ram0p12");
        assert_eq!(super::partition("/dev/disk/by-id/virtio-disk1", 2), "/dev/disk/by-id/virtio-disk1-part2");
    }
}
