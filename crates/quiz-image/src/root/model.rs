//! What a root is: what is asked of one, the entry in the cache, and why there may be none. Not for
//! making it.

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

/// What every root has beside the distribution's essential packages: what a shell session, a small
/// script of a test and the agent's helpers need.
pub const PACKAGES: &[&str] = &["mount", "kmod", "procps", "iproute2", "less", "udev", "python3-minimal"];
pub const IMAGE: &str = "root.squashfs";
/// Files that no run needs, or that are large and only describe devices which no VM has.
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
/// Completes a root whose packages are installed.
pub const SETUP: &str = include_str!("setup.sh");

/// Why a root could not be made, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The release, mirror or keyring is not usable.
    #[error(transparent)]
    Source(#[from] AptError),
    /// A program of the host failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A package name that is none.
    #[error("`{0}` is not the name of a package")]
    PackageName(String),
    /// The name is that of a root of the user's own.
    #[error("{0} is a root of your own (quiz root add), of no release: remove it first, or choose another --release")]
    Own(String),
    /// The name is that of another root.
    #[error("there is a root {0} already, of another archive or made by an older quiz; --replace makes it of this one")]
    Taken(String),
    /// An archive that is none, or of something else.
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
    /// There is no disk for a VM.
    #[error(transparent)]
    Blank(#[from] BlankError),
    /// What was to happen in a VM went wrong.
    #[error("cannot make the root {name} in a VM: {why}{}\nthe whole log is {}", told(lines), log.display())]
    Vm {
        /// The entry's name.
        name: String,
        /// What went wrong.
        why: String,
        /// The lines of the log that tell most.
        lines: Vec<String>,
        /// Everything that the programs in the VM said.
        log: PathBuf,
    },
    /// The user ended the VM that it was made in.
    #[error("interrupted by signal {signal} while the root {name} was made")]
    Interrupted {
        /// The entry's name.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// The host cannot run programs of the architecture, which packages do while they are
    /// installed.
    #[error(
        "cannot make a root for {arch} on this host, which does not run programs of that architecture: install user-mode emulation \
         (Debian and Ubuntu: apt-get install qemu-user-static binfmt-support; others: a QEMU user package with binfmt_misc)\n{cause}"
    )]
    Foreign {
        /// quiz-arch's name of the architecture.
        arch: &'static str,
        /// What mmdebstrap said.
        cause: CommandError,
    },
    /// The user may not make user namespaces with more than one id.
    #[error(
        "cannot make a root as an ordinary user here: give yourself subordinate ids \
         (`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOU`, with the packages uidmap and mmdebstrap installed), \
         or make it as root\n{cause}"
    )]
    Unprivileged {
        /// What mmdebstrap said.
        cause: CommandError,
    },
}

/// Which root is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The release and where to get it.
    pub source: Source,
    /// The architecture.
    pub arch: &'static Arch,
    /// Packages beyond [`PACKAGES`].
    pub packages: Vec<String>,
}

impl Wanted {
    /// The name of the entry: `bookworm-x86_64`, with a short sum at its end if more than the
    /// release and architecture were chosen.
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

/// What is known about a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootManifest {
    /// The entry's name.
    pub name: String,
    /// The suite.
    pub release: String,
    /// quiz-arch's name of the architecture.
    pub arch: String,
    /// The file system type of the image, as `mount -t` wants it.
    pub format: String,
    /// The image's file, relative to the entry.
    pub image: String,
    /// The user's own, of an archive; what is in it is not known.
    #[serde(default)]
    pub own: bool,
    /// SHA-256 of the archive that the user's own was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_sha256: Option<String>,
    /// Packages that were asked for beyond the usual ones.
    pub extra_packages: Vec<String>,
    /// Every installed package and its version.
    pub packages: BTreeMap<String, String>,
    /// The mirrors that were asked for; empty means Debian's own.
    pub mirrors: Vec<String>,
    /// The keyring that was asked for; none means the distribution's own.
    #[serde(default)]
    pub keyring: Option<PathBuf>,
    /// Bytes of the image.
    pub size: u64,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
    /// When the entry was made.
    pub built_at: jiff::Timestamp,
    /// Which quiz made it.
    pub quiz_version: String,
}

impl RootManifest {
    /// Whether it is of the wanted release, architecture and origin, and has every package. One of
    /// the user's own has what it has.
    pub fn serves(&self, wanted: &Wanted) -> bool {
        if self.own {
            return self.release == wanted.source.release && self.arch == wanted.arch.name;
        }
        self.does_for(wanted) && PACKAGES.iter().all(|package| self.packages.contains_key(*package))
    }

    /// It lacks only what every root has by now, because an older quiz has made it.
    pub fn is_outdated_for(&self, wanted: &Wanted) -> bool {
        self.does_for(wanted) && !self.serves(wanted)
    }

    /// The same, but that it may lack what every root has by now.
    pub fn does_for(&self, wanted: &Wanted) -> bool {
        let plain = |package: &str| package.split(':').next().unwrap_or(package).to_owned();
        self.release == wanted.source.release
            && self.arch == wanted.arch.name
            && self.mirrors == wanted.source.mirrors
            && self.keyring == wanted.source.keyring
            && wanted.extra_packages().iter().all(|package| self.packages.contains_key(&plain(package)))
    }
}

/// A root in the cache, in use until this value is dropped.
#[derive(Debug)]
pub struct Root {
    /// What is known about it.
    pub manifest: RootManifest,
    dir: PathBuf,
    /// None for what a VM runs on while it makes a root, which is on no shelf.
    _entry: Option<Entry>,
}

impl Root {
    /// A root that is no entry: its image is in `dir`.
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

    /// The image, to be attached read-only.
    pub fn image(&self) -> PathBuf {
        self.dir().join(&self.manifest.image)
    }

    /// Names exactly this root as it is now: differs for every rebuild that is not the same.
    pub fn identity(&self) -> String {
        format!("{} {}", self.manifest.name, self.manifest.sha256)
    }
}

fn told(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// The installed packages and their versions, from dpkg's own list in the archive.
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
