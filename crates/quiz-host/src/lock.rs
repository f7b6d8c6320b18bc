//! Locks between quiz processes (and threads), as `flock` on small files that say who holds them
//! and why. Not for protecting memory, and not a registry: the kernel drops a lock with its holder,
//! whatever ended it.

use crate::report::Report;
use fs_err as fs;
use std::fs::TryLockError;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A file with a `flock` on it, which is given up when the value is dropped. Closing the file is
/// not enough for that: a child that another thread has just forked has the file, too, until it
/// executes its program.
#[derive(Debug)]
pub struct Locked(fs::File);

impl Locked {
    /// Takes over a file that its owner has locked.
    pub fn new(file: fs::File) -> Locked {
        Locked(file)
    }

    /// The file.
    pub fn file(&self) -> &fs::File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // What remains is what closing does.
        self.0.file().unlock().ok();
    }
}

/// An exclusive lock, given up when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Locked,
}

/// Who holds a lock, as far as the lock file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// What it is doing, to follow "which is" ("building kernel 6.12.30").
    pub what: String,
}

impl Lock {
    /// Takes the lock if nobody has it.
    pub fn attempt(path: &Path, what: &str) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match file.file().try_lock() {
            Ok(()) => held(file, what).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(named(path, e)),
        }
    }

    /// Takes the lock. If somebody else has it, says so once through `report` and waits for as long
    /// as it takes. The boolean tells whether there was a wait.
    pub fn wait(path: &Path, what: &str, report: &dyn Report) -> io::Result<(Lock, bool)> {
        let file = open(path)?;
        match file.file().try_lock() {
            Ok(()) => return Ok((held(file, what)?, false)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(named(path, e)),
        }
        match holder(path) {
            Some(h) => report.say(&format!("waiting for quiz (pid {}), which is {}", h.pid, h.what)),
            None => report.say(&format!("waiting for another quiz, which holds {}", path.display())),
        }
        loop {
            match file.file().lock() {
                Ok(()) => return Ok((held(file, what)?, true)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(named(path, e)),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn held(mut file: fs::File, what: &str) -> io::Result<Lock> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{} {what}", std::process::id())?;
    Ok(Lock { _file: Locked(file) })
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("failed to lock `{}`: {e}", path.display()))
}

/// Reads who holds the lock at `path`. The holder writes its name just after it gets the lock, so a
/// text that is empty or names a dead process is given a moment to be replaced.
pub fn holder(path: &Path) -> Option<Holder> {
    for _ in 0..20 {
        let mut text = String::new();
        fs::File::open(path).ok()?.read_to_string(&mut text).ok()?;
        if let Some((pid, what)) = text.trim_end().split_once(' ')
            && let Ok(pid) = pid.parse()
            && Path::new(&format!("/proc/{pid}")).exists()
        {
            return Some(Holder { pid, what: what.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The processes that hold a `flock` on the file at `path`, found in `/proc/locks`. Empty when that
/// cannot be told (some file systems report other device numbers there).
pub fn flock_pids(path: &Path) -> Vec<u32> {
    let Ok(meta) = fs::metadata(path) else { return Vec::new() };
    let device = meta.dev();
    let wanted = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), meta.ino());
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            // `1: FLOCK  ADVISORY  READ 1234 fe:00:131 0 EOF`; waiters have `->` in second place.
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.len() >= 6 && words[1] == "FLOCK" && words[5] == wanted).then(|| words[4].parse().ok())?
        })
        .filter(|pid| *pid > 0)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    #[test]
    fn a_lock_ends_with_its_value_whoever_else_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::attempt(&path, "holding").unwrap().unwrap();
        // What a fork of another thread would have.
        let other = lock._file.file().try_clone().unwrap();
        assert!(Lock::attempt(&path, "trying").unwrap().is_none());
        drop(lock);
        let (_lock, waited) = Lock::wait(&path, "taking", &Silent).unwrap();
        assert!(!waited);
        drop(other);
    }
}
