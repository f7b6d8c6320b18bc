//! Which template a run starts from, and its making where there is none. Not for how a VM is saved and cloned
//! (`quiz_vm::template`).
//!
//! A template is never stale, because its name is a sum over everything that went into it: QEMU's command line and program, the
//! kernel, initramfs, root and layers by their contents, and what the agent was told to prepare.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_config::{RunSpec, Verbosity};
use quiz_image::{Cache, Entry, Report, Shelf, digest};
use quiz_vm::proto::System;
use quiz_vm::template::{Manifest, Saving, Template, TemplateError};
use quiz_vm::{Disk, DiskFormat, Outcome, VmSpec, qemu, sparse};

use super::order;
use super::scratch::Scratch;
use crate::context::Context;
use crate::errors::Fault;

/// How many templates are kept, in all.
const KEPT: usize = 16;
/// How much of the disk they may take, in bytes.
const BYTES: u64 = 8 << 30;
/// How long one is kept that nobody uses.
const AGE: Duration = Duration::from_secs(7 * 86_400);
/// How many may be made before the next look at how many there are: a bare one, and one that goes on from it.
const MADE: usize = 2;
/// What whoever waits for one is told.
const SAVING: &str = "saving a VM to start from";

/// How a run starts.
pub enum Start {
    /// From a template.
    Warm(Warm),
    /// By a boot.
    Cold,
    /// Not at all: the guest died before it was ready, while a template was made, and would do so again.
    Over(Box<Outcome>),
}

/// A template in use.
pub struct Warm {
    /// It.
    pub template: Template,
    /// Its name among all.
    pub name: String,
    shelf: Shelf,
    entry: Entry,
}

/// Everything that a template is made of.
pub struct Making<'a> {
    pub spec: &'a RunSpec,
    pub vm: &'a VmSpec,
    pub system: &'a System,
    pub scratch: &'a Scratch,
    /// Names what is behind each of the VM's files, by the file's path.
    pub contents: &'a dyn Fn(&Path) -> Option<String>,
    pub boot_id: &'a str,
    /// The run's directory.
    pub evidence: &'a Path,
}

/// Why there is no template.
enum Stop {
    /// The guest died.
    Over(Box<Outcome>),
    /// Something else.
    Fault(Fault),
}

impl<E: Into<Fault>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Fault(error.into())
    }
}

/// The shelf of templates.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.volatile_shelf("templates")
}

/// Why this run cannot start from a template, if it cannot.
fn blocked(making: &Making<'_>) -> Option<String> {
    let vm = making.vm;
    if making.spec.cold {
        return Some("it was asked for".to_owned());
    }
    if let Some(word) = vm.extra.first() {
        return Some(format!("QEMU has an option of the user's or a profile's: {}", word.to_string_lossy()));
    }
    if vm.net.is_some() {
        return Some("the network's connections cannot be saved".to_owned());
    }
    if let Some(disk) = vm.disks.iter().find(|disk| disk.format != DiskFormat::Raw) {
        return Some(format!("the disk {} is not a raw one", disk.serial));
    }
    // A device of the host does not tell its size as a file does.
    let is_file = |disk: &&Disk| fs::metadata(&disk.file).is_ok_and(|meta| meta.is_file());
    if let Some(disk) = vm.disks.iter().find(|disk| !is_file(disk)) {
        return Some(format!("the disk {} is a device of the host", disk.serial));
    }
    None
}

/// The template that the run can start from; made first where there is none.
pub fn find(making: &Making<'_>, cache: &Cache, ctx: &Context) -> Start {
    let verbose = |text: &str| {
        if ctx.verbosity == Verbosity::Verbose {
            ctx.report.say(text);
        }
    };
    if let Some(why) = blocked(making) {
        verbose(&format!("booting: {why}"));
        return Start::Cold;
    }
    match open_or_make(making, cache, ctx) {
        Ok(warm) => {
            verbose(&format!("starting from the template {}", warm.name));
            Start::Warm(warm)
        }
        Err(Stop::Over(outcome)) => Start::Over(outcome),
        Err(Stop::Fault(fault)) => {
            verbose(&format!("booting: {}", fault.message()));
            Start::Cold
        }
    }
}

fn open_or_make(making: &Making<'_>, cache: &Cache, ctx: &Context) -> Result<Warm, Stop> {
    let shelf = shelf(cache);
    let name = name(making, Depth::Prepared)?;
    if let Some(warm) = open(&shelf, &name, making, ctx)? {
        return Ok(warm);
    }
    prune(&shelf, making.boot_id);
    let entry = shelf.build(&name, SAVING, false, &ctx.report, |dir| {
        let Some(bare) = bare(making, &shelf, ctx)? else { return save(making, None, Some(making.system), dir) };
        match save(making, Some(&bare.template), Some(making.system), dir) {
            Err(Stop::Fault(why)) => {
                bare.drop_it(&why.message(), ctx);
                save(making, None, Some(making.system), dir)
            }
            done => done,
        }
    })?;
    let template = Template::open(entry.dir(), &entry.manifest()?, making.boot_id)?;
    Ok(Warm { template, name, shelf, entry })
}

/// The bare template that others of this VM go on from, whatever its layers hold; made first where there is none. Without it they
/// boot, too.
fn bare(making: &Making<'_>, shelf: &Shelf, ctx: &Context) -> Result<Option<Warm>, Stop> {
    let name = name(making, Depth::Bare)?;
    if let Some(warm) = open(shelf, &name, making, ctx)? {
        return Ok(Some(warm));
    }
    let made = shelf.build(&name, SAVING, false, &ctx.report, |dir| save(making, None, None, dir)).and_then(|entry| {
        let template = Template::open(entry.dir(), &entry.manifest()?, making.boot_id)?;
        Ok(Warm { template, name, shelf: shelf.clone(), entry })
    });
    match made {
        Ok(warm) => Ok(Some(warm)),
        Err(Stop::Fault(_)) => Ok(None),
        Err(over) => Err(over),
    }
}

/// The template of this name, if there is one and it is whole.
fn open(shelf: &Shelf, name: &str, making: &Making<'_>, ctx: &Context) -> Result<Option<Warm>, Fault> {
    let Some(entry) = shelf.open(name)? else { return Ok(None) };
    let template = entry
        .manifest::<Manifest>()
        .map_err(Fault::from)
        .and_then(|manifest| Template::open(entry.dir(), &manifest, making.boot_id).map_err(Fault::from));
    match template {
        Ok(template) => {
            entry.touch();
            Ok(Some(Warm { template, name: name.to_owned(), shelf: shelf.clone(), entry }))
        }
        Err(why) => {
            ctx.report.say(&format!("the template {name} is dropped: {}", why.message()));
            drop(entry);
            shelf.remove(name)?;
            Ok(None)
        }
    }
}

/// Saves the VM in `dir`, with its guest as `system`.
fn save(making: &Making<'_>, from: Option<&Template>, system: Option<&System>, dir: &Path) -> Result<Manifest, Stop> {
    let vm = VmSpec { disks: disks(making, dir)?, ..making.vm.clone() };
    let about = format!("{} {}", making.spec.profiles.join(","), making.vm.machine.name);
    let saving = Saving {
        vm: &vm,
        from,
        system,
        limit: making.spec.boot_timeout.unwrap_or(Duration::from_secs(600)),
        dir,
        evidence: making.evidence,
        boot_id: making.boot_id,
        about: about.trim(),
    };
    Template::save(&saving).map_err(|error| match error {
        TemplateError::Died(outcome) => Stop::Over(outcome),
        other => Stop::Fault(other.into()),
    })
}

/// The disks of the VM that is saved: what is read-only is the run's; what is thrown away is as new as the run's; what is kept is not
/// touched, and an empty one of the same size stands in for it.
fn disks(making: &Making<'_>, dir: &Path) -> Result<Vec<Disk>, Fault> {
    let mut disks = making.vm.disks.clone();
    for disk in disks.iter_mut().filter(|disk| !disk.read_only) {
        let path = disk_file(dir, &disk.serial);
        let (file, _) = fs::File::create(&path)?.into_parts();
        if !making.scratch.write_new_to(&disk.serial, &file)? {
            file.set_len(fs::metadata(&disk.file)?.len())?;
        }
        disk.file = path;
    }
    Ok(disks)
}

fn disk_file(dir: &Path, serial: &str) -> PathBuf {
    dir.join(format!("disk-{serial}"))
}

/// How far a guest has come in a template.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Its agent is up. It knows its disks by their sizes, and has read none but its root.
    Bare,
    /// It is what all runs of one kind have in common.
    Prepared,
}

/// A name that is another one if anything is that goes into the template.
fn name(making: &Making<'_>, depth: Depth) -> Result<String, Fault> {
    let sum = digest::of_bytes(ingredients(making, depth)?.as_bytes())[..20].to_owned();
    Ok(if depth == Depth::Bare { format!("bare-{sum}") } else { sum })
}

/// Everything that goes into a template, as one text.
fn ingredients(making: &Making<'_>, depth: Depth) -> Result<String, Fault> {
    let vm = making.vm;
    let content = |path: &Path| {
        (making.contents)(path)
            .map(PathBuf::from)
            .ok_or_else(|| Fault::new(format!("{} has no identity", path.display())))
    };
    let mut plain = vm.clone();
    plain.kernel = content(&vm.kernel)?;
    plain.initramfs = content(&vm.initramfs)?;
    for disk in &mut plain.disks {
        let read = disk.read_only && (depth == Depth::Prepared || disk.serial == order::ROOT);
        disk.file = match read {
            true => content(&disk.file)?,
            false => format!("{} bytes", fs::metadata(&disk.file)?.len()).into(),
        };
    }
    for share in &mut plain.shares {
        share.host = "share".into();
    }
    let qemu = fs::metadata(&vm.qemu)?;
    let mut text = String::new();
    writeln!(text, "{} {} {} {}", vm.qemu.display(), qemu.ino(), qemu.len(), qemu.mtime_nsec())
        .expect("a String grows");
    writeln!(text, "{} {}", qemu.mtime(), making.boot_id).expect("a String grows");
    for word in qemu::argv(&plain)? {
        writeln!(text, "{}", word.display()).expect("a String grows");
    }
    if depth == Depth::Prepared {
        writeln!(text, "{:?}", making.system).expect("a String grows");
    }
    Ok(text)
}

impl Warm {
    /// Gives the run's throw-away disks what was written to them before the VM was saved.
    pub fn fill(&self, scratch: &Scratch) -> Result<(), Fault> {
        for (serial, file) in scratch.thrown_away() {
            let saved = disk_file(self.entry.dir(), serial);
            if fs::metadata(&saved)?.blocks() > 0 {
                file.set_len(0)?;
                sparse::copy(fs::File::open(&saved)?.file(), file)?;
            }
        }
        Ok(())
    }

    /// Drops it, because it did not come to life.
    pub fn drop_it(self, why: &str, ctx: &Context) {
        let Warm { name, shelf, entry, template: _ } = self;
        ctx.report.say(&format!("the template {name} is dropped, and the VM boots: {why}"));
        drop(entry);
        // In use by another run it stays until that ends; whoever finds it drops it then.
        shelf.remove(&name).ok();
    }
}

/// Removes what is too old, too much, or of another boot of the host. What cannot be removed now is tried again next time.
pub fn prune(shelf: &Shelf, boot_id: &str) {
    let mut live: Vec<(SystemTime, u64, String)> = Vec::new();
    for name in shelf.names().unwrap_or_default() {
        let Ok(Some(entry)) = shelf.open(&name) else { continue };
        let used = fs::metadata(entry.dir()).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let good = entry.manifest::<Manifest>().is_ok_and(|m| m.boot_id == boot_id);
        let old = used.elapsed().is_ok_and(|age| age > AGE);
        let bytes = size(entry.dir());
        drop(entry);
        match good && !old {
            true => live.push((used, bytes, name)),
            false => {
                shelf.remove(&name).ok();
            }
        }
    }
    live.sort_by(|a, b| b.cmp(a));
    let mut total = 0;
    for (rank, (_, bytes, name)) in live.iter().enumerate() {
        total += bytes;
        if rank + MADE >= KEPT || total > BYTES {
            shelf.remove(name).ok();
        }
    }
}

/// What a template really takes of the disk, in bytes.
pub fn size(dir: &Path) -> u64 {
    let Ok(files) = fs::read_dir(dir) else { return 0 };
    files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
