//! What the suite says while it runs: the result lines of `test-runner.py`, and the names of tests in the kernel's log. Not for what the
//! results mean (see `judge`).

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
    /// It could or would not be run here.
    Skip,
    /// It took too long, and was ended.
    Killed,
}

impl Outcome {
    /// As the suite writes it.
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

/// A test that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finished {
    /// Its group and its name: `cli_root/zpool_get/zpool_get_001_pos`.
    pub name: String,
    /// Who ran it.
    pub user: String,
    /// How long it took, in whole seconds.
    pub seconds: u64,
    /// How it ended.
    pub result: Outcome,
    /// The whole line.
    #[serde(skip)]
    pub line: String,
}

/// Where in the guest the suite's tests are: below any directory of this name.
const SUITE: &str = "/zfs-tests/";

/// The short name of the test with this path in the guest.
fn name(path: &str) -> Option<String> {
    let at = path.rfind(SUITE)?;
    let name = short(&path[at + SUITE.len()..]);
    let name = name.strip_suffix(".ksh").or_else(|| name.strip_suffix(".sh")).unwrap_or(name);
    Some(name.to_owned())
}

/// The test that a line of the runner's output tells the end of.
pub fn finished(line: &str) -> Option<Finished> {
    let rest = line.strip_prefix("Test")?;
    // Groups of one directory are told apart by a word in parentheses.
    let rest = match rest.strip_prefix(" (") {
        Some(rest) => rest.split_once("):")?.1,
        None => rest.strip_prefix(':')?,
    };
    let (path, rest) = rest.split_once(" (run as ")?;
    let (user, rest) = rest.split_once(')')?;
    let (time, rest) = rest.trim_start().strip_prefix('[')?.split_once(']')?;
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

/// The test whose beginning a line of the console tells (`zfs-tests.sh -K`).
pub fn began(line: &str) -> Option<String> {
    let (_, path) = line.split_once("ZTS run ")?;
    name(path.split_whitespace().next()?)
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

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "Tests with results other than PASS that are expected:",
            "Warning: Test 'x' removed from TestGroup '/usr/share/zfs/zfs-tests/tests/functional/x' because it failed verification.",
            "Test: /usr/share/zfs/zfs-tests/tests/functional/atime/setup (run as root) [00:0",
            "Test: /usr/share/zfs/zfs-tests/tests/functional/atime/setup (run as root) [00:01] [GREAT]",
            "Test: /elsewhere/setup (run as root) [00:01] [PASS]",
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
