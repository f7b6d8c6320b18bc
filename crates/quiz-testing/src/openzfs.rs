//! Checkouts of OpenZFS for tests and benchmarks: Debian's releases, unpacked once into the user's
//! cache. Build results stay in them. Not for building them: quiz does that.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::sandbox::cache;

/// A release of OpenZFS, named after the Debian suite that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// 2.1.11, for kernels up to 6.2.
    Bookworm,
    /// 2.3, for kernels up to 6.14.
    BookwormBackports,
    /// 2.4, for kernels up to 7.0 and more.
    TrixieBackports,
}

impl Release {
    fn suite(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::BookwormBackports => "bookworm-backports",
            Release::TrixieBackports => "trixie-backports",
        }
    }
}

/// The checkout of a release, unpacked now if it is missing.
///
/// # Errors
/// Describes what failed.
pub fn checkout(release: Release) -> Result<PathBuf, String> {
    let suite = release.suite();
    let place = cache().join("checkouts").join(format!("zfs-linux-{suite}"));
    let io = |e: std::io::Error| e.to_string();
    fs::create_dir_all(place.parent().unwrap_or(Path::new("/"))).map_err(io)?;
    let (lock, _) = fs::File::create(place.with_extension("lock")).map_err(io)?.into_parts();
    lock.lock().map_err(io)?;
    if !place.is_dir() {
        let making = place.with_extension("new");
        if making.exists() {
            fs::remove_dir_all(&making).map_err(io)?;
        }
        fs::create_dir_all(&making).map_err(io)?;
        fetch(suite, &making)?;
        fs::rename(&making, &place).map_err(io)?;
    }
    let checkouts = fs::read_dir(place.join("source")).map_err(io)?.flatten().map(|entry| entry.path());
    checkouts.into_iter().find(|dir| dir.join("META").is_file()).ok_or(format!("no checkout in {}", place.display()))
}

/// Downloads Debian's archive of the upstream release with apt, which checks its signature. apt
/// uses separate package lists, so that the host's apt stays unchanged.
fn fetch(suite: &str, dir: &Path) -> Result<(), String> {
    let sources = "Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: SUITE\nComponents: main contrib\n\
                   Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
    let io = |e: std::io::Error| e.to_string();
    fs::write(dir.join("debian.sources"), sources.replace("SUITE", suite)).map_err(io)?;
    fs::create_dir_all(dir.join("lists/partial")).map_err(io)?;
    fs::create_dir_all(dir.join("source")).map_err(io)?;
    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(dir).args([
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "Dir::Etc::sourceparts=/dev/null",
        ]);
        command.arg("-o").arg(format!("Dir::Etc::sourcelist={}", dir.join("debian.sources").display()));
        command.arg("-o").arg(format!("Dir::State::lists={}", dir.join("lists").display()));
        run(command.args(arguments))
    };
    apt("apt-get", &["update"])?;
    // Some mirrors lack the newest version's archive; an earlier one works as well.
    let records = apt("apt-cache", &["showsrc", "zfs-linux"])?;
    let mut versions: Vec<&str> = records.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
    versions.sort_by(|a, b| newer_first(a, b));
    let mut refused = "the suite has no zfs-linux".to_owned();
    let fetched = versions.iter().any(|version| {
        let fetched = apt("apt-get", &["source", "--tar-only", &format!("zfs-linux={version}")]);
        fetched.map_err(|error| refused = error).is_ok()
    });
    if !fetched {
        return Err(refused);
    }
    let archive = fs::read_dir(dir)
        .map_err(io)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(".orig.tar."))
        .ok_or("apt fetched no archive")?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.join("source")).arg("--no-same-owner"))?;
    fs::remove_file(archive).map_err(io)?;
    fs::remove_dir_all(dir.join("lists")).map_err(io)
}

/// Compares versions by Debian's rules, with dpkg.
fn newer_first(a: &str, b: &str) -> std::cmp::Ordering {
    let is = |relation: &str| {
        Command::new("dpkg").args(["--compare-versions", a, relation, b]).status().is_ok_and(|s| s.success())
    };
    match (is("gt"), is("lt")) {
        (true, _) => std::cmp::Ordering::Less,
        (_, true) => std::cmp::Ordering::Greater,
        _ => std::cmp::Ordering::Equal,
    }
}

/// Runs a program, and returns its output.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
