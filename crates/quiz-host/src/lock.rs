//! Locks between quiz processes (and threads): `flock` on small files. The files have the holder's
//! process id and what it does. Not for protecting memory, and not a registry: the kernel releases
//! a lock when its holder ends, for whatever reason.

use crate::report::Report;
use fs_err as fs;
use std::fs::TryLockError;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A file with a `flock` on it. Dropping the value unlocks the file. Closing the file would not be
/// enough: a child that another thread has just forked also has it open, until it executes its
/// program.
#[derive(Debug)]
pub struct Locked(fs::File);

impl Locked {
    /// Takes over a file that the caller has already locked.
    pub fn new(file: fs::File) -> Locked {
        Locked(file)
    }

    pub fn file(&self) -> &fs::File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // If unlocking fails, closing the file still releases the lock.
        self.0.file().unlock().ok();
    }
}

/// An exclusive lock, released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Locked,
}

/// The process that holds a lock, as the lock file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// What the process does, to follow "which is" ("building kernel 6.12.30").
    pub what: String,
}

impl Lock {
    /// Takes the lock. `None` if another process or thread holds it.
    ///
    /// # Errors
    /// If the lock file cannot be opened, locked or written.
    pub fn attempt(path: &Path, what: &str) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match file.file().try_lock() {
            Ok(()) => held(file, what).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(named(path, e)),
        }
    }

    /// Takes the lock. If another process holds it, reports that once through `report` and waits
    /// without limit. The boolean is true if it had to wait.
    ///
    /// # Errors
    /// If the lock file cannot be opened, locked or written.
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

/// Reads which process holds the lock at `path`. The holder writes its name just after it gets the
/// lock. So if the text is empty or names a dead process, this retries for up to 200 ms.
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

/// The processes that hold a `flock` on the file at `path`, from `/proc/locks`. Empty if that
/// cannot be found out: some file systems report other device numbers there.
pub fn flock_pids(path: &Path) -> Vec<u32> {
    let Ok(meta) = fs::metadata(path) else { return Vec::new() };
    let device = meta.dev();
    let wanted = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), meta.ino());
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            // `1: FLOCK  ADVISORY  READ 1234 fe:00:131 0 EOF`; the line of a waiter has `->` as its
            // second field.
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
        // A copy of the descriptor, as a fork of another thread would have.
        let other = lock._file.file().try_clone().unwrap();
        assert!(Lock::attempt(&path, "trying").unwrap().is_none());
        drop(lock);
        let (_lock, waited) = Lock::wait(&path, "taking", &Silent).unwrap();
        assert!(!waited);
        drop(other);
    }
}
