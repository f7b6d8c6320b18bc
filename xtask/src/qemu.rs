//! Unpacks the QEMU of any Debian release beside the host's, for tests and benchmarks on other
//! versions. It installs nothing and runs no maintainer script.
//!
//! A release newer than the host's has a newer C library. So the dynamic loader of the program's
//! own release starts each program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use quiz_arch::Arch;
use quiz_debian::apt::{Apt, AptError, DEBIAN_MIRROR, Package, Source};
use quiz_debian::deb;
use quiz_host::{Cache, Shelf};
use serde::{Deserialize, Serialize};

use crate::report::{Failed, Lines};

/// The release with newer QEMUs for a stable Debian.
pub const BACKPORTS: &str = "bookworm-backports";
/// The keys that sign Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// After how many days an unpacked QEMU is replaced by the release's newest one.
const FRESH_DAYS: i64 = 30;
/// How many unpacked QEMUs are kept.
const KEPT: usize = 8;
/// Packages with firmware, in addition to QEMU's own.
const FIRMWARE: &[&str] = &["seabios", "ipxe-qemu", "opensbi", "openbios-ppc", "qemu-slof", "qemu-skiboot"];
/// Directories where QEMU finds firmware.
const DATA: &[&str] = &["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// The manifest of an unpacked QEMU.
#[derive(Serialize, Deserialize)]
struct Manifest {
    release: String,
    /// The programs in `bin`.
    programs: Vec<String>,
    /// Name and version of each package.
    packages: Vec<(String, String)>,
    built_at: jiff::Timestamp,
}

/// Unpacks the QEMU of Debian's `release` for guests of `archs` and prints the directory of its
/// programs.
///
/// # Errors
/// As for [`unpacked`]; also fails for an unknown architecture.
pub fn print(release: &str, archs: &[String]) -> Result<(), String> {
    let find = |name: &String| quiz_arch::find(name).ok_or_else(|| format!("unknown architecture `{name}`"));
    let mut wanted = archs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    if wanted.is_empty() {
        wanted.push(quiz_arch::host());
    }
    println!("{}", unpacked(release, &wanted)?.display());
    Ok(())
}

/// The directory with the QEMU programs of Debian's `release` for guests of `archs`. Put it on
/// PATH, or use `--qemu DIR/PROGRAM`.
///
/// QEMU is unpacked into quiz's cache, unless that was done within the last 30 days. Each program
/// there replaces itself with the real one, so a process started from it *is* QEMU.
///
/// # Errors
/// Fails if a release or a package is not available, or if a program does not start on this host.
pub fn unpacked(release: &str, archs: &[&'static Arch]) -> Result<PathBuf, String> {
    let cache = Cache::at(quiz_testing::cache());
    let shelf = cache.shelf("qemu");
    if let Some(bin) = kept(&shelf, release, archs) {
        return Ok(bin);
    }
    let host = quiz_arch::host().debian;
    let apt = update(&cache, release, host)?;
    let failed = |e: AptError| e.to_string();
    let names = packages(&apt, archs).map_err(failed)?;
    let version = apt.require(&names[0]).map_err(failed)?.version;
    let suffixes: Vec<&str> = names.iter().map(|name| name.trim_start_matches("qemu-system-")).collect();
    let name = format!("{release}-{}-{}", version.replace(':', "+"), suffixes.join("+"));
    let what = format!("unpacking QEMU {version} of {release}");
    let entry = shelf.build(&name, &what, true, &Lines, |dir| make(&apt, &names, archs, release, dir).map_err(Failed));
    let bin = entry.map_err(|Failed(why)| why)?.link().join("bin");
    shelf.keep_newest(KEPT).map_err(|e| e.to_string())?;
    Ok(bin)
}

/// A QEMU that was unpacked recently.
fn kept(shelf: &Shelf, release: &str, archs: &[&Arch]) -> Option<PathBuf> {
    let now = jiff::Timestamp::now();
    shelf.names().ok()?.into_iter().find_map(|name| {
        let entry = shelf.open(&name).ok()??;
        let manifest: Manifest = entry.manifest().ok()?;
        let has_all = archs.iter().all(|arch| manifest.programs.iter().any(|program| program == arch.qemu));
        let hours = now.duration_since(manifest.built_at).as_hours();
        (manifest.release == release && has_all && hours < FRESH_DAYS * 24).then(|| entry.link().join("bin"))
    })
}

/// An apt for the release. A mirror that lags behind `sid` serves lists with a good signature that
/// have expired; tests accept those.
fn update(cache: &Cache, release: &str, arch: &str) -> Result<Apt, String> {
    match Apt::update(cache, &Source::debian(release), &[arch], &Lines) {
        Err(error) if error.to_string().contains("is expired") => {
            eprintln!("xtask: the mirror's copy of {release} is older than it should be; going on with it");
            let line = format!("deb [signed-by={KEYRING} check-valid-until=no] {DEBIAN_MIRROR} {release} main");
            let source = Source { mirrors: vec![line], ..Source::debian(release) };
            Apt::update(cache, &source, &[arch], &Lines).map_err(|e| e.to_string())
        }
        other => other.map_err(|e| e.to_string()),
    }
}

/// The packages with the programs for `archs`. Later releases split `qemu-system-misc` into several
/// packages.
fn packages(apt: &Apt, archs: &[&Arch]) -> Result<Vec<String>, AptError> {
    let there = apt.names("^qemu-system-")?;
    let mut found: Vec<String> = Vec::new();
    for arch in archs {
        let plain = arch.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let own = [arch.name, plain].map(|name| format!("qemu-system-{name}"));
        let name =
            own.into_iter().find(|name| there.contains(name)).unwrap_or_else(|| arch.qemu_packages[0].to_owned());
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn make(apt: &Apt, names: &[String], archs: &[&Arch], release: &str, dir: &Path) -> Result<Manifest, String> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let follow = |name: &str| name.starts_with("lib") || name.starts_with("qemu-system-") || FIRMWARE.contains(&name);
    let packages = apt.with_dependencies(&names, &follow).map_err(|e| e.to_string())?;
    for file in apt.download(&packages, &Lines).map_err(|e| e.to_string())? {
        deb::unpack(&file, dir, apt.log(), &|path, _| place(path)).map_err(|e| e.to_string())?;
    }
    let mut programs = Vec::new();
    for arch in archs {
        if !programs.iter().any(|program| program == arch.qemu) {
            wrap(dir, arch.qemu, &packages)?;
            programs.push(arch.qemu.to_owned());
        }
    }
    let packages = packages.into_iter().map(|package| (package.name, package.version)).collect();
    Ok(Manifest { release: release.to_owned(), programs, packages, built_at: jiff::Timestamp::now() })
}

/// The path for a file of a package: only programs, libraries and firmware. `None` leaves the file
/// out.
fn place(path: &Path) -> Option<PathBuf> {
    let path = match path.components().next()?.as_os_str().to_str()? {
        "lib" | "lib64" => Path::new("usr").join(path),
        _ => path.to_owned(),
    };
    let is_program = path.starts_with("usr/bin") && path.file_name()?.to_str()?.starts_with("qemu-system-");
    let is_part = path.starts_with("usr/lib") || path.starts_with("usr/lib64") || path.starts_with("usr/share");
    let left_out = ["doc", "man", "locale", "info", "bug", "lintian", "applications", "icons"]
        .iter()
        .any(|name| path.starts_with(Path::new("usr/share").join(name)));
    (is_program || (is_part && !left_out)).then_some(path)
}

/// Makes `bin/PROGRAM`, and checks that it starts.
fn wrap(dir: &Path, program: &str, packages: &[Package]) -> Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    if !dir.join("usr/bin").join(program).exists() {
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).take(1).collect();
        return Err(format!("the package {} has no {program}", names.join(" ")));
    }
    let libraries = format!("usr/lib/{}", quiz_arch::host().multiarch);
    let loader = loader(&dir.join(&libraries))?;
    // The shell itself runs without these paths, and QEMU then replaces it: this process's pid is
    // QEMU's.
    let data: String = DATA.iter().map(|data| format!(" -L \"$top/{data}\"")).collect();
    let script = format!(
        "#!/bin/sh\n\
         # QEMU as its own release would run it.\n\
         top=${{0%/*}}/..\n\
         lib=$top/{libraries}\n\
         export QEMU_MODULE_DIR=\"$lib/qemu\"\n\
         exec \"$lib/{loader}\" --library-path \"$lib\" --argv0 {program} \"$top/usr/bin/{program}\"{data} \"$@\"\n"
    );
    let (bin, wrapper) = (dir.join("bin"), dir.join("bin").join(program));
    fs::create_dir_all(bin).map_err(failed)?;
    fs::write(&wrapper, script).map_err(failed)?;
    fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    for arguments in [&["--version"][..], &["-machine", "help"]] {
        let output = Command::new(&wrapper).args(arguments).output().map_err(failed)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{program} {} does not run here: {}", arguments.join(" "), said.trim()));
        }
    }
    Ok(())
}

/// The name of the dynamic loader among the libraries: `ld-linux-x86-64.so.2`, `ld64.so.1`.
fn loader(libraries: &Path) -> Result<String, String> {
    let names = fs::read_dir(libraries).map_err(|e| e.to_string())?.flatten();
    let mut names = names.map(|file| file.file_name().to_string_lossy().into_owned());
    let is_loader = |name: &String| name.starts_with("ld") && name.contains(".so.");
    names.find(is_loader).ok_or_else(|| format!("{} has no dynamic loader", libraries.display()))
}
