//! How the agent is built. Used by quiz's build script, for the host, and by `cargo xtask agents`,
//! for other architectures. Not for where compilers come from: that is `cargo xtask`'s.
//!
//! The agent is another program than quiz: static, small, for the guest. Cargo has no stable way to
//! say that, so it is called with a target directory of its own. Agents for other architectures
//! stay in `agents/` of the workspace's target directory, each with the [`fingerprint`] of what it
//! was made from, and quiz's build script embeds those that are up to date.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use sha2::{Digest, Sha256};

/// The file that holds the fingerprint beside an agent.
const FINGERPRINT: &str = "fingerprint";
/// The agent's own file.
const AGENT: &str = "quiz-agent";
/// What an agent is made from, relative to the directory of crates.
pub const SOURCES: &[&str] = &["quiz-agent", "quiz-proto", "../Cargo.lock", "../Cargo.toml"];

/// What to build.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    /// cargo.
    pub cargo: OsString,
    /// Rust's name of the target.
    pub target: &'a str,
    /// The linker; None is Rust's own choice.
    pub linker: Option<String>,
    /// Another compiler than cargo's own, which comes with the source of the standard library, and
    /// not with the library for the target.
    pub compiler: Option<PathBuf>,
    /// Where cargo may keep what it makes.
    pub target_dir: &'a Path,
    /// The workspace's directory of crates.
    pub crates: &'a Path,
}

impl Build<'_> {
    /// The call of cargo, and the agent that it makes.
    pub fn command(&self) -> (Command, PathBuf) {
        let flags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
        let mut cargo = Command::new(&self.cargo);
        cargo
            .args(["build", "--quiet", "--locked", "--package", "quiz-agent", "--profile", "agent"])
            .args(["--target", self.target, "--target-dir"])
            .arg(self.target_dir)
            .current_dir(self.crates)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            // Clippy's and others' wrappers are for the outer build.
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("CARGO_BUILD_TARGET");
        if let Some(linker) = &self.linker {
            let name = self.target.to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
        }
        if let Some(rustc) = &self.compiler {
            // A stable compiler builds the standard library only with RUSTC_BOOTSTRAP.
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
        (cargo, self.target_dir.join(self.target).join("agent/quiz-agent"))
    }
}

/// Names the sources of the agent as they are now.
pub fn fingerprint(crates: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&crates.join(source), &mut files)?;
    }
    files.sort();
    let mut sum = Sha256::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let name = file.strip_prefix(crates).unwrap_or(&file);
        sum.update(format!("{} {}\n", name.display(), bytes.len()));
        sum.update(bytes);
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

/// The directory of agents for other architectures, which the build script embeds.
pub fn shelf(workspace_target_dir: &Path) -> PathBuf {
    workspace_target_dir.join("agents")
}

/// Stores the agent `built` for `arch` in `shelf`, with its fingerprint. Processes that store an
/// agent at the same time take turns. So a reader finds a whole agent with its own fingerprint.
///
/// # Errors
/// If a file cannot be written.
pub fn keep(shelf: &Path, arch: &str, built: &Path, fingerprint: &str) -> io::Result<()> {
    let dir = shelf.join(arch);
    fs::create_dir_all(&dir)?;
    let lock = fs::File::create(dir.join(".lock"))?;
    lock.file().lock()?;
    // A reader takes no agent without its fingerprint.
    match fs::remove_file(dir.join(FINGERPRINT)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let new = dir.join(".new");
    fs::copy(built, &new)?;
    fs::rename(&new, dir.join(AGENT))?;
    fs::write(&new, fingerprint)?;
    fs::rename(&new, dir.join(FINGERPRINT))
}

/// The stored agent for `arch`. `Err` if it was built from other sources.
pub fn kept(shelf: &Path, arch: &str, fingerprint: &str) -> Result<Option<PathBuf>, String> {
    let dir = shelf.join(arch);
    match fs::read_to_string(dir.join(FINGERPRINT)) {
        Ok(text) if text == fingerprint => Ok(Some(dir.join(AGENT))),
        Ok(_) => Err(format!("the agent for {arch} was built from other sources")),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_counts_while_its_sources_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let crates = dir.path().join("crates");
        for source in ["quiz-agent/src", "quiz-proto"] {
            fs::create_dir_all(crates.join(source)).unwrap();
        }
        for (file, text) in [("quiz-agent/src/main.rs", "a"), ("../Cargo.lock", "b"), ("../Cargo.toml", "c")] {
            fs::write(crates.join(file), text).unwrap();
        }
        let first = fingerprint(&crates).unwrap();
        let shelf = shelf(&dir.path().join("target"));
        assert_eq!(kept(&shelf, "s390x", &first), Ok(None));
        keep(&shelf, "s390x", &crates.join("quiz-agent/src/main.rs"), &first).unwrap();
        assert_eq!(kept(&shelf, "s390x", &first), Ok(Some(shelf.join("s390x/quiz-agent"))));
        fs::write(crates.join("quiz-agent/src/other.rs"), "").unwrap();
        let second = fingerprint(&crates).unwrap();
        assert!(kept(&shelf, "s390x", &second).unwrap_err().contains("s390x"));
    }

    #[test]
    fn an_agent_that_is_replaced_by_several_at_once_is_whole_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let contents: Vec<String> = (0..4).map(|n| n.to_string().repeat(1 << 18)).collect();
        for content in &contents {
            fs::write(dir.path().join(&content[..1]), content).unwrap();
        }
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let makers: Vec<_> = contents
                .iter()
                .map(|content| {
                    let (shelf, built) = (&shelf, dir.path().join(&content[..1]));
                    scope.spawn(move || (0..20).for_each(|_| keep(shelf, "s390x", &built, &content[..1]).unwrap()))
                })
                .collect();
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = fs::read_to_string(shelf.join("s390x").join(AGENT)).unwrap_or_default();
                    assert!(found.is_empty() || contents.contains(&found), "{} bytes", found.len());
                }
            });
            makers.into_iter().for_each(|maker| maker.join().unwrap());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let last = fs::read_to_string(shelf.join("s390x").join(FINGERPRINT)).unwrap();
        let agent = kept(&shelf, "s390x", &last).unwrap().unwrap();
        assert_eq!(fs::read_to_string(agent).unwrap()[..1], last);
    }

    #[test]
    fn a_foreign_compiler_is_told_to_build_its_library() {
        let build = Build {
            cargo: "cargo".into(),
            target: "s390x-unknown-linux-gnu",
            linker: Some("s390x-linux-gnu-gcc".into()),
            compiler: Some("/rust/bin/rustc".into()),
            target_dir: Path::new("/t"),
            crates: Path::new("/c"),
        };
        let (command, agent) = build.command();
        assert!(command.get_args().any(|arg| arg == "-Zbuild-std=std,panic_abort"));
        let linker = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER");
        assert_eq!(linker.unwrap().1.unwrap(), "s390x-linux-gnu-gcc");
        assert_eq!(agent, Path::new("/t/s390x-unknown-linux-gnu/agent/quiz-agent"));
    }
}
