//! Learns what a build installs, and from which product each installed file is made, by one `make
//! install` into a temporary directory. Not for updating the install tree, which needs no further
//! `make install`.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use quiz_host::command::{CommandError, Run};
use quiz_host::{Environment, Report, Unit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::configure;
use crate::elf;
use crate::fingerprint::Fingerprint;
use crate::record;

/// The files that a build installs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The build directory.
    #[serde(with = "crate::pathtext")]
    pub build: PathBuf,
    /// Files that decide what is installed. If one of them changes, everything must be learned
    /// again.
    pub watched: Vec<Watched>,
    /// Everything installed besides modules, by path, parents first.
    pub tools: Vec<Item>,
    /// The modules.
    pub modules: Vec<Module>,
}

/// A file whose contents are watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watched {
    /// The file.
    #[serde(with = "crate::pathtext")]
    pub path: PathBuf,
    /// Its state when it was read.
    pub fingerprint: Option<Fingerprint>,
    /// The SHA-256 of its contents.
    pub sum: Vec<u8>,
}

/// One installed file or link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Item {
    /// Its path in the guest, relative to `/`.
    #[serde(with = "crate::pathtext")]
    pub path: PathBuf,
    /// Its kind.
    pub what: What,
}

/// The kind of an installed item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum What {
    /// A file.
    File {
        /// The product from which it is made, absolute.
        #[serde(with = "crate::pathtext")]
        source: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Whether it is a program or library; its debug information stays on the host.
        elf: bool,
    },
    /// A symbolic link.
    Link {
        /// The link's target.
        #[serde(with = "crate::pathtext")]
        target: PathBuf,
    },
}

/// One kernel module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Module {
    /// The name of its file, `zfs.ko`.
    pub file: String,
    /// The product, absolute.
    #[serde(with = "crate::pathtext")]
    pub source: PathBuf,
}

/// Why the installed files could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// `make install` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// `make install` installs no tools.
    #[error(
        "the build in {} has modules but no `zpool`: it was not compiled to its end, or configured with --with-config=kernel; run make, or `quiz zfs`",
        build.display()
    )]
    NoTools {
        /// The build directory.
        build: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot find out what the build in {} installs: {cause}", build.display())]
    Io {
        /// The build directory.
        build: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

impl Manifest {
    /// Returns whether this is still what the build installs, and whether any fingerprint was
    /// refreshed. A fingerprint is refreshed if its file was written again with the same contents.
    pub fn check(&mut self) -> io::Result<(bool, bool)> {
        let mut refreshed = false;
        for watched in &mut self.watched {
            let now = Fingerprint::of(&watched.path)?;
            if now == watched.fingerprint {
                continue;
            }
            if sum(&watched.path)? != watched.sum {
                return Ok((false, refreshed));
            }
            watched.fingerprint = now;
            refreshed = true;
        }
        Ok((true, refreshed))
    }
}

/// The checksum of a file's contents; empty if there is no file.
fn sum(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Sha256::digest(bytes).to_vec()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Learns what `build` installs. `scratch` is an empty directory that the caller removes. `kept` is
/// a directory for files that the installation itself makes.
pub(crate) fn learn(
    build: &Path,
    scratch: &Path,
    kept: &Path,
    log: &Path,
    environment: &Environment,
    report: &dyn Report,
) -> Result<Manifest, LearnError> {
    let io = |cause| LearnError::Io { build: build.to_owned(), cause };
    let is_tool = |path: &&str| build.join(path).exists();
    if !["zpool", "cmd/zpool/zpool", ".libs/zpool"].iter().any(is_tool) {
        return Err(LearnError::NoTools { build: build.to_owned() });
    }
    // Watch first, so that every later change is noticed.
    let makefiles = watch(&makefiles(build).map_err(io)?).map_err(io)?;
    let progress = report.start("finding out what OpenZFS installs", None, Unit::None);
    let mut command = configure::command("make", build, environment);
    let mut destination = OsString::from("DESTDIR=");
    destination.push(scratch);
    command.args(["--no-print-directory", "install"]).arg(destination);
    Run { command, doing: "install OpenZFS into a temporary directory", log }.run_group(|line| progress.note(line))?;
    progress.done();
    let products = Products::of(build).map_err(io)?;
    let mut learned = Learned { products, kept, tools: BTreeMap::new(), modules: BTreeMap::new(), unsure: Vec::new() };
    for entry in WalkDir::new(scratch).sort_by_file_name() {
        let entry = entry.map_err(|e| io(e.into()))?;
        if let Ok(path) = entry.path().strip_prefix(scratch)
            && !entry.file_type().is_dir()
        {
            learned.take(path, entry.path()).map_err(io)?;
        }
    }
    learned.link_libraries().map_err(io)?;
    let mut watched = makefiles;
    watched.extend(watch(&learned.unsure).map_err(io)?);
    Ok(Manifest {
        build: build.to_owned(),
        watched,
        tools: learned.tools.into_iter().map(|(path, what)| Item { path, what }).collect(),
        modules: learned.modules.into_iter().map(|(file, source)| Module { file, source }).collect(),
    })
}

/// The files that decide what `make install` does.
fn makefiles(build: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![build.join("config.status")];
    let inner = |entry: &walkdir::DirEntry| !is_foreign(entry.path(), build);
    for entry in WalkDir::new(build).sort_by_file_name().into_iter().filter_entry(inner) {
        let entry = entry.map_err(io::Error::from)?;
        if matches!(entry.file_name().as_encoded_bytes(), b"Makefile" | b"Kbuild") {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// Whether a path in a build's directory does not belong to the build.
fn is_foreign(path: &Path, build: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    path != build
        && path.is_dir()
        && !path.is_symlink()
        && (name == ".quiz" || name == ".git" || name == record::DIR || path == build.join("build"))
}

fn watch(files: &[PathBuf]) -> io::Result<Vec<Watched>> {
    let one = |path: &PathBuf| {
        let fingerprint = Fingerprint::of(path)?;
        Ok(Watched { path: path.clone(), fingerprint, sum: sum(path)? })
    };
    files.iter().map(one).collect()
}

/// The guest's path for an installed file; the guest's `/bin`, `/sbin` and `/lib` are links into
/// `/usr`. `None` for files that a VM does not need.
fn place(path: &Path) -> Option<PathBuf> {
    let first = path.components().next()?;
    let merged = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"].iter().any(|name| first.as_os_str() == *name);
    let path = if merged { Path::new("usr").join(path) } else { path.to_owned() };
    is_useful(&path).then_some(path)
}

fn is_useful(path: &Path) -> bool {
    let parts: Vec<&str> = path.components().filter_map(|c| c.as_os_str().to_str()).collect();
    let has = |name: &str| parts.contains(&name);
    // The test suite contains directories with any of these names.
    if has("zfs-tests") || has("test-runner") {
        return true;
    }
    let pair = |a: &str, b: &str| parts.windows(2).any(|two| two == [a, b]);
    let useless = [
        "include",
        "pkgconfig",
        "dracut",
        "initramfs-tools",
        "bash-completion",
        "bash_completion.d",
        "systemd",
        "modules-load.d",
        // sudo accepts only root's files there, and the host's user may be another.
        "sudoers.d",
    ];
    let is_python =
        parts.iter().any(|part| part.starts_with("python3") || *part == "dist-packages" || *part == "site-packages");
    !(useless.iter().any(|name| has(name))
        || is_python
        || pair("share", "man") || pair("share", "locale") || pair("share", "doc") || pair("share", "pam-configs")
        || pair("usr", "src") || pair("local", "src") || pair("etc", "init.d") || has("security")
        || path.extension().is_some_and(|e| e == "a" || e == "la")
        // It lists the pools of another system.
        || path.ends_with("zfs/zpool.cache"))
}

/// The results so far.
struct Learned<'a> {
    products: Products<'a>,
    kept: &'a Path,
    tools: BTreeMap<PathBuf, What>,
    modules: BTreeMap<String, PathBuf>,
    /// Files that may decide the contents of those whose source is unknown.
    unsure: Vec<PathBuf>,
}

impl Learned<'_> {
    /// Records the file `installed`, which `make install` put at `path`.
    fn take(&mut self, path: &Path, installed: &Path) -> io::Result<()> {
        if let Some(file) = module_name(path) {
            if let Some(source) = self.products.module(&file) {
                self.modules.insert(file, source);
            }
            return Ok(());
        }
        let in_modules = path
            .components()
            .zip(path.components().skip(1))
            .any(|(a, b)| a.as_os_str() == "lib" && b == Component::Normal(OsStr::new("modules")));
        let Some(place) = place(path).filter(|_| !in_modules) else { return Ok(()) };
        let meta = fs::symlink_metadata(installed)?;
        if meta.is_symlink() {
            self.tools.insert(place, What::Link { target: fs::read_link(installed)? });
            return Ok(());
        }
        let mode = meta.permissions().mode() & 0o7777;
        let bytes = fs::read(installed)?;
        let elf = elf::is_elf(&bytes);
        let source = match self.products.same(path, &bytes)? {
            Some(source) => source,
            None => match if elf { self.products.linked(path, &bytes)? } else { None } {
                Some(source) => source,
                None => self.keep(path, &bytes)?,
            },
        };
        self.tools.insert(place, What::File { source, mode, elf });
        Ok(())
    }

    /// Keeps a file that the installation itself made. A file of the same name in the build,
    /// perhaps with `.in`, may be its source.
    fn keep(&mut self, path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
        let name: String = Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let file = self.kept.join(name);
        record::write_whole(&file, bytes)?;
        let base = path.file_name().unwrap_or_default();
        let mut input = base.to_owned();
        input.push(".in");
        for name in [base, &input] {
            self.unsure.extend(self.products.by_name.get(name).into_iter().flatten().cloned());
        }
        Ok(file)
    }

    /// Links libraries into `/usr/lib`, because the guest's dynamic linker searches only there.
    /// This is needed for other prefixes.
    fn link_libraries(&mut self) -> io::Result<()> {
        let mut links = Vec::new();
        for (path, what) in &self.tools {
            let What::File { source, elf: true, .. } = what else { continue };
            let Some(soname) = elf::linkage(&fs::read(source)?).and_then(|linkage| linkage.soname) else { continue };
            let dir = path.parent().unwrap_or(Path::new(""));
            let is_usual = dir == Path::new("usr/lib")
                || dir.parent() == Some(Path::new("usr/lib"))
                    && dir.as_os_str().to_string_lossy().contains("-linux-gnu");
            // Libraries that are loaded by path, such as plugins, need no link.
            let is_library_dir = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lib"));
            if !is_usual && is_library_dir {
                links.push((Path::new("usr/lib").join(soname), Path::new("/").join(path)));
            }
        }
        for (link, target) in links {
            self.tools.entry(link).or_insert(What::Link { target });
        }
        Ok(())
    }
}

/// The name of the module installed at `path`, without a compression suffix.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let bare = [".xz", ".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    bare.ends_with(".ko").then(|| bare.to_owned())
}

/// All files of a build.
struct Products<'a> {
    build: &'a Path,
    by_size: HashMap<u64, Vec<PathBuf>>,
    by_name: HashMap<OsString, Vec<PathBuf>>,
}

impl<'a> Products<'a> {
    fn of(build: &'a Path) -> io::Result<Products<'a>> {
        let mut products = Products { build, by_size: HashMap::new(), by_name: HashMap::new() };
        let inner = |entry: &walkdir::DirEntry| !is_foreign(entry.path(), build);
        for entry in WalkDir::new(build).sort_by_file_name().into_iter().filter_entry(inner) {
            let entry = entry.map_err(io::Error::from)?;
            let path = entry.path();
            // `make install` links libraries again, to `.libs/NAMET`. make alone never updates
            // those.
            let is_relinked = path.parent().is_some_and(|dir| dir.ends_with(".libs"))
                && (entry.file_name().as_encoded_bytes().ends_with(b"T")
                    || path.extension().is_some_and(|e| e == "lai"));
            // A dangling link is no product.
            let Ok(meta) = fs::metadata(path) else { continue };
            if meta.is_file() && !is_relinked {
                products.by_size.entry(meta.len()).or_default().push(path.to_owned());
                products.by_name.entry(entry.file_name().to_owned()).or_default().push(path.to_owned());
            }
        }
        Ok(products)
    }

    /// The product with the contents `bytes`; of several, the one whose path is most similar to
    /// `path`.
    fn same(&self, path: &Path, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
        let mut candidates: Vec<&PathBuf> = self.by_size.get(&(bytes.len() as u64)).into_iter().flatten().collect();
        candidates.sort_by_key(|candidate| self.unlike(path, candidate));
        for candidate in candidates {
            if fs::read(candidate)? == bytes {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok(None)
    }

    /// The program or library that libtool linked again, and installed as `bytes`.
    fn linked(&self, path: &Path, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
        let wanted = elf::linkage(bytes);
        let named = self.by_name.get(path.file_name().unwrap_or_default()).into_iter().flatten();
        let mut candidates: Vec<&PathBuf> =
            named.filter(|c| c.parent().is_some_and(|dir| dir.ends_with(".libs"))).collect();
        candidates.sort_by_key(|candidate| self.unlike(path, candidate));
        for candidate in candidates {
            let found = elf::linkage(&fs::read(candidate)?);
            let alike = |l: Option<&elf::Linkage>| l.map(|l| (l.soname.clone(), l.needed.clone()));
            if alike(found.as_ref()) == alike(wanted.as_ref()) {
                return Ok(Some(candidate.clone()));
            }
        }
        Ok(None)
    }

    fn module(&self, file: &str) -> Option<PathBuf> {
        let mut found: Vec<&PathBuf> = self.by_name.get(OsStr::new(file))?.iter().collect();
        found.retain(|path| path.strip_prefix(self.build).is_ok_and(|path| path.starts_with("module")));
        found.sort_by_key(|path| path.components().count());
        found.first().map(|path| (*path).clone())
    }

    /// Sort key: less for paths with more common trailing components, then for shorter paths.
    fn unlike(&self, path: &Path, candidate: &Path) -> (usize, usize, PathBuf) {
        let common = path.components().rev().zip(candidate.components().rev()).take_while(|(a, b)| a == b).count();
        (usize::MAX - common, candidate.components().count(), candidate.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_a_merged_usr() {
        let placed = |path: &str| place(Path::new(path)).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(placed("sbin/mount.zfs").as_deref(), Some("usr/sbin/mount.zfs"));
        assert_eq!(placed("lib/udev/vdev_id").as_deref(), Some("usr/lib/udev/vdev_id"));
        assert_eq!(placed("usr/local/sbin/zpool").as_deref(), Some("usr/local/sbin/zpool"));
        assert_eq!(
            placed("usr/share/zfs/zfs-tests/include/libtest.shlib").as_deref(),
            Some("usr/share/zfs/zfs-tests/include/libtest.shlib")
        );
        assert_eq!(placed("etc/zfs/zed.d/all-syslog.sh").as_deref(), Some("etc/zfs/zed.d/all-syslog.sh"));
        for useless in [
            "usr/include/libzfs/libzfs.h",
            "usr/lib/libzfs.a",
            "usr/lib/libzfs.la",
            "usr/share/man/man8/zfs.8",
            "usr/src/zfs-2.3.2/include/sys/spa.h",
            "usr/lib/pkgconfig/libzfs.pc",
            "usr/lib/dracut/modules.d/90zfs/module-setup.sh",
            "usr/share/initramfs-tools/hooks/zfs",
            "etc/init.d/zfs-zed",
            "etc/sudoers.d/zfs",
            "usr/local/include/libzfs.h",
            "etc/zfs/zpool.cache",
            "usr/lib/systemd/system/zfs.target",
            "lib/security/pam_zfs_key.so",
            "usr/lib/python3/dist-packages/libzfs_core/__init__.py",
        ] {
            assert_eq!(placed(useless), None, "{useless}");
        }
    }

    #[test]
    fn modules_are_known_by_their_names() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("lib/modules/6.1/extra/zfs/zfs.ko").as_deref(), Some("zfs.ko"));
        assert_eq!(name("lib/modules/6.1/extra/spl.ko.zst").as_deref(), Some("spl.ko"));
        assert_eq!(name("lib/modules/6.1/modules.dep"), None);
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = top.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        top
    }

    #[test]
    fn a_file_is_mapped_to_the_product_most_like_it() {
        let top = tree(&[
            ("tests/functional/acl/setup.ksh", "same"),
            ("tests/functional/atime/setup.ksh", "same"),
            ("tests/functional/atime/other.ksh", "same"),
            (".libs/libx.soT", "relinked"),
            (".quiz/build/6.1/zpool", "inner"),
            (".quiz-build/x", "inner"),
        ]);
        let products = Products::of(top.path()).unwrap();
        let same = |path: &str, text: &str| {
            let found = products.same(Path::new(path), text.as_bytes()).unwrap();
            found.map(|found| found.strip_prefix(top.path()).unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(
            same("usr/share/zfs-tests/atime/setup.ksh", "same").as_deref(),
            Some("tests/functional/atime/setup.ksh")
        );
        assert_eq!(
            same("usr/share/zfs-tests/acl/setup.ksh", "same").as_deref(),
            Some("tests/functional/acl/setup.ksh")
        );
        assert_eq!(same("usr/lib/libx.so", "relinked"), None, "what make install made");
        assert_eq!(same("usr/sbin/zpool", "inner"), None, "another build");
    }

    #[test]
    fn a_makefile_written_again_with_the_same_words_changes_nothing() {
        let top = tree(&[("Makefile", "all:\n"), ("config.status", "x"), ("module/Kbuild", "obj-m")]);
        let files = makefiles(top.path()).unwrap();
        assert_eq!(files.len(), 3);
        let watched = watch(&files).unwrap();
        let mut manifest = Manifest { build: top.path().to_owned(), watched, tools: Vec::new(), modules: Vec::new() };
        assert_eq!(manifest.check().unwrap(), (true, false));
        fs::write(top.path().join("new"), "all:\n").unwrap();
        fs::rename(top.path().join("new"), top.path().join("Makefile")).unwrap();
        assert_eq!(manifest.check().unwrap(), (true, true));
        assert_eq!(manifest.check().unwrap(), (true, false));
        fs::write(top.path().join("module/Kbuild"), "obj-n").unwrap();
        assert!(!manifest.check().unwrap().0);
        fs::remove_file(top.path().join("module/Kbuild")).unwrap();
        assert!(!manifest.check().unwrap().0);
    }
}
