//! Finds devices that may take a while to appear, such as disks by their serial numbers.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fs_err as fs;

/// How long a device may take to appear after its driver is loaded.
const DEVICE_WAIT: Duration = Duration::from_secs(20);

/// The block device whose virtio serial number is `serial`, after waiting for it to appear.
pub fn disk(serial: &str) -> io::Result<PathBuf> {
    wait_for(&format!("the disk {serial}"), || find_disk(serial))
}

/// The same without waiting: `None` if the disk is not there.
pub fn find_disk(serial: &str) -> Option<PathBuf> {
    let disks = fs::read_dir("/sys/block").ok()?;
    disks.flatten().find_map(|disk| {
        let found = fs::read_to_string(disk.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| PathBuf::from("/dev").join(disk.file_name()))
    })
}

/// Waits until `look` has found `what`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > DEVICE_WAIT {
            return Err(io::Error::other(format!("{what} did not appear within {} s", DEVICE_WAIT.as_secs())));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
