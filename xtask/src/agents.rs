//! Builds the agents for guests of other architectures, and gets the compilers for that. quiz's
//! build script embeds the results; `quiz-agent-build` does the building.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quiz_agent_build::{Build, fingerprint, keep, kept, shelf};
use quiz_arch::Arch;
use quiz_debian::apt::{Apt, Source};
use quiz_debian::deb;
use quiz_host::{Cache, StoreError};

use crate::report::{Failed, Lines};
use crate::setup;
use crate::sh::{check, target_dir, top};

/// Debian's newest compiler for its stable releases, and the source of its library. They run on
/// every newer Debian, too.
const RELEASE: &str = "bookworm";
const COMPILER: &str = "rustc-web";
const LIBRARY_SOURCE: &str = "rust-web-src";

/// Makes the agents for `names` (`all`: every architecture) that are missing or were made from
/// other sources.
pub fn agents(names: &[String]) -> Result<(), String> {
    let host = quiz_arch::host();
    let all = names.iter().any(|name| name == "all");
    let mut wanted: Vec<&'static Arch> = Vec::new();
    for name in names.iter().filter(|name| *name != "all") {
        wanted.push(quiz_arch::find(name).ok_or_else(|| {
            let known: Vec<&str> = quiz_arch::ALL.iter().map(|arch| arch.name).collect();
            format!("`{name}` is no architecture that quiz knows: {}, or all", known.join(", "))
        })?);
    }
    wanted.extend(quiz_arch::ALL.iter().copied().filter(|_| all));
    let (crates, target_dir) = (top().join("crates"), target_dir());
    let shelf = shelf(&target_dir);
    let sources = fingerprint(&crates).map_err(|e| e.to_string())?;
    // quiz's own build makes the host's agent.
    for arch in wanted.into_iter().filter(|arch| *arch != host) {
        setup::foreign(arch)?;
        if matches!(kept(&shelf, arch.name, &sources), Ok(Some(_))) {
            continue;
        }
        let agent = cached(arch, &crates, &target_dir, &sources)?;
        keep(&shelf, arch.name, &agent, &sources).map_err(|e| format!("{}: {e}", shelf.display()))?;
    }
    Ok(())
}

/// The agent from quiz's cache, or made now. The cache keeps it when the sources are cloned anew.
fn cached(arch: &'static Arch, crates: &Path, target_dir: &Path, sources: &str) -> Result<PathBuf, String> {
    let entries = cache().shelf("agents");
    let what = format!("making the agent for {}", arch.name);
    let entry = entries.build(&format!("{}-{}", arch.name, &sources[..16]), &what, false, &Lines, |dir| {
        let agent = build(arch, crates, &target_dir.join("agent")).map_err(Failed)?;
        fs_err::copy(&agent, dir.join("quiz-agent")).map_err(StoreError::io("keep the agent"))?;
        Ok::<_, Failed>(serde_json::json!({ "sources": sources, "built_at": jiff::Timestamp::now() }))
    });
    let entry = entry.map_err(|Failed(why)| why)?;
    entries.keep_newest(32).map_err(|e| e.to_string())?;
    Ok(entry.dir().join("quiz-agent"))
}

fn build(arch: &'static Arch, crates: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let linker = format!("{}gcc", arch.cross);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (target, linker) = (arch.rust, Some(linker));
    let compiler = compiler(arch)?;
    eprintln!("xtask: building the agent for {}", arch.name);
    let build = Build { cargo, target, linker, compiler, target_dir, crates };
    let (mut command, agent) = build.command();
    check(&mut command)?;
    Ok(agent)
}

/// The compiler that has a standard library for the target: cargo's own (`None`), else Debian's
/// with the library's source.
fn compiler(arch: &Arch) -> Result<Option<PathBuf>, String> {
    let has_library = || -> bool {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).args(["--print", "target-libdir", "--target", arch.rust]).output();
        let dir = output.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        let files = dir.and_then(|dir| fs_err::read_dir(dir).ok());
        files.is_some_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
    };
    if has_library() {
        return Ok(None);
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", arch.rust]).stdout(Stdio::null()).stderr(Stdio::null());
    // rustup may be absent, lack a network, or have no library for the target.
    if rustup.status().is_ok_and(|status| status.success()) && has_library() {
        return Ok(None);
    }
    eprintln!("xtask: rustup has no library for {}: taking Debian's compiler, and the library's source", arch.rust);
    let cache = cache();
    let host = quiz_arch::host().debian;
    let apt = Apt::update(&cache, &Source::debian(RELEASE), &[host], &Lines).map_err(|e| e.to_string())?;
    let version = apt.require(COMPILER).map_err(|e| e.to_string())?.version;
    let entries = cache.shelf("toolchains");
    let name = format!("{COMPILER}-{}", version.replace(':', "+"));
    let entry =
        entries.build(&name, "fetching Debian's Rust compiler", false, &Lines, |dir| fetch(&apt, dir).map_err(Failed));
    let rustc = entry.map_err(|Failed(why)| why)?.dir().join("bin/rustc");
    entries.keep_newest(2).map_err(|e| e.to_string())?;
    Ok(Some(rustc))
}

/// Unpacks the compiler, the host's standard library and the library's source below `dir`. Nothing
/// is installed.
fn fetch(apt: &Apt, dir: &Path) -> Result<serde_json::Value, String> {
    // Other dependencies, such as a C library, come from the host.
    let ours = |name: &str| name.contains("rust") || name.starts_with("libllvm");
    let packages = apt.with_dependencies(&[COMPILER, LIBRARY_SOURCE], &ours).map_err(|e| e.to_string())?;
    let needed = |path: &Path| {
        let mut parts = path.components().map(|part| part.as_os_str());
        let is_source = path.starts_with("usr/src");
        // The larger part of the source package is the compiler's own source.
        !path.starts_with("usr/share") && (!is_source || parts.nth(3).is_none_or(|part| part == "library"))
    };
    for file in apt.download(&packages, &Lines).map_err(|e| e.to_string())? {
        deb::unpack(&file, dir, apt.log(), &|path, _| needed(path).then(|| path.to_owned()))
            .map_err(|e| e.to_string())?;
    }
    let script = "#!/bin/sh\nusr=$(cd \"$(dirname \"$0\")/../usr\" && pwd)\n\
                  LD_LIBRARY_PATH=$(echo \"$usr\"/lib/*-linux-gnu) exec \"$usr/bin/rustc\" \"$@\"\n";
    let (bin, rustc) = (dir.join("bin"), dir.join("bin/rustc"));
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs_err::create_dir_all(bin).map_err(|e| e.to_string())?;
    fs_err::write(&rustc, script).map_err(|e| e.to_string())?;
    fs_err::set_permissions(&rustc, executable).map_err(|e| e.to_string())?;
    let versions = packages.into_iter().map(|package| (package.name, package.version.into()));
    Ok(serde_json::Value::Object(versions.collect()))
}

fn cache() -> Cache {
    Cache::at(quiz_testing::cache())
}
