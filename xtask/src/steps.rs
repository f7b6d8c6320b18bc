//! Tasks that build quiz and run it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::agents;
use crate::sh::{cargo, check, target_dir, top};

/// The architecture that quiz's own arguments name: `-a NAME`, `--arch NAME`, `--arch=NAME`.
fn named_arch(arguments: &[OsString]) -> Option<String> {
    let words: Vec<&str> = arguments.iter().map_while(|word| word.to_str()).collect();
    words.iter().enumerate().find_map(|(i, word)| match *word {
        "-a" | "--arch" => words.get(i + 1).map(|name| name.to_string()),
        _ => word.strip_prefix("--arch=").map(str::to_owned),
    })
}

/// Installs quiz, runs it, and returns its exit code. If the arguments name another architecture,
/// sets up for its guests, too.
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

/// Packs the program with the agents for all architectures except `without`, its man pages and
/// completions.
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
    let archive = target_dir().join(format!("quiz-{}-{}.tar.xz", env!("CARGO_PKG_VERSION"), quiz_arch::host().name));
    let scripts = tempfile::tempdir().map_err(|e| e.to_string())?;
    for (shell, name) in [("bash", "quiz.bash"), ("zsh", "_quiz"), ("fish", "quiz.fish")] {
        let script = Command::new(&program).args(["completions", shell]).output().map_err(|e| e.to_string())?;
        let dir = scripts.path().join("completions");
        fs_err::create_dir_all(&dir)
            .and_then(|()| fs_err::write(dir.join(name), script.stdout))
            .map_err(|e| e.to_string())?;
    }
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(&archive).arg("-C").arg(program.parent().unwrap_or_else(|| top())).arg("quiz");
    tar.arg("-C").arg(scripts.path()).arg("completions");
    check(tar.arg("-C").arg(top().join("docs")).arg("man").arg("-C").arg(top()).args([
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    ]))?;
    eprintln!("xtask: {} has quiz with agents for {}", archive.display(), wanted.join(", "));
    Ok(())
}

/// Builds the release version of the program and returns its path.
pub fn released_quiz() -> Result<PathBuf, String> {
    check(cargo().args(["build", "--quiet", "--locked", "--release", "--package", "quiz"]))?;
    Ok(target_dir().join("release/quiz"))
}

/// Writes the pages that are generated from the definitions of the options, and the schema of
/// records.
///
/// # Errors
/// Fails if a test that generates them fails.
pub fn reference() -> Result<(), String> {
    for (package, tests) in [("quiz", "reference::"), ("quiz-run", "outcome::record::")] {
        let mut test = cargo();
        test.args(["test", "-q", "-p", package, "--lib", tests]).env("QUIZ_WRITE_REFERENCE", "1");
        check(&mut test)?;
    }
    Ok(())
}
