//! Runs that have ended or not, as their directories show them. Not for making those (`evidence`).

use std::io::BufReader;
use std::path::PathBuf;

use quiz_host::held::HeldDir;

use crate::evidence::{self, RunsDir};
use crate::fault::Fault;
use crate::outcome::record::Record;

/// A run, as its directory shows it.
#[derive(Debug)]
pub struct Past {
    /// Its id.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its record, if it has ended.
    pub record: Option<Record>,
    /// Whether there is a record that this version of quiz cannot read.
    pub unreadable: bool,
    /// Whether the run has not ended yet. A run that has ended without a record was killed.
    pub goes_on: bool,
}

impl Past {
    fn read(dir: PathBuf) -> Option<Past> {
        let id = dir.file_name()?.to_str()?.to_owned();
        let held = HeldDir::open(&dir).ok()?;
        let goes_on = held.std_file().ok()?.try_lock_shared().is_err();
        // The directory may have come with the worktree, and may hold anything under that name.
        let file = held.read("result.json").ok();
        let there = file.is_some();
        let record = file.and_then(|file| Record::read(BufReader::new(file)));
        Some(Past { id, dir, unreadable: there && record.is_none(), record, goes_on })
    }

    /// Returns the record.
    ///
    /// # Errors
    /// If there is no record that this version of quiz can read.
    pub fn recorded(&self) -> Result<&Record, Fault> {
        self.record.as_ref().ok_or_else(|| match (self.unreadable, self.goes_on) {
            (true, _) => Fault::new(format!("the record of the run {} cannot be read", self.id))
                .hint("another version of quiz may have written it"),
            (false, true) => Fault::new(format!("the run {} has no record: it goes on", self.id)),
            (false, false) => Fault::new(format!("the run {} has no record: it was broken off", self.id)),
        })
    }

    /// Returns how the run ended, in few words.
    pub fn verdict(&self) -> String {
        match &self.record {
            Some(record) => record.verdict.brief(),
            None if self.unreadable => "unreadable".to_owned(),
            None if self.goes_on => "goes on".to_owned(),
            None => "broken off".to_owned(),
        }
    }

    /// Returns the program and its arguments, quoted for a shell.
    pub fn command(&self) -> String {
        let words = self.record.iter().flat_map(|record| &record.command);
        let words: Vec<String> = words.map(|word| quoted(word)).collect();
        if words.is_empty() { "(a shell)".to_owned() } else { words.join(" ") }
    }
}

/// Quotes `word` for a shell.
pub fn quoted(word: &str) -> String {
    String::from_utf8(evidence::quoted(word.as_bytes())).expect("text stays text between quotes")
}

/// Returns all runs in `runs`, the newest first.
pub fn all(runs: &[RunsDir]) -> Vec<Past> {
    let mut past: Vec<Past> = runs.iter().flat_map(evidence::runs_in).filter_map(Past::read).collect();
    // The ids begin with the time.
    past.sort_by(|a, b| b.id.cmp(&a.id));
    past
}

/// Returns the run that `wanted` names, by its id or the beginning or end of it. Without `wanted`,
/// returns the newest run with a record.
pub fn find(runs: &[RunsDir], wanted: Option<&str>) -> Result<Past, Fault> {
    let mut past = all(runs);
    let place = runs.first().map(RunsDir::path).unwrap_or_default();
    let Some(wanted) = wanted else {
        past.retain(|run| run.record.is_some());
        let none = || Fault::new(format!("no run has its record in {}", place.display()));
        return past.into_iter().next().ok_or_else(none);
    };
    let nothing = || {
        Fault::new(format!("no run in {} is called {wanted}", place.display()))
            .hint("`quiz runs` lists them; old ones are removed (keep_runs, keep_days)")
    };
    the_one(past, wanted, |run| &run.id, nothing)
}

/// Returns the one of `all` whose id begins or ends with `wanted`.
pub fn the_one<T>(
    mut all: Vec<T>,
    wanted: &str,
    id: impl Fn(&T) -> &str,
    nothing: impl FnOnce() -> Fault,
) -> Result<T, Fault> {
    all.retain(|one| id(one).starts_with(wanted) || id(one).ends_with(wanted));
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => Err(nothing()),
        _ => {
            let ids: Vec<&str> = all.iter().map(id).collect();
            Err(Fault::new(format!("{wanted} may be any of {}", ids.join(", "))).hint("give more of the id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    /// Makes a worktree with runs of these ids.
    fn runs(ids: &[&str]) -> (tempfile::TempDir, [RunsDir; 1]) {
        let top = tempfile::tempdir().unwrap();
        let runs = RunsDir::of_worktree(top.path());
        for id in ids {
            fs::create_dir_all(runs.path().join(id)).unwrap();
        }
        (top, [runs])
    }

    #[test]
    fn a_run_is_found_by_a_part_of_its_id_that_only_it_has() {
        let (_top, runs) = runs(&["20260101-000000-000aaa", "20260101-000001-000aab", "20260102-000000-000bbb"]);
        let id = |wanted: &str| find(&runs, Some(wanted)).map(|run| run.id);
        assert_eq!(id("20260102").unwrap(), "20260102-000000-000bbb");
        assert_eq!(id("aab").unwrap(), "20260101-000001-000aab");
        assert!(id("20260101").unwrap_err().message().contains("aaa"));
        assert!(id("x").unwrap_err().message().contains("is called x"));
        assert!(find(&runs, None).unwrap_err().message().contains("no run has its record"));
        let record = include_str!("../outcome/record.json");
        fs::write(runs[0].path().join("20260101-000001-000aab/result.json"), record).unwrap();
        assert_eq!(find(&runs, None).unwrap().id, "20260101-000001-000aab");
    }

    #[test]
    fn a_record_that_is_no_plain_file_is_none() {
        let (_top, runs) = runs(&["20260101-000000-000aaa", "20260101-000000-000bbb"]);
        let record = |id: &str| runs[0].path().join(id).join("result.json");
        // Opening this for reading would block until a writer comes.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            record("20260101-000000-000aaa"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("/dev/zero", record("20260101-000000-000bbb")).unwrap();
        assert!(all(&runs).iter().all(|run| run.record.is_none()));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_told_from_none() {
        let (_top, runs) = runs(&["1", "2"]);
        fs::write(runs[0].path().join("1/result.json"), r#"{"schema":2}"#).unwrap();
        let past = all(&runs);
        let said: Vec<String> = past.iter().map(|run| run.recorded().unwrap_err().message().to_owned()).collect();
        assert_eq!(said, ["the run 2 has no record: it was broken off", "the record of the run 1 cannot be read"]);
        assert_eq!(past[1].verdict(), "unreadable");
    }

    #[test]
    fn one_that_goes_on_is_told_from_one_that_was_killed() {
        let (_top, runs) = runs(&["1", "2"]);
        let lock = fs::File::open(runs[0].path().join("2")).unwrap();
        lock.file().lock().unwrap();
        let verdicts: Vec<String> = all(&runs).iter().map(Past::verdict).collect();
        assert_eq!(verdicts, ["goes on", "broken off"]);
    }
}
