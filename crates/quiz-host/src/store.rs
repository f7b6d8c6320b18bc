//! The cache on disk: shelves of entries, each of which is whole or absent. Not for what is in an
//! entry; that is for the module that makes it.
//!
//! A shelf is a directory. An entry `NAME` in it is a symbolic link to a directory below
//! `.data/NAME/`; making the link is the one step by which an entry appears or is replaced. So a
//! builder that dies leaves nothing visible, and whoever uses the old entry keeps it, under an
//! unchanged path, while a new one takes the name.
//!
//! Two kinds of locks: `.locks/NAME` is held by whoever builds or removes `NAME`;
//! `.data/NAME/…/.in-use` is held, shared, by every [`Entry`]. A directory below `.data/` that no
//! link points to is deleted by the next builder once neither lock is held.

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

/// Why the cache could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {doing}: {cause}{}", advice(cause))]
    Io {
        /// What was being done, to follow "cannot".
        doing: String,
        /// The system's answer, which names the path.
        cause: io::Error,
    },
    /// Not a name that an entry can have.
    #[error(
        "`{name}` cannot be the name of a cache entry: use up to 200 letters, digits and `.+-_~`, not starting with a dot"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The entry cannot be removed because somebody uses it.
    #[error("{} is in use{}: try again when that has ended", path.display(), users(pids))]
    InUse {
        /// The entry's path.
        path: PathBuf,
        /// Who uses it; empty if that is not known.
        pids: Vec<u32>,
    },
    /// No such entry.
    #[error("there is no {}", path.display())]
    Absent {
        /// The entry's path.
        path: PathBuf,
    },
    /// The entry's manifest cannot be understood, as when a newer quiz wrote it.
    #[error("cannot understand {}: {cause}; remove the entry and make it again", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
}

impl StoreError {
    /// For use with `map_err`: an error of the file system while doing `doing` (to follow
    /// "cannot").
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

/// The whole cache: a directory with one sub-directory per shelf. Making this value touches
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which need not exist yet.
    pub fn at(dir: PathBuf) -> Cache {
        Cache { dir }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log file of the work called `name`.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// One kind of entries: `kernels`, `roots`, `initramfs`, `downloads` or `templates`.
    pub fn shelf(&self, name: &'static str) -> Shelf {
        Shelf { dir: self.dir.join(name), volatile: false }
    }

    /// The same for entries that are of no use after the host's next boot, and say so themselves:
    /// they are not brought to the disk, which takes longer than making them.
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
    /// Where it is; may not exist yet.
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

    /// The entry called `name`, in use (so that nobody removes it) until the returned value is
    /// dropped.
    pub fn open(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        check(name)?;
        loop {
            let Some(dir) = self.target(name) else { return Ok(None) };
            let opening = || StoreError::io(format!("open the cache entry {}", self.dir.join(name).display()));
            let in_use = match fs::File::open(dir.join(IN_USE)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // Replaced or removed since we read the link, or a link that leads nowhere.
                    if self.target(name).as_ref() == Some(&dir) {
                        return Ok(None);
                    }
                    continue;
                }
                Err(e) => return Err(opening()(e)),
            };
            match in_use.file().try_lock_shared() {
                Ok(()) => {}
                // Somebody is about to delete it; a moment later the link will tell.
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

    /// Makes the entry `name` unless it exists (or in any case, if `replace`). For names that say
    /// all that an entry is made from; otherwise there is [`Shelf::build_unless`].
    ///
    /// `make` fills the directory that it is given and returns the manifest, which is kept as
    /// `manifest.json`. It runs under the exclusive lock of `name`; if another quiz holds that,
    /// `report` is told so and this one waits, and then takes what the other has made. When `make`
    /// fails, what it wrote is deleted and an entry that was there before stays. The directory
    /// keeps its path for as long as the entry is in use, but the cache as a whole may be moved
    /// later, so no absolute path should be written into it.
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

    /// Makes the entry `name` as [`Shelf::build`] does, unless there is one that `fits`. It is
    /// asked once before the lock of `name` is taken and once after, so that what another process
    /// has made meanwhile is seen, and nothing is made twice.
    ///
    /// # Errors
    /// If the file system fails, or `make` does.
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

    /// Tells an entry `name` that is made from now on from the one that there is now. For
    /// [`Shelf::build_unless`], where a new one is wanted: what another process makes while this
    /// one waits is new enough.
    pub fn newer(&self, name: &str) -> impl Fn(&Entry) -> bool + use<> {
        let old = self.target(name);
        move |entry| old.as_deref() != Some(entry.dir())
    }

    /// What [`Shelf::build`] does up to the making, for those who make the entry on the way of
    /// something else.
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

    /// Deletes the entry `name`. Waits for no one: an entry that is in use or being built is an
    /// error.
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

    /// Deletes all but the `kept` entries that were used last ([`Entry::touch`]); those in use stay
    /// too.
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

    /// Holds the right to build or remove `name`, waiting for another holder and saying so. For
    /// work on a shelf that is not the building of one entry; [`Shelf::build`] does this by itself.
    pub fn lock(&self, name: &str, what: &str, report: &dyn Report) -> Result<Lock, StoreError> {
        check(name)?;
        let (lock, _waited) = Lock::wait(&self.lock_path(name), what, report)
            .map_err(StoreError::io(format!("lock {}", self.dir.join(name).display())))?;
        Ok(lock)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.dir.join(LOCKS).join(name)
    }

    /// The directory that `name` stands for, whether or not it is there.
    fn target(&self, name: &str) -> Option<PathBuf> {
        let target = fs::read_link(self.dir.join(name)).ok()?;
        target.starts_with(DATA).then(|| self.dir.join(target))
    }

    /// Deletes what dead builders and replaced entries have left. `mine` is the name whose lock the
    /// caller holds. What cannot be deleted now is left for the next time, so nothing here is an
    /// error.
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
            // Fails if something is left in it, as it should.
            let _deleted = fs::remove_dir(named.path());
        }
    }
}

/// Proof that nobody uses the directory, for as long as the value lives.
struct Unused {
    _file: Option<Locked>,
}

fn unused(dir: &Path) -> io::Result<Option<Unused>> {
    let file = match fs::OpenOptions::new().read(true).write(true).open(dir.join(IN_USE)) {
        Ok(file) => file,
        // Never finished, so nobody can have it; or not a directory at all.
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

/// Brings all of a directory to the disk.
fn flush(dir: &Path, within: &fs::File) -> io::Result<()> {
    let items: Vec<_> = walkdir::WalkDir::new(dir).into_iter().take(65).collect::<Result<_, _>>()?;
    if items.len() > 64 {
        // For tens of thousands of small files one by one would take minutes.
        return Ok(rustix::fs::syncfs(within.file())?);
    }
    // The whole file system may have gigabytes of somebody else's to write.
    for item in items.iter().filter(|i| i.file_type().is_file() || i.file_type().is_dir()) {
        fs::File::open(item.path())?.sync_all()?;
    }
    Ok(())
}

/// Deletes a file or a directory, read-only sub-directories (as kernel builds leave them) included.
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

/// An entry for someone who would make it.
#[derive(Debug)]
pub enum Begun {
    /// It was made before.
    Made(Entry),
    /// It is to be made.
    Ours(Making),
}

/// An entry that is being made, under the lock of its name. It goes if nothing comes of it.
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

    /// The entry is whole.
    pub fn finish<T: Serialize>(mut self, manifest: &T) -> Result<Entry, StoreError> {
        self.shelf.publish(&self.name, &mut self.dir, manifest)
    }
}

/// A directory that is deleted again unless it is kept.
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

/// A whole entry, which nobody can remove until this value is dropped.
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

    /// Its directory. The path stays valid while this value lives, also when another process
    /// replaces the entry.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes that it was used now, for [`Shelf::keep_newest`].
    pub fn touch(&self) {
        // Whoever may read a cache but not write it must not fail here: the entry only seems older
        // than it is.
        if let Ok(dir) = fs::File::open(&self.dir) {
            dir.file().set_modified(SystemTime::now()).ok();
        }
    }

    /// Where the entry of this name is found, whichever it is at the time: for those who want a
    /// path that stays the same when the entry is replaced.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// What its maker wrote down about it.
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
