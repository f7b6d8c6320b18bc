//! Examines a directory of kernel source: its version, and whether it can be built without writing
//! to it. Not for changing it: quiz only reads a source tree.

use std::path::{Path, PathBuf};

use fs_err as fs;
use walkdir::WalkDir;

use crate::version::Version;

/// Why a directory cannot be built from.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It is not a kernel source.
    #[error("{} is not a kernel's source tree: {why}", path.display())]
    NotKernel {
        /// The directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A build was run in it.
    #[error(
        "{} was built in place (it has {found}), and the kernel's build system refuses to build such a tree anywhere else: \
         save its .config if you need it, run `make mrproper` there, and try again",
        path.display()
    )]
    BuiltInPlace {
        /// The tree.
        path: PathBuf,
        /// The file that shows it.
        found: String,
    },
}

/// A directory with a kernel's source in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Its absolute path.
    pub path: PathBuf,
    /// The upstream version; for linux-next the day.
    pub version: Version,
    /// The first two numbers of the version, for linux-next as well.
    pub series: (u32, u32),
}

impl Tree {
    /// Examines `path`.
    pub fn open(path: &Path) -> Result<Tree, TreeError> {
        let not = |why: String| TreeError::NotKernel { path: path.to_owned(), why };
        let path = fs::canonicalize(path).map_err(|e| not(e.to_string()))?;
        let makefile = fs::read_to_string(path.join("Makefile")).map_err(|e| not(e.to_string()))?;
        if !path.join("Kconfig").is_file() || !path.join("scripts/kconfig").is_dir() {
            return Err(not("it has no Kconfig and scripts/kconfig".to_owned()));
        }
        let field = |name: &str| {
            makefile.lines().take(20).find_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        let number = |name: &str| field(name).and_then(|text| text.parse::<u32>().ok());
        let (Some(major), Some(minor)) = (number("VERSION"), number("PATCHLEVEL")) else {
            return Err(not("its Makefile does not start with VERSION and PATCHLEVEL".to_owned()));
        };
        let extra = field("EXTRAVERSION").unwrap_or_default();
        let next = fs::read_to_string(path.join("localversion-next")).unwrap_or_default();
        let text = format!("{major}.{minor}.{}{extra}{}", number("SUBLEVEL").unwrap_or(0), next.trim());
        let version = Version::leading(&text).ok_or_else(|| not(format!("its version would be {text}")))?;
        Ok(Tree { path, version, series: (major, minor) })
    }

    /// The directory below `arch/` for an architecture that make calls `kernel_arch`. The top
    /// Makefile names those that differ.
    pub fn srcarch(&self, kernel_arch: &str) -> String {
        let makefile = fs::read_to_string(self.path.join("Makefile")).unwrap_or_default();
        let mut lines = makefile.lines();
        let wanted = format!("ifeq ($(ARCH),{kernel_arch})");
        let named = lines.find(|line| line.trim() == wanted).and_then(|_| lines.next());
        let other = named.and_then(|line| line.trim().strip_prefix("SRCARCH")?.split_once('='));
        other.map_or(kernel_arch, |(_, name)| name.trim()).to_owned()
    }

    /// Fails if the tree has been built in place. make would refuse it with a poorer explanation.
    pub fn check_clean(&self, srcarch: &str) -> Result<(), TreeError> {
        let signs = [".config".to_owned(), "include/config".to_owned(), format!("arch/{srcarch}/include/generated")];
        match signs.into_iter().find(|sign| self.path.join(sign).exists()) {
            Some(found) => Err(TreeError::BuiltInPlace { path: self.path.clone(), found }),
            None => Ok(()),
        }
    }
}

/// The size of a directory's files, in bytes.
pub(crate) fn size(dir: &Path) -> u64 {
    let files = WalkDir::new(dir).into_iter().flatten().filter_map(|f| f.metadata().ok());
    files.filter(|m| m.is_file()).map(|m| m.len()).sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Files that make a directory look like a kernel's source.
    pub(crate) fn fake(dir: &Path, makefile: &str) {
        fs::create_dir_all(dir.join("scripts/kconfig")).unwrap();
        fs::write(dir.join("Kconfig"), "").unwrap();
        fs::write(dir.join("Makefile"), makefile).unwrap();
    }

    const MAKEFILE: &str = "# SPDX-License-Identifier: GPL-2.0\nVERSION = 6\nPATCHLEVEL = 19\nSUBLEVEL = 0\n\
        EXTRAVERSION = -rc3\nNAME = Baby\n\nifeq ($(ARCH),i386)\n        SRCARCH := x86\nendif\n\
        ifeq ($(ARCH),x86_64)\n        SRCARCH := x86\nendif\n";

    #[test]
    fn a_tree_tells_its_version() {
        let dir = tempfile::tempdir().unwrap();
        for (makefile, next, version, series) in [
            (MAKEFILE, None, "6.19.0-rc3", (6, 19)),
            ("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 30\nEXTRAVERSION =\n", None, "6.12.30", (6, 12)),
            (MAKEFILE, Some("-next-20261120\n"), "next-20261120", (6, 19)),
            ("VERSION=5\nPATCHLEVEL=14\nSUBLEVEL=0\nEXTRAVERSION=-vendor.1\n", None, "5.14.0", (5, 14)),
        ] {
            fake(dir.path(), makefile);
            if let Some(next) = next {
                fs::write(dir.path().join("localversion-next"), next).unwrap();
            }
            let tree = Tree::open(dir.path()).unwrap();
            assert_eq!((tree.version.to_string().as_str(), tree.series), (version, series));
            let _none = fs::remove_file(dir.path().join("localversion-next"));
        }
        fake(dir.path(), MAKEFILE);
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!((tree.srcarch("x86_64"), tree.srcarch("arm64")), ("x86".to_owned(), "arm64".to_owned()));
    }

    #[test]
    fn other_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| matches!(Tree::open(path), Err(TreeError::NotKernel { .. }));
        assert!(refused(dir.path()) && refused(&dir.path().join("nosuch")));
        fs::write(dir.path().join("Makefile"), MAKEFILE).unwrap();
        assert!(refused(dir.path()));
        fake(dir.path(), "all:\n");
        assert!(refused(dir.path()));
    }

    #[test]
    fn a_tree_that_was_built_in_place_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path(), MAKEFILE);
        let tree = Tree::open(dir.path()).unwrap();
        tree.check_clean("x86").unwrap();
        for sign in [".config", "include/config", "arch/x86/include/generated"] {
            fs::create_dir_all(dir.path().join(sign)).unwrap();
            let error = tree.check_clean("x86").unwrap_err().to_string();
            assert!(error.contains(sign) && error.contains("make mrproper"), "{error}");
            fs::remove_dir(dir.path().join(sign)).unwrap();
        }
        fs::create_dir_all(dir.path().join("arch/arm/include/generated")).unwrap();
        tree.check_clean("x86").unwrap();
    }
}
