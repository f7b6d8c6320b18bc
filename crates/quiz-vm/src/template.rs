//! Templates: VMs that were saved, to start others from instead of booting.
//!
//! A bare template was saved when its agent was up; a prepared one when the guest was what all runs of a kind have in common. [`Template::save`]
//! boots a VM on a memory file, or goes on from a bare template, and keeps the state of the devices beside the memory. [`Template::clone_of`]
//! turns the description of a VM into one that goes on from there, with memory of its own over the template's. Not for which
//! template a run may use, nor for where templates are kept: whoever makes one gives it a directory and a key.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use quiz_proto::System;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::artifacts::Bounds;
use crate::sparse;
use crate::supervise::{Job, Limits, NoSignals, Run, Streams, supervise};
use crate::{Outcome, RamFile, Verdict, VmSpec};

const RAM: &str = "ram";
const STATE: &str = "state";
const CONSOLE: &str = "console.log";
/// What must be free beside the memory, in bytes.
const SPARE: u64 = 256 << 20;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The guest died, or took too long, on the way to where it can be saved: it would have done so without that.
    #[error("the guest did not come to where it can be saved")]
    Died(Box<Outcome>),
    /// It could not be saved.
    #[error("{0}")]
    NotSaved(String),
    /// The template that it was to go on from did not come to life: why.
    #[error("the bare template did not come to life: {0}")]
    NotResumed(String),
    /// The host has no room for it.
    #[error("{} has {free_mib} MiB free, and a template of this VM may take {needed_mib}", .place.display())]
    Space {
        /// Where.
        place: PathBuf,
        /// How much is free.
        free_mib: u64,
        /// How much it may take.
        needed_mib: u64,
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
    /// The host's boot in which it was made: another one may have another CPU, and did not see it written to the disk.
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

/// A template to be.
pub struct Saving<'a> {
    /// The VM.
    pub vm: &'a VmSpec,
    /// The bare template that it goes on from, with the same devices; it boots without one.
    pub from: Option<&'a Template>,
    /// What its guest is to be when it is saved; without it the template is a bare one.
    pub system: Option<&'a System>,
    /// How long that may take.
    pub limit: Duration,
    /// The template's directory.
    pub dir: &'a Path,
    /// Where that is kept which is told on the way, as that of a run.
    pub evidence: &'a Path,
    /// The host's boot.
    pub boot_id: &'a str,
    /// What the caller has to remember.
    pub about: &'a str,
}

/// A template that was found whole.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
}

impl Template {
    /// Brings a VM to where it is saved, and saves it.
    pub fn save(saving: &Saving) -> Result<Manifest, TemplateError> {
        let Saving { vm, from, system, limit, dir, evidence, boot_id, about } = *saving;
        let space = rustix::fs::statvfs(dir).map_err(io::Error::from)?;
        let (free, needed) = (space.f_bavail * space.f_frsize, (u64::from(vm.memory_mib) << 20) + SPARE);
        if free < needed {
            let place = dir.to_owned();
            return Err(TemplateError::Space { place, free_mib: free >> 20, needed_mib: needed >> 20 });
        }
        let ram = dir.join(RAM);
        // QEMU would make it too, with a mode that lets others read what is in the guest.
        let file = fs::File::create(&ram)?;
        fs::set_permissions(&ram, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        if let Some(from) = from {
            sparse::copy(fs::File::open(from.dir.join(RAM))?.file(), file.file())?;
        }
        let saved = VmSpec {
            ram: Some(RamFile { path: ram.clone(), shared: true }),
            incoming: from.map(|from| from.dir.join(STATE)),
            ..vm.clone()
        };
        let console = from.map(Template::console);
        let outcome = supervise(Run {
            vm: &saved,
            job: Job::Save { system: system.cloned().map(Box::new), state: dir.join(STATE) },
            limits: Limits { boot: limit, program: None, hang: None, artifacts: Bounds { bytes: 0, entries: 0 } },
            console_before: console.as_deref(),
            dir: evidence,
            streams: Streams { input: None, output: Box::new(io::sink()), errors: Box::new(io::sink()) },
            signals: &mut NoSignals::new()?,
            show: &mut |_| {},
        });
        if let Some(why) = outcome.not_resumed {
            return Err(TemplateError::NotResumed(why));
        }
        match &outcome.verdict {
            Verdict::Exited { code: 0 } => {}
            Verdict::Fault { message } => return Err(TemplateError::NotSaved(message.clone())),
            _ => return Err(TemplateError::Died(Box::new(outcome))),
        }
        fs::copy(evidence.join(CONSOLE), dir.join(CONSOLE))?;
        Ok(Manifest {
            boot_id: boot_id.to_owned(),
            state_sha256: sum(&dir.join(STATE))?,
            ram: FileMark::of(&fs::metadata(&ram)?),
            took_ms: u64::try_from(outcome.total.as_millis()).unwrap_or(u64::MAX),
            about: about.to_owned(),
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

    /// The same VM as `vm`, going on from here. Its devices must be those that the template was made with; what is behind them is
    /// the clone's own.
    pub fn clone_of(&self, vm: &VmSpec) -> VmSpec {
        VmSpec {
            ram: Some(RamFile { path: self.dir.join(RAM), shared: false }),
            incoming: Some(self.dir.join(STATE)),
            ..vm.clone()
        }
    }

    /// What the guest's console said until it was saved.
    pub fn console(&self) -> PathBuf {
        self.dir.join(CONSOLE)
    }
}

/// Some tens of kilobytes.
fn sum(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}
