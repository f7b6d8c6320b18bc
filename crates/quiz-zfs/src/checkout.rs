//! An OpenZFS checkout: its place, the kernels that it supports, and the directories where quiz
//! keeps its state. Not for building it.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use quiz_kernel::kernel::Kernel;

use crate::meta::{Meta, Support};

/// Why a checkout or a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The worktree is not an OpenZFS checkout.
    #[error(
        "{} is no OpenZFS checkout: {why}; change to the top of one, or name it with -C DIR",
        dir.display()
    )]
    NotZfs {
        /// The worktree's top.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Kbuild does not support the path.
    #[error("cannot build modules in {}: the kernel's build system takes no path with blanks or colons; move the checkout", dir.display())]
    Path {
        /// The checkout.
        dir: PathBuf,
    },
    /// The kernel has no tree to build modules against.
    #[error(
        "cannot build OpenZFS for kernel {kernel}: it has no build tree for modules; make the kernel again (`quiz kernel build`, or `quiz kernel \
         add` for a stock one), or choose another with -k"
    )]
    NoKbuild {
        /// The kernel's name.
        kernel: String,
    },
    /// `META` excludes the kernel.
    #[error(
        "OpenZFS {zfs} is for kernels {range}, and kernel {kernel}{} is too {}{}",
        if kernel == version { String::new() } else { format!(" ({version})") },
        if *new { "new" } else { "old" },
        if *experimental {
            "; `quiz zfs configure --enable-linux-experimental` lets it be tried all the same"
        } else {
            ""
        }
    )]
    Unsupported {
        /// OpenZFS's version.
        zfs: String,
        /// The kernels it supports.
        range: String,
        /// The kernel's name.
        kernel: String,
        /// Its version.
        version: String,
        /// Whether it is too new rather than too old.
        new: bool,
        /// Whether this checkout has the option to try it.
        experimental: bool,
    },
    /// The checkout cannot be read.
    #[error("cannot read the checkout: {0}")]
    Io(#[from] io::Error),
}

/// A checkout of OpenZFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Its top, absolute.
    pub dir: PathBuf,
    /// The contents of its `META` file.
    pub meta: Meta,
}

/// `configure`'s option to build for a kernel that is too new.
const EXPERIMENTAL: &str = "--enable-linux-experimental";

impl Checkout {
    /// Opens the checkout whose top is `dir`.
    ///
    /// # Errors
    /// Fails if it is not a checkout.
    pub fn open(dir: &Path) -> Result<Checkout, CheckoutError> {
        let not = |why: &str| CheckoutError::NotZfs { dir: dir.to_owned(), why: why.to_owned() };
        let text = match fs::read(dir.join("META")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not("it has no file META")),
            Err(e) => return Err(e.into()),
        };
        let meta = Meta::parse(&text).ok_or_else(|| not("its META has no line `Name: zfs`"))?;
        Ok(Checkout { dir: dir.to_owned(), meta })
    }

    /// The nearest checkout from `start` upwards, if neither git nor quiz has marked a worktree
    /// yet.
    pub fn find(start: &Path) -> Option<Checkout> {
        start.ancestors().find_map(|dir| Checkout::open(dir).ok())
    }

    /// The build directory for kernels whose `uname -r` is `release`.
    pub fn build_dir(&self, release: &str) -> PathBuf {
        self.dir.join(".quiz/build").join(release)
    }

    /// The install tree for those kernels.
    pub fn install_dir(&self, release: &str) -> PathBuf {
        self.dir.join(".quiz/install").join(release)
    }

    /// Makes the directory `.quiz/NAME`, which git ignores.
    pub(crate) fn make_state_dir(&self, name: &str) -> io::Result<PathBuf> {
        let state = self.dir.join(".quiz");
        let dir = state.join(name);
        fs::create_dir_all(&dir)?;
        let ignore = state.join(".gitignore");
        if !ignore.exists() {
            fs::write(ignore, "*\n")?;
        }
        Ok(dir)
    }

    /// Checks that this checkout can be built for `kernel` with the arguments `args` of
    /// `configure`.
    ///
    /// # Errors
    /// Fails if it cannot; nothing was changed.
    pub fn fits(&self, kernel: &Kernel, args: &[String]) -> Result<(), CheckoutError> {
        let name = || kernel.name().to_owned();
        if self.dir.as_os_str().as_encoded_bytes().iter().any(|b| b.is_ascii_whitespace() || *b == b':') {
            return Err(CheckoutError::Path { dir: self.dir.clone() });
        }
        let support = self.meta.supports(kernel.manifest.version);
        let tried = support == Support::TooNew && self.has_experimental() && args.iter().any(|a| a == EXPERIMENTAL);
        if support != Support::Yes && !tried {
            return Err(CheckoutError::Unsupported {
                zfs: self.meta.version.clone(),
                range: self.meta.range(),
                kernel: name(),
                version: kernel.manifest.version.to_string(),
                new: support == Support::TooNew,
                experimental: support == Support::TooNew && self.has_experimental(),
            });
        }
        kernel.kbuild().map(drop).ok_or_else(|| CheckoutError::NoKbuild { kernel: name() })
    }

    /// Whether this checkout's `configure` has the option to build for kernels that are too new.
    fn has_experimental(&self) -> bool {
        fs::read(self.dir.join("config/kernel.m4"))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("linux-experimental"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_with_zfs_in_its_meta_is_a_checkout() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("module/zfs");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(Checkout::find(&inner), None);
        assert!(Checkout::open(top.path()).unwrap_err().to_string().contains("no file META"));
        fs::write(top.path().join("META"), "Name: spl\n").unwrap();
        assert!(Checkout::open(top.path()).unwrap_err().to_string().contains("`Name: zfs`"));
        fs::write(top.path().join("META"), b"Name: zfs\nVersion: 2.3.\xff\n").unwrap();
        assert_eq!(Checkout::find(&inner).unwrap().dir, top.path());
    }

    #[test]
    fn what_quiz_keeps_is_invisible_to_git() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("META"), "Name: zfs\n").unwrap();
        let checkout = Checkout::open(top.path()).unwrap();
        assert_eq!(checkout.make_state_dir("build").unwrap(), top.path().join(".quiz/build"));
        assert_eq!(fs::read_to_string(top.path().join(".quiz/.gitignore")).unwrap(), "*\n");
        assert_eq!(checkout.build_dir("6.1.0-50-amd64"), top.path().join(".quiz/build/6.1.0-50-amd64"));
    }
}
