//! Which template a run starts from, and its making where there is none. Not for how a VM is saved and cloned
//! (`quiz_vm::template`).
//!
//! A template is never stale, because its name is a sum over everything that went into it: QEMU's command line and program, the
//! kernel, initramfs, root and layers by their contents, and what the agent was told to prepare.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use quiz_config::{RunSpec, Verbosity};
use quiz_host::held::path_of;
use quiz_host::{Begun, Cache, Entry, Making, Report, Shelf, digest};
use quiz_vm::proto::System;
use quiz_vm::supervise::{Point, Saver};
use quiz_vm::template::{self, Manifest, Still, Template};
use quiz_vm::{Disk, DiskFormat, RamFile, VmSpec, qemu, sparse};

use super::monitor::Asked;
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
    /// From a guest that is prepared.
    Template(Warm),
    /// From one whose agent is up.
    Bare(Warm),
    /// By a boot.
    Boot,
}

/// How a run starts, and what is saved of it on its way.
pub struct Plan<'a> {
    pub start: Start,
    pub camera: Option<Camera<'a>>,
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
#[derive(Clone, Copy)]
pub struct Ingredients<'a> {
    pub spec: &'a RunSpec,
    pub vm: &'a VmSpec,
    pub system: &'a System,
    pub scratch: &'a Scratch,
    /// Names what is behind each of the VM's files, by the file's path.
    pub contents: &'a dyn Fn(&Path) -> Option<String>,
    pub qemu: &'a Asked,
    pub boot_id: &'a str,
    /// The run's directory.
    pub evidence: &'a Path,
}

/// Makes templates of a run on its way.
pub struct Camera<'a> {
    of: Ingredients<'a>,
    bare: Option<Making>,
    prepared: Option<Making>,
    prepared_name: String,
    ram: File,
    began: Instant,
    /// The template that was made.
    pub made: Option<String>,
    /// Why one was not.
    pub failures: Vec<String>,
}

/// The shelf of templates.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.volatile_shelf("templates")
}

/// Why this run cannot start from a template, if it cannot.
fn blocked(of: &Ingredients<'_>) -> Option<String> {
    let vm = of.vm;
    if of.spec.cold {
        return Some("it was asked for".to_owned());
    }
    if !of.qemu.has.has_type(qemu::MEMORY_FILE) {
        return Some(format!("{} has no {}", of.qemu.program.display(), qemu::MEMORY_FILE));
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

/// The template that a run would start from, if there is one.
pub fn existing(of: &Ingredients<'_>, cache: &Cache, ctx: &Context) -> Result<Option<Warm>, Fault> {
    match blocked(of) {
        Some(_) => Ok(None),
        None => open(&shelf(cache), &name(of, Point::Prepared)?, of, ctx),
    }
}

/// How the run starts: from its template, or else on the way to one, from as far up as there is something to start from.
pub fn plan<'a>(of: Ingredients<'a>, cache: &Cache, ctx: &Context) -> Plan<'a> {
    let verbose = |text: &str| {
        if ctx.verbosity == Verbosity::Verbose {
            ctx.report.say(text);
        }
    };
    let planned = match blocked(&of) {
        Some(why) => Err(why),
        None => find_or_begin(of, cache, ctx).map_err(|fault| fault.message()),
    };
    match planned {
        Ok(plan) => {
            match &plan.start {
                Start::Template(warm) => verbose(&format!("starting from the template {}", warm.name)),
                Start::Bare(warm) => verbose(&format!("starting from the bare template {}", warm.name)),
                Start::Boot => verbose("booting: there is no template of this yet"),
            }
            plan
        }
        Err(why) => {
            verbose(&format!("booting: {why}"));
            Plan { start: Start::Boot, camera: None }
        }
    }
}

fn find_or_begin<'a>(of: Ingredients<'a>, cache: &Cache, ctx: &Context) -> Result<Plan<'a>, Fault> {
    let shelf = shelf(cache);
    let prepared_name = name(&of, Point::Prepared)?;
    if let Some(warm) = open(&shelf, &prepared_name, &of, ctx)? {
        return Ok(Plan { start: Start::Template(warm), camera: None });
    }
    prune(&shelf, of.boot_id);
    let prepared = match shelf.begin(&prepared_name, SAVING, false, &ctx.report)? {
        Begun::Made(entry) => {
            let start = Start::Template(Warm::of(entry, &shelf, of.boot_id)?);
            return Ok(Plan { start, camera: None });
        }
        Begun::Ours(making) => making,
    };
    template::room(prepared.dir(), of.vm.memory_mib)?;
    let bare_name = name(&of, Point::Bare)?;
    let (start, bare) = match open(&shelf, &bare_name, &of, ctx)? {
        Some(warm) => (Start::Bare(warm), None),
        None => match shelf.begin(&bare_name, SAVING, false, &ctx.report)? {
            Begun::Made(entry) => (Start::Bare(Warm::of(entry, &shelf, of.boot_id)?), None),
            Begun::Ours(making) => (Start::Boot, Some(making)),
        },
    };
    let ram = rustix::fs::memfd_create("quiz-ram", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| Fault::new(format!("the host gives no memory for a VM: {e}")))?;
    let camera = Camera {
        of,
        bare,
        prepared: Some(prepared),
        prepared_name,
        ram: ram.into(),
        began: Instant::now(),
        made: None,
        failures: Vec::new(),
    };
    Ok(Plan { start, camera: Some(camera) })
}

impl Camera<'_> {
    /// The run's VM on memory that can be kept; it goes on from `bare`, or boots.
    pub fn film(&mut self, bare: Option<&Template>) -> Result<VmSpec, Fault> {
        let vm = self.of.vm;
        self.ram.set_len(0)?;
        self.ram.set_len(u64::from(vm.memory_mib) << 20)?;
        self.began = Instant::now();
        let vm = VmSpec { ram: Some(RamFile { path: path_of(&self.ram), shared: true }), ..vm.clone() };
        Ok(match bare {
            Some(bare) => bare.go_on(&vm, &self.ram)?,
            None => vm,
        })
    }

    fn making(&mut self, point: Point) -> &mut Option<Making> {
        match point {
            Point::Bare => &mut self.bare,
            Point::Prepared => &mut self.prepared,
        }
    }

    fn save(&self, making: Making, point: Point) -> Result<(), Fault> {
        // Nobody has written to a disk before there was anything mounted.
        let disks: Vec<(&str, &File)> = match point {
            Point::Bare => Vec::new(),
            Point::Prepared => self.of.scratch.thrown_away().collect(),
        };
        let about = format!("{} {}", self.of.spec.profiles.join(","), self.of.vm.machine.name);
        let still = Still {
            ram: &self.ram,
            disks: &disks,
            console: &self.of.evidence.join("console.log"),
            boot_id: self.of.boot_id,
            took: self.began.elapsed(),
            about: about.trim(),
        };
        let manifest = Template::save(making.dir(), &still)?;
        making.finish(&manifest)?;
        Ok(())
    }
}

impl Saver for Camera<'_> {
    fn begin(&mut self, point: Point) -> Option<PathBuf> {
        self.making(point).as_ref().map(|making| Template::state_in(making.dir()))
    }

    fn saved(&mut self, point: Point) {
        let Some(making) = self.making(point).take() else { return };
        match self.save(making, point) {
            Ok(()) if point == Point::Prepared => self.made = Some(self.prepared_name.clone()),
            Ok(()) => {}
            Err(fault) => self.failures.push(fault.message()),
        }
    }

    fn not_saved(&mut self, point: Point, why: &str) {
        *self.making(point) = None;
        self.failures.push(why.to_owned());
    }
}

/// The template of this name, if there is one and it is whole.
fn open(shelf: &Shelf, name: &str, of: &Ingredients<'_>, ctx: &Context) -> Result<Option<Warm>, Fault> {
    let Some(entry) = shelf.open(name)? else { return Ok(None) };
    entry.touch();
    match Warm::of(entry, shelf, of.boot_id) {
        Ok(warm) => Ok(Some(warm)),
        Err(why) => {
            ctx.report.say(&format!("the template {name} is dropped: {}", why.message()));
            shelf.remove(name)?;
            Ok(None)
        }
    }
}

/// A name that is another one if anything is that goes into the template.
fn name(of: &Ingredients<'_>, depth: Point) -> Result<String, Fault> {
    let sum = digest::of_bytes(ingredients(of, depth)?.as_bytes())[..20].to_owned();
    Ok(if depth == Point::Bare { format!("bare-{sum}") } else { sum })
}

/// Everything that goes into a template, as one text.
fn ingredients(of: &Ingredients<'_>, depth: Point) -> Result<String, Fault> {
    let vm = of.vm;
    let content = |path: &Path| {
        (of.contents)(path).map(PathBuf::from).ok_or_else(|| Fault::new(format!("{} has no identity", path.display())))
    };
    let mut plain = vm.clone();
    plain.kernel = content(&vm.kernel)?;
    plain.initramfs = content(&vm.initramfs)?;
    for disk in &mut plain.disks {
        let read = disk.read_only && (depth == Point::Prepared || disk.serial == order::ROOT);
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
    writeln!(text, "{} {} {:?}", qemu.mtime(), of.boot_id, of.qemu.has.version).expect("a String grows");
    for word in qemu::argv(&plain)? {
        writeln!(text, "{}", word.display()).expect("a String grows");
    }
    if depth == Point::Prepared {
        writeln!(text, "{:?}", of.system).expect("a String grows");
    }
    Ok(text)
}

impl Warm {
    fn of(entry: Entry, shelf: &Shelf, boot_id: &str) -> Result<Warm, Fault> {
        let template = Template::open(entry.dir(), &entry.manifest()?, boot_id)?;
        Ok(Warm { template, name: entry.name().to_owned(), shelf: shelf.clone(), entry })
    }

    /// Gives the run's throw-away disks what was written to them before the VM was saved.
    pub fn fill(&self, scratch: &Scratch) -> Result<(), Fault> {
        for (serial, file) in scratch.thrown_away() {
            let saved = self.template.disk(serial);
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
