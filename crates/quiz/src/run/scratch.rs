//! The run's own disks: the one for artifacts, and those asked for with `--disk`.
//!
//! Throw-away disks are files without a name, which QEMU opens through `/proc`: whatever happens to quiz, they are gone
//! with the last process that has them open.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quiz_config::{DiskSpec, RunSpec};
use quiz_image::{Cache, blank};
use quiz_vm::proto::DiskLink;
use quiz_vm::{Disk, DiskFormat};

use crate::context::Context;
use crate::errors::Fault;

/// The size of the disk for artifacts, in bytes. It is sparse: only what is written costs anything.
pub const OUT_BYTES: u64 = 4 << 30;

/// The serial number of the disk for artifacts.
const OUT: &str = "quiz-out";

/// File times are taken from a clock that ticks this slowly.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// The run's disks, as long as they are needed.
pub struct Scratch {
    /// For QEMU; without the root.
    pub disks: Vec<Disk>,
    /// The one for artifacts, if the kernel can use it.
    pub out: Option<Disk>,
    /// For the guest's `/dev`.
    pub links: Vec<DiskLink>,
    out_file: Option<File>,
    /// Keeps the others in existence.
    _unnamed: Vec<File>,
}

impl Scratch {
    /// Makes them, in `dir`.
    pub fn create(spec: &RunSpec, dir: &Path, cache: &Cache, ext4: bool, ctx: &Context) -> Result<Scratch, Fault> {
        let mut scratch =
            Scratch { disks: Vec::new(), out: None, links: Vec::new(), out_file: None, _unnamed: Vec::new() };
        if ext4 {
            let file = unnamed(dir)?;
            let image = blank::ext4(cache, OUT_BYTES, &ctx.report)?;
            blank::copy_sparse(&image.path(), &file)?;
            let disk = disk(OUT, path_of(&file), DiskFormat::Raw);
            scratch.disks.push(disk.clone());
            scratch.out = Some(disk);
            scratch.out_file = Some(file);
        }
        for (i, wanted) in spec.disks.iter().enumerate() {
            let serial = format!("disk{}", i + 1);
            let (file, format) = match wanted {
                DiskSpec::Blank { bytes } => {
                    let file = unnamed(dir)?;
                    file.set_len(*bytes)
                        .map_err(|e| Fault::new(format!("cannot make a disk of {bytes} bytes: {e}")))?;
                    let path = path_of(&file);
                    scratch._unnamed.push(file);
                    (path, DiskFormat::Raw)
                }
                DiskSpec::File(path) => (path.clone(), format_of(path)?),
            };
            scratch
                .links
                .push(DiskLink { serial: serial.clone(), links: vec![format!("/dev/disk/by-id/virtio-{serial}")] });
            scratch.disks.push(disk(&serial, file, format));
        }
        Ok(scratch)
    }

    /// The disk for artifacts, if the guest has written to it since `at`.
    pub fn written_since(&self, at: SystemTime) -> Option<&Disk> {
        let modified = self.out_file.as_ref()?.metadata().ok()?.modified().ok()?;
        self.out.as_ref().filter(|_| modified + CLOCK_TICK >= at)
    }
}

fn disk(serial: &str, file: PathBuf, format: DiskFormat) -> Disk {
    Disk { serial: serial.to_owned(), file, format, read_only: false }
}

fn unnamed(dir: &Path) -> Result<File, Fault> {
    tempfile::tempfile_in(dir)
        .map_err(|e| Fault::new(format!("cannot make a throw-away disk in {}: {e}", dir.display())))
}

/// By what name another process of ours opens a file that has none.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// The format of the user's image, by its first bytes: QEMU is never left to guess.
fn format_of(path: &Path) -> Result<DiskFormat, Fault> {
    let refused = |e: io::Error| Fault::new(format!("--disk: {e}")).hint("--disk takes a size (1G) or an image");
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(path).map_err(refused)?;
    let kind = file.metadata().map_err(refused)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Fault::new(format!("--disk: {} is neither a file nor a block device", path.display())));
    }
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == *b"QFI\xfb" => Ok(DiskFormat::Qcow2),
        Ok(()) => Ok(DiskFormat::Raw),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(DiskFormat::Raw),
        Err(e) => Err(refused(e)),
    }
}
