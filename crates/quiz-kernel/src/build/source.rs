//! Gets the source of a kernel: from the user's name for it to a directory. Not for configuring or
//! building it.

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

/// Why a source could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Getting it from kernel.org failed.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Getting it from a git repository failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Getting a distribution's package failed.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// An archive could not be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A directory is not a kernel's source, or cannot be used.
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
    /// The package contains no source.
    #[error("the package {package} has no usr/src/linux-source-*.tar in it")]
    NoTar {
        /// The package.
        package: String,
    },
    /// The contents have another version than the name.
    #[error("{what} calls itself {got}, not {wanted}")]
    Version {
        /// The archive or tag.
        what: String,
        /// The expected version.
        wanted: Version,
        /// The version in its Makefile.
        got: Version,
    },
}

/// The source that the user wants to build.
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
        /// Mirrors to use instead of Debian's own, as in [`apt::Source::mirrors`].
        mirrors: Vec<String>,
        /// A keyring to use instead of Debian's own.
        keyring: Option<PathBuf>,
    },
    /// The user's own tree, which quiz only reads.
    Tree {
        /// The directory.
        path: PathBuf,
    },
}

impl Source {
    /// Reads the user's short form: `6.12.30`, `6.19-rc3`, `next-20261120`, or `linux-source-6.12`.
    /// `release` is the suite for the latter.
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

    /// The name of its work directory: always the same for one source, and different for any other.
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

    /// A short description, for messages.
    pub fn describe(&self) -> String {
        match self {
            Source::Release { version } => version.source_name(),
            Source::Git { url, reference } => format!("{reference} of {url}"),
            Source::DebianSource { package, release, .. } => format!("{package} of {release}"),
            Source::Tree { path } => path.display().to_string(),
        }
    }

    /// Whether the source changes over time, so that keeping build results is worth the disk space.
    pub(crate) fn moves(&self) -> bool {
        matches!(self, Source::Git { .. } | Source::Tree { .. })
    }
}

/// A source that is ready in a directory.
#[derive(Debug)]
pub(crate) struct Obtained {
    pub tree: Tree,
    pub origin: Origin,
}

/// A source that is identified but not unpacked yet.
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

/// What is needed to get a source.
pub(crate) struct Means<'a> {
    pub cache: &'a Cache,
    pub mirrors: &'a Mirrors,
    pub trust: &'a Trust,
    /// Debian's name of the architecture for package lists.
    pub debian_arch: &'a str,
    pub log: &'a Path,
    pub fetch: &'a Fetch,
    pub report: &'a dyn Report,
}

/// Determines the present state of `source`. It downloads and verifies an archive, fetches a
/// commit, or updates a list of packages; it unpacks nothing yet. The caller has locked the
/// source's work directory.
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
    /// Unpacks the source into a directory in `work`, which the caller has locked. An existing
    /// directory is used if it has the same content.
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

/// The tree in `to`. `unpack` makes it, unless it exists and was made from the same `content`.
fn unpacked(to: &Path, content: &str, unpack: impl FnOnce() -> Result<(), SourceError>) -> Result<Tree, SourceError> {
    let stamp = PathBuf::from(format!("{}.from", to.display()));
    if !(to.is_dir() && fs::read_to_string(&stamp).is_ok_and(|text| text == content)) {
        let _stale = fs::remove_file(&stamp);
        unpack()?;
        fs::write(&stamp, content)?;
    }
    Ok(Tree::open(to)?)
}

/// Unpacks the archive inside a Debian package, without a copy of it on disk.
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
