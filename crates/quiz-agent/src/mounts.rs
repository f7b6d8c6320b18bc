//! Mounts file systems, with errors that name the source and the target.

use std::ffi::CString;
use std::io;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::{disks, log};

/// One mount: source, target, type, flags and options.
pub struct Mount<'a> {
    source: &'a str,
    target: &'a Path,
    kind: &'a str,
    flags: MountFlags,
    options: String,
}

impl<'a> Mount<'a> {
    /// A mount without options.
    pub fn new<P: AsRef<Path> + ?Sized>(source: &'a str, target: &'a P, kind: &'a str) -> Mount<'a> {
        Mount { source, target: target.as_ref(), kind, flags: MountFlags::empty(), options: String::new() }
    }

    /// Replaces the flags.
    pub fn flags(self, flags: MountFlags) -> Self {
        Mount { flags, ..self }
    }

    /// Replaces the file-system options, which are comma separated.
    pub fn options(self, options: impl Into<String>) -> Self {
        Mount { options: options.into(), ..self }
    }
}

/// Mounts `m`, after making the mount point if needed.
pub fn mount(m: &Mount) -> io::Result<()> {
    if !m.target.is_dir() {
        fs::create_dir_all(m.target)?;
    }
    let options = CString::new(m.options.as_str()).expect("options have no zero byte");
    rustix::mount::mount(m.source, m.target, m.kind, m.flags, options.as_c_str())
        .map_err(|e| io::Error::other(format!("mounting {} ({}) on {}: {e}", m.source, m.kind, m.target.display())))
}

/// Mounts an optional file system. If the kernel's list lacks it, that is no error.
pub fn mount_if_known(m: &Mount, known: &str) {
    if is_known(m.kind, known)
        && m.target.is_dir()
        && let Err(e) = mount(m)
    {
        log::log(&e.to_string());
    }
}

/// The running kernel's list of file systems, for [`is_known`].
pub fn known_filesystems() -> String {
    fs::read_to_string("/proc/filesystems").unwrap_or_default()
}

/// Whether the kernel's list has this file system.
pub fn is_known(name: &str, list: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

/// Moves a mount to another path.
pub fn move_to(from: &str, to: &str) -> io::Result<()> {
    rustix::mount::mount_move(from, to).map_err(|e| io::Error::other(format!("moving {from} to {to}: {e}")))
}

/// Writes back everything that outlives the VM: writable shares (`shares`) and the disks that are
/// kept, given by their serial numbers. Calls `failed` for each that could not be written back.
///
/// Disks that are discarded with the VM are skipped: that saves time, and they may have been made
/// to fail. A share that is still in use is synced but stays mounted.
pub fn write_back(shares: bool, disks: &[String], mut failed: impl FnMut(String)) {
    if !shares && disks.is_empty() {
        return;
    }
    let devices: Vec<String> = disks
        .iter()
        .filter_map(|serial| disks::find_disk(serial))
        .map(|device| device.to_string_lossy().into_owned())
        .collect();
    let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_else(|e| {
        failed(format!("it is not known what is mounted: {e}"));
        String::new()
    });
    for line in mounted.lines().rev() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [source, target, kind, options, ..] = fields[..] else { continue };
        let is_share = shares && kind == "9p";
        // A partition's name is its disk's name followed by a number.
        let is_kept = devices.iter().any(|device| source.starts_with(device));
        if !(is_share || is_kept) || !options.split(',').any(|option| option == "rw") {
            continue;
        }
        let target = unescape(target);
        // Unlike `sync`, this also reports earlier failures.
        let mut done = sync_file_system(Path::new(&target));
        if is_share {
            done = done.and(unmount(&target));
        }
        if let Err(e) = done {
            failed(format!("{target}: {e}"));
        }
    }
    rustix::fs::sync();
    // Sync the devices themselves: programs may have written to them directly.
    for device in devices {
        let synced = fs::File::open(&device).and_then(|disk| disk.file().sync_all());
        if let Err(e) = synced {
            failed(format!("{device}: {e}"));
        }
    }
}

fn sync_file_system(place: &Path) -> io::Result<()> {
    // Do not block on whatever is mounted there.
    let (place, _) = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(place)?.into_parts();
    match rustix::fs::syncfs(&place) {
        // File systems that have nothing to write back need not implement this.
        Ok(()) | Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ROFS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn unmount(target: &str) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::empty()) {
        // The share is covered by another mount, was unmounted with one, or is in use.
        Ok(()) | Err(rustix::io::Errno::BUSY | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Decodes a path: `/proc/self/mounts` writes blanks, tabs, newlines and backslashes as three octal
/// digits.
fn unescape(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    #[test]
    fn mount_points_with_blanks_are_read_back() {
        assert_eq!(super::unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(super::unescape(r"/plain\x"), r"/plain\x");
    }
}
