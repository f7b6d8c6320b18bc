//! Links in `/dev` under the names that the user knows devices by. Not for the devices themselves.

use std::io;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_proto::{Device, Link};

use crate::boot;

/// How many partitions get a link: OpenZFS gives its disks a first and a ninth.
const PARTITIONS: u32 = 9;

/// Makes a link. Those of partitions lead nowhere until the partition is made, as with udev they would not be there.
pub fn link(link: &Link) -> io::Result<()> {
    let target = match &link.target {
        Device::Serial(serial) => boot::disk(serial)?.to_string_lossy().into_owned(),
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

fn replace(target: &str, path: &str) -> io::Result<()> {
    match symlink(target, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            symlink(target, path)
        }
        other => other,
    }
}

/// The kernel's name of a partition: `vda1`, and `ram0p1` where the device's own name ends in a digit.
fn partition(device: &str, n: u32) -> String {
    let between = if device.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{device}{between}{n}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        assert_eq!(super::partition("/dev/vda", 1), "/dev/vda1");
        assert_eq!(super::partition("/dev/ram0", 12), "/dev/ram0p12");
    }
}
