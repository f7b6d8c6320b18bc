//! The run's own disks: the one for artifacts, those of `--disk`, and those of profiles.
//!
//! Throw-away disks are files without a name, which QEMU opens through `/proc`. They vanish with
//! the last process that has them open, even if quiz is killed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quiz_config::profile::DiskDirective;
use quiz_config::{DiskSpec, ImageFormat, RunSpec};
use quiz_host::held::path_of;
use quiz_host::{Cache, Report, lock};
use quiz_image::blank;
use quiz_vm::proto::{Device, Link};
use quiz_vm::unpack::Bounds;
use quiz_vm::{Disk, DiskFormat, sparse};

use crate::context::Context;
use crate::fault::Fault;

/// The size of the disk for artifacts, in bytes. The disk is sparse: only written blocks take
/// space.
pub const OUT_BYTES: u64 = 4 << 30;

/// The limits for artifacts: what fits on their disk.
pub const ARTIFACTS: Bounds = Bounds { bytes: OUT_BYTES, entries: 1_000_000 };

/// The serial number of the disk for artifacts.
const OUT: &str = "quiz-out";

/// File times come from a clock with ticks of up to this length.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// A throw-away disk: a file without a name.
struct Blank {
    serial: String,
    file: File,
    bytes: u64,
    /// The contents of the new disk; None for zeros.
    image: Option<blank::Blank>,
}

impl Blank {
    /// Gives `file` the contents of the new disk.
    fn write_new(&self, file: &File) -> Result<(), Fault> {
        let refused = |e| Fault::new(format!("cannot make a disk of {} bytes: {e}", self.bytes));
        file.set_len(0).map_err(refused)?;
        match &self.image {
            Some(image) => sparse::copy(fs_err::File::open(image.path())?.file(), file).map_err(refused),
            None => file.set_len(self.bytes).map_err(refused),
        }
    }
}

/// The run's disks. They exist as long as this value.
pub struct Disks {
    /// The disks for QEMU, without the root.
    pub disks: Vec<Disk>,
    /// The disk for artifacts, if the kernel can use it.
    pub out: Option<Disk>,
    /// Links for the guest's `/dev`.
    pub links: Vec<Link>,
    /// Serial numbers of the disks that outlive the run.
    pub kept: Vec<String>,
    /// The throw-away disks.
    blank: Vec<Blank>,
    /// Keeps the disks locked that outlive the run.
    _open: Vec<File>,
}

impl Disks {
    /// Makes the disks in `dir`. Throw-away disks have their size, but no contents yet: see
    /// [`Disks::write_new`].
    pub fn create(
        spec: &RunSpec,
        asked: &[DiskDirective],
        dir: &Path,
        cache: &Cache,
        ext4: bool,
        ctx: &Context,
    ) -> Result<Disks, Fault> {
        let mut made = Disks {
            disks: Vec::new(),
            out: None,
            links: Vec::new(),
            kept: Vec::new(),
            blank: Vec::new(),
            _open: Vec::new(),
        };
        if ext4 {
            let image = blank::ext4(cache, OUT_BYTES, &ctx.report)?;
            let disk = disk(OUT, made.blank(OUT, OUT_BYTES, Some(image), dir)?, DiskFormat::Raw);
            made.disks.push(disk.clone());
            made.out = Some(disk);
        }
        for (i, wanted) in spec.disks.iter().enumerate() {
            let serial = format!("disk{}", i + 1);
            let (file, format) = match wanted {
                DiskSpec::Blank { bytes } => (made.blank(&serial, *bytes, None, dir)?, DiskFormat::Raw),
                DiskSpec::File { path, format } => {
                    let file = made.keep(&serial, open_image(path)?, path)?;
                    (path.clone(), check_format(file, path, *format, ctx)?)
                }
            };
            made.links.push(link(&serial, format!("/dev/disk/by-id/virtio-{serial}")));
            made.disks.push(disk(&serial, file, format));
        }
        for wanted in asked {
            let file = match &wanted.file {
                None => made.blank(&wanted.name, wanted.bytes.unwrap_or(0), None, dir)?,
                Some(path) => made.kept(&wanted.name, path, wanted.bytes, ctx)?,
            };
            for path in [format!("/dev/{}", wanted.name), format!("/dev/disk/by-id/virtio-{}", wanted.name)] {
                made.links.push(link(&wanted.name, path));
            }
            made.disks.push(Disk { sector: wanted.sector, ..disk(&wanted.name, file, DiskFormat::Raw) });
        }
        Ok(made)
    }

    /// Makes a throw-away disk.
    fn blank(&mut self, serial: &str, bytes: u64, image: Option<blank::Blank>, dir: &Path) -> Result<PathBuf, Fault> {
        let file = unnamed(dir)?;
        file.set_len(bytes).map_err(|e| Fault::new(format!("cannot make a disk of {bytes} bytes: {e}")))?;
        let path = path_of(&file);
        self.blank.push(Blank { serial: serial.to_owned(), file, bytes, image });
        Ok(path)
    }

    /// Opens the disk that a profile keeps at `path`. If it does not exist, makes it, sparse, with
    /// `bytes`.
    fn kept(&mut self, serial: &str, path: &Path, bytes: Option<u64>, ctx: &Context) -> Result<PathBuf, Fault> {
        let refused = |e: io::Error| Fault::new(format!("cannot keep a disk: {e}"));
        if bytes.is_some() {
            fs_err::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(refused)?;
        }
        let mut options = fs_err::OpenOptions::new();
        let file = options.read(true).write(true).create(bytes.is_some()).open(path).map_err(refused)?;
        // The lock comes first: its holder may be about to set the size.
        let file = self.keep(serial, file.into_parts().0, path)?;
        let there = file.metadata().map_err(refused)?.len();
        match bytes {
            Some(bytes) if there == 0 => file.set_len(bytes).map_err(refused)?,
            Some(bytes) if there != bytes => ctx.report.say(&format!(
                "the disk {} keeps its size of {there} bytes, not {bytes}; remove it for a new one",
                path.display()
            )),
            _ => {}
        }
        Ok(path.to_owned())
    }

    /// Locks a disk that outlives the run against other runs, until this run has ended.
    fn keep(&mut self, serial: &str, file: File, path: &Path) -> Result<&File, Fault> {
        self.kept.push(serial.to_owned());
        if file.try_lock().is_err() {
            let pids: Vec<String> = lock::flock_pids(path).iter().map(u32::to_string).collect();
            let by = if pids.is_empty() { String::new() } else { format!(" by quiz (pid {})", pids.join(", ")) };
            let fault = Fault::new(format!("the disk {} is in use{by}", path.display()));
            return Err(
                fault.hint("two VMs on one disk would destroy what is on it; end the other run, or take another disk")
            );
        }
        self._open.push(file);
        Ok(self._open.last().expect("one was just added"))
    }

    /// Resets every throw-away disk to the contents of a new one.
    pub fn write_new(&self) -> Result<(), Fault> {
        self.blank.iter().try_for_each(|disk| disk.write_new(&disk.file))
    }

    /// Replaces the file of the throw-away disk `serial` with `file`. The disk keeps its path.
    pub fn adopt(&self, serial: &str, file: &File) -> Result<(), Fault> {
        let Some((_, ours)) = self.thrown_away().find(|(known, _)| *known == serial) else {
            return Err(Fault::new(format!("the run has no disk {serial}")));
        };
        // SAFETY: both descriptors are open, and `ours` stays the owner of its number.
        if unsafe { libc::dup3(file.as_raw_fd(), ours.as_raw_fd(), libc::O_CLOEXEC) } < 0 {
            return Err(Fault::new(format!("cannot take the disk {serial} over: {}", io::Error::last_os_error())));
        }
        Ok(())
    }

    /// Returns the throw-away disks by their serial numbers.
    pub fn thrown_away(&self) -> impl Iterator<Item = (&str, &File)> {
        self.blank.iter().map(|disk| (disk.serial.as_str(), &disk.file))
    }

    /// Returns the present state of the disk for artifacts. `dir` is the directory of the disks.
    /// File times there follow the clock of its file system, which may be another host's.
    pub fn moment(&self, dir: &Path) -> Option<Moment> {
        let now = unnamed(dir).ok()?.metadata().ok()?.modified().ok()?;
        let file = self.out_file()?.metadata().ok()?;
        Some(Moment { now, inode: file.ino(), modified: file.modified().ok()? })
    }

    /// Returns the disk for artifacts, if the guest has written to it at least `after` later than
    /// `moment`.
    pub fn written_since(&self, moment: &Moment, after: Duration) -> Option<&Disk> {
        let file = self.out_file()?.metadata().ok()?;
        let modified = file.modified().ok()?;
        let changed = moment.inode != file.ino() || moment.modified != modified;
        let written = match modified.duration_since(moment.now) {
            Ok(at) => at + CLOCK_TICK >= after,
            // The clock was set back, so the time of the write is unknown.
            Err(_) => moment.inode == file.ino(),
        };
        self.out.as_ref().filter(|_| changed && written)
    }

    fn out_file(&self) -> Option<&File> {
        let out = self.out.as_ref()?;
        self.thrown_away().find(|(serial, _)| *serial == out.serial).map(|(_, file)| file)
    }
}

/// The state of the disk for artifacts at the start of a run, with the time by its file system's
/// clock.
#[derive(Debug)]
pub struct Moment {
    now: SystemTime,
    inode: u64,
    modified: SystemTime,
}

fn link(serial: &str, path: String) -> Link {
    Link { path, target: Device::Serial(serial.to_owned()), partitions: true }
}

fn disk(serial: &str, file: PathBuf, format: DiskFormat) -> Disk {
    Disk { serial: serial.to_owned(), file, format, read_only: false, sector: None }
}

fn unnamed(dir: &Path) -> Result<File, Fault> {
    tempfile::tempfile_in(dir)
        .map_err(|e| Fault::new(format!("cannot make a throw-away disk in {}: {e}", dir.display())))
}

/// Opens the user's image.
fn open_image(path: &Path) -> Result<File, Fault> {
    let refused = |e: io::Error| Fault::new(format!("--disk: {e}")).hint("--disk takes a size (1G) or an image");
    // Opening a FIFO would block.
    let mut options = fs_err::OpenOptions::new();
    fs_err::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).write(true).open(path).map_err(refused)?.into_parts().0;
    let kind = file.metadata().map_err(refused)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(file)
    } else {
        Err(Fault::new(format!("--disk: {} is neither a file nor a block device", path.display())))
    }
}

/// Checks the format that the user gave. The guest writes a raw image, and could make it look like
/// any other format. A qcow2 image must not name other files, since QEMU would open them.
fn check_format(mut file: &File, path: &Path, format: ImageFormat, ctx: &Context) -> Result<DiskFormat, Fault> {
    let shown = path.display();
    let mut header = [0; HEADER];
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| {
        let mut filled = 0;
        while let n @ 1.. = file.read(&mut header[filled..])? {
            filled += n;
        }
        Ok(filled)
    });
    let length = read.map_err(|e| Fault::new(format!("--disk: cannot read {shown}: {e}")))?;
    let is_qcow2 = header.starts_with(b"QFI\xfb");
    match format {
        ImageFormat::Raw => {
            if is_qcow2 {
                ctx.report.warn(&format!(
                    "{shown} looks like a qcow2 image but is used as a raw one; if it is qcow2, write {shown}:qcow2"
                ));
            }
            Ok(DiskFormat::Raw)
        }
        ImageFormat::Qcow2 if !is_qcow2 || length < HEADER => {
            Err(Fault::new(format!("cannot use the disk {shown}: it is not a qcow2 image"))
                .hint(format!("write {shown}:raw for a raw image")))
        }
        ImageFormat::Qcow2 => match other_file_of(&header) {
            None => Ok(DiskFormat::Qcow2),
            Some(what) => Err(Fault::new(format!(
                "cannot use the disk {shown}: it names {what}, which the guest would then reach"
            ))
            .hint(format!("copy it into one file: qemu-img convert -O qcow2 {shown} NEW.qcow2"))),
        },
    }
}

/// How many bytes of an image's header quiz reads: up to the features of version 3 (QEMU's
/// docs/interop/qcow2.txt).
const HEADER: usize = 80;

/// Returns which other file the header of a qcow2 image names.
fn other_file_of(header: &[u8; HEADER]) -> Option<&'static str> {
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let version = u32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
    let (backing_file, incompatible_features) = (number(8), number(72));
    if backing_file != 0 {
        Some("a backing file")
    } else {
        (version >= 3 && incompatible_features & 1 << 2 != 0).then_some("an external data file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_was_written_to_after_a_moment_by_the_clock_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let out = disk(OUT, "unused".into(), DiskFormat::Raw);
        let file = unnamed(dir.path()).unwrap();
        let blank = Blank { serial: OUT.to_owned(), file, bytes: 0, image: None };
        let made = Disks {
            disks: Vec::new(),
            out: Some(out),
            links: Vec::new(),
            kept: Vec::new(),
            blank: vec![blank],
            _open: Vec::new(),
        };
        let file = made.out_file().unwrap();
        // The clock of a file server that is an hour late.
        let now = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(now - Duration::from_secs(1)).unwrap();
        let inode = file.metadata().unwrap().ino();
        let moment = Moment { now, inode, modified: file.metadata().unwrap().modified().unwrap() };
        let second = Duration::from_secs(1);
        assert_eq!(made.written_since(&moment, second), None, "nobody has");
        for (at, expected) in [(now + second / 2, false), (now + 2 * second, true), (now - 60 * second, true)] {
            file.set_modified(at).unwrap();
            assert_eq!(made.written_since(&moment, second).is_some(), expected, "{:?}", at.duration_since(now));
        }
    }

    #[test]
    fn other_files_in_an_image_are_found() {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        assert_eq!(other_file_of(&header), None);
        header[79] = 1;
        assert_eq!(other_file_of(&header), None, "only dirty");
        header[79] = 4;
        assert_eq!(other_file_of(&header), Some("an external data file"));
        header[7] = 2;
        assert_eq!(other_file_of(&header), None, "version 2 has no features there");
        header[15] = 104;
        assert_eq!(other_file_of(&header), Some("a backing file"));
    }
}
