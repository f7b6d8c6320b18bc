//! The tasks that call cargo and quiz.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agents;

/// The architectures that every change is tested on, and those that the longer tests are for. The host's is in no need of an agent.
const TESTED: &[&str] = &["s390x", "aarch64"];
const TESTED_LONG: &[&str] = &["ppc64le", "riscv64", "armv7l"];

/// The architecture that quiz's own arguments name: `-a NAME`, `--arch NAME`, `--arch=NAME`.
fn named_arch(arguments: &[OsString]) -> Option<String> {
    let words: Vec<&str> = arguments.iter().map_while(|word| word.to_str()).collect();
    words.iter().enumerate().find_map(|(i, word)| match *word {
        "-a" | "--arch" => words.get(i + 1).map(|name| name.to_string()),
        _ => word.strip_prefix("--arch=").map(str::to_owned),
    })
}

/// Installs quiz and runs it; its exit code is ours. If guests of another architecture are asked for, sets up for those, too.
pub fn quiz(arguments: &[OsString]) -> Result<u8, String> {
    let known = named_arch(arguments).filter(|name| quiz_arch::find(name).is_some());
    if let Some(arch) = known {
        agents::agents(&[arch])?;
    }
    check(cargo().args(["install", "--quiet", "--locked", "--path"]).arg(top().join("crates/quiz")))?;
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("CARGO_INSTALL_ROOT").or_else(|| set("CARGO_HOME"));
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let program = home.ok_or("HOME is not set")?.join("bin/quiz");
    let status = Command::new(&program).args(arguments).status().map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(125))
}

/// Every check, in the order in which a failure is cheapest.
pub fn test(long: bool) -> Result<(), String> {
    let longer = if long { TESTED_LONG } else { &[] };
    let archs: Vec<String> = TESTED.iter().chain(longer).map(|name| name.to_string()).collect();
    agents::agents(&archs)?;
    check(cargo().args(["fmt", "--all", "--check"]))?;
    check(cargo().args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // All targets are those that are tested by default.
    check(cargo().args([
        "clippy",
        "--quiet",
        "--locked",
        "--package",
        "quiz",
        "--test",
        "long",
        "--",
        "-D",
        "warnings",
    ]))?;
    // Two at a time: each has a VM, and more only make each other slow.
    check(cargo().args(["test", "--locked", "--workspace", "--", "--test-threads", "2"]))?;
    if long {
        // One at a time: they compile, and the limits of the suite's tests are in seconds.
        check(cargo().args(["test", "--locked", "--package", "quiz", "--test", "long", "--", "--test-threads", "1"]))?;
    }
    Ok(())
}

/// The packed program with the agents for all architectures but those `without`.
pub fn release(without: &[String]) -> Result<(), String> {
    let all = quiz_arch::ALL.iter().map(|arch| arch.name.to_owned());
    let wanted: Vec<String> = all.filter(|name| !without.contains(name)).collect();
    agents::agents(&wanted)?;
    let program = released_quiz()?;
    let output = Command::new(&program).args(["--json", "doctor"]).output().map_err(|e| e.to_string())?;
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("quiz doctor: {e}"))?;
    let has =
        |name: &String| record["agents"].as_array().is_some_and(|agents| agents.iter().any(|agent| agent == name));
    if let Some(missing) = wanted.iter().find(|name| !has(name)) {
        return Err(format!("{} has no agent for {missing}", program.display()));
    }
    let archive = top().join(format!("target/quiz-{}-{}.tar.xz", env!("CARGO_PKG_VERSION"), quiz_arch::host().name));
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(&archive).arg("-C").arg(program.parent().unwrap_or(top())).arg("quiz");
    check(tar.arg("-C").arg(top()).args(["README.md", "CHANGELOG.md", "LICENSE"]))?;
    eprintln!("xtask: {} has quiz with agents for {}", archive.display(), wanted.join(", "));
    Ok(())
}

/// The program as it is released, built now.
pub fn released_quiz() -> Result<PathBuf, String> {
    check(cargo().args(["build", "--quiet", "--locked", "--release", "--package", "quiz"]))?;
    Ok(top().join("target/release/quiz"))
}

/// The top of the source.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask has a parent")
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(top());
    command
}

/// Runs it; anything but success is an error that shows the command.
pub fn check(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
