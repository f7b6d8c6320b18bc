//! Templates: VMs that were saved, to start others from instead of booting.
//!
//! A bare template was saved when its agent was up; a prepared one when the guest was what all runs
//! of a kind have in common. [`Template::save`] keeps the memory and the disks of a paused VM,
//! whose supervisor has had QEMU write the devices' state. [`Template::clone_of`] turns the
//! description of a VM into one that goes on from there, with memory of its own over the
//! template's. Not for which template a run may use, nor for where templates are kept: whoever
//! makes one gives it a directory and a key.

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
/// What must be free beside the memory, in bytes.
const SPARE: u64 = 256 << 20;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The host has no room for it.
    #[error("{} has {free_mib} MiB free, and a template of this VM may take {needed_mib}", .place.display())]
    Space {
        place: PathBuf,
        /// How much is free.
        free_mib: u64,
        /// How much it may take.
        needed_mib: u64,
    },
    /// A file of its size would be the death of whoever writes it.
    #[error("files may have {limit_mib} MiB here (ulimit -f), and the memory of this VM is {memory_mib}")]
    FileSize {
        /// The most that a file may have.
        limit_mib: u64,
        /// The VM's memory.
        memory_mib: u32,
    },
    /// Files cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it was when it was saved.
    #[error("{} was changed since it was saved", .0.display())]
    Altered(PathBuf),
}

/// What is known about a template: enough to see that it is whole and still good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The host's boot in which it was made: another one may have another CPU, and did not see it
    /// written to the disk.
    pub boot_id: String,
    /// SHA-256 of the devices' state.
    pub state_sha256: String,
    /// Size, inode and time of the last change of the memory.
    pub ram: FileMark,
    /// From QEMU's start until it was saved, in milliseconds.
    pub took_ms: u64,
    /// What the caller has to remember.
    pub about: String,
}

/// Tells a file from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
}

impl FileMark {
    /// The mark of a file as it is.
    pub fn of(meta: &Metadata) -> FileMark {
        FileMark { bytes: meta.len(), inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// What is kept of a VM that stands paused.
pub struct PausedVm<'a> {
    /// Its memory.
    pub ram: &'a File,
    /// Its disks that others get copies of, by their serial numbers.
    pub disks: &'a [(&'a str, &'a File)],
    /// What its console has said.
    pub console: &'a Path,
    /// The host's boot.
    pub boot_id: &'a str,
    /// How long it took to get there.
    pub took: Duration,
    /// What the caller has to remember.
    pub about: &'a str,
}

/// A template that was found whole.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
}

/// Whether there is room in `dir` for a template of a VM with so much memory.
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
    /// Where the devices' state of a template in `dir` is to be written.
    pub fn state_in(dir: &Path) -> PathBuf {
        dir.join(STATE)
    }

    /// Completes the template in `dir`, in which the devices' state is.
    pub fn save(dir: &Path, paused: &PausedVm) -> Result<Manifest, TemplateError> {
        let ram = dir.join(RAM);
        // Not for others: everything is in it that was in the guest.
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

    /// The template in `dir`, if it still is what `manifest` says, in this boot of the host.
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

    /// The same VM as `vm`, going on from here. Its devices must be those that the template was
    /// made with; what is behind them is the clone's own.
    pub fn clone_of(&self, vm: &VmSpec) -> VmSpec {
        VmSpec {
            ram: Some(RamFile { path: self.dir.join(RAM), shared: false }),
            incoming: Some(self.dir.join(STATE)),
            ..vm.clone()
        }
    }

    /// The same VM as `vm`, going on from here on memory that is a copy in the empty file `ram`,
    /// which QEMU shares. It can be saved again.
    pub fn resume_on(&self, vm: &VmSpec, ram: &File) -> io::Result<VmSpec> {
        sparse::copy(fs::File::open(self.dir.join(RAM))?.file(), ram)?;
        Ok(VmSpec { incoming: Some(self.dir.join(STATE)), ..vm.clone() })
    }

    /// The disk of this serial number as it was when the VM was saved.
    pub fn disk(&self, serial: &str) -> PathBuf {
        disk_in(&self.dir, serial)
    }

    /// What the guest's console said until it was saved.
    pub fn console(&self) -> PathBuf {
        self.dir.join(CONSOLE)
    }
}

fn disk_in(dir: &Path, serial: &str) -> PathBuf {
    dir.join(format!("disk-{serial}"))
}

/// Some tens of kilobytes.
fn sum(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}
