//! The tasks that call cargo and quiz.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs quiz and runs it; its exit code is ours.
pub fn quiz(arguments: &[OsString]) -> Result<u8, String> {
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
