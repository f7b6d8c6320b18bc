//! A build directory that looks like the checkout: real directories, with a link to each source
//! file. An ordinary build in it leaves the checkout clean. Not for building in it.
//!
//! Kbuild and `configure` of OpenZFS build next to the sources, and kbuild from 6.10 on has no
//! rules for anything else. make uses the times of the links' targets, so it sees an edited source
//! at once and rebuilds nothing else.
//!
//! Files that autotools regenerate (`configure`, `Makefile.in` of automake, …) are copies, because
//! some of these tools write through a link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use crate::fingerprint::Fingerprint;

/// The changes of a sync.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Sources that were added or replaced.
    pub added: usize,
    /// Sources that were removed.
    pub removed: usize,
}

/// The form of a source in the shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// A link to the source.
    Link,
    /// A file instead of a link: a copy, or a product of the build. The fingerprint is the source's
    /// at that time.
    File(Fingerprint),
}

/// Makes `shadow` look like the source files `sources` of `checkout`. Products of the build in it
/// stay. `record` is a file that keeps the result for the next sync.
pub(crate) fn sync(checkout: &Path, sources: &BTreeSet<PathBuf>, shadow: &Path, record: &Path) -> io::Result<Synced> {
    let before = read_record(record)?;
    let mut after = BTreeMap::new();
    let mut synced = Synced::default();
    for path in before.keys().filter(|path| !sources.contains(*path)) {
        synced.removed += usize::from(remove(&shadow.join(path), before[path])?);
    }
    let mut made: Option<&Path> = None;
    for path in sources {
        let dir = path.parent().unwrap_or(Path::new(""));
        if made != Some(dir) {
            make_dir(shadow, dir)?;
            made = Some(dir);
        }
        let source = checkout.join(path);
        let place = Place { source: &source, target: &shadow.join(path), is_copy: is_regenerated(path, sources) };
        let (entry, is_new) = place.sync(before.get(path).copied())?;
        synced.added += usize::from(is_new);
        after.insert(path.as_path(), entry);
    }
    let unchanged =
        before.len() == after.len() && before.iter().all(|(path, entry)| after.get(path.as_path()) == Some(entry));
    if !unchanged {
        write_record(record, &after)?;
    }
    Ok(synced)
}

/// Whether autotools regenerate this file when it is outdated.
fn is_regenerated(path: &Path, sources: &BTreeSet<PathBuf>) -> bool {
    const CONFIG: &[&str] = &[
        "compile",
        "config.guess",
        "config.rpath",
        "config.sub",
        "depcomp",
        "install-sh",
        "libtool.m4",
        "ltmain.sh",
        "ltoptions.m4",
        "ltsugar.m4",
        "ltversion.m4",
        "lt~obsolete.m4",
        "missing",
        "py-compile",
        "test-driver",
    ];
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return false };
    match path.parent().and_then(Path::to_str) {
        Some("") if matches!(name, "configure" | "aclocal.m4" | "zfs_config.h.in") => true,
        Some("config") if CONFIG.contains(&name) => true,
        _ => name == "Makefile.in" && sources.contains(&path.with_file_name("Makefile.am")),
    }
}

/// The place of one source in the shadow.
struct Place<'a> {
    source: &'a Path,
    target: &'a Path,
    is_copy: bool,
}

impl Place<'_> {
    /// Adds the source, unless the shadow has it or a product of the build in its place. Returns
    /// whether the shadow was changed.
    fn sync(&self, before: Option<Entry>) -> io::Result<(Entry, bool)> {
        let meta = match fs::symlink_metadata(self.target) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let Some(meta) = meta else { return Ok((self.put()?, true)) };
        if meta.is_dir() {
            fs::remove_dir_all(self.target)?;
            return Ok((self.put()?, true));
        }
        if meta.is_symlink() {
            if !self.is_copy && fs::read_link(self.target)? == self.source {
                return Ok((Entry::Link, false));
            }
            return Ok((self.put()?, true));
        }
        // A file: a product of the build, or a copy. It is valid until the source changes.
        let Some(source) = Fingerprint::of(self.source)? else { return Ok((self.put()?, true)) };
        match before {
            Some(Entry::File(known)) if known == source => Ok((Entry::File(source), false)),
            Some(Entry::File(_)) => Ok((self.put()?, true)),
            // Seen for the first time.
            _ if Fingerprint::from(&meta).modified >= source.modified => Ok((Entry::File(source), false)),
            _ => Ok((self.put()?, true)),
        }
    }

    fn put(&self) -> io::Result<Entry> {
        let fingerprint = if self.is_copy { Fingerprint::of(self.source)? } else { None };
        let temporary = temporary(self.target);
        discard(&temporary)?;
        let entry = match fingerprint {
            Some(fingerprint) => {
                fs::copy(self.source, &temporary)?;
                let modified = fs::metadata(self.source)?.modified()?;
                fs::OpenOptions::new().append(true).open(&temporary)?.into_parts().0.set_modified(modified)?;
                Entry::File(fingerprint)
            }
            None => {
                symlink(self.source, &temporary)?;
                Entry::Link
            }
        };
        fs::rename(&temporary, self.target)?;
        Ok(entry)
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".quiz-new-");
    name.push(path.file_name().unwrap_or_default());
    // A name of maximal length leaves no room for a suffix.
    if name.len() > 255 {
        name = ".quiz-new".into();
    }
    path.with_file_name(name)
}

fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes the directory `dir` below `shadow`. A file in its way was a source once, and is removed.
fn make_dir(shadow: &Path, dir: &Path) -> io::Result<()> {
    let mut path = shadow.to_owned();
    for part in dir.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => continue,
            Ok(_) => fs::remove_file(&path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::create_dir(&path)?;
    }
    Ok(())
}

/// Removes a source that no longer exists. A product of the build in place of a link stays.
fn remove(target: &Path, entry: Entry) -> io::Result<bool> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_symlink() || (meta.is_file() && matches!(entry, Entry::File(_))) => {
            fs::remove_file(target)?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads a record: `l`, or `f` with a fingerprint, then a path, each ended by a null byte. An
/// invalid record counts as empty.
fn read_record(path: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    let parts: Vec<&[u8]> = bytes.split(|b| *b == 0).collect();
    let mut entries = BTreeMap::new();
    for pair in parts.chunks_exact(2) {
        let words: Vec<&str> = std::str::from_utf8(pair[0]).unwrap_or_default().split(' ').collect();
        let entry = match words[..] {
            ["l"] => Entry::Link,
            ["f", size, modified, changed, inode] => {
                let (Ok(size), Ok(modified), Ok(changed), Ok(inode)) =
                    (size.parse(), modified.parse(), changed.parse(), inode.parse())
                else {
                    continue;
                };
                Entry::File(Fingerprint { size, modified, changed, inode })
            }
            _ => continue,
        };
        entries.insert(PathBuf::from(OsString::from_vec(pair[1].to_vec())), entry);
    }
    Ok(entries)
}

fn write_record(path: &Path, entries: &BTreeMap<&Path, Entry>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (path, entry) in entries {
        match entry {
            Entry::Link => bytes.push(b'l'),
            Entry::File(f) => write!(bytes, "f {} {} {} {}", f.size, f.modified, f.changed, f.inode)?,
        }
        bytes.push(0);
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    let new = temporary(path);
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    struct Trees {
        _top: tempfile::TempDir,
        checkout: PathBuf,
        shadow: PathBuf,
    }

    impl Trees {
        fn new(files: &[&str]) -> Trees {
            let top = tempfile::tempdir().unwrap();
            let (checkout, shadow) = (top.path().join("zfs"), top.path().join("shadow"));
            fs::create_dir(&checkout).unwrap();
            fs::create_dir(&shadow).unwrap();
            let trees = Trees { _top: top, checkout, shadow };
            files.iter().for_each(|file| trees.write(file, file));
            trees
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.checkout.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn sync(&self) -> Synced {
            let sources = crate::sources::list(&self.checkout, &quiz_host::Silent).unwrap();
            sync(&self.checkout, &sources, &self.shadow, &self.shadow.join(".record")).unwrap()
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.shadow.join(file)).unwrap()
        }

        fn age(path: &Path, seconds: u64) {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            fs::OpenOptions::new().append(true).open(path).unwrap().into_parts().0.set_modified(time).unwrap();
        }
    }

    #[test]
    fn sources_come_and_go_and_products_stay() {
        let trees = Trees::new(&["META", "module/zfs/arc.c", "module/zfs/dmu.c", "tests/a b/ü\n'.ksh"]);
        assert_eq!(trees.sync(), Synced { added: 4, removed: 0 });
        assert_eq!(trees.sync(), Synced::default());
        assert_eq!(trees.read("tests/a b/ü\n'.ksh"), "tests/a b/ü\n'.ksh");
        fs::write(trees.shadow.join("module/zfs/arc.o"), "object").unwrap();
        trees.write("module/zfs/arc.c", "edited");
        assert_eq!(trees.read("module/zfs/arc.c"), "edited", "seen at once");
        trees.write("module/zfs/new.c", "new");
        fs::remove_file(trees.checkout.join("module/zfs/dmu.c")).unwrap();
        assert_eq!(trees.sync(), Synced { added: 1, removed: 1 });
        assert!(!trees.shadow.join("module/zfs/dmu.c").is_symlink());
        assert_eq!(trees.read("module/zfs/arc.o"), "object");
    }

    #[test]
    fn a_file_that_becomes_a_directory_and_back_is_followed() {
        let trees = Trees::new(&["lib/x", "META"]);
        trees.sync();
        fs::remove_file(trees.checkout.join("lib/x")).unwrap();
        trees.write("lib/x/y", "y");
        trees.sync();
        assert_eq!(trees.read("lib/x/y"), "y");
        fs::remove_dir_all(trees.checkout.join("lib/x")).unwrap();
        trees.write("lib/x", "file");
        trees.sync();
        assert_eq!(trees.read("lib/x"), "file");
    }

    #[test]
    fn what_the_build_put_in_place_of_a_link_stays_until_the_source_changes() {
        let trees = Trees::new(&["include/gitrev.h"]);
        Trees::age(&trees.checkout.join("include/gitrev.h"), 100);
        trees.sync();
        let target = trees.shadow.join("include/gitrev.h");
        fs::remove_file(&target).unwrap();
        fs::write(&target, "of the build").unwrap();
        assert_eq!(trees.sync(), Synced::default());
        assert_eq!(trees.read("include/gitrev.h"), "of the build");
        assert_eq!(fs::read_to_string(trees.checkout.join("include/gitrev.h")).unwrap(), "include/gitrev.h");
        trees.write("include/gitrev.h", "edited");
        assert_eq!(trees.sync().added, 1);
        assert_eq!(trees.read("include/gitrev.h"), "edited");
        assert!(target.is_symlink());
    }

    #[test]
    fn regenerated_files_are_copies_with_their_times() {
        let trees = Trees::new(&["configure", "Makefile.am", "Makefile.in", "module/Makefile.in", "config/compile"]);
        Trees::age(&trees.checkout.join("configure"), 1000);
        trees.sync();
        let times = [&trees.checkout, &trees.shadow]
            .map(|dir| fs::metadata(dir.join("configure")).unwrap().modified().unwrap());
        assert_eq!(times[0], times[1]);
        for (file, is_link) in [
            ("configure", false),
            ("Makefile.in", false),
            ("config/compile", false),
            ("Makefile.am", true),
            ("module/Makefile.in", true),
        ] {
            assert_eq!(trees.shadow.join(file).is_symlink(), is_link, "{file}");
        }
        fs::write(trees.shadow.join("configure"), "regenerated").unwrap();
        assert_eq!(trees.sync(), Synced::default());
        assert_eq!(trees.read("configure"), "regenerated");
        trees.write("configure", "another release");
        assert_eq!(trees.sync().added, 1);
        assert_eq!(trees.read("configure"), "another release");
        fs::remove_file(trees.checkout.join("configure")).unwrap();
        assert_eq!(trees.sync().removed, 1);
        assert!(!trees.shadow.join("configure").exists());
    }

    #[test]
    fn an_interrupted_or_unreadable_record_does_no_harm() {
        let trees = Trees::new(&["META", "configure", "a.c"]);
        trees.sync();
        for record in [&b""[..], b"l\0a.c", b"f 1 2\0configure\0x", b"\xff\0\xff\0"] {
            fs::write(trees.shadow.join(".record"), record).unwrap();
            assert_eq!(trees.sync(), Synced::default(), "{record:?}");
        }
        assert_eq!(trees.read("configure"), "configure");
    }

    #[test]
    fn links_in_the_checkout_are_followed_from_where_they_are() {
        let trees = Trees::new(&["lib/real.h"]);
        symlink("real.h", trees.checkout.join("lib/alias.h")).unwrap();
        symlink("nowhere", trees.checkout.join("lib/dangling")).unwrap();
        assert_eq!(trees.sync().added, 3);
        assert_eq!(trees.read("lib/alias.h"), "lib/real.h");
        assert_eq!(trees.sync(), Synced::default());
    }
}
