//! Roots as data: the request for one, its entry in the cache, and its errors. Not for making one.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;
use quiz_arch::Arch;
use quiz_debian::apt::{AptError, Source};
use quiz_debian::deb::DebError;
use quiz_host::command::CommandError;
use quiz_host::digest;
use quiz_host::store::{Entry, StoreError};
use serde::{Deserialize, Serialize};

use crate::blank::BlankError;

/// Packages of every root in addition to the distribution's essential ones. A shell session, a
/// small test script and the agent's helpers need them.
pub const PACKAGES: &[&str] = &["mount", "kmod", "procps", "iproute2", "less", "udev", "python3-minimal"];
pub const IMAGE: &str = "root.squashfs";
/// Files to leave out: no run needs them, or they are large and only describe devices that no VM
/// has.
pub const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bug/*",
    "/usr/share/lintian/*",
    "/usr/lib/udev/hwdb.d/*",
    "/lib/udev/hwdb.d/*",
];
/// Script that completes a root after its packages are installed.
pub const SETUP: &str = include_str!("setup.sh");

/// Why a root could not be made, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The release, mirror or keyring cannot be used.
    #[error(transparent)]
    Source(#[from] AptError),
    /// A program of the host failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A package name is invalid.
    #[error("`{0}` is not the name of a package")]
    PackageName(String),
    /// The name belongs to your own root (`quiz root add`).
    #[error("{0} is a root of your own (quiz root add), of no release: remove it first, or choose another --release")]
    Own(String),
    /// The name belongs to another root.
    #[error("there is a root {0} already, of another archive or made by an older quiz; --replace makes it of this one")]
    Taken(String),
    /// The archive cannot be read, or has other contents.
    #[error("{} cannot be a root: {why}", archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A package could not be read.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// The disk for a VM could not be made.
    #[error(transparent)]
    Blank(#[from] BlankError),
    /// Making the root in a VM failed.
    #[error("cannot make the root {name} in a VM: {why}{}\nthe whole log is {}", told(lines), log.display())]
    Vm {
        /// The entry's name.
        name: String,
        /// What failed.
        why: String,
        /// The most informative lines of the log.
        lines: Vec<String>,
        /// The complete output of the programs in the VM.
        log: PathBuf,
    },
    /// The user interrupted the VM that was making the root.
    #[error("interrupted by signal {signal} while the root {name} was made")]
    Interrupted {
        /// The entry's name.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// The host cannot run programs of the architecture. Packages run programs while they are
    /// installed.
    #[error(
        "cannot make a root for {arch} on this host, which does not run programs of that architecture: install user-mode emulation \
         (Debian and Ubuntu: apt-get install qemu-user-static binfmt-support; others: a QEMU user package with binfmt_misc)\n{cause}"
    )]
    Foreign {
        /// quiz-arch's name of the architecture.
        arch: &'static str,
        /// mmdebstrap's error.
        cause: CommandError,
    },
    /// The user must not make user namespaces with more than one id.
    #[error(
        "cannot make a root as an ordinary user here: give yourself subordinate ids \
         (`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOU`, with the packages uidmap and mmdebstrap installed), \
         or make it as root\n{cause}"
    )]
    Unprivileged {
        /// mmdebstrap's error.
        cause: CommandError,
    },
}

/// A request for a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The release and its mirrors.
    pub source: Source,
    /// The architecture.
    pub arch: &'static Arch,
    /// Packages in addition to [`PACKAGES`].
    pub packages: Vec<String>,
}

impl Wanted {
    /// The name of the entry: `bookworm-x86_64`. A short checksum follows if more than the release
    /// and architecture were chosen.
    pub fn name(&self) -> String {
        let plain = format!("{}-{}", self.source.release, self.arch.name);
        let packages = self.extra_packages();
        if packages.is_empty() && self.source.mirrors.is_empty() && self.source.keyring.is_none() {
            return plain;
        }
        let choice = format!("{packages:?} {:?} {:?}", self.source.mirrors, self.source.keyring);
        format!("{plain}-{}", &digest::of_bytes(choice.as_bytes())[..8])
    }

    pub fn extra_packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> =
            self.packages.iter().map(String::as_str).filter(|p| !PACKAGES.contains(p)).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

/// The manifest of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootManifest {
    /// The entry's name.
    pub name: String,
    /// The suite.
    pub release: String,
    /// quiz-arch's name of the architecture.
    pub arch: String,
    /// The file system type of the image, for `mount -t`.
    pub format: String,
    /// The image's file, relative to the entry.
    pub image: String,
    /// Whether it is the user's own, from an archive; its packages are unknown.
    #[serde(default)]
    pub own: bool,
    /// SHA-256 of the archive that the user's own root was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_sha256: Option<String>,
    /// Packages that were requested in addition to the usual ones.
    pub extra_packages: Vec<String>,
    /// Every installed package and its version.
    pub packages: BTreeMap<String, String>,
    /// The requested mirrors; empty for Debian's own.
    pub mirrors: Vec<String>,
    /// The requested keyring; `None` for the distribution's own.
    #[serde(default)]
    pub keyring: Option<PathBuf>,
    /// Size of the image in bytes.
    pub size: u64,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
    /// When the entry was made.
    pub built_at: jiff::Timestamp,
    /// The version of quiz that made it.
    pub quiz_version: String,
}

impl RootManifest {
    /// Whether it has the wanted release, architecture and origin, and every package. The packages
    /// of a user's own root are not checked.
    pub fn serves(&self, wanted: &Wanted) -> bool {
        if self.own {
            return self.release == wanted.source.release && self.arch == wanted.arch.name;
        }
        self.does_for(wanted) && PACKAGES.iter().all(|package| self.packages.contains_key(*package))
    }

    /// Whether it lacks only packages that every root has now, because an older quiz made it.
    pub fn is_outdated_for(&self, wanted: &Wanted) -> bool {
        self.does_for(wanted) && !self.serves(wanted)
    }

    /// Like [`RootManifest::serves`], except that it may lack packages that every root has now.
    pub fn does_for(&self, wanted: &Wanted) -> bool {
        let plain = |package: &str| package.split(':').next().unwrap_or(package).to_owned();
        self.release == wanted.source.release
            && self.arch == wanted.arch.name
            && self.mirrors == wanted.source.mirrors
            && self.keyring == wanted.source.keyring
            && wanted.extra_packages().iter().all(|package| self.packages.contains_key(&plain(package)))
    }
}

/// A root in the cache. The entry counts as in use until this value is dropped.
#[derive(Debug)]
pub struct Root {
    /// What is known about it.
    pub manifest: RootManifest,
    dir: PathBuf,
    /// `None` for the temporary root of a VM that makes a root; it is on no shelf.
    _entry: Option<Entry>,
}

impl Root {
    /// A root without an entry: its image is in `dir`.
    pub fn unfinished(manifest: RootManifest, dir: &Path) -> Root {
        Root { manifest, dir: dir.to_owned(), _entry: None }
    }

    pub fn from_entry(entry: Entry) -> Result<Root, StoreError> {
        Ok(Root { manifest: entry.manifest()?, dir: entry.dir().to_owned(), _entry: Some(entry) })
    }

    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The entry's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image, to attach read-only.
    pub fn image(&self) -> PathBuf {
        self.dir().join(&self.manifest.image)
    }

    /// A text that identifies this build of the root: it differs for every rebuild with another
    /// result.
    pub fn identity(&self) -> String {
        format!("{} {}", self.manifest.name, self.manifest.sha256)
    }
}

fn told(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// The installed packages and their versions, from dpkg's status file in the archive.
pub fn installed(tar: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut archive = tar::Archive::new(fs::File::open(tar)?);
    for item in archive.entries_with_seek()? {
        let mut item = item?;
        if item.path()?.ends_with("var/lib/dpkg/status") {
            let mut text = String::new();
            item.read_to_string(&mut text)?;
            return Ok(packages(&text));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no list of packages in {}", tar.display())))
}

pub fn packages(status: &str) -> BTreeMap<String, String> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|l| l.split_once(": ").filter(|(key, _)| *key == name).map(|(_, v)| v.to_owned()))
    };
    status
        .split("\n\n")
        .filter(|stanza| field(stanza, "Status").is_some_and(|s| s.ends_with(" installed")))
        .filter_map(|stanza| Some((field(stanza, "Package")?, field(stanza, "Version")?)))
        .collect()
}
