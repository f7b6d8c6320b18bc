//! The directory of one run: made, locked while the run lasts, completed by `result.json`, pruned when old.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_config::Worktree;
use quiz_image::lock::Locked;
use quiz_vm::{VmSpec, qemu};

use super::record::Record;
use crate::errors::Fault;

/// The file with QEMU's command line.
const COMMAND: &str = "command";

/// The directory of a run under way.
#[derive(Debug)]
pub struct RunDir {
    id: String,
    path: PathBuf,
    /// Held while the run lasts, so that nobody prunes it.
    _lock: Locked,
}

impl RunDir {
    /// Makes a directory for a new run below `runs`.
    pub fn create(runs: &Path, worktree: Option<&Worktree>) -> Result<RunDir, Fault> {
        let refused = |e: io::Error| {
            Fault::new(format!("cannot keep the run's evidence: {e}"))
                .hint("quiz writes .quiz/ in the worktree; run it where you may write")
        };
        fs::create_dir_all(runs).map_err(refused)?;
        if let Some(worktree) = worktree {
            ignore_in_git(&worktree.state_dir()).map_err(refused)?;
        }
        loop {
            let id = new_id();
            let path = runs.join(&id);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let lock = fs::File::open(&path).map_err(refused)?;
                    lock.file().lock().map_err(refused)?;
                    return Ok(RunDir { id, path, _lock: Locked::new(lock) });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(refused(e)),
            }
        }
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps QEMU's command line as a shell would take it.
    pub fn write_command_line(&self, vm: &VmSpec) -> Result<(), Fault> {
        let mut text = quoted(vm.qemu.as_os_str().as_bytes());
        for argument in qemu::argv(vm)? {
            text.push(b' ');
            text.extend(quoted(argument.as_bytes()));
        }
        text.push(b'\n');
        Ok(fs::write(self.path.join(COMMAND), text)?)
    }

    /// Completes the run with its record.
    pub fn finish(&self, record: &Record) -> Result<(), Fault> {
        let written = replace(&self.path.join("result.json"), &(record.line() + "\n"));
        written.map_err(|e| Fault::new(format!("cannot write result.json in {}: {e}", self.path.display())))
    }
}

/// Writes a file of a run so that it is there whole or not at all, or as it was before.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o644)).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

impl Drop for RunDir {
    /// Without a command line there was no run, and so there is nothing to keep.
    fn drop(&mut self) {
        if !self.path.join(COMMAND).exists() {
            // Whatever stays is pruned with old runs.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// The time (UTC, which never goes back for a winter) to the millisecond and a few random digits: sorts by age.
fn new_id() -> String {
    let mut random = [0; 2];
    // Without randomness the loop around us finds the next free name by the clock.
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok();
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}-{:03}{:03x}", now.strftime("%Y%m%d-%H%M%S"), now.millisecond(), u16::from_le_bytes(random) & 0xfff)
}

/// `.quiz/` is nobody's source.
fn ignore_in_git(state: &Path) -> io::Result<()> {
    let file = state.join(".gitignore");
    match fs::OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(mut ignore) => ignore.write_all(b"*\n"),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut out = vec![b'\''];
    for byte in word {
        if *byte == b'\'' {
            out.extend_from_slice(b"'\\''");
        } else {
            out.push(*byte);
        }
    }
    out.push(b'\'');
    out
}

/// Removes old runs: more than `keep_runs`, or older than `keep_days`. Runs under way are left alone; whatever cannot be
/// removed is tried again next time.
pub fn prune(runs: &Path, keep_runs: Option<u32>, keep_days: Option<u32>) {
    let Ok(found) = fs::read_dir(runs) else { return };
    let mut dirs: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    // The ids begin with the time.
    dirs.sort_unstable_by(|a, b| b.cmp(a));
    let oldest =
        keep_days.and_then(|days| SystemTime::now().checked_sub(Duration::from_secs(u64::from(days) * 86_400)));
    for (age, dir) in dirs.iter().enumerate() {
        let surplus = keep_runs.is_some_and(|keep| age >= keep as usize);
        let old = oldest.is_some_and(|limit| fs::metadata(dir).and_then(|m| m.modified()).is_ok_and(|at| at < limit));
        if surplus || old {
            remove_unless_in_use(dir);
        }
    }
}

fn remove_unless_in_use(dir: &Path) {
    let Ok(lock) = fs::File::open(dir) else { return };
    if lock.file().try_lock().is_ok() {
        fs::remove_dir_all(dir).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain", "", "a b", "it's", "$x`y`\n\\"] {
            let mut script = b"printf %s ".to_vec();
            script.extend(quoted(word.as_bytes()));
            let said = std::process::Command::new("sh").arg("-c").arg(String::from_utf8(script).unwrap()).output();
            assert_eq!(said.unwrap().stdout, word.as_bytes());
        }
    }

    #[test]
    fn pruning_keeps_the_newest_and_those_in_use() {
        let top = tempfile::tempdir().unwrap();
        let runs = top.path().join("runs");
        for i in 0..6 {
            fs::create_dir_all(runs.join(format!("20260101-00000{i}-abcdef"))).unwrap();
        }
        let in_use = RunDir::create(&runs, None).unwrap();
        let (oldest, _) = fs::File::open(runs.join("20260101-000000-abcdef")).unwrap().into_parts();
        oldest.lock().unwrap();
        prune(&runs, Some(3), None);
        let mut left: Vec<_> =
            fs::read_dir(&runs).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["20260101-000000-abcdef", "20260101-000004-abcdef", "20260101-000005-abcdef", in_use.id()]);
        prune(&runs, Some(0), None);
        assert!(in_use.path().is_dir());
    }

    #[test]
    fn many_runs_at_once_have_directories_of_their_own() {
        let top = tempfile::tempdir().unwrap();
        // All are held to the end: one that is dropped without a run makes room for its name.
        let dirs: Vec<RunDir> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..50).map(|_| scope.spawn(|| RunDir::create(&top.path().join("runs"), None).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let ids: std::collections::HashSet<&str> = dirs.iter().map(RunDir::id).collect();
        assert_eq!(ids.len(), 50);
    }
}
