//! Unpacks an archive from a guest into one directory, and nowhere else. Not for packing.
//!
//! The author of the archive may be broken or hostile. Everything is created through the
//! directory's handle, step by step, and never through a link. So no name and no link leads out of
//! the directory, even if other processes change it at the same time. Anything but a regular file,
//! a directory or a link that stays inside is refused by name, and unpacking continues. The length
//! of names and headers is checked before they are stored.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::visible::visible;

/// Limits for an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The total size of all files, in bytes.
    pub bytes: u64,
    /// The number of entries.
    pub entries: u64,
}

impl Bounds {
    /// No limits but the host's free space.
    pub const NONE: Bounds = Bounds { bytes: u64::MAX, entries: u64::MAX };
}

/// Which entries are unpacked, and how.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub bounds: Bounds,
    /// The names of the top-level entries to unpack, with all that is below them; `None` for
    /// everything.
    pub only: Option<&'a BTreeSet<OsString>>,
    /// Whether modes (less the umask) and times are taken from the archive. Otherwise the user can
    /// read and write all files, and their time is now.
    pub faithful: bool,
}

/// The result of unpacking.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// The number of files and links that were created.
    pub files: u64,
    /// The total size of the files, in bytes.
    pub bytes: u64,
    /// The first refused entries, and why.
    pub refused: Vec<String>,
    /// The number of all refused entries.
    pub refusals: u64,
    /// The first entry that the host could not write, and why.
    pub failed: Option<String>,
}

/// How many refused entries are kept by name. The rest is only counted.
const REFUSALS: usize = 20;
/// How many characters of such a name are kept.
const SHOWN: usize = 300;
/// The maximum length of a name with all its directories, in bytes (`PATH_MAX`).
const NAME: u64 = 4096;
/// The maximum length of an extended header of a POSIX archive, in bytes.
const EXTENSIONS: u64 = 64 << 10;

/// Unpacks `archive` into `dir` and records the result in `done`. After an error, the entries
/// before it are unpacked.
///
/// # Errors
/// If the rest of the archive cannot be read.
pub fn unpack(archive: impl Read, dir: &Dir, rules: &Rules, done: &mut Unpacked) -> io::Result<()> {
    let mut unpacker = Unpacker { top: dir, rules, done, open: Vec::new() };
    let mut archive = tar::Archive::new(archive);
    let mut said = Said::default();
    for (count, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry?;
        if count as u64 >= rules.bounds.entries {
            unpacker.refuse("everything", &format!("after the first {} entries", rules.bounds.entries));
            break;
        }
        if said.read(&mut entry)? {
            continue;
        }
        let Said { name, link } = std::mem::take(&mut said);
        let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
        let shown = PathBuf::from(OsStr::from_bytes(&name));
        match unpacker.entry(&mut entry, &name, link.as_deref()) {
            Ok(()) => {}
            Err(Problem::Refused(why)) => unpacker.refuse(&visible(&shown.to_string_lossy()), &why),
            Err(Problem::Failed(e)) => unpacker.fail(&shown, &e),
        }
    }
    unpacker.finish_dirs_outside(None);
    Ok(())
}

/// The extended headers, which describe the entry that follows them.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Said {
    /// Reads `entry` if it is an extended header. Returns whether it is one.
    fn read(&mut self, entry: &mut tar::Entry<impl Read>) -> io::Result<bool> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.name = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => {
                let bytes = bounded(entry, EXTENSIONS)?;
                for extension in tar::PaxExtensions::new(&bytes) {
                    let extension = extension?;
                    match extension.key_bytes() {
                        b"path" => self.name = Some(named(extension.value_bytes())?),
                        b"linkpath" => self.link = Some(named(extension.value_bytes())?),
                        b"size" => return Err(bad("a file of 8 GiB or more in the form of POSIX")),
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => drop(bounded(entry, EXTENSIONS)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A name in the GNU format, which ends with a zero byte.
fn text(entry: &mut tar::Entry<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = bounded(entry, NAME + 1)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    named(&bytes)
}

fn named(bytes: &[u8]) -> io::Result<Vec<u8>> {
    if bytes.len() as u64 > NAME { Err(bad("a name that is longer than 4096 bytes")) } else { Ok(bytes.to_vec()) }
}

fn bounded(entry: &mut tar::Entry<impl Read>, bound: u64) -> io::Result<Vec<u8>> {
    if entry.size() > bound {
        return Err(bad("a name or a header that is too long"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive has {what}"))
}

/// Why an entry was not unpacked.
enum Problem {
    /// It is not allowed.
    Refused(String),
    /// The host could not create it.
    Failed(io::Error),
}

impl From<io::Error> for Problem {
    fn from(e: io::Error) -> Problem {
        match Errno::from_io_error(&e) {
            Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                Problem::Refused("its parent is not a directory".to_owned())
            }
            Some(Errno::EXIST) => Problem::Refused("it comes a second time".to_owned()),
            // Names that the guest has chosen can also cause these errors.
            Some(Errno::NOENT | Errno::ISDIR | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => {
                Problem::Refused(e.to_string())
            }
            // The archive is at fault, not the host.
            None => Problem::Refused(e.to_string()),
            Some(_) => Problem::Failed(e),
        }
    }
}

impl From<Errno> for Problem {
    fn from(e: Errno) -> Problem {
        Problem::from(io::Error::from(e))
    }
}

struct Unpacker<'a> {
    top: &'a Dir,
    rules: &'a Rules<'a>,
    done: &'a mut Unpacked,
    /// The directories that contain the last entry, outermost first. Their modes and times are set
    /// when unpacking leaves them.
    open: Vec<(PathBuf, u32, SystemTime)>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<impl Read>, name: &[u8], link: Option<&[u8]>) -> Result<(), Problem> {
        let name = self.allowed(Path::new(OsStr::from_bytes(name)))?;
        self.finish_dirs_outside(Some(&name));
        let (parent, last) = self.parent(&name)?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime().unwrap_or_default());
        match entry.header().entry_type() {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, &last, Mode::from_raw_mode(0o777)) {
                    Err(Errno::EXIST) => drop(open_dir(&parent, &last)?),
                    made => made?,
                }
                if self.rules.faithful {
                    self.open.push((name, mode, time));
                }
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => {
                let left = self.rules.bounds.bytes.saturating_sub(self.done.bytes);
                if entry.size() > left {
                    let bound = self.rules.bounds.bytes;
                    return Err(Problem::Refused(format!("{} bytes are over the bound of {bound}", entry.size())));
                }
                let mode = if self.rules.faithful { mode } else { mode | 0o600 };
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, &last, flags, Mode::from_raw_mode(mode))?;
                let mut file = std::fs::File::from(file);
                match io::copy(entry, &mut file) {
                    Ok(bytes) => self.done.bytes += bytes,
                    Err(e) => {
                        // A part of a file would look like the whole file.
                        rustix::fs::unlinkat(&parent, &last, AtFlags::empty()).ok();
                        return Err(e.into());
                    }
                }
                if self.rules.faithful {
                    file.set_modified(time).map_err(Problem::Failed)?;
                }
                self.done.files += 1;
                Ok(())
            }
            EntryType::Symlink => {
                let target = link.map(OsStr::from_bytes).filter(|target| stays_inside(&name, Path::new(target)));
                let target = target.ok_or_else(|| Problem::Refused("it is a link that leads out".to_owned()))?;
                rustix::fs::symlinkat(target, &parent, &last)?;
                self.done.files += 1;
                Ok(())
            }
            EntryType::Link => {
                let target = Path::new(OsStr::from_bytes(link.unwrap_or_default()));
                let target = self.allowed(target)?;
                let (from, from_last) = self.existing_parent(&target)?;
                // A symbolic link would lead elsewhere from another directory.
                let kind = rustix::fs::statat(&from, &from_last, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                if rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::RegularFile {
                    return Err(Problem::Refused("it is a second name of something that is no file".to_owned()));
                }
                rustix::fs::linkat(&from, &from_last, &parent, &last, AtFlags::empty())?;
                self.done.files += 1;
                Ok(())
            }
            _ => Err(Problem::Refused("it is no file, directory or link".to_owned())),
        }
    }

    /// The name without `.` components. Refuses absolute names, names with `..`, and names that
    /// were not asked for.
    fn allowed(&self, name: &Path) -> Result<PathBuf, Problem> {
        let mut clean = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::CurDir => {}
                _ => return Err(Problem::Refused("the name leaves the directory".to_owned())),
            }
        }
        let Some(Component::Normal(first)) = clean.components().next() else {
            return Err(Problem::Refused("it is the directory itself".to_owned()));
        };
        match self.rules.only {
            Some(only) if !only.contains(first) => Err(Problem::Refused("it was not asked for".to_owned())),
            _ => Ok(clean),
        }
    }

    /// The parent directory of `name`, and the last component. Creates directories that are missing
    /// in the archive.
    fn parent(&self, name: &Path) -> Result<(OwnedFd, OsString), Problem> {
        let last = name.file_name().unwrap_or_default().to_owned();
        let parent = name.parent().unwrap_or(Path::new(""));
        match open_below(self.top, parent) {
            Err(Errno::NOENT) => {}
            opened => return Ok((opened?, last)),
        }
        let mut dir = open_below(self.top, Path::new(""))?;
        for step in parent {
            match rustix::fs::mkdirat(&dir, step, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            dir = open_dir(&dir, step)?;
        }
        Ok((dir, last))
    }

    fn existing_parent(&self, name: &Path) -> Result<(OwnedFd, OsString), Problem> {
        let last = name.file_name().unwrap_or_default().to_owned();
        Ok((open_below(self.top, name.parent().unwrap_or(Path::new("")))?, last))
    }

    /// Sets the modes and times of those open directories that do not contain `name`, because they
    /// are complete.
    fn finish_dirs_outside(&mut self, name: Option<&Path>) {
        while let Some((dir, mode, time)) =
            self.open.pop_if(|(dir, ..)| name.is_none_or(|name| !name.starts_with(&*dir) || name == dir))
        {
            if let Err(e) = finish_dir(self.top, &dir, mode, time) {
                self.fail(&dir, &e);
            }
        }
    }

    fn fail(&mut self, name: &Path, why: &io::Error) {
        self.done.failed.get_or_insert_with(|| format!("{}: {why}", visible(&name.to_string_lossy())));
    }

    fn refuse(&mut self, name: &str, why: &str) {
        self.done.refusals += 1;
        if self.done.refused.len() < REFUSALS {
            let short = name.char_indices().nth(SHOWN).map(|(end, _)| format!("{}…", &name[..end]));
            self.done.refused.push(format!("{}: {why}", short.as_deref().unwrap_or(name)));
        }
    }
}

/// Sets the time and mode of a complete directory. The mode has no bits that the umask had removed
/// when it was created.
fn finish_dir(top: &Dir, dir: &Path, mode: u32, time: SystemTime) -> io::Result<()> {
    let file = std::fs::File::from(open_below(top, dir)?);
    let given = file.metadata()?.permissions().mode();
    file.set_modified(time)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode & given & 0o777))
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

fn open_dir(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
}

/// Opens the directory `path` below `top`, following no link.
fn open_below(top: &Dir, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(top, path, DIRECTORY, Mode::empty(), resolve) {
        // Before Linux 5.6, or if a container's seccomp filter does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut dir = rustix::fs::openat(top, ".", DIRECTORY, Mode::empty())?;
            for step in path.components().filter(|step| *step != Component::CurDir) {
                dir = open_dir(&dir, step.as_os_str())?;
            }
            Ok(dir)
        }
        opened => opened,
    }
}

/// Whether a link at `path` to `target` stays inside the directory, even if its steps lead through
/// other links. It may go up only at its start, from where the link really is, and then only down.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let mut up = 0;
    let mut down = false;
    target.components().all(|component| match component {
        Component::CurDir => true,
        Component::Normal(_) => {
            down = true;
            true
        }
        Component::ParentDir => {
            up += 1;
            !down && up <= depth
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
