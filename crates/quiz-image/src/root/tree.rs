//! The image for the VM that makes a root: the essential packages' files, and all packages. The tar
//! archive is made from the packages' own archives, so owners and modes are correct without any
//! privilege. Not for the work in the VM.

use super::package::Package;
use crate::squashfs::NEWEST_TIME;
use fs_err as fs;
use quiz_debian::deb::plain;
use std::collections::HashSet;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// The contents of the image.
pub(super) struct Tree<'a> {
    /// The packages whose files are unpacked.
    pub unpacked: Vec<&'a Package>,
    /// All packages; their files are in `quiz/debs`.
    pub packages: Vec<&'a Package>,
    /// The top-level directories that are links into `/usr`; empty for a release without the merged
    /// `/usr`.
    pub links: &'a [&'a str],
    /// Absolute path prefixes to leave out when unpacking.
    pub left_out: Vec<String>,
    /// Files for `quiz`, by name.
    pub files: Vec<(&'a str, String)>,
}

impl Tree<'_> {
    /// Writes the image as a tar archive.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut writer =
            Writer { archive: tar::Builder::new(BufWriter::with_capacity(1 << 20, out)), seen: HashSet::new() };
        for name in self.links {
            writer.directory(&Path::new("usr").join(name), 0o755)?;
            writer.symlink(Path::new(name), &Path::new("usr").join(name))?;
        }
        for package in &self.unpacked {
            self.unpack(package, &mut writer).map_err(|e| {
                io::Error::new(e.kind(), format!("failed to read the files of {}: {e}", package.file_name()))
            })?;
        }
        for dir in ["dev", "proc", "sys", "run", "tmp", "root", "quiz", "quiz/debs"] {
            writer.directory(Path::new(dir), 0o755)?;
        }
        for (name, text) in &self.files {
            writer.file(&Path::new("quiz").join(name), text.len() as u64, text.as_bytes())?;
        }
        for package in &self.packages {
            let file = fs::File::open(&package.path)?;
            let size = file.metadata()?.len();
            writer.file(&Path::new("quiz/debs").join(package.file_name()), size, file)?;
        }
        writer.archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    fn unpack(&self, package: &Package, writer: &mut Writer<impl Write>) -> io::Result<()> {
        let mut archive = package.files()?;
        for item in archive.entries()? {
            let mut item = item?;
            let kind = item.header().entry_type();
            let Some(path) = plain(&item.path()?) else { continue };
            let absolute = Path::new("/").join(&path);
            if self.left_out.iter().any(|start| absolute.to_string_lossy().starts_with(start)) {
                continue;
            }
            // The image has the release's own links into /usr already.
            if kind.is_symlink() && self.links.iter().any(|name| Path::new(name) == path) {
                continue;
            }
            let path = self.placed(path);
            if !writer.seen.insert(path.clone()) {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            let old = item.header();
            header.set_entry_type(kind);
            header.set_mode(old.mode()?);
            header.set_uid(old.uid()?);
            header.set_gid(old.gid()?);
            header.set_mtime(old.mtime()?);
            header.set_size(0);
            let link = item.link_name()?.map(|link| link.into_owned());
            match (kind, link) {
                (EntryType::Directory, _) => writer.archive.append_data(&mut header, path, io::empty())?,
                (EntryType::Symlink, Some(target)) => writer.archive.append_link(&mut header, path, target)?,
                (EntryType::Link, Some(target)) => {
                    let target = plain(&target).map(|target| self.placed(target));
                    let target = target.ok_or_else(|| io::Error::other("a hard link leads out of the package"))?;
                    writer.archive.append_link(&mut header, path, target)?;
                }
                _ if kind.is_file() => {
                    header.set_size(item.size());
                    writer.archive.append_data(&mut header, path, &mut item)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The path in the image for a path in a package.
    fn placed(&self, path: PathBuf) -> PathBuf {
        match path.components().next() {
            Some(Component::Normal(first)) if self.links.iter().any(|name| first == *name) => {
                Path::new("usr").join(path)
            }
            _ => path,
        }
    }
}

struct Writer<W: Write> {
    archive: tar::Builder<BufWriter<W>>,
    /// Paths that are in the archive already.
    seen: HashSet<PathBuf>,
}

impl<W: Write> Writer<W> {
    fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        self.archive.append_data(&mut header(EntryType::Directory, mode, 0), path, io::empty())
    }

    fn symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        self.seen.insert(path.to_owned());
        self.archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
    }

    fn file(&mut self, path: &Path, size: u64, contents: impl Read) -> io::Result<()> {
        self.seen.insert(path.to_owned());
        self.archive.append_data(&mut header(EntryType::Regular, 0o644, size), path, contents)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(NEWEST_TIME.parse().unwrap_or(0));
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::package::tests::make;
    use quiz_debian::usrmerge;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn packages_become_one_tree_with_their_owners_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (to, log) = (dir.path().join("to"), dir.path().join("log"));
        fs::create_dir(&to).unwrap();
        let first = make(dir.path(), "first", |tree| {
            fs::create_dir_all(tree.join("bin")).unwrap();
            fs::create_dir_all(tree.join("usr/share/doc/first")).unwrap();
            fs::write(tree.join("bin/su"), "su").unwrap();
            fs::set_permissions(tree.join("bin/su"), std::fs::Permissions::from_mode(0o4755)).unwrap();
            fs::hard_link(tree.join("bin/su"), tree.join("bin/su2")).unwrap();
            fs_err::os::unix::fs::symlink("su", tree.join("bin/link")).unwrap();
            fs::write(tree.join("usr/share/doc/first/copyright"), "no").unwrap();
        });
        let second = make(dir.path(), "second", |tree| {
            fs::create_dir_all(tree.join("usr/lib64")).unwrap();
            fs_err::os::unix::fs::symlink("usr/lib64", tree.join("lib64")).unwrap();
            fs::create_dir_all(tree.join("lib")).unwrap();
            fs::write(tree.join("lib/x.so"), "x").unwrap();
        });
        let packages = [first, second].map(|deb| Package::rewrite(&deb, &to, &log).unwrap());
        let links = usrmerge::links(quiz_arch::find("amd64").unwrap());
        let written = |links: &[&str]| {
            let tree = Tree {
                unpacked: packages.iter().collect(),
                packages: packages.iter().collect(),
                links,
                left_out: vec!["/usr/share/doc/".to_owned()],
                files: vec![("steps", "text".to_owned())],
            };
            let mut bytes = Vec::new();
            tree.write(&mut bytes).unwrap();
            let mut archive = tar::Archive::new(&bytes[..]);
            let mut found = BTreeMap::new();
            for item in archive.entries().unwrap() {
                let item = item.unwrap();
                let path = item.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
                let link = item.link_name().unwrap().map(|link| link.to_str().unwrap().to_owned());
                let header = item.header();
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
                let entry = (header.entry_type(), header.mode().unwrap(), link);
                assert!(found.insert(path.clone(), entry).is_none(), "{path} is there twice");
            }
            found
        };
        let merged = written(&links);
        let link = |target: &str| Some(target.to_owned());
        assert_eq!(merged["bin"], (EntryType::Symlink, 0o777, link("usr/bin")));
        assert_eq!(merged["lib64"], (EntryType::Symlink, 0o777, link("usr/lib64")));
        assert_eq!(merged["usr/bin/su"].1 & 0o7777, 0o4755);
        assert_eq!(merged["usr/bin/su2"].2, link("usr/bin/su"));
        assert_eq!(merged["usr/bin/link"].2, link("su"));
        assert!(merged.contains_key("usr/lib/x.so") && merged.contains_key("quiz/debs/second_1_all.deb"));
        assert!(!merged.contains_key("usr/share/doc/first/copyright") && !merged.contains_key("bin/su"));

        let plain = written(&[]);
        assert_eq!(plain["lib64"].2, link("usr/lib64"), "its own link is the package's matter");
        assert!(plain.contains_key("bin/su") && plain.contains_key("lib/x.so"));
    }
}
