//! The cache on disk: shelves of entries, each of which is complete or absent. Not for the content
//! of an entry, which the module that makes it defines.
//!
//! A shelf is a directory. An entry `NAME` in it is a symbolic link to a directory below
//! `.data/NAME/`. An entry appears, or is replaced, only when the link is made. So a builder that
//! dies leaves nothing visible. A process that uses the old entry keeps it under an unchanged path,
//! even after a new entry has taken the name.
//!
//! There are two kinds of locks. A process that builds or removes `NAME` holds `.locks/NAME`. Every
//! [`Entry`] holds a shared lock on `.data/NAME/…/.in-use`. The next builder deletes a directory
//! below `.data/` that no link points to, once neither lock is held.

use crate::lock::{self, Lock, Locked};
use crate::report::Report;
use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const DATA: &str = ".data";
const LOCKS: &str = ".locks";
const IN_USE: &str = ".in-use";
const MANIFEST: &str = "manifest.json";

/// Why a cache operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file system operation failed.
    #[error("cannot {doing}: {cause}{}", advice(cause))]
    Io {
        /// What was being done, to follow "cannot".
        doing: String,
        /// The system's error, which names the path.
        cause: io::Error,
    },
    /// An entry cannot have this name.
    #[error(
        "`{name}` cannot be the name of a cache entry: use up to 200 letters, digits and `.+-_~`, not starting with a dot"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The entry cannot be removed because a process uses it.
    #[error("{} is in use{}: try again when that has ended", path.display(), users(pids))]
    InUse {
        /// The entry's path.
        path: PathBuf,
        /// The processes that use it; empty if unknown.
        pids: Vec<u32>,
    },
    /// No such entry.
    #[error("there is no {}", path.display())]
    Absent {
        /// The entry's path.
        path: PathBuf,
    },
    /// The entry's manifest cannot be parsed, for example because a newer quiz wrote it.
    #[error("cannot understand {}: {cause}; remove the entry and make it again", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
}

impl StoreError {
    /// For `map_err`: wraps a file system error. `doing` follows "cannot".
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> StoreError {
        let doing = doing.into();
        move |cause| StoreError::Io { doing, cause }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space on that file system, or put the cache on another one"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; the cache directory must be writable for you: fix its owner, or use another one"
        }
        _ => "",
    }
}

fn users(pids: &[u32]) -> String {
    match pids {
        [] => String::new(),
        [one] => format!(" by process {one}"),
        many => format!(" by processes {}", many.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// The whole cache: a directory with one subdirectory per shelf. Constructing it does not access
/// the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which need not exist yet.
    pub fn at(dir: PathBuf) -> Cache {
        Cache { dir }
    }

    /// The directory of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log file of the work called `name`.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// The shelf of one kind of entries: `kernels`, `roots`, `initramfs`, `downloads` or
    /// `templates`.
    pub fn shelf(&self, name: &'static str) -> Shelf {
        Shelf { dir: self.dir.join(name), volatile: false }
    }

    /// As [`Cache::shelf`], for entries that are valid only until the host's next boot, and that
    /// record this themselves. They are not flushed to the disk, which would take longer than
    /// making them.
    pub fn volatile_shelf(&self, name: &'static str) -> Shelf {
        Shelf { volatile: true, ..self.shelf(name) }
    }
}

/// All entries of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf {
    dir: PathBuf,
    volatile: bool,
}

impl Shelf {
    /// The directory of the shelf. It may not exist yet.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all entries, sorted.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let doing = || StoreError::io("list the cache");
        let mut names = Vec::new();
        let found = match fs::read_dir(&self.dir) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(e) => return Err(doing()(e)),
        };
        for item in found {
            let item = item.map_err(doing())?;
            if let Ok(name) = item.file_name().into_string()
                && valid(&name)
                && self.target(&name).is_some_and(|dir| dir.join(MANIFEST).exists())
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The entry `name`; `None` if there is none. No process can remove the entry until the
    /// returned value is dropped.
    pub fn open(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        check(name)?;
        loop {
            let Some(dir) = self.target(name) else { return Ok(None) };
            let opening = || StoreError::io(format!("open the cache entry {}", self.dir.join(name).display()));
            let in_use = match fs::File::open(dir.join(IN_USE)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // The entry was replaced or removed since the link was read, or the link is
                    // broken.
                    if self.target(name).as_ref() == Some(&dir) {
                        return Ok(None);
                    }
                    continue;
                }
                Err(e) => return Err(opening()(e)),
            };
            match in_use.file().try_lock_shared() {
                Ok(()) => {}
                // Another process is about to delete it; the link shows that shortly.
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    continue;
                }
                Err(TryLockError::Error(e)) => return Err(opening()(e)),
            }
            if self.target(name).as_ref() == Some(&dir) {
                return Ok(Some(Entry {
                    name: name.to_owned(),
                    link: self.dir.join(name),
                    dir,
                    _in_use: Locked::new(in_use),
                }));
            }
        }
    }

    /// Makes the entry `name` unless it exists, or always if `replace`. For entries whose name
    /// identifies all their inputs; otherwise use [`Shelf::build_unless`].
    ///
    /// `make` fills the directory that it is given and returns the manifest, which is stored as
    /// `manifest.json`. It runs under the exclusive lock of `name`. If another quiz holds the lock,
    /// this one reports that through `report` and waits. It then takes the entry that the other has
    /// made.
    ///
    /// If `make` fails, its directory is deleted and an existing entry stays. The directory keeps
    /// its path while the entry is in use. The cache as a whole may be moved later, so do not write
    /// absolute paths into the directory.
    ///
    /// `what` follows "waiting for quiz (pid N), which is …": "building kernel 6.12.30".
    pub fn build<T: Serialize, E: From<StoreError>>(
        &self,
        name: &str,
        what: &str,
        replace: bool,
        report: &dyn Report,
        make: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<Entry, E> {
        self.build_unless(name, what, &|_| !replace, report, make)
    }

    /// As [`Shelf::build`], unless an existing entry `fits`. Calls `fits` before it takes the lock
    /// of `name`, and again afterwards. So it uses an entry that another process has made in the
    /// meantime, and nothing is made twice.
    ///
    /// # Errors
    /// If a file system operation or `make` fails.
    pub fn build_unless<T: Serialize, E: From<StoreError>>(
        &self,
        name: &str,
        what: &str,
        fits: &dyn Fn(&Entry) -> bool,
        report: &dyn Report,
        make: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<Entry, E> {
        match self.begin_unless(name, what, fits, report)? {
            Begun::Made(entry) => Ok(entry),
            Begun::Ours(making) => {
                let manifest = make(making.dir())?;
                Ok(making.finish(&manifest)?)
            }
        }
    }

    /// Returns a predicate that is true for an entry `name` made from now on, and false for the
    /// current one. For [`Shelf::build_unless`], if a new entry is needed. An entry that another
    /// process makes while this one waits is new enough.
    pub fn newer(&self, name: &str) -> impl Fn(&Entry) -> bool + use<> {
        let old = self.target(name);
        move |entry| old.as_deref() != Some(entry.dir())
    }

    /// The first part of [`Shelf::build`], up to `make`. For callers that make the entry in the
    /// course of other work.
    pub fn begin(&self, name: &str, what: &str, replace: bool, report: &dyn Report) -> Result<Begun, StoreError> {
        self.begin_unless(name, what, &|_| !replace, report)
    }

    fn begin_unless(
        &self,
        name: &str,
        what: &str,
        fits: &dyn Fn(&Entry) -> bool,
        report: &dyn Report,
    ) -> Result<Begun, StoreError> {
        check(name)?;
        if let Some(entry) = self.open(name)?.filter(fits) {
            return Ok(Begun::Made(entry));
        }
        let lock = self.lock(name, what, report)?;
        if let Some(entry) = self.open(name)?.filter(fits) {
            return Ok(Begun::Made(entry));
        }
        self.sweep(Some(name));
        let making = || StoreError::io(format!("make the cache entry {}", self.dir.join(name).display()));
        let data = self.dir.join(DATA).join(name);
        fs::create_dir_all(&data).map_err(making())?;
        let dir = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(8)
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(&data)
            .map(Unfinished::new)
            .map_err(making())?;
        Ok(Begun::Ours(Making { shelf: self.clone(), name: name.to_owned(), dir, _lock: lock }))
    }

    fn publish<T: Serialize>(&self, name: &str, made: &mut Unfinished, manifest: &T) -> Result<Entry, StoreError> {
        let making = || StoreError::io(format!("finish the cache entry {}", self.dir.join(name).display()));
        let dir = made.path().to_owned();
        let path = dir.join(MANIFEST);
        let mut text =
            serde_json::to_vec_pretty(manifest).map_err(|cause| StoreError::Manifest { path: path.clone(), cause })?;
        text.push(b'\n');
        fs::write(&path, text).map_err(making())?;
        fs::write(dir.join(IN_USE), "").map_err(making())?;
        let in_use = fs::File::open(dir.join(IN_USE)).map_err(making())?;
        in_use.file().lock_shared().map_err(making())?;
        if !self.volatile {
            flush(&dir, &in_use).map_err(making())?;
        }
        let target = Path::new(DATA).join(name).join(dir.file_name().unwrap_or_default());
        let mut link = dir.clone().into_os_string();
        link.push(".link");
        symlink(&target, &link).map_err(making())?;
        let renamed = fs::rename(&link, self.dir.join(name));
        if let Err(e) = renamed {
            let _removed = fs::remove_file(&link);
            return Err(making()(e));
        }
        made.keep();
        if !self.volatile {
            fs::File::open(&self.dir).and_then(|d| d.sync_all()).map_err(making())?;
        }
        self.sweep(Some(name));
        Ok(Entry { name: name.to_owned(), link: self.dir.join(name), dir, _in_use: Locked::new(in_use) })
    }

    /// Deletes the entry `name`. Does not wait: it is an error if the entry is in use or being
    /// built.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        check(name)?;
        let path = self.dir.join(name);
        let doing = || StoreError::io(format!("remove {}", path.display()));
        let lock_path = self.lock_path(name);
        if self.target(name).is_none() {
            return Err(StoreError::Absent { path });
        }
        let Some(_lock) = Lock::attempt(&lock_path, &format!("removing {name}")).map_err(doing())? else {
            let pids = lock::holder(&lock_path).map(|h| h.pid).into_iter().collect();
            return Err(StoreError::InUse { path, pids });
        };
        let Some(dir) = self.target(name) else { return Err(StoreError::Absent { path }) };
        if let Some(_unused) = unused(&dir).map_err(doing())? {
            fs::remove_file(&path).map_err(doing())?;
            delete(&dir).map_err(doing())?;
            if let Some(named) = dir.parent() {
                let _deleted = fs::remove_dir(named);
            }
            return Ok(());
        }
        Err(StoreError::InUse { path, pids: lock::flock_pids(&dir.join(IN_USE)) })
    }

    /// Deletes all entries but the `kept` most recently used ones ([`Entry::touch`]). Entries in
    /// use also stay.
    pub fn keep_newest(&self, kept: usize) -> Result<(), StoreError> {
        let names = self.names()?;
        if names.len() <= kept {
            return Ok(());
        }
        let mut dated = Vec::new();
        for name in names {
            let Some(entry) = self.open(&name)? else { continue };
            let used = fs::metadata(entry.dir()).and_then(|m| m.modified());
            dated.push((used.unwrap_or(SystemTime::UNIX_EPOCH), name));
        }
        dated.sort();
        let excess = dated.len().saturating_sub(kept);
        for (_, name) in &dated[..excess] {
            match self.remove(name) {
                Ok(()) | Err(StoreError::InUse { .. } | StoreError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the lock to build or remove `name`. Reports if it has to wait for another holder. For
    /// work on a shelf that does not build one entry: [`Shelf::build`] takes the lock itself.
    pub fn lock(&self, name: &str, what: &str, report: &dyn Report) -> Result<Lock, StoreError> {
        check(name)?;
        let (lock, _waited) = Lock::wait(&self.lock_path(name), what, report)
            .map_err(StoreError::io(format!("lock {}", self.dir.join(name).display())))?;
        Ok(lock)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.dir.join(LOCKS).join(name)
    }

    /// The directory that the link `name` points to, whether or not it exists.
    fn target(&self, name: &str) -> Option<PathBuf> {
        let target = fs::read_link(self.dir.join(name)).ok()?;
        target.starts_with(DATA).then(|| self.dir.join(target))
    }

    /// Deletes directories that dead builders and replaced entries have left. `mine` is the name
    /// whose lock the caller holds. Errors are ignored, because the next sweep tries again.
    fn sweep(&self, mine: Option<&str>) {
        let Ok(names) = fs::read_dir(self.dir.join(DATA)) else { return };
        for named in names.flatten() {
            let Some(name) = named.file_name().to_str().map(str::to_owned).filter(|n| valid(n)) else { continue };
            let _lock = match mine == Some(&name) {
                true => None,
                false => match Lock::attempt(&self.lock_path(&name), &format!("cleaning up {name}")) {
                    Ok(Some(lock)) => Some(lock),
                    Ok(None) | Err(_) => continue,
                },
            };
            let current = self.target(&name);
            for item in fs::read_dir(named.path()).into_iter().flatten().flatten() {
                let dir = item.path();
                if current.as_ref() != Some(&dir)
                    && let Ok(Some(_unused)) = unused(&dir)
                {
                    let _deleted = delete(&dir);
                }
            }
            // Fails if the directory is not empty, which is intended.
            let _deleted = fs::remove_dir(named.path());
        }
    }
}

/// Proof that no process uses the directory while this value lives.
struct Unused {
    _file: Option<Locked>,
}

fn unused(dir: &Path) -> io::Result<Option<Unused>> {
    let file = match fs::OpenOptions::new().read(true).write(true).open(dir.join(IN_USE)) {
        Ok(file) => file,
        // The entry was never finished, so no process uses it; or it is not a directory.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Some(Unused { _file: None }));
        }
        Err(e) => return Err(e),
    };
    match file.file().try_lock() {
        Ok(()) => Ok(Some(Unused { _file: Some(Locked::new(file)) })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Flushes a directory with its content to the disk.
fn flush(dir: &Path, within: &fs::File) -> io::Result<()> {
    let items: Vec<_> = walkdir::WalkDir::new(dir).into_iter().take(65).collect::<Result<_, _>>()?;
    if items.len() > 64 {
        // Flushing tens of thousands of small files one by one would take minutes.
        return Ok(rustix::fs::syncfs(within.file())?);
    }
    // Flushing the whole file system could write gigabytes of other programs' data.
    for item in items.iter().filter(|i| i.file_type().is_file() || i.file_type().is_dir()) {
        fs::File::open(item.path())?.sync_all()?;
    }
    Ok(())
}

/// Deletes a file or a directory, including read-only subdirectories, which kernel builds leave.
fn delete(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    for item in walkdir::WalkDir::new(path).into_iter().flatten().filter(|i| i.file_type().is_dir()) {
        fs::set_permissions(item.path(), std::fs::Permissions::from_mode(0o700))?;
    }
    fs::remove_dir_all(path)
}

/// The result of [`Shelf::begin`].
#[derive(Debug)]
pub enum Begun {
    /// The entry exists.
    Made(Entry),
    /// The caller must make it.
    Ours(Making),
}

/// An entry that is being made, under the lock of its name. If it is dropped without
/// [`Making::finish`], its directory is deleted.
#[derive(Debug)]
pub struct Making {
    shelf: Shelf,
    name: String,
    dir: Unfinished,
    _lock: Lock,
}

impl Making {
    /// The directory to fill.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Publishes the complete entry.
    pub fn finish<T: Serialize>(mut self, manifest: &T) -> Result<Entry, StoreError> {
        self.shelf.publish(&self.name, &mut self.dir, manifest)
    }
}

/// A directory that is deleted when dropped, unless it is kept.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    kept: bool,
}

impl Unfinished {
    fn new(dir: tempfile::TempDir) -> Unfinished {
        Unfinished { path: dir.keep(), kept: false }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            let _deleted = delete(&self.path);
        }
    }
}

/// A complete entry. No process can remove it until this value is dropped.
#[derive(Debug)]
pub struct Entry {
    name: String,
    link: PathBuf,
    dir: PathBuf,
    _in_use: Locked,
}

impl Entry {
    /// Its name on the shelf.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entry's directory. The path stays valid while this value lives, even if another process
    /// replaces the entry.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets the time of the last use to now, for [`Shelf::keep_newest`].
    pub fn touch(&self) {
        // This must not fail for a user who can read the cache but not write it. The entry then
        // only seems older than it is.
        if let Ok(dir) = fs::File::open(&self.dir) {
            dir.file().set_modified(SystemTime::now()).ok();
        }
    }

    /// The path of the entry's link. It stays the same when the entry is replaced, and then leads
    /// to the new entry.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// The manifest that the entry's maker has stored.
    pub fn manifest<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        let path = self.dir.join(MANIFEST);
        let text = fs::read(&path).map_err(StoreError::io("read a cache entry's manifest"))?;
        serde_json::from_slice(&text).map_err(|cause| StoreError::Manifest { path, cause })
    }
}

fn valid(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_~".contains(c))
}

fn check(name: &str) -> Result<(), StoreError> {
    if valid(name) { Ok(()) } else { Err(StoreError::BadName { name: name.to_owned() }) }
}
