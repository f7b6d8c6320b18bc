//! Sysroots: headers and libraries of a distribution release for one architecture, for cross
//! compilers. Not for roots, which guests run on: packages in a sysroot are only unpacked.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_arch::Arch;
use serde::{Deserialize, Serialize};

use crate::apt::{Apt, AptError, Source};
use crate::deb::{self, DebError};
use crate::usrmerge::{MERGED, merged};
use quiz_host::digest;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, Entry, Shelf, StoreError};

/// Directories that compilers do not need.
const LEFT_OUT: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/bin", "usr/sbin"];

/// Why a sysroot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SysrootError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The packages could not be fetched.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package could not be unpacked.
    #[error(transparent)]
    Deb(#[from] DebError),
}

/// A sysroot in the cache. The entry counts as in use until this value is dropped.
#[derive(Debug)]
pub struct Sysroot {
    /// Its path, which stays the same when the sysroot is made again.
    pub dir: PathBuf,
    _entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    release: String,
    arch: String,
    packages: BTreeMap<String, String>,
    built_at: jiff::Timestamp,
    quiz_version: String,
}

/// The shelf of sysroots.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.shelf("sysroots")
}

/// The sysroot with `packages` and all their dependencies, from the cache if it exists. Making it
/// takes about ten seconds.
pub fn make(
    cache: &Cache,
    source: &Source,
    arch: &'static Arch,
    packages: &[&str],
    report: &dyn Report,
) -> Result<Sysroot, SysrootError> {
    let choice = format!("{packages:?} {:?} {:?}", source.mirrors, source.keyring);
    let name = format!("{}-{}-{}", source.release, arch.name, &digest::of_bytes(choice.as_bytes())[..8]);
    let shelf = shelf(cache);
    let what = format!("making the sysroot {name}");
    let entry = shelf.build(&name, &what, false, report, |dir| {
        let apt = Apt::update(cache, source, &[arch.debian], report)?;
        let wanted = apt.with_dependencies(packages, &|_| true)?;
        let files = apt.download(&wanted, report)?;
        let progress = report.start(&what, None, Unit::None);
        for file in &files {
            deb::unpack(file, dir, apt.log(), &|path, _| place(path))?;
        }
        finish(dir).map_err(StoreError::io(format!("make the sysroot {name}")))?;
        progress.done();
        Ok::<_, SysrootError>(Manifest {
            release: source.release.clone(),
            arch: arch.name.to_owned(),
            packages: wanted.into_iter().map(|package| (package.name, package.version)).collect(),
            built_at: jiff::Timestamp::now(),
            quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    })?;
    Ok(Sysroot { dir: shelf.dir().join(name), _entry: entry })
}

/// The path in the sysroot for a file of a package; `None` leaves the file out.
fn place(path: &Path) -> Option<PathBuf> {
    let path = merged(path);
    (path.starts_with("usr") && LEFT_OUT.iter().all(|left| !path.starts_with(left))).then_some(path)
}

/// Makes the top-level links, and changes other links to lead inside the sysroot.
fn finish(dir: &Path) -> io::Result<()> {
    for name in MERGED {
        if dir.join("usr").join(name).is_dir() {
            symlink(Path::new("usr").join(name), dir.join(name))?;
        }
    }
    for item in walkdir::WalkDir::new(dir.join("usr")) {
        let item = item?;
        if !item.path_is_symlink() {
            continue;
        }
        let target = fs::read_link(item.path())?;
        if let Ok(inside) = target.strip_prefix("/") {
            fs::remove_file(item.path())?;
            let up: PathBuf = (0..item.depth()).map(|_| "..").collect();
            symlink(up.join(inside), item.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_where_compilers_look() {
        let place = |path: &str| place(Path::new(path)).map(|p| p.to_str().unwrap().to_owned());
        assert_eq!(place("lib/s390x-linux-gnu/libz.so.1").as_deref(), Some("usr/lib/s390x-linux-gnu/libz.so.1"));
        assert_eq!(place("usr/include/zlib.h").as_deref(), Some("usr/include/zlib.h"));
        for path in ["usr/share/doc/x/copyright", "bin/sh", "etc/netconfig", "var/lib/x"] {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn links_lead_inside() {
        let dir = tempfile::tempdir().unwrap();
        let libraries = dir.path().join("usr/lib/x");
        fs::create_dir_all(&libraries).unwrap();
        fs::write(libraries.join("libz.so.1"), "z").unwrap();
        symlink("/lib/x/libz.so.1", libraries.join("libz.so")).unwrap();
        finish(dir.path()).unwrap();
        assert_eq!(fs::read_link(libraries.join("libz.so")).unwrap(), Path::new("../../../lib/x/libz.so.1"));
        assert_eq!(fs::read_to_string(libraries.join("libz.so")).unwrap(), "z");
        assert_eq!(fs::read_to_string(dir.path().join("lib/x/libz.so")).unwrap(), "z");
    }
}
