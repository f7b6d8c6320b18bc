//! Templates: saved VMs from which other VMs resume instead of booting.
//!
//! A booted snapshot is saved when the agent is up. A ready snapshot is saved when the guest has
//! everything that all runs of its kind share. [`Template::save`] keeps the memory and the disks of
//! a paused VM, after its supervisor has had QEMU write the devices' state. [`Template::clone_of`]
//! turns the description of a VM into one that resumes from the template. That VM has memory of its
//! own over the template's. Not for choosing a template for a run, nor for where templates are
//! kept: the caller provides a directory and a key.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::sparse;
use crate::spec::{RamFile, VmSpec};

const RAM: &str = "ram";
const STATE: &str = "state";
const CONSOLE: &str = "console.log";
/// How many bytes must be free beside the memory.
const SPARE: u64 = 256 << 20;

/// Why a template cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file system has too little free space.
    #[error("{} has {free_mib} MiB free, and a template of this VM may take {needed_mib}", .place.display())]
    Space {
        place: PathBuf,
        /// How much is free, in MiB.
        free_mib: u64,
        /// How much the template may take, in MiB.
        needed_mib: u64,
    },
    /// The memory is larger than the file size limit. Linux kills a process that writes more.
    #[error("files may have {limit_mib} MiB here (ulimit -f), and the memory of this VM is {memory_mib}")]
    FileSize {
        /// The largest size of a file, in MiB.
        limit_mib: u64,
        /// The VM's memory, in MiB.
        memory_mib: u32,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file of the template was changed after it was saved.
    #[error("{} was changed since it was saved", .0.display())]
    Altered(PathBuf),
}

/// What is known about a template: enough to check that it is complete and valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The host's boot in which it was made. In another boot the host may have another CPU, and the
    /// template may not have reached the disk.
    pub boot_id: String,
    /// SHA-256 of the devices' state.
    pub state_sha256: String,
    /// Size, inode and time of the last change of the memory.
    pub ram: FileMark,
    /// The time from QEMU's start until the snapshot, in milliseconds.
    pub took_ms: u64,
    /// Text that the caller stores with the template.
    pub about: String,
}

/// Identifies the state of a file, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
}

impl FileMark {
    /// The mark of a file in its current state.
    pub fn of(meta: &Metadata) -> FileMark {
        FileMark { bytes: meta.len(), inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// The parts of a paused VM that a template keeps.
pub struct PausedVm<'a> {
    /// The VM's memory.
    pub ram: &'a File,
    /// The disks that clones get copies of, with their serial numbers.
    pub disks: &'a [(&'a str, &'a File)],
    /// The VM's console log.
    pub console: &'a Path,
    /// The host's boot id.
    pub boot_id: &'a str,
    /// The time from QEMU's start until the snapshot.
    pub took: Duration,
    /// Text to store with the template.
    pub about: &'a str,
}

/// A template that was found to be complete.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
}

/// Checks that `dir` has room for a template of a VM with this much memory.
pub fn room(dir: &Path, memory_mib: u32) -> Result<(), TemplateError> {
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current
        && limit >> 20 < u64::from(memory_mib)
    {
        return Err(TemplateError::FileSize { limit_mib: limit >> 20, memory_mib });
    }
    let space = rustix::fs::statvfs(dir).map_err(io::Error::from)?;
    let (free, needed) = (space.f_bavail * space.f_frsize, (u64::from(memory_mib) << 20) + SPARE);
    if free < needed {
        let place = dir.to_owned();
        return Err(TemplateError::Space { place, free_mib: free >> 20, needed_mib: needed >> 20 });
    }
    Ok(())
}

impl Template {
    /// The path at which QEMU must write the devices' state for a template in `dir`.
    pub fn state_in(dir: &Path) -> PathBuf {
        dir.join(STATE)
    }

    /// Completes the template in `dir`, which already has the devices' state.
    pub fn save(dir: &Path, paused: &PausedVm) -> Result<Manifest, TemplateError> {
        let ram = dir.join(RAM);
        // Only the owner may read it: it has everything that was in the guest.
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&ram)?;
        sparse::copy(paused.ram, &file)?;
        for (serial, disk) in paused.disks {
            sparse::copy(disk, fs::File::create(disk_in(dir, serial))?.file())?;
        }
        fs::copy(paused.console, dir.join(CONSOLE))?;
        Ok(Manifest {
            boot_id: paused.boot_id.to_owned(),
            state_sha256: sum(&dir.join(STATE))?,
            ram: FileMark::of(&file.metadata()?),
            took_ms: u64::try_from(paused.took.as_millis()).unwrap_or(u64::MAX),
            about: paused.about.to_owned(),
        })
    }

    /// Opens the template in `dir`. It must still match `manifest`, and be of this boot of the
    /// host.
    pub fn open(dir: &Path, manifest: &Manifest, boot_id: &str) -> Result<Template, TemplateError> {
        let (ram, state) = (dir.join(RAM), dir.join(STATE));
        if manifest.boot_id != boot_id || FileMark::of(&fs::metadata(&ram)?) != manifest.ram {
            return Err(TemplateError::Altered(ram));
        }
        if sum(&state)? != manifest.state_sha256 {
            return Err(TemplateError::Altered(state));
        }
        Ok(Template { dir: dir.to_owned() })
    }

    /// The same VM as `vm`, resuming from this template. Its devices must be those that the
    /// template was made with. The files behind them belong to the clone.
    pub fn clone_of(&self, vm: &VmSpec) -> VmSpec {
        VmSpec {
            ram: Some(RamFile { path: self.dir.join(RAM), shared: false }),
            incoming: Some(self.dir.join(STATE)),
            ..vm.clone()
        }
    }

    /// The same VM as `vm`, resuming from this template. Copies the template's memory to the empty
    /// file `ram`, which QEMU shares, so a snapshot of the VM can be taken again.
    pub fn resume_on(&self, vm: &VmSpec, ram: &File) -> io::Result<VmSpec> {
        sparse::copy(fs::File::open(self.dir.join(RAM))?.file(), ram)?;
        Ok(VmSpec { incoming: Some(self.dir.join(STATE)), ..vm.clone() })
    }

    /// The path of the disk with this serial number, as it was when the VM was saved.
    pub fn disk(&self, serial: &str) -> PathBuf {
        disk_in(&self.dir, serial)
    }

    /// The path of the guest's console log until it was saved.
    pub fn console(&self) -> PathBuf {
        self.dir.join(CONSOLE)
    }
}

fn disk_in(dir: &Path, serial: &str) -> PathBuf {
    dir.join(format!("disk-{serial}"))
}

/// The SHA-256 of a file of some tens of kilobytes, in hexadecimal.
fn sum(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}
