//! Lets the suite's own `zts-report.py` judge results: which failures and skips are expected. Not
//! for the results themselves (see `result`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use quiz_host::Environment;
use serde::Serialize;

use super::result::{Finished, Outcome};

/// Why the results could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Python cannot be started.
    #[error("cannot judge the results: {} is a Python program, and python3 cannot be started: {source}; install python3", judge.display())]
    NoPython {
        /// The judging program.
        judge: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The judging program failed.
    #[error("{} could not judge the results ({status}):\n{said}", judge.display())]
    Failed {
        /// The judging program.
        judge: PathBuf,
        /// How it ended.
        status: String,
        /// Its output.
        said: String,
    },
}

/// The judgement of a run's results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether all results are as expected.
    pub good: bool,
    /// The text of the report.
    pub text: String,
    /// The tests that did not pass and should have.
    pub unexpected: BTreeSet<String>,
    /// The tests that are expected not to pass and did.
    pub surprises: BTreeSet<String>,
}

/// The result lines for [`ask`]. For a test that was run more than once, the worst result counts.
pub fn lines(finished: &[Finished]) -> String {
    let mut worst: BTreeMap<&str, &Finished> = BTreeMap::new();
    let badness = |test: &Finished| match test.result {
        Outcome::Pass => 0,
        Outcome::Skip => 1,
        Outcome::Killed => 2,
        Outcome::Fail => 3,
    };
    for test in finished {
        let kept = worst.entry(&test.name).or_insert(test);
        if badness(test) > badness(kept) {
            *kept = test;
        }
    }
    worst.values().map(|test| format!("{}\n", test.line)).collect()
}

/// Runs `judge`, a `zts-report.py`, on the result lines in the file `results`.
///
/// # Errors
/// Fails if the program does not complete. Bad results are no error.
pub fn ask(judge: &Path, results: &Path, environment: &Environment) -> Result<Judgement, JudgeError> {
    // The caller's variable `CI` would change the expectations.
    let output = environment
        .command("python3")
        // The user's Python settings must not affect this program, and it must leave no files in
        // the checkout.
        .args(["-I", "-B"])
        .arg(judge)
        .arg(results)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| JudgeError::NoPython { judge: judge.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = || JudgeError::Failed {
        judge: judge.to_owned(),
        status: output.status.to_string(),
        said: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    };
    match output.status.code() {
        // A failing Python program also exits with 1, but then it prints to stderr and there is no
        // list.
        Some(code @ (0 | 1)) => read(&text, code == 0).ok_or_else(failed),
        _ => Err(failed()),
    }
}

const UNEXPECTED: &str = "Tests with results other than PASS that are unexpected:";
const SURPRISES: &str = "Tests with result of PASS that are unexpected:";

/// Reads the report. Results without any test are no judgement.
fn read(text: &str, good: bool) -> Option<Judgement> {
    let list = |head: &str| -> Option<BTreeSet<String>> {
        let lines = text.lines().skip_while(|line| line.trim() != head);
        let mut found = BTreeSet::new();
        let mut any = false;
        for line in lines {
            match (any, line.strip_prefix("    ")) {
                (false, _) => any = true,
                (true, Some(entry)) => found.extend(entry.split_whitespace().nth(1).map(str::to_owned)),
                (true, None) => break,
            }
        }
        any.then_some(found)
    };
    Some(Judgement { good, text: text.to_owned(), unexpected: list(UNEXPECTED)?, surprises: list(SURPRISES)? })
}

/// The counts of a group, or of all groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Passed.
    pub passed: usize,
    /// Failed or killed, unexpectedly.
    pub failed: usize,
    /// Skipped, unexpectedly.
    pub skipped: usize,
    /// Did not pass, as expected.
    pub expected: usize,
    /// Have no result.
    pub missing: usize,
    /// Duration in seconds.
    pub seconds: u64,
}

impl Row {
    /// The number of all tests to run.
    pub fn total(&self) -> usize {
        self.passed + self.failed + self.skipped + self.expected + self.missing
    }

    fn add(&mut self, test: &Finished, unexpected: bool) {
        let count = match (test.result, unexpected) {
            (Outcome::Pass, _) => &mut self.passed,
            (_, false) => &mut self.expected,
            (Outcome::Skip, true) => &mut self.skipped,
            (Outcome::Fail | Outcome::Killed, true) => &mut self.failed,
        };
        *count += 1;
        self.seconds += test.seconds;
    }
}

/// The counts of all groups by name. Without a judgement, every result except a pass counts as
/// unexpected.
pub fn rows(
    finished: &[Finished],
    missing: &[(String, usize)],
    judgement: Option<&Judgement>,
) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let group = |name: &str| name.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
    for test in finished {
        let unexpected = is_unexpected(test, judgement);
        rows.entry(group(&test.name)).or_default().add(test, unexpected);
    }
    for (name, count) in missing {
        rows.entry(group(name)).or_default().missing += count;
    }
    rows
}

/// Whether `test` should have passed, and did not.
pub fn is_unexpected(test: &Finished, judgement: Option<&Judgement>) -> bool {
    // The report leaves out the common prefix of performance tests.
    let name = test.name.strip_prefix("perf/regression/").unwrap_or(&test.name);
    test.result != Outcome::Pass && judgement.is_none_or(|judgement| judgement.unexpected.contains(name))
}

/// The sum of all rows.
pub fn total<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Row {
    rows.into_iter().fold(Row::default(), |all, row| Row {
        passed: all.passed + row.passed,
        failed: all.failed + row.failed,
        skipped: all.skipped + row.skipped,
        expected: all.expected + row.expected,
        missing: all.missing + row.missing,
        seconds: all.seconds + row.seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of OpenZFS 2.3.2.
    const REPORT: &str = "
Tests with results other than PASS that are expected:
    SKIP pam/setup (pamtester might be not available)

Tests with result of PASS that are unexpected:
    PASS casenorm/mixed_formd_lookup (expected FAIL)

Tests with results other than PASS that are unexpected:
    FAIL atime/atime_001_pos (expected PASS)
    SKIP zvol/zvol_cli/setup (expected PASS)
";

    fn test(name: &str, result: Outcome) -> Finished {
        let line = format!("{name} {}", result.word());
        Finished { name: name.to_owned(), user: "root".to_owned(), seconds: 2, result, line }
    }

    #[test]
    fn the_worst_of_several_results_is_judged() {
        let all = [
            test("a/x", Outcome::Fail),
            test("a/y", Outcome::Skip),
            test("a/x", Outcome::Pass),
            test("a/y", Outcome::Pass),
            test("a/z", Outcome::Pass),
        ];
        assert_eq!(lines(&all), "a/x FAIL\na/y SKIP\na/z PASS\n");
    }

    #[test]
    fn the_report_is_read() {
        let judgement = read(REPORT, false).unwrap();
        assert_eq!(judgement.unexpected.iter().collect::<Vec<_>>(), ["atime/atime_001_pos", "zvol/zvol_cli/setup"]);
        assert_eq!(judgement.surprises.iter().collect::<Vec<_>>(), ["casenorm/mixed_formd_lookup"]);
        // It exits with 0 in this case, but this must not count as a good report.
        assert_eq!(
            read("\n\nNo test results were found.\nLog directory: Could not determine log directory.\n", true),
            None
        );
    }

    #[test]
    fn sums_tell_the_expected_from_the_rest() {
        let judgement = read(REPORT, false).unwrap();
        let finished = [
            test("atime/setup", Outcome::Pass),
            test("atime/atime_001_pos", Outcome::Fail),
            test("pam/setup", Outcome::Skip),
            test("pam/pam_basic", Outcome::Skip),
            test("zvol/zvol_cli/setup", Outcome::Skip),
        ];
        let missing = [("atime/cleanup".to_owned(), 1), ("zvol/zvol_cli/zvol_cli_001_pos".to_owned(), 2)];
        let found = rows(&finished, &missing, Some(&judgement));
        let row = |name: &str| found[name].clone();
        assert_eq!(row("atime"), Row { passed: 1, failed: 1, missing: 1, seconds: 4, ..Row::default() });
        assert_eq!(row("pam"), Row { expected: 2, seconds: 4, ..Row::default() });
        assert_eq!(row("zvol/zvol_cli"), Row { skipped: 1, missing: 2, seconds: 2, ..Row::default() });
        assert_eq!(total(found.values()).total(), 8);
        assert_eq!(rows(&finished, &[], None)["pam"].skipped, 2);
    }

    #[test]
    fn a_judge_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let judge = dir.path().join("report.py");
        let say = |script: &str| {
            fs_err::write(&judge, script).unwrap();
            ask(&judge, Path::new("/results"), &Environment::default())
        };
        let good =
            say(&format!("import sys\nassert sys.argv[1] == '/results'\nprint('''{SURPRISES}\n\n{UNEXPECTED}''')\n"))
                .unwrap();
        assert!(good.good && good.unexpected.is_empty());
        let bad =
            say(&format!("print('''{SURPRISES}\n\n{UNEXPECTED}\n    FAIL a/b (expected PASS)''')\nexit(1)\n")).unwrap();
        assert!(!bad.good && bad.unexpected.contains("a/b"));
        let said = say("raise ValueError('oh')\n").unwrap_err().to_string();
        assert!(said.contains("could not judge") && said.contains("ValueError: oh"), "{said}");
    }
}
