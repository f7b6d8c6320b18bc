//! Unpacks the archive that the guest sends into the run's `artifacts/`, and nowhere else.
//!
//! The archive comes from a guest that may be broken or hostile. It is unpacked through a directory handle that no path
//! and no link can leave, within bounds of size and number; whatever is not a plain file, a directory, or a link
//! that stays inside is refused by name, and the rest goes on.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use fs_err as fs;
use tar::EntryType;

use crate::ArtifactsRecord;

/// How much may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Names of refused entries that are kept; the rest is only counted.
const REFUSALS: usize = 20;

/// An unpacking under way.
pub struct Unpacking {
    sender: Sender<Vec<u8>>,
    thread: JoinHandle<ArtifactsRecord>,
}

impl Unpacking {
    /// Unpacks into `dir`, which is made when something comes. `taken` hears how many bytes are done with.
    ///
    /// # Errors
    /// If the host has no thread for it.
    pub fn start(dir: PathBuf, bounds: Bounds, taken: impl FnMut(usize) + Send + 'static) -> io::Result<Unpacking> {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new().spawn(move || {
            let mut chunks = Chunks { receiver, current: Vec::new(), at: 0, taken };
            let record = unpack(&mut chunks, &dir, bounds);
            // The guest is not to wait for us even when the archive was given up.
            io::copy(&mut chunks, &mut io::sink()).ok();
            record
        })?;
        Ok(Unpacking { sender, thread })
    }

    /// Bytes of the archive.
    pub fn push(&self, bytes: Vec<u8>) {
        // The thread reads to the end whatever happens.
        self.sender.send(bytes).ok();
    }

    /// Nothing more will come.
    pub fn finish(self) -> ArtifactsRecord {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| ArtifactsRecord {
            failed: Some("quiz failed while it read the archive".to_owned()),
            ..ArtifactsRecord::default()
        })
    }
}

struct Chunks<F> {
    receiver: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    taken: F,
}

impl<F: FnMut(usize)> Read for Chunks<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            (self.taken)(self.current.len());
            self.at = 0;
            self.current = self.receiver.recv().unwrap_or_default();
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Unpacks one archive; an error ends it and is among the refusals.
fn unpack(archive: &mut impl Read, dir: &Path, bounds: Bounds) -> ArtifactsRecord {
    let mut record = ArtifactsRecord::default();
    // An empty archive is no archive: do not leave an empty directory behind.
    let mut first = [0];
    if !matches!(archive.read(&mut first), Ok(1)) {
        return record;
    }
    let whole = first.as_slice().chain(archive);
    let root = match fs::create_dir_all(dir).and_then(|()| Dir::open_ambient_dir(dir, ambient_authority())) {
        Ok(root) => root,
        Err(e) => {
            record.failed = Some(e.to_string());
            return record;
        }
    };
    if let Err(e) = unpack_entries(whole, &root, bounds, &mut record) {
        reject(&mut record, "the rest of the archive", &e);
    }
    record
}

fn unpack_entries(archive: impl Read, root: &Dir, bounds: Bounds, record: &mut ArtifactsRecord) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        if count as u64 >= bounds.entries {
            refuse(record, &format!("everything after the first {} entries", bounds.entries));
            return Ok(());
        }
        let path = entry.path()?.into_owned();
        let Some(path) = inside(&path) else {
            refuse(record, &format!("{}: the name leaves the directory", path.display()));
            continue;
        };
        let left = bounds.bytes.saturating_sub(record.bytes);
        let done = match entry.header().entry_type() {
            EntryType::Directory => root.create_dir_all(&path),
            EntryType::Regular | EntryType::Continuous if entry.size() > left => {
                Err(io::Error::other(format!("{} bytes are over the bound of {}", entry.size(), bounds.bytes)))
            }
            EntryType::Regular | EntryType::Continuous => {
                let mode = entry.header().mode().unwrap_or(0o644) & 0o777 | 0o600;
                make_parent(root, &path)
                    .and_then(|()| root.open_with(&path, OpenOptions::new().write(true).create_new(true).mode(mode)))
                    .and_then(|mut file| io::copy(&mut entry, &mut file))
                    .inspect_err(|e| {
                        if is_hosts(e) {
                            // Half a file is worse than none.
                            root.remove_file(&path).ok();
                        }
                    })
                    .map(|bytes| {
                        record.files += 1;
                        record.bytes += bytes;
                    })
            }
            EntryType::Symlink => match entry.link_name()? {
                Some(target) if stays_inside(&path, &target) => {
                    make_parent(root, &path).and_then(|()| root.symlink(&*target, &path)).map(|()| record.files += 1)
                }
                _ => Err(io::Error::other("a link that leads out of the directory")),
            },
            other => Err(io::Error::other(format!("an entry of the kind {other:?}"))),
        };
        if let Err(e) = done {
            reject(record, &path.display().to_string(), &e);
        }
    }
    Ok(())
}

fn make_parent(root: &Dir, path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => root.create_dir_all(parent),
        _ => Ok(()),
    }
}

fn refuse(record: &mut ArtifactsRecord, what: &str) {
    match record.refused.len() {
        n if n < REFUSALS => record.refused.push(what.to_owned()),
        n if n == REFUSALS => record.refused.push("and more".to_owned()),
        _ => {}
    }
}

/// Notes that something of the archive is not there: by the host's fault, or because of what the guest has sent.
fn reject(record: &mut ArtifactsRecord, what: &str, why: &io::Error) {
    if is_hosts(why) {
        record.failed.get_or_insert_with(|| format!("{what}: {why}"));
    } else {
        refuse(record, &format!("{what}: {why}"));
    }
}

/// Whether an error is the host's: it has no room, or may not or cannot write. The others come of the names that the guest has chosen.
fn is_hosts(error: &io::Error) -> bool {
    let of_names = [
        libc::EEXIST,
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::ELOOP,
        libc::ENAMETOOLONG,
        libc::EINVAL,
        libc::EILSEQ,
    ];
    error.raw_os_error().is_some_and(|number| !of_names.contains(&number))
}

/// The path without `.`; `None` when it is absolute, empty or has `..`.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

/// Whether a link at `path` to `target` stays below the directory at every step.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    target.components().all(|component| match component {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir => {
            let above = depth > 0;
            depth = depth.saturating_sub(1);
            above
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { bytes: 1000, entries: 50 };

    /// An archive with this raw name, whatever the tar crate thinks of it.
    fn entry(archive: &mut Vec<u8>, name: &[u8], kind: EntryType, link: &[u8], content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        let old = header.as_gnu_mut().unwrap();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o6755);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }

    fn unpacked(archive: &[u8]) -> (tempfile::TempDir, ArtifactsRecord) {
        let dir = tempfile::tempdir().unwrap();
        let record = unpack(&mut { archive }, &dir.path().join("run/artifacts"), BOUNDS);
        (dir, record)
    }

    #[test]
    fn files_directories_and_inner_links_arrive() {
        let mut archive = Vec::new();
        entry(&mut archive, b"d/", EntryType::Directory, b"", b"");
        entry(&mut archive, b"d/f", EntryType::Regular, b"", b"text");
        entry(&mut archive, b"d/l", EntryType::Symlink, b"../d/f", b"");
        let (dir, record) = unpacked(&archive);
        let out = dir.path().join("run/artifacts");
        assert_eq!(fs::read(out.join("d/l")).unwrap(), b"text");
        assert_eq!((record.files, record.bytes, record.refused.len()), (2, 4, 0));
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(out.join("d/f")).unwrap().mode() & 0o7000, 0, "no set-uid bits from a guest");
    }

    #[test]
    fn nothing_lands_outside() {
        let mut archive = Vec::new();
        entry(&mut archive, b"../up", EntryType::Regular, b"", b"x");
        entry(&mut archive, b"/abs", EntryType::Regular, b"", b"x");
        entry(&mut archive, b"a/../../up", EntryType::Regular, b"", b"x");
        entry(&mut archive, b"etc", EntryType::Symlink, b"/etc", b"");
        entry(&mut archive, b"out", EntryType::Symlink, b"a/../..", b"");
        entry(&mut archive, b"hard", EntryType::Link, b"/etc/passwd", b"");
        entry(&mut archive, b"fifo", EntryType::Fifo, b"", b"");
        entry(&mut archive, b"dev", EntryType::Block, b"", b"");
        entry(&mut archive, b"good", EntryType::Regular, b"", b"x");
        let (dir, record) = unpacked(&archive);
        assert_eq!(record.refused.len(), 8, "{:?}", record.refused);
        assert_eq!(record.files, 1);
        let names = |at: &Path| fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(dir.path()), ["run"]);
        assert_eq!(names(&dir.path().join("run/artifacts")), ["good"]);
    }

    #[test]
    fn a_link_cannot_be_written_through_nor_a_file_replaced() {
        let mut archive = Vec::new();
        entry(&mut archive, b"a", EntryType::Regular, b"", b"first");
        entry(&mut archive, b"l", EntryType::Symlink, b"a", b"");
        entry(&mut archive, b"l", EntryType::Regular, b"", b"second");
        let (dir, record) = unpacked(&archive);
        assert_eq!(fs::read(dir.path().join("run/artifacts/a")).unwrap(), b"first");
        assert_eq!(record.refused.len(), 1);
    }

    #[test]
    fn size_and_number_are_bounded() {
        let mut archive = Vec::new();
        entry(&mut archive, b"big", EntryType::Regular, b"", &[0; 900]);
        entry(&mut archive, b"more", EntryType::Regular, b"", &[0; 900]);
        for i in 0..100 {
            entry(&mut archive, format!("n{i}").as_bytes(), EntryType::Regular, b"", b"");
        }
        let (_dir, record) = unpacked(&archive);
        assert_eq!(record.bytes, 900);
        assert!(record.files <= BOUNDS.entries);
        assert_eq!(record.refused.len(), 2, "{:?}", record.refused);
    }

    #[test]
    fn what_the_host_cannot_write_is_a_failure_and_not_refused() {
        let mut archive = Vec::new();
        entry(&mut archive, b"a", EntryType::Regular, b"", b"x");
        // No directory, and one in which nobody can make a file.
        for (dir, words) in [("/proc/version/artifacts", "artifacts"), ("/sys/kernel", "a: ")] {
            let record = unpack(&mut &archive[..], Path::new(dir), BOUNDS);
            assert!(record.failed.as_ref().is_some_and(|failed| failed.contains(words)), "{record:?}");
            assert!(record.files == 0 && record.refused.is_empty(), "{record:?}");
        }
        for (number, is_it) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EFBIG, true), (libc::EEXIST, false)]
        {
            assert_eq!(is_hosts(&io::Error::from_raw_os_error(number)), is_it);
        }
        assert!(!is_hosts(&io::Error::other("a link that leads out of the directory")));
    }

    #[test]
    fn nothing_sent_leaves_nothing() {
        let (dir, record) = unpacked(b"");
        assert_eq!(record, ArtifactsRecord::default());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (dir, _) = unpacked(&bytes);
            prop_assert!(fs::read_dir(dir.path()).unwrap().count() <= 1);
        }

        #[test]
        fn no_name_escapes(name in "[a./]{1,12}", link in "[a./]{1,12}") {
            let mut archive = Vec::new();
            entry(&mut archive, name.as_bytes(), EntryType::Symlink, link.as_bytes(), b"");
            entry(&mut archive, format!("{name}/x").as_bytes(), EntryType::Regular, b"", b"y");
            let (dir, _) = unpacked(&archive);
            for found in fs::read_dir(dir.path()).unwrap() {
                prop_assert_eq!(found.unwrap().file_name(), "run");
            }
        }
    }
}
