//! Unpacks a `.deb` file, with a choice of the target path for each file. Not for installing
//! packages.

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_host::causes;
use quiz_host::command::{CommandError, Run};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Why a package could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// `dpkg-deb` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Its files could not be read or written.
    #[error("cannot {doing}: {cause}")]
    Io {
        /// The failed step; the text follows "cannot".
        doing: String,
        /// The system's answer.
        cause: io::Error,
    },
}

/// Unpacks a `.deb` below `dir`. `place` maps each file's path to its target path. Its arguments
/// are the path without a leading `./`, and the target of a symbolic link.
pub fn unpack(
    deb: &Path,
    dir: &Path,
    log: &Path,
    place: &dyn Fn(&Path, Option<&Path>) -> Option<PathBuf>,
) -> Result<(), DebError> {
    let doing = format!("unpack {}", deb.file_name().unwrap_or_default().to_string_lossy());
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(deb);
    let failed = |cause: io::Error| DebError::Io { doing: doing.clone(), cause: causes::told(cause) };
    Run { command, doing: &doing, log }.stream(|stream| {
        let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, stream));
        for item in archive.entries().map_err(failed)? {
            let mut item = item.map_err(failed)?;
            let path = plain(&item.path().map_err(failed)?);
            let link = item.link_name().map_err(failed)?.map(|l| l.into_owned());
            let kind = item.header().entry_type();
            let Some(target) = path.and_then(|p| place(&p, link.as_deref().filter(|_| kind.is_symlink()))) else {
                continue;
            };
            let target = dir.join(target);
            if kind.is_dir() {
                fs::create_dir_all(&target).map_err(failed)?;
                continue;
            }
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            match (&link, kind) {
                (Some(link), tar::EntryType::Symlink) => {
                    let _previous = fs::remove_file(&target);
                    symlink(link, &target).map_err(failed)?;
                }
                (Some(link), tar::EntryType::Link) => {
                    if let Some(from) = plain(link).and_then(|p| place(&p, None)) {
                        fs::hard_link(dir.join(from), &target).map_err(failed)?;
                    }
                }
                _ if kind.is_file() => {
                    item.unpack(&target).map_err(failed)?;
                }
                _ => {}
            }
        }
        Ok(())
    })
}

/// A path of an archive without a leading `./` or `/`. `None` for the top itself, and for a path
/// that leads outside.
pub fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (out != Path::new("")).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_unpacked_only_to_where_it_belongs() {
        let place = |path: &Path| {
            let kept = path.starts_with("lib") && path.file_name() != Some("build".as_ref());
            if path.starts_with("boot/config-1.0-x") { Some("config".into()) } else { kept.then(|| path.to_owned()) }
        };
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::write(
            tree.join("DEBIAN/control"),
            "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n",
        )
        .unwrap();
        fs::create_dir_all(tree.join("boot")).unwrap();
        fs::write(tree.join("boot/config-1.0-x"), "CONFIG_X=y\n").unwrap();
        fs::write(tree.join("boot/other"), "no").unwrap();
        let modules = tree.join("lib/modules/1.0-x");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("a.ko"), "module").unwrap();
        symlink("a.ko", modules.join("b.ko")).unwrap();
        symlink("/usr/src/x", modules.join("build")).unwrap();
        let deb = dir.path().join("x.deb");
        let log = dir.path().join("log");
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb);
        Run { command, doing: "make a package", log: &log }.run(|_| {}).unwrap();

        let out = dir.path().join("out");
        unpack(&deb, &out, &log, &|path, _| place(path)).unwrap();
        let mut found: Vec<_> = walkdir::WalkDir::new(&out)
            .into_iter()
            .map(|i| i.unwrap())
            .filter(|i| !i.file_type().is_dir())
            .map(|i| i.path().strip_prefix(&out).unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, ["config", "lib/modules/1.0-x/a.ko", "lib/modules/1.0-x/b.ko"]);

        // The error for a file that cannot be written names the file and the reason.
        fs::remove_file(out.join("config")).unwrap();
        fs::create_dir_all(out.join("config/in the way")).unwrap();
        let error = unpack(&deb, &out, &log, &|path, _| place(path)).unwrap_err().to_string();
        assert!(error.starts_with("cannot unpack x.deb: ") && error.contains("(os error "), "{error}");

        // A damaged package is an error.
        let bytes = fs::read(&deb).unwrap();
        fs::write(&deb, &bytes[..bytes.len() / 2]).unwrap();
        assert!(unpack(&deb, &out, &log, &|path, _| place(path)).is_err());
    }

    #[test]
    fn paths_that_lead_outside_are_not_taken() {
        assert_eq!(plain(Path::new("./boot/x")), Some("boot/x".into()));
        assert_eq!(plain(Path::new("/boot/x")), Some("boot/x".into()));
        assert_eq!(plain(Path::new("boot/../../x")), None);
        assert_eq!(plain(Path::new("./")), None);
    }
}
