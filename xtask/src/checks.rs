//! `cargo xtask test`: defines all checks, and which tests must come before others. Not for running
//! them (`runner`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use quiz_host::tools::Search;

use crate::runner::{self, Job};
use crate::sh::{cargo, check, target_dir};
use crate::{agents, fresh, qemu, setup};

/// The architectures for tests of every change, and those for the longer tests. The host's needs no
/// separate agent.
const TESTED: &[&str] = &["s390x", "aarch64"];
const TESTED_LONG: &[&str] = &["ppc64le", "riscv64", "armv7l"];

/// The test programs of the package `quiz` that run VMs. `cargo test` does not run them.
const WITH_VMS: &[&str] =
    &["architectures", "crash", "kernel", "machines", "profiles", "roots", "template", "vm", "zfs"];
/// The test program that takes too long for every change.
const LONG: &str = "long";

/// How many tests run at once if they are limited to their own processors: more would only slow
/// each other down.
const AT_ONCE: usize = 2;

/// Tests that make what other tests of a program need (a kernel, a build of OpenZFS), with their
/// durations in an empty cache, in seconds. The other tests would only wait for them, each in a
/// slot where another test could run.
const MAKERS: &[Maker] = &[
    Maker { program: "kernel", test: BUILDS_THE_KERNEL, seconds: 900.0 },
    Maker { program: "zfs", test: BUILDS_OPENZFS, seconds: 900.0 },
];
const BUILDS_THE_KERNEL: &str = "a_kernel_from_debians_source_is_built_once_and_boots";
const BUILDS_OPENZFS: &str = "two_worktrees_run_their_own_openzfs_at_the_same_time";

struct Maker {
    program: &'static str,
    test: &'static str,
    seconds: f64,
}

/// The makers that a test needs.
fn makers_for(program: &str, test: &str) -> &'static [Maker] {
    match (program, test) {
        ("crash" | "kernel" | "profiles", _) => &MAKERS[..1],
        ("machines", "a_kernel_that_quiz_has_built_boots_on_every_qemu") => &MAKERS[..1],
        ("zfs", _) => MAKERS,
        _ => &[],
    }
}

/// Runs every check, in the order in which a failure costs least.
pub fn test(long: bool) -> Result<(), String> {
    let longer = if long { TESTED_LONG } else { &[] };
    let archs: Vec<&str> = TESTED.iter().chain(longer).copied().collect();
    let path = setup::for_tests(&archs)?;
    agents::agents(&archs.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    clippy(&["--workspace", "--all-targets"])?;
    // `--all-targets` covers only the targets that are tested by default.
    clippy(&with_vms(true))?;

    check(cargo().args(["doc", "--quiet", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))?;

    let mut jobs = jobs(&["--workspace"])?;
    jobs.extend(self::jobs(&with_vms(long))?);
    jobs.push(fresh::short_job()?);
    let qemus = other_qemus(&path)?;
    for job in &mut jobs {
        job.command.env("PATH", &path).env("QUIZ_TEST_QEMUS", &qemus);
    }
    let dir = target_dir().join("tests");
    let summary = runner::run(jobs, AT_ONCE, &dir)?;
    for (name, log) in &summary.failures {
        println!("failed: {name}: {}", log.display());
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failures.is_empty() {
        Ok(())
    } else {
        Err("some tests failed; each is listed above with its log".to_owned())
    }
}

/// Cargo's options for the test programs that run VMs.
fn with_vms(long: bool) -> Vec<&'static str> {
    let programs = WITH_VMS.iter().copied().chain(long.then_some(LONG));
    ["--package", "quiz"].into_iter().chain(programs.flat_map(|name| ["--test", name])).collect()
}

/// The QEMUs for tests of machines: Debian releases, each with its version.
const QEMUS: &[(&str, &str)] = &[("bookworm", "7.2"), (qemu::BACKPORTS, "10.0")];

/// The directories of those QEMUs whose version differs from the one on `path`, joined as in
/// `PATH`. They are only unpacked.
fn other_qemus(path: &OsStr) -> Result<OsString, String> {
    let program = Search::new(path).program(quiz_arch::host().qemu);
    let version = program.and_then(|program| Command::new(program).arg("--version").output().ok());
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let others = QEMUS.iter().filter(|(_, wanted)| !version.contains(&format!("version {wanted}.")));
    let dirs = others.map(|(release, _)| qemu::unpacked(release, &[quiz_arch::host()]));
    std::env::join_paths(dirs.collect::<Result<Vec<_>, _>>()?).map_err(|e| e.to_string())
}

fn clippy(selection: &[&str]) -> Result<(), String> {
    check(cargo().args(["clippy", "--quiet", "--locked"]).args(selection).args(["--", "-D", "warnings"]))
}

/// A test program that cargo has built.
struct Program {
    /// The name of its target.
    name: String,
    /// Whether its tests run VMs, so that each test is a separate job.
    runs_vms: bool,
    file: PathBuf,
    /// The directory of its package, where its tests expect to be started.
    dir: PathBuf,
}

/// Builds the test programs of cargo's `selection`, and makes jobs: one for each test that runs
/// VMs, and one for all tests of any other program.
fn jobs(selection: &[&str]) -> Result<Vec<Job>, String> {
    let mut jobs = Vec::new();
    for program in programs(selection)? {
        if !program.runs_vms {
            let name = program.name.clone();
            jobs.push(Job { name, command: program.command(), after: Vec::new(), guess: 5.0 });
            continue;
        }
        let tests = program.tests()?;
        let name_of = |test: &str| format!("{}: {test}", program.name);
        for test in &tests {
            let maker = MAKERS.iter().find(|maker| (maker.program, maker.test) == (&*program.name, &**test));
            let makers = makers_for(&program.name, test);
            // A maker needs only earlier makers.
            let earlier = makers.iter().take_while(|other| maker.is_none_or(|maker| other.test != maker.test));
            let mut command = program.command();
            command.args(["--exact", test]);
            jobs.push(Job {
                name: name_of(test),
                command,
                after: earlier.map(|maker| format!("{}: {}", maker.program, maker.test)).collect(),
                guess: maker.map_or(20.0, |maker| maker.seconds),
            });
        }
        for maker in MAKERS.iter().filter(|maker| maker.program == program.name) {
            if !tests.iter().any(|test| test == maker.test) {
                return Err(format!("checks.rs names {}, which is no test any more", name_of(maker.test)));
            }
        }
    }
    Ok(jobs)
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        // cargo itself sets these for tests.
        command.current_dir(&self.dir).env("CARGO_MANIFEST_DIR", &self.dir);
        command
    }

    fn tests(&self) -> Result<Vec<String>, String> {
        let output = self.command().args(["--list", "--format", "terse"]).output();
        let output = output.map_err(|e| format!("{}: {e}", self.file.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Builds test programs and reads their paths from cargo's messages.
fn programs(selection: &[&str]) -> Result<Vec<Program>, String> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-run", "--message-format", "json-render-diagnostics"]).args(selection);
    let output = command.stderr(std::process::Stdio::inherit()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(program).collect())
}

/// The test program in one of cargo's messages, if it is about one.
fn program(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let target = &message["target"];
    let name = target["name"].as_str()?;
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    let integration = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let of_quiz = integration && dir.ends_with("crates/quiz");
    Some(Program {
        name: name.to_owned(),
        runs_vms: of_quiz && (WITH_VMS.contains(&name) || name == LONG),
        file: message["executable"].as_str()?.into(),
        dir: dir.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test program that is not in the list would run in `cargo test`, or not at all.
    #[test]
    fn every_test_program_of_quiz_is_listed() {
        let dir = crate::sh::top().join("crates/quiz/tests");
        let files = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<String> = files
            .filter(|file| file.is_file())
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let mut listed = [WITH_VMS, &["cli", LONG]].concat();
        listed.sort();
        assert_eq!(found, listed);
    }
}
