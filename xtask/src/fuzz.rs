//! `cargo xtask fuzz`: libFuzzer on what reads untrusted input in quiz. Not for the targets
//! (`crates/quiz-fuzz`), and not for running their corpus, which the tests do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Args;
use fs_err as fs;

use crate::sh::{cargo, check, target_dir, top};

/// What is fuzzed, and how long.
#[derive(Args)]
pub struct Fuzz {
    /// Targets: the directories of fuzz/corpus [default: all]
    targets: Vec<String>,
    /// How long in all, in minutes; each target has an equal share
    #[arg(long, default_value_t = 7.0)]
    minutes: f64,
    /// Add the smallest set of inputs that reaches all that was reached to `fuzz/corpus`
    #[arg(long)]
    keep: bool,
}

/// The version of cargo-fuzz that was tested.
const CARGO_FUZZ: &str = "0.13.2";
/// Time limit of one input, in seconds; a longer one counts as a hang.
const HANG: u32 = 10;
/// Memory limit of a target, in MiB.
const MEMORY: u32 = 512;
/// The longest input, in bytes. Longer ones find little and take much time.
const LONGEST: u32 = 16 << 10;

/// Fuzzes the targets one after another, whether or not one of them fails.
///
/// # Errors
/// Describes a crash, a hang or a growth of memory in a target.
pub fn run(fuzz: &Fuzz) -> Result<(), String> {
    let cargo_fuzz = install()?;
    let targets = if fuzz.targets.is_empty() { all()? } else { fuzz.targets.clone() };
    if let Some(unknown) = targets.iter().find(|name| !seeds(name).is_dir()) {
        return Err(format!("`{unknown}` is no target; there are {}", all()?.join(", ")));
    }
    check(command(&cargo_fuzz, "build").args(["--sanitizer", "none", "--fuzz-dir", "fuzz"]))?;
    let seconds = (fuzz.minutes * 60.0 / targets.len() as f64).ceil() as u64;
    let mut failures = Vec::new();
    for target in &targets {
        let start = Instant::now();
        match one(&cargo_fuzz, target, seconds) {
            Ok(()) => eprintln!("xtask: {target}: {:.0} s without a finding", start.elapsed().as_secs_f64()),
            Err(e) => failures.push(format!("{target}: {e}")),
        }
        if fuzz.keep {
            keep(&cargo_fuzz, target)?;
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// All targets: each has a corpus.
fn all() -> Result<Vec<String>, String> {
    let entries = fs::read_dir(top().join("fuzz/corpus")).map_err(|e| e.to_string())?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn one(cargo_fuzz: &Path, target: &str, seconds: u64) -> Result<(), String> {
    let found = found(target);
    fs::create_dir_all(&found).map_err(|e| e.to_string())?;
    let mut run = command(cargo_fuzz, "run");
    run.args(["--sanitizer", "none", "--fuzz-dir", "fuzz", target]).arg(&found).arg(seeds(target));
    run.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={HANG}"));
    run.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-max_len={LONGEST}")).arg("-print_final_stats=1");
    check(&mut run).map_err(|e| {
        format!(
            "{e}; the input is in fuzz/artifacts/{target}: mend what it breaks, and move it to fuzz/corpus/{target}"
        )
    })
}

/// Adds the found inputs to the corpus, as few as reach the same code.
fn keep(cargo_fuzz: &Path, target: &str) -> Result<(), String> {
    let mut merge = command(cargo_fuzz, "run");
    merge.args(["--sanitizer", "none", "--fuzz-dir", "fuzz", target]).arg(seeds(target)).arg(found(target));
    check(merge.args(["--", "-merge=1"]).arg(format!("-max_len={LONGEST}")))
}

/// The repository's inputs for a target.
fn seeds(target: &str) -> PathBuf {
    top().join("fuzz/corpus").join(target)
}

/// The inputs found by this and earlier calls.
fn found(target: &str) -> PathBuf {
    target_dir().join("fuzz/found").join(target)
}

fn command(cargo_fuzz: &Path, verb: &str) -> Command {
    let mut command = Command::new(cargo_fuzz);
    // cargo would call it like this.
    command.args(["fuzz", verb]).current_dir(top()).env("CARGO_TARGET_DIR", target_dir().join("fuzz"));
    // Targets that need files write thousands in a second.
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    command
}

/// Builds cargo-fuzz once, into its own directory.
fn install() -> Result<PathBuf, String> {
    let root = target_dir().join("tools");
    let program = root.join("bin/cargo-fuzz");
    let version = Command::new(&program).arg("--version").output();
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(CARGO_FUZZ)) {
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--version", CARGO_FUZZ, "cargo-fuzz", "--root"]).arg(&root);
        check(install.env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(program)
}
