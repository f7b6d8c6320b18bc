//! Updates the install tree of a kernel from the last compiled state of its build. Not for
//! compiling.
//!
//! quiz learns once which files are installed, and from which product each is made (see `learn`).
//! After that, the products' sizes, times and inode numbers show what has changed. quiz copies and
//! strips only that.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_host::command::{CommandError, Run};
use quiz_host::{Environment, Report};
use quiz_kernel::kernel::Kernel;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::builds::{self, Build, BuildsError};
use crate::checkout::Checkout;
use crate::elf::{self, ModuleInfo};
use crate::fingerprint::Fingerprint;
use crate::generation::{Generations, TREE};
use crate::index;
use crate::learn::{self, Item, LearnError, Manifest, Module, What};
use crate::record;

/// Why the install tree could not be updated.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// There is no build for the kernel.
    #[error(transparent)]
    Builds(#[from] BuildsError),
    /// The installed files of the build could not be determined.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// A program could not be run, or failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A product is missing, or is being written now.
    #[error("cannot install {}: {why}; if make is still running, let it finish, else run it again", path.display())]
    Product {
        /// The product.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read or written.
    #[error("cannot bring the install tree up to date: {0}")]
    Io(#[from] io::Error),
}

/// An install tree that is up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The build from which it was made.
    pub build: PathBuf,
    /// A tree with `lib/modules/<release>`: the modules, and an index of them and of the kernel's
    /// modules. It never changes; a later tree has another path.
    pub modules: PathBuf,
    /// A tree with tools and libraries, which never changes either.
    pub tools: PathBuf,
    /// A tree with the test suite and other scripts (`share/zfs`), which never changes either. It
    /// has most of the bytes, and is renewed least often.
    pub suite: PathBuf,
    /// The files of modules, unordered.
    pub files: Vec<PathBuf>,
    /// How many modules were new or changed.
    pub modules_changed: usize,
    /// How many other files were new or changed.
    pub tools_changed: usize,
}

/// The inputs of a generation of tools.
#[derive(Debug, Serialize, Deserialize)]
struct ToolsStamp {
    /// The identity of the list of items.
    manifest: String,
    /// The fingerprints of the items' products, in the same order; `None` for links.
    sources: Vec<Option<Fingerprint>>,
}

/// The inputs of a generation of modules.
#[derive(Debug, Serialize, Deserialize)]
struct ModulesStamp {
    kernel: String,
    modules: Vec<(Module, Fingerprint)>,
    index: String,
}

const STAMP: &str = "stamp.json";
/// The number changes with the rules of `learn`, so that results of older rules are learned again.
const MANIFEST: &str = "manifest-2.json";

/// Updates the install tree for `kernel` from its build: of quiz's own and one in the checkout, the
/// one compiled last.
///
/// Two quiz processes at once are safe: the second waits. A killed process leaves the tree
/// unchanged. `environment` is the environment of `make install`.
pub fn stage(
    checkout: &Checkout,
    kernel: &Kernel,
    environment: &Environment,
    report: &dyn Report,
) -> Result<Staged, StageError> {
    let release = &kernel.manifest.release;
    let build = builds::choose(checkout, &kernel.manifest)?;
    checkout.make_state_dir("install")?;
    let dir = checkout.install_dir(release);
    let generations = Generations::lock(&dir, report)?;
    let mut stage = Stage { kernel, dir: &dir, generations: &generations, environment, report };
    let (mut manifest, mut id) = stage.manifest(&build, false)?;
    let (tools, suite) = match stage.files(&manifest, &id) {
        // A test may have been deleted without a change to the makefiles; then it is no longer
        // installed.
        Err(StageError::Product { path, .. }) if !path.exists() => {
            (manifest, id) = stage.manifest(&build, true)?;
            stage.files(&manifest, &id)
        }
        other => other,
    }?;
    let modules = stage.modules(&manifest)?;
    for (kind, current) in [("tools", &tools), ("suite", &suite), ("modules", &modules)] {
        if current.changed > 0 {
            generations.sweep(kind)?;
        }
    }
    for generation in [&tools.dir, &suite.dir, &modules.dir] {
        generations.hand_out(generation)?;
    }
    let extra = modules.dir.join(TREE).join("lib/modules").join(release).join("extra");
    Ok(Staged {
        build: build.dir,
        modules: modules.dir.join(TREE),
        tools: tools.dir.join(TREE),
        suite: suite.dir.join(TREE),
        files: manifest.modules.iter().map(|module| extra.join(&module.file)).collect(),
        modules_changed: modules.changed,
        tools_changed: tools.changed + suite.changed,
    })
}

/// A generation that is up to date.
struct Current {
    dir: PathBuf,
    changed: usize,
}

struct Stage<'a> {
    kernel: &'a Kernel,
    dir: &'a Path,
    generations: &'a Generations,
    environment: &'a Environment,
    report: &'a dyn Report,
}

impl Stage<'_> {
    /// The program that strips programs of the kernel's architecture.
    fn strip(&self) -> String {
        let arch = quiz_arch::find(&self.kernel.manifest.arch).filter(|arch| *arch != quiz_arch::host());
        format!("{}strip", arch.map_or("", |arch| arch.cross))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// The manifest of `build`, and a name for its list of tools. It is learned again if necessary,
    /// or if `anew`.
    fn manifest(&mut self, build: &Build, anew: bool) -> Result<(Manifest, String), StageError> {
        let path = self.dir.join(MANIFEST);
        let known: Option<(String, Manifest)> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some((id, mut manifest)) = known.filter(|(_, known)| !anew && known.build == build.dir) {
            let (is_current, refreshed) = manifest.check()?;
            if is_current {
                if refreshed {
                    record::write_whole(&path, &serde_json::to_vec(&(&id, &manifest)).map_err(io::Error::from)?)?;
                }
                return Ok((manifest, id));
            }
        }
        let scratch = self.generations.begin()?;
        let log = self.log("install");
        match fs::remove_file(&log) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let manifest =
            learn::learn(&build.dir, scratch.path(), &self.dir.join("kept"), &log, self.environment, self.report)?;
        let list = serde_json::to_vec(&manifest.tools).map_err(io::Error::from)?;
        let id: String = Sha256::digest(&list).iter().map(|byte| format!("{byte:02x}")).collect();
        record::write_whole(&path, &serde_json::to_vec(&(&id, &manifest)).map_err(io::Error::from)?)?;
        Ok((manifest, id))
    }

    /// Updates the trees of tools and of the suite.
    fn files(&self, manifest: &Manifest, id: &str) -> Result<(Current, Current), StageError> {
        let (suite, tools): (Vec<Item>, Vec<Item>) =
            manifest.tools.iter().cloned().partition(|item| is_of_suite(Path::new(&item.path)));
        Ok((self.tree("tools", &tools, manifest, id)?, self.tree("suite", &suite, manifest, id)?))
    }

    /// Updates a tree of `items`, which are a part of the manifest's.
    fn tree(&self, kind: &str, items: &[Item], manifest: &Manifest, id: &str) -> Result<Current, StageError> {
        let sources = |items: &[Item]| -> Result<Vec<Option<Fingerprint>>, StageError> {
            let one = |item: &Item| match &item.what {
                What::File { source, .. } => fingerprint(source).map(Some),
                What::Link { .. } => Ok(None),
            };
            items.iter().map(one).collect()
        };
        let now = sources(items)?;
        let old = self.generations.current(kind).and_then(|dir| {
            let stamp: ToolsStamp = read_json(&dir.join(STAMP))?;
            Some((dir, stamp))
        });
        if let Some((dir, stamp)) = &old
            && stamp.manifest == id
            && stamp.sources == now
        {
            return Ok(Current { dir: dir.clone(), changed: 0 });
        }
        let before: std::collections::HashMap<Item, Fingerprint> = old
            .as_ref()
            .and_then(|(dir, stamp)| Some((read_json::<Vec<Item>>(&dir.join(MANIFEST))?, stamp)))
            .map(|(items, stamp)| {
                items.into_iter().zip(&stamp.sources).filter_map(|(item, source)| Some((item, (*source)?))).collect()
            })
            .unwrap_or_default();
        let new = self.generations.begin()?;
        let (tree, made) = (new.path().join(TREE), new.path().join("made"));
        let (scratch, log) = (new.path().join("scratch"), self.log("strip"));
        let strip = self.strip();
        for dir in [&tree, &made, &scratch] {
            fs::create_dir(dir)?;
        }
        let is_same = |number: usize| old.is_some() && before.get(&items[number]).copied() == now[number];
        let is_file = |number: &usize| matches!(items[*number].what, What::File { .. });
        let changed: Vec<usize> = (0..items.len()).filter(is_file).filter(|&number| !is_same(number)).collect();
        let place = |number: usize| made.join(number.to_string());
        let put = |number: usize, at: &Path| {
            let item = &items[number];
            let What::File { source, mode, elf } = &item.what else { return fingerprint(&item.path) };
            let product = Product {
                source,
                elf: *elf,
                build: &manifest.build,
                strip: &strip,
                scratch: &scratch,
                number,
                log: &log,
            };
            product.put(at, *mode)
        };
        let fingerprints = in_parallel(&changed, |&number| put(number, &place(number)))?;
        let mut sources = now.clone();
        for (number, fingerprint) in changed.iter().zip(fingerprints) {
            sources[*number] = Some(fingerprint);
        }
        let stamp = ToolsStamp { manifest: id.to_owned(), sources };
        if let Some((dir, old)) = &old
            && old.manifest == id
            && changed.iter().all(|&number| same_file(&place(number), &dir.join(TREE).join(&items[number].path)))
        {
            // The product was only linked again, as make does with tests when a library has
            // changed.
            record::write_whole(&dir.join(STAMP), &serde_json::to_vec(&stamp).map_err(io::Error::from)?)?;
            return Ok(Current { dir: dir.clone(), changed: 0 });
        }
        for (number, item) in items.iter().enumerate() {
            let at = tree.join(&item.path);
            fs::create_dir_all(at.parent().unwrap_or(&tree))?;
            match (&item.what, &old) {
                (What::Link { target }, _) => symlink(target, at)?,
                (What::File { .. }, Some((dir, _))) if is_same(number) => {
                    // The old file may have been deleted.
                    if fs::hard_link(dir.join(TREE).join(&item.path), &at).is_err() {
                        put(number, &at)?;
                    }
                }
                (What::File { .. }, _) => fs::rename(place(number), &at)?,
            }
        }
        fs::remove_dir_all(&scratch)?;
        fs::remove_dir_all(&made)?;
        write_json(&new.path().join(MANIFEST), &items)?;
        write_json(&new.path().join(STAMP), &stamp)?;
        // A list that only lost items is a change, too.
        let count = changed.len().max(1);
        Ok(Current { dir: self.generations.publish(kind, new)?, changed: count })
    }

    fn modules(&self, manifest: &Manifest) -> Result<Current, StageError> {
        let release = &self.kernel.manifest.release;
        let identity = self.kernel.identity();
        let old = self.generations.current("modules").and_then(|dir| {
            let stamp: ModulesStamp = read_json(&dir.join(STAMP))?;
            Some((dir, stamp))
        });
        let mut now = Vec::new();
        for module in &manifest.modules {
            now.push((module.clone(), fingerprint(&module.source)?));
        }
        if let Some((dir, stamp)) = &old
            && stamp.kernel == identity
            && stamp.modules == now
        {
            return Ok(Current { dir: dir.clone(), changed: 0 });
        }
        let new = self.generations.begin()?;
        let inner = Path::new("lib/modules").join(release);
        let place = new.path().join(TREE).join(&inner);
        let extra = place.join("extra");
        fs::create_dir_all(&extra)?;
        let scratch = new.path().join("scratch");
        fs::create_dir(&scratch)?;
        let (log, strip) = (self.log("strip"), self.strip());
        let mut changed = Vec::new();
        for (number, (module, source)) in now.iter().enumerate() {
            let same = old.as_ref().filter(|(_, stamp)| stamp.modules.contains(&(module.clone(), *source)));
            let linked = same.is_some_and(|(dir, _)| {
                fs::hard_link(dir.join(TREE).join(&inner).join("extra").join(&module.file), extra.join(&module.file))
                    .is_ok()
            });
            if !linked {
                changed.push(number);
            }
        }
        let made = in_parallel(&changed, |&number| {
            let module = &now[number].0;
            let product = Product {
                source: &module.source,
                elf: true,
                build: &manifest.build,
                strip: &strip,
                scratch: &scratch,
                number,
                log: &log,
            };
            product.put(&extra.join(&module.file), 0o644)
        })?;
        for (number, fingerprint) in changed.iter().zip(made) {
            now[*number].1 = fingerprint;
        }
        let infos = self.infos(manifest, &extra, release)?;
        let key = index::key(self.kernel, &infos);
        let same_index = old.as_ref().filter(|(_, stamp)| stamp.index == key);
        let linked = same_index.is_some_and(|(dir, _)| link_index(&dir.join(TREE).join(&inner), &place).is_ok());
        if !linked {
            index::write(self.kernel, &place, &scratch, &self.log("depmod"))?;
        }
        fs::remove_dir_all(&scratch)?;
        write_json(&new.path().join(STAMP), &ModulesStamp { kernel: identity, modules: now, index: key })?;
        let count = changed.len().max(1);
        Ok(Current { dir: self.generations.publish("modules", new)?, changed: count })
    }

    /// The module information of the staged modules. Fails if one is for another kernel.
    fn infos(&self, manifest: &Manifest, extra: &Path, release: &str) -> Result<Vec<(String, ModuleInfo)>, StageError> {
        let mut infos = Vec::new();
        for module in &manifest.modules {
            let info = ModuleInfo::read(&extra.join(&module.file))?;
            if info.release() != Some(release) {
                let why = format!("it is for kernel {}, not {release}", info.release().unwrap_or("?"));
                return Err(StageError::Product { path: module.source.clone(), why });
            }
            infos.push((module.file.clone(), info));
        }
        Ok(infos)
    }
}

/// Whether a path in the guest belongs to the test suite or to the scripts beside it.
fn is_of_suite(path: &Path) -> bool {
    path.components().zip(path.components().skip(1)).any(|(a, b)| a.as_os_str() == "share" && b.as_os_str() == "zfs")
}

/// Whether two files have the same mode and contents.
fn same_file(one: &Path, other: &Path) -> bool {
    let mode = |path: &Path| fs::metadata(path).map(|meta| meta.mode()).ok();
    mode(one) == mode(other) && matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// Hard-links the index files of an older tree.
fn link_index(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::hard_link(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn fingerprint(source: &Path) -> Result<Fingerprint, StageError> {
    Fingerprint::of(source)?.ok_or_else(|| StageError::Product {
        path: source.to_owned(),
        why: "the build has no such file (any more)".to_owned(),
    })
}

/// A product to copy into a tree.
struct Product<'a> {
    source: &'a Path,
    elf: bool,
    build: &'a Path,
    strip: &'a str,
    scratch: &'a Path,
    number: usize,
    log: &'a Path,
}

impl Product<'_> {
    /// Copies the product to `place` without debug information, and returns its fingerprint. If it
    /// is written to meanwhile, it is copied again.
    fn put(&self, place: &Path, mode: u32) -> Result<Fingerprint, StageError> {
        let mut last = None;
        for _ in 0..5 {
            let before = fingerprint(self.source)?;
            let put = if self.elf {
                self.put_elf(place)
            } else {
                fs::copy(self.source, place).map(drop).map_err(StageError::from)
            };
            if fingerprint(self.source)? == before {
                put?;
                fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
                return Ok(before);
            }
            last = put.err();
        }
        let why = last.map_or_else(|| "it changes all the time".to_owned(), |error| error.to_string());
        Err(StageError::Product { path: self.source.to_owned(), why })
    }

    fn put_elf(&self, place: &Path) -> Result<(), StageError> {
        let stripped = self.scratch.join(self.number.to_string());
        let mut command = Command::new(self.strip);
        command.args(["--strip-debug", "-o"]).arg(&stripped).arg(self.source);
        Run { command, doing: "strip OpenZFS's debug information", log: self.log }.run(|_| {})?;
        let mut bytes = fs::read(&stripped)?;
        fs::remove_file(&stripped)?;
        let build = self.build.to_string_lossy();
        let leads_home = |linkage: elf::Linkage| linkage.paths.iter().any(|path| path.contains(&*build));
        if elf::linkage(&bytes).is_some_and(leads_home) {
            elf::remove_paths(&mut bytes);
        }
        match fs::remove_file(place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        fs::write(place, bytes)?;
        Ok(())
    }
}

/// Calls `work` with each of `items`, in as many threads as there are processors or as can be
/// started. The results are in order.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, StageError> + Sync,
) -> Result<Vec<R>, StageError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<R, StageError>)>> = Mutex::new(Vec::new());
    let worker = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(number)
        {
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((number, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // If a thread cannot be started, the existing ones do its work.
            if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(value)?)
}
