//! Chooses the start point of a run, and makes its template if there is none. Not for saving and
//! cloning a VM (`quiz_vm::template`).
//!
//! A template is never stale, because its name is a fingerprint of all its inputs:
//!
//! - QEMU's program and command line
//! - the contents of the kernel, the initramfs, the root and the layers
//! - what the agent prepares

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use quiz_config::Verbosity;
use quiz_host::held::path_of;
use quiz_host::{Begun, Cache, Entry, Making, Report, Shelf, digest};
use quiz_vm::supervise::{Point, SnapshotSink};
use quiz_vm::template::{self, Manifest, PausedVm, Template};
use quiz_vm::{Disk, DiskFormat, RamFile, VmSpec, qemu, sparse};

use crate::assemble::PreparedRun;
use crate::assemble::disks::Disks;
use crate::assemble::order;
use crate::context::Context;
use crate::fault::Fault;

/// How many templates the cache keeps.
const KEPT: usize = 16;
/// How many bytes of the disk templates may take.
const BYTES: u64 = 8 << 30;
/// How long the cache keeps a template that no run uses.
const AGE: Duration = Duration::from_secs(7 * 86_400);
/// How many templates a run can add before the next count: a booted snapshot, and a ready snapshot.
const MADE: usize = 2;
/// What a process is waiting for while another one makes a template.
const SAVING: &str = "saving a VM to start from";

/// The start point of a run.
pub enum StartPoint {
    /// A guest that is ready for a program.
    Ready(Snapshot),
    /// A guest whose agent has just started.
    Booted(Snapshot),
    /// No snapshot: the VM boots.
    Boot,
}

/// The start point of a run, and the snapshot writer that goes with it.
pub struct Plan {
    pub start: StartPoint,
    pub writer: Option<SnapshotWriter>,
}

/// A template in use.
pub struct Snapshot {
    /// The saved VM.
    pub template: Template,
    /// Its name in the cache.
    pub name: String,
    shelf: Shelf,
    entry: Entry,
}

/// Takes snapshots of a run before its program starts.
pub struct SnapshotWriter {
    vm: VmSpec,
    /// The run's disks by their serial numbers, on duplicated descriptors.
    disks: Vec<(String, File)>,
    console: PathBuf,
    boot_id: String,
    about: String,
    booted: Option<Making>,
    ready: Option<Making>,
    ready_name: String,
    ram: File,
    began: Instant,
    /// The name of the template of the ready guest, if quiz has made it.
    pub made: Option<String>,
    /// Why quiz did not make a template.
    pub failures: Vec<String>,
}

/// Returns the shelf of templates.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.volatile_shelf("templates")
}

/// Returns why this run cannot start from a template, if it cannot.
fn blocked(run: &PreparedRun) -> Option<String> {
    let vm = &run.vm;
    if run.spec.cold {
        return Some("it was asked for".to_owned());
    }
    if !run.qemu.has.has_type(qemu::MEMORY_FILE) {
        return Some(format!("{} has no {}", run.qemu.program.display(), qemu::MEMORY_FILE));
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
    // The metadata of a host device do not contain its size.
    let is_file = |disk: &&Disk| fs::metadata(&disk.file).is_ok_and(|meta| meta.is_file());
    if let Some(disk) = vm.disks.iter().find(|disk| !is_file(disk)) {
        return Some(format!("the disk {} is a device of the host", disk.serial));
    }
    None
}

/// Returns the template that the run would start from, if it exists.
pub fn existing(run: &PreparedRun, ctx: &Context) -> Result<Option<Snapshot>, Fault> {
    match blocked(run) {
        Some(_) => Ok(None),
        None => open(&shelf(&run.cache), &name(run, Point::Ready)?, run, ctx),
    }
}

/// Chooses the start point of the run: its template, or the nearest one that exists.
pub fn plan(run: &PreparedRun, ctx: &Context) -> Plan {
    let verbose = |text: &str| {
        if ctx.verbosity == Verbosity::Verbose {
            ctx.report.say(text);
        }
    };
    let planned = match blocked(run) {
        Some(why) => Err(why),
        None => find_or_begin(run, ctx).map_err(|fault| fault.message()),
    };
    match planned {
        Ok(plan) => {
            match &plan.start {
                StartPoint::Ready(snapshot) => verbose(&format!("starting from the template {}", snapshot.name)),
                StartPoint::Booted(snapshot) => verbose(&format!("starting from the bare template {}", snapshot.name)),
                StartPoint::Boot => verbose("booting: there is no template of this yet"),
            }
            plan
        }
        Err(why) => {
            verbose(&format!("booting: {why}"));
            Plan { start: StartPoint::Boot, writer: None }
        }
    }
}

fn find_or_begin(run: &PreparedRun, ctx: &Context) -> Result<Plan, Fault> {
    let shelf = shelf(&run.cache);
    let ready_name = name(run, Point::Ready)?;
    if let Some(snapshot) = open(&shelf, &ready_name, run, ctx)? {
        return Ok(Plan { start: StartPoint::Ready(snapshot), writer: None });
    }
    prune(&shelf, &run.boot_id);
    let ready = match shelf.begin(&ready_name, SAVING, false, &ctx.report)? {
        Begun::Made(entry) => {
            let start = StartPoint::Ready(Snapshot::of(entry, &shelf, &run.boot_id)?);
            return Ok(Plan { start, writer: None });
        }
        Begun::Ours(making) => making,
    };
    template::room(ready.dir(), run.vm.memory_mib)?;
    let booted_name = name(run, Point::Booted)?;
    let (start, booted) = match open(&shelf, &booted_name, run, ctx)? {
        Some(snapshot) => (StartPoint::Booted(snapshot), None),
        None => match shelf.begin(&booted_name, SAVING, false, &ctx.report)? {
            Begun::Made(entry) => (StartPoint::Booted(Snapshot::of(entry, &shelf, &run.boot_id)?), None),
            Begun::Ours(making) => (StartPoint::Boot, Some(making)),
        },
    };
    let writer = SnapshotWriter::new(run, booted, ready, ready_name)?;
    Ok(Plan { start, writer: Some(writer) })
}

impl SnapshotWriter {
    fn new(run: &PreparedRun, booted: Option<Making>, ready: Making, ready_name: String) -> Result<Self, Fault> {
        let ram = rustix::fs::memfd_create("quiz-ram", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| Fault::new(format!("the host gives no memory for a VM: {e}")))?;
        let disks = run.disks.thrown_away().map(|(serial, file)| Ok((serial.to_owned(), file.try_clone()?)));
        let about = format!("{} {}", run.spec.profiles.join(","), run.vm.machine.name);
        Ok(SnapshotWriter {
            vm: run.vm.clone(),
            disks: disks.collect::<std::io::Result<_>>()?,
            console: run.dir.path().join("console.log"),
            boot_id: run.boot_id.clone(),
            about: about.trim().to_owned(),
            booted,
            ready: Some(ready),
            ready_name,
            ram: File::from(ram),
            began: Instant::now(),
            made: None,
            failures: Vec::new(),
        })
    }
    /// Returns the run's VM on memory that quiz can save. The VM resumes from `booted`, or boots.
    pub fn begin(&mut self, booted: Option<&Template>) -> Result<VmSpec, Fault> {
        self.ram.set_len(0)?;
        self.ram.set_len(u64::from(self.vm.memory_mib) << 20)?;
        self.began = Instant::now();
        let vm = VmSpec { ram: Some(RamFile { path: path_of(&self.ram), shared: true }), ..self.vm.clone() };
        Ok(match booted {
            Some(booted) => booted.resume_on(&vm, &self.ram)?,
            None => vm,
        })
    }

    fn making(&mut self, point: Point) -> &mut Option<Making> {
        match point {
            Point::Booted => &mut self.booted,
            Point::Ready => &mut self.ready,
        }
    }

    fn save(&self, making: Making, point: Point) -> Result<(), Fault> {
        // A guest that has just booted has mounted nothing, so its disks are still new.
        let disks: Vec<(&str, &File)> = match point {
            Point::Booted => Vec::new(),
            Point::Ready => self.disks.iter().map(|(serial, file)| (serial.as_str(), file)).collect(),
        };
        let paused = PausedVm {
            ram: &self.ram,
            disks: &disks,
            console: &self.console,
            boot_id: &self.boot_id,
            took: self.began.elapsed(),
            about: &self.about,
        };
        let manifest = Template::save(making.dir(), &paused)?;
        making.finish(&manifest)?;
        Ok(())
    }
}

impl SnapshotSink for SnapshotWriter {
    fn state_file(&mut self, point: Point) -> Option<PathBuf> {
        self.making(point).as_ref().map(|making| Template::state_in(making.dir()))
    }

    fn saved(&mut self, point: Point) {
        let Some(making) = self.making(point).take() else { return };
        match self.save(making, point) {
            Ok(()) if point == Point::Ready => self.made = Some(self.ready_name.clone()),
            Ok(()) => {}
            Err(fault) => self.failures.push(fault.message()),
        }
    }

    fn not_saved(&mut self, point: Point, why: &str) {
        *self.making(point) = None;
        self.failures.push(why.to_owned());
    }
}

/// Opens the template `name`. None if it does not exist. Removes it if it is damaged.
fn open(shelf: &Shelf, name: &str, run: &PreparedRun, ctx: &Context) -> Result<Option<Snapshot>, Fault> {
    let Some(entry) = shelf.open(name)? else { return Ok(None) };
    entry.touch();
    match Snapshot::of(entry, shelf, &run.boot_id) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(why) => {
            ctx.report.say(&format!("the template {name} is dropped: {}", why.message()));
            shelf.remove(name)?;
            Ok(None)
        }
    }
}

/// Returns the template's name: a fingerprint of its inputs.
fn name(run: &PreparedRun, point: Point) -> Result<String, Fault> {
    let sum = digest::of_bytes(inputs(run, point)?.as_bytes())[..20].to_owned();
    Ok(if point == Point::Booted { format!("bare-{sum}") } else { sum })
}

/// Returns the inputs of a template, as one text.
fn inputs(run: &PreparedRun, point: Point) -> Result<String, Fault> {
    let vm = &run.vm;
    let content = |path: &Path| {
        let content = run.contents.get(path).map(PathBuf::from);
        content.ok_or_else(|| Fault::new(format!("{} has no identity", path.display())))
    };
    let mut plain = vm.clone();
    plain.kernel = content(&vm.kernel)?;
    plain.initramfs = content(&vm.initramfs)?;
    for disk in &mut plain.disks {
        let read = disk.read_only && (point == Point::Ready || disk.serial == order::ROOT);
        disk.file = match read {
            true => content(&disk.file)?,
            false => format!("{} bytes", fs::metadata(&disk.file)?.len()).into(),
        };
    }
    for share in &mut plain.shares {
        share.host = "share".into();
    }
    let qemu = fs::metadata(&vm.qemu)?;
    let (major, minor) = run.qemu.has.version.unwrap_or_default();
    let mut lines = vec![
        format!("{} {} {} {}", vm.qemu.display(), qemu.ino(), qemu.len(), qemu.mtime_nsec()),
        format!("{} {} {major}.{minor}", qemu.mtime(), run.boot_id),
    ];
    lines.extend(qemu::argv(&plain)?.iter().map(|argument| argument.display().to_string()));
    if point == Point::Ready {
        let system = serde_json::to_string(&run.system);
        lines.push(system.map_err(|e| Fault::new(format!("cannot write what the guest is prepared for: {e}")))?);
    }
    Ok(lines.join("\n"))
}

impl Snapshot {
    fn of(entry: Entry, shelf: &Shelf, boot_id: &str) -> Result<Snapshot, Fault> {
        let template = Template::open(entry.dir(), &entry.manifest()?, boot_id)?;
        Ok(Snapshot { template, name: entry.name().to_owned(), shelf: shelf.clone(), entry })
    }

    /// Copies to the run's throw-away disks what the guest wrote to them before the snapshot.
    pub fn fill(&self, run_disks: &Disks) -> Result<(), Fault> {
        for (serial, file) in run_disks.thrown_away() {
            let saved = self.template.disk(serial);
            if fs::metadata(&saved)?.blocks() > 0 {
                file.set_len(0)?;
                sparse::copy(fs::File::open(&saved)?.file(), file)?;
            }
        }
        Ok(())
    }

    /// Removes the template, because no VM resumes from it.
    pub fn discard(self, why: &str, ctx: &Context) {
        let Snapshot { name, shelf, entry, template: _ } = self;
        ctx.report.say(&format!("the template {name} is dropped, and the VM boots: {why}"));
        drop(entry);
        // If another run uses the template, it stays. The next run that finds it drops it.
        shelf.remove(&name).ok();
    }
}

/// Removes templates that are too old, too many, too large, or from another boot of the host. The
/// next call tries again what this one cannot remove.
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

/// Returns how many bytes of the disk a template takes.
pub fn size(dir: &Path) -> u64 {
    let Ok(files) = fs::read_dir(dir) else { return 0 };
    files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
