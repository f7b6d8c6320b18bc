//! The trees on disk that guests see. Each is made completely under a new name, and never written
//! to again. Not for their contents.
//!
//! `<install>/KIND` is a link to `trees/KIND-N/tree`, replaced by one rename. A process that makes
//! an image of a tree can keep using it, whatever is compiled meanwhile. Unchanged files of a new
//! tree are hard links to the old one's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_host::Report;
use quiz_host::lock::Lock;
use tempfile::TempDir;

const TREES: &str = "trees";
const HANDED_OUT: &str = ".handed-out";

/// The name of the tree itself in a generation.
pub(crate) const TREE: &str = "tree";

/// How many of the last generations of each kind are always kept.
const KEPT: usize = 2;

/// How long a tree is kept after it was handed out; by then an image of it has been made.
const NEEDED: Duration = Duration::from_secs(15 * 60);

/// The install directory of one kernel, locked.
pub(crate) struct Generations {
    dir: PathBuf,
    _lock: Lock,
}

impl Generations {
    /// Locks `dir`, after waiting for another quiz that holds the lock.
    pub fn lock(dir: &Path, report: &dyn Report) -> io::Result<Generations> {
        let (lock, _) = Lock::wait(&dir.join(".lock"), "bringing an install tree up to date", report)?;
        Ok(Generations { dir: dir.to_owned(), _lock: lock })
    }

    /// The current generation.
    pub fn current(&self, kind: &str) -> Option<PathBuf> {
        let link = fs::read_link(self.dir.join(kind)).ok()?;
        let generation = self.dir.join(link.parent()?);
        generation.join(TREE).is_dir().then_some(generation)
    }

    /// Makes a directory for a new generation; it is deleted unless it is published.
    pub fn begin(&self) -> io::Result<TempDir> {
        let trees = self.dir.join(TREES);
        fs::create_dir_all(&trees)?;
        tempfile::Builder::new().prefix(".new-").tempdir_in(trees)
    }

    /// Makes `new` the current generation of `kind`, atomically.
    pub fn publish(&self, kind: &str, new: TempDir) -> io::Result<PathBuf> {
        fs::write(new.path().join(HANDED_OUT), "")?;
        let trees = self.dir.join(TREES);
        let next = numbers(&trees, kind)?.last().map_or(1, |(number, _)| number + 1);
        let name = format!("{kind}-{next}");
        fs::rename(new.path(), trees.join(&name))?;
        // The directory has been renamed.
        let _nothing_to_remove = new.keep();
        let link = trees.join(format!(".new-link-{kind}"));
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => symlink(Path::new(TREES).join(&name).join(TREE), &link)?,
        }
        fs::rename(link, self.dir.join(kind))?;
        Ok(trees.join(name))
    }

    /// Records that a generation is about to be used.
    pub fn hand_out(&self, generation: &Path) -> io::Result<()> {
        let mark = fs::OpenOptions::new().append(true).create(true).open(generation.join(HANDED_OUT))?;
        mark.into_parts().0.set_modified(SystemTime::now())
    }

    /// Removes old generations of `kind` that nobody uses, and leftovers of an interrupted quiz.
    /// That changes the times of files that the current generation shares with them. So call it
    /// after a publication.
    pub fn sweep(&self, kind: &str) -> io::Result<()> {
        let trees = self.dir.join(TREES);
        for entry in fs::read_dir(&trees)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?
                } else {
                    fs::remove_file(entry.path())?
                }
            }
        }
        let current = self.current(kind);
        for (_, old) in numbers(&trees, kind)?.iter().rev().skip(KEPT) {
            if current.as_ref() != Some(old) && !is_needed(old) {
                fs::remove_dir_all(old)?;
            }
        }
        Ok(())
    }
}

/// The generations of a kind, the oldest first.
fn numbers(trees: &Path, kind: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(trees)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(kind)?.strip_prefix('-')?.parse().ok());
        found.extend(number.map(|number: u64| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

fn is_needed(generation: &Path) -> bool {
    let handed_out = fs::metadata(generation.join(HANDED_OUT)).and_then(|meta| meta.modified());
    // A future time, from before the clock was set back, must not keep a generation for years.
    handed_out.is_ok_and(|time| time.elapsed().is_ok_and(|passed| passed < NEEDED))
}

/// Removes the install directory `dir`. Returns whether there was one.
pub(crate) fn remove_all(dir: &Path, report: &dyn Report) -> io::Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    let _lock = Generations::lock(dir, report)?;
    fs::remove_dir_all(dir).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::Silent;

    fn publish(generations: &Generations, kind: &str, text: &str) -> PathBuf {
        let new = generations.begin().unwrap();
        fs::create_dir(new.path().join(TREE)).unwrap();
        fs::write(new.path().join(TREE).join("file"), text).unwrap();
        generations.publish(kind, new).unwrap()
    }

    fn make_old(generation: &Path) {
        let mark = fs::OpenOptions::new().append(true).open(generation.join(HANDED_OUT)).unwrap();
        mark.into_parts().0.set_modified(SystemTime::now() - 2 * NEEDED).unwrap();
    }

    #[test]
    fn a_new_generation_takes_the_name_and_old_ones_stay_for_those_who_use_them() {
        let top = tempfile::tempdir().unwrap();
        let generations = Generations::lock(top.path(), &Silent).unwrap();
        assert_eq!(generations.current("modules"), None);
        let made: Vec<PathBuf> = (0..6).map(|n| publish(&generations, "modules", &n.to_string())).collect();
        assert_eq!(generations.current("modules"), made.last().cloned());
        assert_eq!(fs::read_to_string(top.path().join("modules/file")).unwrap(), "5");
        made.iter().for_each(|generation| make_old(generation));
        generations.hand_out(&made[1]).unwrap();
        generations.sweep("tools").unwrap();
        assert!(made.iter().all(|generation| generation.exists()));
        generations.sweep("modules").unwrap();
        let left: Vec<bool> = made.iter().map(|generation| generation.exists()).collect();
        assert_eq!(left, [false, true, false, false, true, true]);
        assert_eq!(fs::read_to_string(made[1].join("tree/file")).unwrap(), "1");
    }

    #[test]
    fn what_was_not_finished_is_never_seen_and_swept() {
        let top = tempfile::tempdir().unwrap();
        let generations = Generations::lock(top.path(), &Silent).unwrap();
        let good = publish(&generations, "tools", "good");
        let left = generations.begin().unwrap().keep();
        fs::create_dir(left.join(TREE)).unwrap();
        assert_eq!(generations.current("tools"), Some(good));
        generations.sweep("tools").unwrap();
        assert!(!left.exists());
        // The state between the two renames of a publication.
        fs::create_dir_all(top.path().join("trees/tools-2/tree")).unwrap();
        assert_eq!(fs::read_to_string(top.path().join("tools/file")).unwrap(), "good");
        let newest = publish(&generations, "tools", "newer");
        assert!(newest.ends_with("tools-3"));
    }

    #[test]
    fn cleaning_up_leaves_nothing() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("6.1");
        assert!(!remove_all(&dir, &Silent).unwrap());
        let generations = Generations::lock(&dir, &Silent).unwrap();
        publish(&generations, "tools", "a");
        drop(generations);
        assert!(remove_all(&dir, &Silent).unwrap());
        assert!(!dir.exists());
    }
}
