//! Runs that are over, or go on, as their directories tell. Not for making those (`evidence`).

use std::io::{BufReader, Read};
use std::path::PathBuf;

use quiz_host::held::HeldDir;
use serde_json::Value;

use crate::evidence::{self, RunsDir};
use crate::fault::Fault;

/// How much of a record is read, in bytes. quiz writes less than 1 MiB.
const RECORD: u64 = 4 << 20;

/// A run, by its directory.
#[derive(Debug)]
pub struct Past {
    /// Its id.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its record, once it is over.
    pub record: Option<Value>,
    /// It goes on. One that neither goes on nor has a record was killed.
    pub goes_on: bool,
}

impl Past {
    fn read(dir: PathBuf) -> Option<Past> {
        let id = dir.file_name()?.to_str()?.to_owned();
        let held = HeldDir::open(&dir).ok()?;
        let goes_on = held.std_file().ok()?.try_lock_shared().is_err();
        // The directory can have come with the worktree: it may hold anything under that name.
        let file = held.read("result.json").ok();
        let record = file.and_then(|file| record(BufReader::new(file.take(RECORD))));
        Some(Past { id, dir, record, goes_on })
    }

    /// A text of the record.
    pub fn text(&self, key: &str) -> &str {
        self.record.as_ref().and_then(|record| record[key].as_str()).unwrap_or_default()
    }

    /// How it ended, in few words.
    pub fn verdict(&self) -> String {
        match &self.record {
            Some(record) => verdict(&record["verdict"]),
            None if self.goes_on => "goes on".to_owned(),
            None => "broken off".to_owned(),
        }
    }

    /// The program and its arguments, as they would be typed.
    pub fn command(&self) -> String {
        let words = self.record.as_ref().and_then(|record| record["command"].as_array());
        let words: Vec<String> = words.into_iter().flatten().filter_map(|w| w.as_str().map(quoted)).collect();
        if words.is_empty() { "(a shell)".to_owned() } else { words.join(" ") }
    }
}

/// What a file of a record holds.
pub fn record(file: impl Read) -> Option<Value> {
    serde_json::from_reader(file).ok()
}

/// A verdict of a record, in few words.
pub fn verdict(verdict: &Value) -> String {
    let kind = verdict["kind"].as_str().unwrap_or("?").replace('_', " ");
    match (&verdict["code"], &verdict["signal"]) {
        (Value::Number(code), _) => format!("{kind} {code}"),
        (_, Value::Number(signal)) => format!("{kind} {signal}"),
        _ => kind,
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    String::from_utf8(evidence::quoted(word.as_bytes())).expect("text stays text between quotes")
}

/// All runs in `runs`, the newest first.
pub fn all(runs: &[RunsDir]) -> Vec<Past> {
    let mut past: Vec<Past> = runs.iter().flat_map(evidence::runs_in).filter_map(Past::read).collect();
    // The ids begin with the time.
    past.sort_by(|a, b| b.id.cmp(&a.id));
    past
}

/// The run that `wanted` names, by its id or the beginning or end of it; without a name the newest
/// that is over.
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

/// The one of `all` whose id is `wanted`, or begins or ends so.
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

    /// A worktree with runs of these ids.
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
        fs::write(runs[0].path().join("20260101-000001-000aab/result.json"), r#"{"schema":1}"#).unwrap();
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
    fn one_that_goes_on_is_told_from_one_that_was_killed() {
        let (_top, runs) = runs(&["1", "2"]);
        let lock = fs::File::open(runs[0].path().join("2")).unwrap();
        lock.file().lock().unwrap();
        let verdicts: Vec<String> = all(&runs).iter().map(Past::verdict).collect();
        assert_eq!(verdicts, ["goes on", "broken off"]);
    }

    #[test]
    fn verdicts_are_short() {
        for (record, text) in [
            (r#"{"kind":"exited","code":3}"#, "exited 3"),
            (r#"{"kind":"signalled","signal":9}"#, "signalled 9"),
            (r#"{"kind":"not_found"}"#, "not found"),
            (r#"{"kind":"panic","message":"x"}"#, "panic"),
        ] {
            assert_eq!(verdict(&serde_json::from_str(record).unwrap()), text);
        }
    }
}
