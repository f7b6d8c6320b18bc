//! Reads the suite's output: the result lines of `test-runner.py`, and the names of tests in the
//! kernel's log. Not for judging the results (see `judge`).

use serde::Serialize;

use super::runfile::short;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Good.
    Pass,
    /// Bad.
    Fail,
    /// It was not run here.
    Skip,
    /// It timed out and was killed.
    Killed,
}

impl Outcome {
    /// The suite's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "PASS",
            Outcome::Fail => "FAIL",
            Outcome::Skip => "SKIP",
            Outcome::Killed => "KILLED",
        }
    }

    fn read(word: &str) -> Option<Outcome> {
        [Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Killed]
            .into_iter()
            .find(|outcome| outcome.word() == word)
    }
}

/// A finished test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finished {
    /// Its group and its name: `cli_root/zpool_get/zpool_get_001_pos`.
    pub name: String,
    /// The user that ran it.
    pub user: String,
    /// How long it took, in whole seconds.
    pub seconds: u64,
    /// How it ended.
    pub result: Outcome,
    /// The whole line.
    #[serde(skip)]
    pub line: String,
}

/// The directory of the suite's tests in the guest: below any directory of this name.
const SUITE: &str = "/zfs-tests/";

/// The short name of the test with this path in the guest.
fn name(path: &str) -> Option<String> {
    let at = path.rfind(SUITE)?;
    let name = short(&path[at + SUITE.len()..]);
    let name = name.strip_suffix(".ksh").or_else(|| name.strip_suffix(".sh")).unwrap_or(name);
    Some(name.to_owned())
}

/// Reads a result line of the runner: `[2026-01-02T03:04:05.678901] Test (Linux): PATH (run as
/// USER) [MINUTES:SECONDS] [RESULT]`.
///
/// Runners before OpenZFS 2.3.3 print no time in front. The word in parentheses distinguishes
/// groups of one directory.
pub fn finished(line: &str) -> Option<Finished> {
    let rest = after_time(line).strip_prefix("Test")?;
    let rest = match rest.strip_prefix(" (") {
        Some(rest) => rest.split_once("):")?.1,
        None => rest.strip_prefix(':')?,
    };
    let (path, rest) = rest.rsplit_once(" (run as ")?;
    let (user, rest) = rest.split_once(')')?;
    let (time, rest) = rest.trim_start().strip_prefix('[')?.split_once(']')?;
    // `(RERAN)` after the result marks a test that ran again.
    let (word, _more) = rest.trim_start().strip_prefix('[')?.split_once(']')?;
    let (minutes, seconds) = time.split_once(':')?;
    Some(Finished {
        name: name(path.trim())?,
        user: user.to_owned(),
        seconds: minutes.parse::<u64>().ok()? * 60 + seconds.parse::<u64>().ok()?,
        result: Outcome::read(word)?,
        line: line.trim_end().to_owned(),
    })
}

/// A line without the time in brackets at its beginning.
fn after_time(line: &str) -> &str {
    line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(line, |(_, rest)| rest)
}

/// The test whose start a console line reports (`zfs-tests.sh -K`).
pub fn began(line: &str) -> Option<String> {
    let (_, path) = line.split_once("ZTS run ")?;
    name(path.split_whitespace().next()?)
}

/// The suite's messages about the run, besides results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// How many results the runner counts at its end; `None` if it did not complete.
    pub counted: Option<usize>,
    /// The programs that the tests use and the guest lacks.
    pub missing_programs: Vec<String>,
    in_summary: bool,
}

impl Remarks {
    /// Reads a line that is no result.
    pub fn read(&mut self, line: &str) {
        if let Some(programs) = line.strip_prefix("Missing util(s):") {
            self.missing_programs =
                programs.split_whitespace().filter(|name| !is_unused(name)).map(str::to_owned).collect();
        } else if line.trim() == "Results Summary" {
            self.in_summary = true;
            self.counted = Some(0);
        } else if self.in_summary {
            let count =
                line.split_once('\t').and_then(|(word, count)| Some((word, count.trim().parse::<usize>().ok()?)));
            match count {
                // These tests are counted already.
                Some(("RERAN", _)) => {}
                Some((_, count)) => self.counted = self.counted.map(|counted| counted + count),
                None => self.in_summary = false,
            }
        }
    }
}

/// Whether no test runs this program, although suites before OpenZFS 2.2 look for it. Only some
/// architectures have it.
fn is_unused(name: &str) -> bool {
    name == "dmidecode"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = "Test: /usr/share/zfs/zfs-tests/tests/functional/cli_root/zpool_get/zpool_get_001_pos (run as root) [00:04] [PASS]";
        let test = finished(line).unwrap();
        assert_eq!((test.name.as_str(), test.user.as_str()), ("cli_root/zpool_get/zpool_get_001_pos", "root"));
        assert_eq!((test.seconds, test.result), (4, Outcome::Pass));
        let line = "Test (Linux): /usr/share/zfs/zfs-tests/tests/functional/acl/posix/setup (run as root)              [12:04] [KILLED] (RERAN)";
        let test = finished(line).unwrap();
        assert_eq!((test.name.as_str(), test.seconds, test.result), ("acl/posix/setup", 724, Outcome::Killed));
    }

    /// The output of these versions' runners for the scripts of `runs/make.sh`.
    const RUNS: [(&str, &str); 6] = [
        ("2.1.11", include_str!("runs/2.1.11.txt")),
        ("2.2.11", include_str!("runs/2.2.11.txt")),
        ("2.3.2", include_str!("runs/2.3.2.txt")),
        ("2.3.9", include_str!("runs/2.3.9.txt")),
        ("2.4.3", include_str!("runs/2.4.3.txt")),
        ("master", include_str!("runs/master.txt")),
    ];

    #[test]
    fn the_output_of_every_version_is_read() {
        for (version, text) in RUNS {
            let mut remarks = Remarks::default();
            let mut results = Vec::new();
            for line in text.lines() {
                match finished(line) {
                    Some(test) => results.push(format!("{} {} {}", test.name, test.user, test.result.word())),
                    None => remarks.read(line),
                }
            }
            // If the runner runs a test again, it prints neither a result nor a time for it.
            let again = results.iter().position(|result| result.starts_with("again/sleeps"));
            assert_eq!(
                again.map(|at| results.remove(at)),
                (version == "2.1.11").then(|| "again/sleeps root PASS".to_owned())
            );
            assert_eq!(
                results,
                [
                    "a_group_with_a_name/that_is_longer_than/the_line_has_room/first root PASS",
                    "cli_user/of_a_user/runs nobody PASS",
                    "plain/setup root PASS",
                    "plain/passes root PASS",
                    "plain/fails root FAIL",
                    "plain/skipped root SKIP",
                    "plain/hangs root KILLED",
                    "plain/cleanup root PASS",
                    "plain/setup root PASS",
                    "plain/of_linux root PASS",
                    "plain/cleanup root PASS",
                    "skipping/setup root SKIP",
                    "skipping/never_run root SKIP",
                    "skipping/cleanup root PASS",
                ],
                "{version}"
            );
            let all = results.len() + usize::from(again.is_some());
            assert_eq!(remarks.counted, Some(all), "{version}");
        }
    }

    #[test]
    fn a_time_changes_nothing_about_a_result() {
        let line =
            "Test: /usr/share/zfs/zfs-tests/tests/functional/hkdf/hkdf_test (run as root) [61:01] [PASS] (RERAN)";
        let plain = finished(line).unwrap();
        assert_eq!((plain.name.as_str(), plain.seconds), ("hkdf/hkdf_test", 3661));
        let stamped = format!("[2026-01-02T03:04:05.678901] {line}");
        assert_eq!(finished(&stamped).unwrap(), Finished { line: stamped.clone(), ..plain });
        assert_eq!(finished("[2026-01-02T03:04:05.678901] [PASS]"), None);
    }

    #[test]
    fn what_the_guest_lacks_is_known() {
        let mut remarks = Remarks::default();
        remarks.read("Missing util(s): ");
        assert!(remarks.missing_programs.is_empty());
        remarks.read("Missing util(s): capsh dmidecode mkfs.xfs");
        assert_eq!(remarks.missing_programs, ["capsh", "mkfs.xfs"]);
        assert_eq!(remarks.counted, None);
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "Tests with results other than PASS that are expected:",
            "Warning: Test 'x' removed from TestGroup '/usr/share/zfs/zfs-tests/tests/functional/x' because it failed verification.",
            "Test: /usr/share/zfs/zfs-tests/tests/functional/atime/setup (run as root) [00:0",
            "Test: /usr/share/zfs/zfs-tests/tests/functional/atime/setup (run as root) [00:01] [GREAT]",
            "Test: /elsewhere/setup (run as root) [00:01] [PASS]",
            "Test: /usr/share/zfs/zfs-tests/tests/functional/atime/setup (run as root) [] []",
        ] {
            assert_eq!(finished(line), None, "{line}");
        }
    }

    #[test]
    fn the_kernels_log_tells_what_runs() {
        let line = "[   54.321000] ZTS run /usr/share/zfs/zfs-tests/tests/functional/atime/atime_001_pos\r";
        assert_eq!(began(line).unwrap(), "atime/atime_001_pos");
        assert_eq!(
            began("[    1.0] ZTS run /usr/share/zfs/zfs-tests/callbacks/zfs_failsafe").unwrap(),
            "callbacks/zfs_failsafe"
        );
        assert_eq!(began("[    1.0] zfs: loaded"), None);
    }
}
