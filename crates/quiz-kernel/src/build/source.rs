//! Where a kernel's source comes from, and getting it: named by the user, made a directory by this
//! module. Not for configuring or building what is in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::archive::{self, ArchiveError, Counted};
use super::fetch::Fetch;
use super::git::{GitError, Repository};
use super::release::{self, Archive, Mirrors, ReleaseError};
use super::tree::{Tree, TreeError};
use super::trust::Trust;
use crate::kernel::Origin;
use crate::version::Version;
use quiz_debian::apt::{self, Apt, AptError, Package};
use quiz_host::command::{CommandError, Run};
use quiz_host::digest;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, StoreError};

/// Why a source could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// kernel.org's archives.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A git repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A distribution's package.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// An archive could not be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A directory is not a kernel's source, or not a usable one.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("cannot prepare the kernel's source: {0}")]
    Io(#[from] std::io::Error),
    /// The package has no source in it.
    #[error("the package {package} has no usr/src/linux-source-*.tar in it")]
    NoTar {
        /// The package.
        package: String,
    },
    /// The archive is of another version than its name says.
    #[error("{what} calls itself {got}, not {wanted}")]
    Version {
        /// The archive or tag.
        what: String,
        /// What it should be.
        wanted: Version,
        /// What its Makefile says.
        got: Version,
    },
}

/// What the user wants built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    /// A release or release candidate of kernel.org, or linux-next of a day.
    Release { version: Version },
    /// A commit of a git repository.
    Git {
        /// The repository.
        url: String,
        /// A branch, a tag or a whole commit id.
        reference: String,
    },
    /// The package `linux-source-*` of a Debian-like distribution.
    DebianSource {
        /// The package.
        package: String,
        /// The suite.
        release: String,
        /// Other mirrors than Debian's own, as in [`apt::Source::mirrors`].
        mirrors: Vec<String>,
        /// Other keys than Debian's own.
        keyring: Option<PathBuf>,
    },
    /// The user's own tree. It is only read.
    Tree {
        /// The directory.
        path: PathBuf,
    },
}

impl Source {
    /// Reads what a user may write in one word: `6.12.30`, `6.19-rc3`, `next-20261120`, or
    /// `linux-source-6.12` (then of the suite `release`).
    pub fn parse(text: &str, release: &str) -> Result<Source, crate::version::NotAVersion> {
        if text.starts_with("linux-source-") {
            return Ok(Source::DebianSource {
                package: text.to_owned(),
                release: release.to_owned(),
                mirrors: Vec::new(),
                keyring: None,
            });
        }
        Ok(Source::Release { version: text.parse()? })
    }

    /// A name for the directory in which it is worked on: the same source always has the same, and
    /// no other has it.
    pub(crate) fn id(&self) -> String {
        let short = |text: &str| digest::of_bytes(text.as_bytes())[..12].to_owned();
        match self {
            Source::Release { version } => format!("linux-{}", version.source_name()),
            Source::Git { url, reference } => format!("git-{}", short(&format!("{url} {reference}"))),
            Source::DebianSource { package, release, mirrors, .. } => {
                format!("deb-{}", short(&format!("{package} {release} {}", mirrors.join(" "))))
            }
            Source::Tree { path } => format!("tree-{}", short(&path.to_string_lossy())),
        }
    }

    /// In a few words, for messages.
    pub fn describe(&self) -> String {
        match self {
            Source::Release { version } => version.source_name(),
            Source::Git { url, reference } => format!("{reference} of {url}"),
            Source::DebianSource { package, release, .. } => format!("{package} of {release}"),
            Source::Tree { path } => path.display().to_string(),
        }
    }

    /// Whether there will be something new to build from it again and again, so that what was built
    /// before is worth its disk space.
    pub(crate) fn moves(&self) -> bool {
        matches!(self, Source::Git { .. } | Source::Tree { .. })
    }
}

/// A source that is there.
#[derive(Debug)]
pub(crate) struct Obtained {
    pub tree: Tree,
    pub origin: Origin,
}

/// A source that is known exactly, and not yet a directory.
pub(crate) struct Identified {
    pub origin: Origin,
    found: Found,
}

enum Found {
    Archive(Archive),
    Commit { repository: Repository, commit: String },
    Package { apt: Apt, offered: Package },
    Tree(Tree),
}

/// What getting a source takes.
pub(crate) struct Means<'a> {
    pub cache: &'a Cache,
    pub mirrors: &'a Mirrors,
    pub trust: &'a Trust,
    /// Debian's name of the architecture, for the package lists.
    pub debian_arch: &'a str,
    pub log: &'a Path,
    pub fetch: &'a Fetch,
    pub report: &'a dyn Report,
}

/// Finds out which source `source` is now. An archive is downloaded and verified, a commit fetched,
/// a list of packages updated; nothing is unpacked yet. The caller has locked the source's work
/// directory.
pub(crate) fn identify(source: &Source, means: &Means<'_>) -> Result<Identified, SourceError> {
    match source {
        Source::Release { version: version @ Version::Next(_) } => {
            commit(&means.mirrors.next.clone(), &version.source_name(), means)
        }
        Source::Release { version } => {
            let downloads = means.cache.shelf("downloads").dir().to_owned();
            let archive = release::obtain(version, means.mirrors, means.trust, &downloads, means.fetch, means.report)?;
            let origin = Origin::Tarball {
                url: archive.url.clone(),
                sha256: archive.sha256.clone(),
                trusted: Some(archive.trusted.clone()),
            };
            Ok(Identified { origin, found: Found::Archive(archive) })
        }
        Source::Git { url, reference } => commit(url, reference, means),
        Source::DebianSource { package, release, mirrors, keyring } => {
            let suite = apt::Source { release: release.clone(), mirrors: mirrors.clone(), keyring: keyring.clone() };
            let apt = Apt::update(means.cache, &suite, &[means.debian_arch], means.report)?;
            let offered = apt.require(package)?;
            let origin = Origin::DebianSource { package: package.clone(), version: offered.version.clone() };
            Ok(Identified { origin, found: Found::Package { apt, offered } })
        }
        Source::Tree { path } => {
            let tree = Tree::open(path)?;
            Ok(Identified { origin: Origin::Tree { path: tree.path.clone() }, found: Found::Tree(tree) })
        }
    }
}

fn commit(url: &str, reference: &str, means: &Means<'_>) -> Result<Identified, SourceError> {
    let repository = Repository::of(means.cache, url, means.log)?;
    let (commit, trusted) = repository.fetch(means.cache, reference, means.trust, means.report)?;
    let origin = Origin::Git {
        url: url.to_owned(),
        reference: reference.to_owned(),
        commit: commit.clone(),
        trusted: Some(trusted),
    };
    Ok(Identified { origin, found: Found::Commit { repository, commit } })
}

impl Identified {
    /// Makes the source a directory in `work`, which is locked by the caller. What is there from an
    /// earlier time is used if it is the same.
    pub fn unpack(self, source: &Source, work: &Path, means: &Means<'_>) -> Result<Obtained, SourceError> {
        let to = work.join("source");
        let tree = match self.found {
            Found::Archive(archive) => unpacked(&to, &archive.sha256, || {
                let name = archive.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let progress = means.report.start(&format!("unpacking {name}"), None, Unit::Bytes);
                let file = fs::File::open(&archive.path)?;
                progress.total(file.metadata()?.len());
                let tar = archive::decompressed(Counted::new(file, progress.as_ref()))?;
                archive::unpack(tar, &to, &name)?;
                progress.done();
                Ok(())
            })?,
            Found::Commit { repository, commit } => {
                repository.checkout(&commit, &to, means.report)?;
                Tree::open(&to)?
            }
            Found::Package { apt, offered } => {
                let package = offered.name.clone();
                unpacked(&to, &format!("{package} {}", offered.version), || {
                    for deb in &apt.download(&[offered], means.report)? {
                        unpack_package(deb, &to, &package, means)?;
                    }
                    Ok(())
                })?
            }
            Found::Tree(tree) => tree,
        };
        if let Source::Release { version } = source {
            let what = match &self.origin {
                Origin::Tarball { url, .. } => url.clone(),
                _ => version.source_name(),
            };
            check(version, &tree, &what)?;
        }
        Ok(Obtained { tree, origin: self.origin })
    }
}

fn check(wanted: &Version, tree: &Tree, what: &str) -> Result<(), SourceError> {
    if tree.version == *wanted {
        return Ok(());
    }
    Err(SourceError::Version { what: what.to_owned(), wanted: *wanted, got: tree.version })
}

/// The tree in `to`, which `unpack` makes unless it is there already, made from the very same
/// `content`.
fn unpacked(to: &Path, content: &str, unpack: impl FnOnce() -> Result<(), SourceError>) -> Result<Tree, SourceError> {
    let stamp = PathBuf::from(format!("{}.from", to.display()));
    if !(to.is_dir() && fs::read_to_string(&stamp).is_ok_and(|text| text == content)) {
        let _stale = fs::remove_file(&stamp);
        unpack()?;
        fs::write(&stamp, content)?;
    }
    Ok(Tree::open(to)?)
}

/// Unpacks the archive that is in a Debian package, without a copy of it on disk.
fn unpack_package(deb: &Path, to: &Path, package: &str, means: &Means<'_>) -> Result<(), SourceError> {
    let doing = format!("unpack {package}");
    let progress = means.report.start(&format!("unpacking {package}"), None, Unit::Bytes);
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(deb);
    let found = Run { command, doing: &doing, log: means.log }.stream(|stream| {
        let mut outer = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, stream));
        for item in outer.entries()? {
            let item = item?;
            let path = item.path()?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./");
            let is_source = path.strip_prefix("usr/src/linux-source-").is_some_and(|rest| rest.contains(".tar"));
            if is_source && item.header().entry_type().is_file() {
                progress.total(item.size());
                let inner = archive::decompressed(Counted::new(item, progress.as_ref()))?;
                archive::unpack(inner, to, package)?;
                return Ok::<_, SourceError>(true);
            }
        }
        Ok(false)
    })?;
    if !found {
        return Err(SourceError::NoTar { package: package.to_owned() });
    }
    progress.done();
    Ok(())
}
