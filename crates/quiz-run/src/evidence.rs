//! The run directory. quiz makes it, locks it while the run lasts, completes it with `result.json`,
//! and prunes it when it is old.

pub mod history;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use quiz_config::worktree::STATE_DIR;
use quiz_host::held::HeldDir;
use quiz_host::lock::Locked;
use quiz_vm::{VmSpec, qemu};

use crate::fault::Fault;

/// The file with QEMU's command line.
const COMMAND: &str = "command";
/// The file with the run's record.
const RECORD: &str = "result.json";

/// Where run directories are: a base directory that the user chooses, and names below it that quiz
/// chooses. quiz follows links in the base, but never in the names. Another user's files may be
/// there, for example from a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsDir {
    base: PathBuf,
    names: Vec<String>,
}

impl RunsDir {
    /// Returns `.quiz/runs` of a worktree.
    pub fn of_worktree(worktree: &Path) -> RunsDir {
        RunsDir { base: worktree.to_owned(), names: vec![STATE_DIR.to_owned(), "runs".to_owned()] }
    }

    /// Returns the directory `names` below `base`, the user's own directory for quiz.
    pub fn below(base: &Path, names: &[&str]) -> RunsDir {
        RunsDir { base: base.to_owned(), names: names.iter().map(|&name| name.to_owned()).collect() }
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.names.iter().fold(self.base.clone(), |path, name| path.join(name))
    }

    /// Opens the directory. If `make` is true, makes it first.
    fn open(&self, make: bool) -> io::Result<HeldDir> {
        if make {
            fs::create_dir_all(&self.base)?;
        }
        let mut dir = HeldDir::open(&fs::canonicalize(&self.base)?)?;
        for name in &self.names {
            dir = if make { dir.make_below(name) } else { dir.below(name) }?;
            let (owner, own) = (dir.owner()?, rustix::process::geteuid().as_raw());
            if owner != own {
                return Err(io::Error::other(format!("{} belongs to user {owner}", dir.path().display())));
            }
            if name == STATE_DIR && make {
                ignore_in_git(&dir)?;
            }
        }
        Ok(dir)
    }
}

/// The directory of a run that has not ended.
#[derive(Debug)]
pub struct RunDir {
    id: String,
    dir: HeldDir,
    /// The parent directory.
    runs: HeldDir,
    /// Held while the run lasts, so that no process prunes the directory.
    _lock: Locked,
}

impl RunDir {
    /// Makes a directory for a new run in `runs`.
    pub fn create(runs: &RunsDir) -> Result<RunDir, Fault> {
        let refused = |e: io::Error| {
            Fault::new(format!("cannot make the run's directory: {e}")).hint(
                "quiz needs .quiz/runs in the worktree as directories that you own and can write to, not as links",
            )
        };
        let runs = runs.open(true).map_err(refused)?;
        loop {
            let id = new_id();
            let dir = match runs.make_new_below(&id) {
                Ok(dir) => dir,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                // Another process has pruned the directory, since it had no lock yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(refused(e)),
            };
            let lock = dir.std_file().map_err(refused)?;
            lock.lock().map_err(refused)?;
            let lock = Locked::new(fs::File::from_parts(lock, dir.path()));
            if runs.is_same(&id, &dir) {
                return Ok(RunDir { id, dir, runs, _lock: lock });
            }
        }
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the open directory. Files that are written through it land in it.
    pub fn held(&self) -> &HeldDir {
        &self.dir
    }

    /// Writes QEMU's command line to the directory, quoted for a shell.
    pub fn write_command_line(&self, vm: &VmSpec) -> Result<(), Fault> {
        let mut text = quoted(vm.qemu.as_os_str().as_bytes());
        for argument in qemu::argv(vm)? {
            text.push(b' ');
            text.extend(quoted(argument.as_bytes()));
        }
        text.push(b'\n');
        Ok(self.dir.write_whole(COMMAND, &text)?)
    }

    /// Writes the record, a line of JSON, which completes the run.
    pub fn finish(&self, record: &str) -> Result<(), Fault> {
        self.dir
            .write_whole(RECORD, format!("{record}\n").as_bytes())
            .map_err(|e| Fault::new(format!("cannot write the run's record: {e}")))
    }
}

impl Drop for RunDir {
    /// Removes the directory if it has no command line: then there was no run.
    fn drop(&mut self) {
        if !self.dir.has_file(COMMAND) && self.runs.is_same(&self.id, &self.dir) {
            // Pruning removes what stays here.
            self.runs.remove_dir_all(&self.id).ok();
        }
    }
}

/// Returns a new id: the time to the millisecond, and a few random digits. Ids sort by age, because
/// the time is UTC, without daylight saving.
fn new_id() -> String {
    let mut random = [0; 2];
    // Without random digits, the loop in the caller finds the next free name by the clock.
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok();
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}-{:03}{:03x}", now.strftime("%Y%m%d-%H%M%S"), now.millisecond(), u16::from_le_bytes(random) & 0xfff)
}

/// Returns when quiz made the directory `name`, if [`new_id`] can make that name.
fn made_at(name: &str) -> Option<SystemTime> {
    let digits = |text: &str, hex: bool| {
        text.bytes().all(|b| if hex { b.is_ascii_hexdigit() && !b.is_ascii_uppercase() } else { b.is_ascii_digit() })
    };
    let (date, time, rest) = (name.get(..8)?, name.get(9..15)?, name.get(16..)?);
    let formed = name.len() == 22 && name.is_ascii() && name.as_bytes()[8] == b'-' && name.as_bytes()[15] == b'-';
    if !formed || !digits(date, false) || !digits(time, false) || !digits(rest, true) {
        return None;
    }
    let at = jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", &name[..15]).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().into())
}

/// Makes git ignore `.quiz/`.
fn ignore_in_git(state: &HeldDir) -> io::Result<()> {
    const FILE: &str = ".gitignore";
    if state.has(FILE) { Ok(()) } else { state.write_whole(FILE, b"*\n") }
}

/// Quotes `word` for a shell.
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

/// Removes old runs from `runs`: all but the newest `keep_runs`, and those older than `keep_days`.
/// The next call tries again what this one cannot remove. These stay:
///
/// - runs that have not ended
/// - directories without a run's name, or without a run in them
/// - everything that links lead to
pub fn prune(runs: &RunsDir, keep_runs: Option<u32>, keep_days: Option<u32>) {
    let now = SystemTime::now();
    let is_run = |dir: &HeldDir| dir.has_file(COMMAND) || dir.has_file(RECORD);
    let oldest = keep_days.and_then(|days| now.checked_sub(Duration::from_secs(u64::from(days) * 86_400)));
    sweep(runs, is_run, |age, at| {
        let surplus = keep_runs.is_some_and(|keep| age >= keep as usize);
        surplus || oldest.is_some_and(|limit| at < limit)
    });
}

/// Removes what killed processes have left in `place`, which is quiz's own.
pub fn sweep_all(place: &RunsDir) {
    sweep(place, |_| true, |_, _| true);
}

/// Returns the run directories in `runs`. Empty if `runs` does not exist or is not quiz's own.
pub fn runs_in(runs: &RunsDir) -> Vec<PathBuf> {
    let Ok(runs) = runs.open(false) else { return Vec::new() };
    runs.dirs().unwrap_or_default().into_iter().map(|name| runs.path().join(name)).collect()
}

/// Removes the directories with a run's name for which `is_run` and `is_old` are true. `is_old`
/// receives the number of newer runs, and when quiz made this one.
fn sweep(runs: &RunsDir, is_run: impl Fn(&HeldDir) -> bool, is_old: impl Fn(usize, SystemTime) -> bool) {
    // If `runs` does not exist or is not quiz's own, there is nothing to remove.
    let Ok(runs) = runs.open(false) else { return };
    let names = runs.dirs().unwrap_or_default();
    let mut dated: Vec<(SystemTime, String)> =
        names.into_iter().filter_map(|name| Some((made_at(&name)?, name))).collect();
    // A run from the future is from before somebody set the clock back. All runs since then are
    // newer.
    let now = SystemTime::now();
    dated.sort_by(|a, b| ((b.0 <= now), b).cmp(&((a.0 <= now), a)));
    for (age, (at, name)) in dated.iter().enumerate() {
        if is_old(age, *at)
            && let Ok(dir) = runs.below(name)
            && is_run(&dir)
        {
            remove_unless_in_use(&runs, name, &dir);
        }
    }
}

fn remove_unless_in_use(runs: &HeldDir, name: &str, dir: &HeldDir) {
    let Ok(lock) = dir.std_file() else { return };
    if lock.try_lock().is_ok() && runs.is_same(name, dir) {
        runs.remove_dir_all(name).ok();
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

    /// Makes directories of runs that have ended, with these names.
    fn past(top: &Path, names: &[&str]) -> RunsDir {
        let runs = RunsDir::of_worktree(top);
        for name in names {
            fs::create_dir_all(runs.path().join(name)).unwrap();
            fs::write(runs.path().join(name).join(COMMAND), "").unwrap();
        }
        runs
    }

    fn left(dir: &Path) -> Vec<String> {
        let mut left: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        left
    }

    #[test]
    fn pruning_keeps_the_newest_and_those_in_use() {
        let top = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..6).map(|i| format!("20260101-00000{i}-abcdef")).collect();
        let runs = past(top.path(), &names.iter().map(String::as_str).collect::<Vec<_>>());
        let in_use = RunDir::create(&runs).unwrap();
        let (oldest, _) = fs::File::open(runs.path().join("20260101-000000-abcdef")).unwrap().into_parts();
        oldest.lock().unwrap();
        prune(&runs, Some(3), None);
        let expected = ["20260101-000000-abcdef", "20260101-000004-abcdef", "20260101-000005-abcdef", in_use.id()];
        assert_eq!(left(&runs.path()), expected);
        prune(&runs, Some(0), None);
        assert!(in_use.path().is_dir());
    }

    #[test]
    fn pruning_removes_only_what_quiz_has_made() {
        let top = tempfile::tempdir().unwrap();
        let runs = past(
            top.path(),
            &[
                "20260101-000000-abcdef",
                "20260101-000000-abcdeg",
                "thesis",
                "20260101-000000-abcdef0",
                "20269901-000000-abcdef",
            ],
        );
        fs::create_dir(runs.path().join("20250101-000000-abcdef")).unwrap();
        fs::create_dir_all(top.path().join("home/20250101-000000-000000")).unwrap();
        fs::write(top.path().join("home/20250101-000000-000000/command"), "").unwrap();
        std::os::unix::fs::symlink(
            top.path().join("home/20250101-000000-000000"),
            runs.path().join("20250101-000000-000000"),
        )
        .unwrap();
        prune(&runs, Some(0), Some(0));
        let kept = [
            "20250101-000000-000000",
            "20250101-000000-abcdef",
            "20260101-000000-abcdef0",
            "20260101-000000-abcdeg",
            "20269901-000000-abcdef",
            "thesis",
        ];
        assert_eq!(left(&runs.path()), kept);
        assert_eq!(left(&top.path().join("home/20250101-000000-000000")), ["command"]);
    }

    /// A checkout can contain such a link. A guest that may write to the worktree can make one.
    #[test]
    fn links_in_the_place_of_runs_are_not_followed() {
        for link in [".quiz", ".quiz/runs"] {
            let top = tempfile::tempdir().unwrap();
            let victim = past(&top.path().join("victim"), &["20250101-000000-abcdef"]);
            let tree = top.path().join("tree");
            fs::create_dir_all(tree.join(link).parent().unwrap()).unwrap();
            let target = if link == ".quiz" { victim.path().parent().unwrap().to_owned() } else { victim.path() };
            std::os::unix::fs::symlink(target, tree.join(link)).unwrap();
            let runs = RunsDir::of_worktree(&tree);
            prune(&runs, Some(0), None);
            assert_eq!(left(&victim.path()), ["20250101-000000-abcdef"], "{link}");
            let error = RunDir::create(&runs).unwrap_err();
            assert!(error.message().contains("it is a link"), "{}", error.message());
            assert_eq!(left(&victim.path()), ["20250101-000000-abcdef"], "{link}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_costs_no_new_run() {
        let top = tempfile::tempdir().unwrap();
        let runs = past(top.path(), &["21000101-000000-abcdef", "21000102-000000-abcdef"]);
        let new = RunDir::create(&runs).unwrap();
        fs::write(new.path().join(COMMAND), "").unwrap();
        let id = new.id().to_owned();
        drop(new);
        prune(&runs, Some(2), Some(14));
        assert_eq!(left(&runs.path()), [id.as_str(), "21000102-000000-abcdef"]);
    }

    #[test]
    fn names_of_runs_are_known() {
        assert!(made_at(&new_id()).is_some_and(|at| at <= SystemTime::now()));
        for name in
            ["20260101-000000-abcde", "20260101-000000-ABCDEF", "20261301-000000-abcdef", "2026é101-000000-abcde", ""]
        {
            assert_eq!(made_at(name), None, "{name}");
        }
    }

    #[test]
    fn many_runs_at_once_have_directories_of_their_own() {
        let top = tempfile::tempdir().unwrap();
        let runs = RunsDir::below(top.path(), &["runs"]);
        // All stay to the end: dropping one without a run frees its name.
        let dirs: Vec<RunDir> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| RunDir::create(&runs).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let ids: std::collections::HashSet<&str> = dirs.iter().map(RunDir::id).collect();
        assert_eq!(ids.len(), 50);
    }
}
