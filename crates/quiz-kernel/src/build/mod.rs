//! Builds kernels from source: gets the source, configures and compiles it, and puts the result on
//! the shelf of kernels. Not for a distribution's ready kernels (`stock`), and not for running
//! kernels.
//!
//! ```text
//! source ─ release, git, apt, tree ─► the source's work directory in the cache, source
//! config ─ quiz's fragments, the user's ─► beside it build…/.config, compared with what was asked
//! make   ─► build…, log in <cache>/logs
//! install ─► <cache>/kernels/<name>: image, vmlinux, modules, kbuild tree, manifest, build.json
//! ```
//!
//! A build locks the work directory of its source. After it gets the lock, it first checks whether
//! another process has built the same inputs (`inputs`) meanwhile.
//!
//! quiz deletes the work directory after the build if the source cannot change. For git and the
//! user's own tree it stays, and the next build takes seconds. quiz never writes to a user's tree.

mod archive;
pub mod config;
pub mod fetch;
pub mod fragment;
pub mod git;
mod inputs;
mod install;
mod kbuild;
mod kconfig;
mod keyring;
mod make;
pub mod release;
pub mod request;
pub mod source;
mod tree;
mod trust;
pub mod verify;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fs_err as fs;

pub use archive::ArchiveError;
pub use config::ConfigError;
pub use fragment::{Edit, Fragment, FragmentError};
pub use install::InstallError;
pub use make::{MakeError, object};
pub use release::Mirrors;
pub use request::{BuildRequest, Record};
pub use source::{Source, SourceError};
pub use tree::TreeError;
pub use trust::Trust;

use crate::kernel::{self, Kernel, KernelError, Origin};
use config::{Configured, Wishes};
use inputs::Toolchain;
use install::Identity;
use make::{Make, TYPICAL_OBJECTS};
use quiz_host::environment::Environment;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, StoreError};
use source::{Means, Obtained};

/// Why a kernel could not be built. An existing kernel of that name stays in any case.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source could not be obtained.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The kernel could not be configured as requested.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel does not compile.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The result could not be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Installed kernels could not be listed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel to rebuild has no record of its build.
    #[error("kernel {0} has no record of its build: only kernels that quiz has built can be rebuilt")]
    NoRecord(String),
    /// A file could not be read or written.
    #[error("cannot build the kernel: {0}")]
    Io(#[from] std::io::Error),
}

/// Builds a kernel and makes it an entry, replacing one of the same name. Takes minutes. Source and
/// build directory of an earlier build are used if they were kept.
///
/// A kernel that was built from the same inputs is returned as it is, unless `request.replace`. The
/// same holds for one that another process has built while this one waited for it. The user's own
/// tree is always built: make knows what has changed in it.
///
/// # Errors
/// Fails if the kernel cannot be built.
pub fn build(cache: &Cache, request: &BuildRequest, report: &dyn Report) -> Result<Kernel, BuildError> {
    build_with(cache, request, &fetch::Fetch::default(), report)
}

fn build_with(
    cache: &Cache,
    request: &BuildRequest,
    fetch: &fetch::Fetch,
    report: &dyn Report,
) -> Result<Kernel, BuildError> {
    let request = &request.absolute();
    let toolchain = Toolchain::of(request);
    let inputs = |origin: &Origin| match &toolchain {
        Some(toolchain) => inputs::fingerprint(request, origin, toolchain).map_err(ConfigError::from),
        None => Ok(None),
    };
    let there = {
        let built = inputs::built(cache, report)?;
        let there = directories(&built);
        // Known results need not wait for another build of the same source.
        if !request.replace
            && let Some(origin) = inputs::known_origin(request, &built)
            && let Some(wanted) = inputs(&origin)?
            && let Some(found) = inputs::find(built, &wanted, &[])
        {
            return Ok(already(found, report));
        }
        there
    };

    let id = request.source.id();
    let shelf = cache.shelf("work");
    let _lock = shelf.lock(&id, &format!("building kernel {}", request.source.describe()), report)?;
    let work = shelf.dir().join(&id);
    fs::create_dir_all(&work)?;
    let log = cache.log_file(&format!("kernel-{id}"));
    let means = Means {
        cache,
        mirrors: &request.mirrors,
        trust: &request.trust,
        // The source package is the same for all architectures, and mirrors keep the common ones
        // the longest.
        debian_arch: quiz_arch::host().debian,
        log: &log,
        fetch,
        report,
    };
    // Removes the directory only if it is empty; downloads and builds stay.
    let tidy = || {
        let _kept = fs::remove_dir(&work);
    };
    let identified = source::identify(&request.source, &means).inspect_err(|_| tidy())?;
    let inputs = inputs(&identified.origin)?;
    if let Some(wanted) = &inputs {
        // Search under the lock, to see a kernel that another process has built meanwhile. That one
        // is new enough even for `replace`.
        let old: &[PathBuf] = if request.replace { &there } else { &[] };
        if let Some(found) = inputs::find(inputs::built(cache, &quiz_host::report::Silent)?, wanted, old) {
            tidy();
            return Ok(already(found, report));
        }
    }
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&log, "")?;
    let obtained = identified.unpack(&request.source, &work, &means).and_then(|obtained| {
        obtained.tree.check_clean(&obtained.tree.srcarch(request.arch.kernel_arch))?;
        Ok(obtained)
    });
    let obtained = obtained.inspect_err(|_| tidy())?;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => default_name(cache, request, &obtained, report)?,
    };
    let what = format!("building kernel {name}");
    let job = Job { cache, request, obtained: &obtained, name: &name, work: &work, log: &log };
    let entry = kernel::shelf(cache).build(&name, &what, true, report, |dir| job.run(inputs, dir, report))?;
    if !request.keep.unwrap_or(request.source.moves()) {
        archive::remove(&work)?;
    }
    Ok(Kernel::from_entry(entry)?)
}

/// Reports that a kernel need not be built, with the remarks of its build.
fn already((kernel, record): (Kernel, Record), report: &dyn Report) -> Kernel {
    record.remarks.iter().for_each(|line| report.say(line));
    report.say(&format!(
        "kernel {} is there already, built from the same source, configuration and compiler; --replace builds it again",
        kernel.name()
    ));
    kernel
}

fn directories(built: &[(Kernel, Record)]) -> Vec<PathBuf> {
    built.iter().map(|(kernel, _)| kernel.dir().to_owned()).collect()
}

/// One build of a kernel.
struct Job<'a> {
    cache: &'a Cache,
    request: &'a BuildRequest,
    obtained: &'a Obtained,
    name: &'a str,
    /// The directory of the source and of the builds.
    work: &'a Path,
    log: &'a Path,
}

impl Job<'_> {
    /// Configures and compiles the kernel, and fills the entry `dir`.
    fn run(
        &self,
        inputs: Option<String>,
        dir: &Path,
        report: &dyn Report,
    ) -> Result<kernel::KernelManifest, BuildError> {
        let Job { cache, request, obtained, name, work, log } = *self;
        let output = work.join(build_dir(request));
        let fresh = !output.join(".config").exists();
        fs::create_dir_all(&output)?;
        let jobs = request.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let make = Make {
            source: &obtained.tree.path,
            output: &output,
            arch: request.arch,
            cross: request.is_cross(),
            llvm: request.llvm,
            prefix: &request.prefix,
            jobs,
            environment: &request.environment,
            log,
        };
        let localversion = local_version(request, obtained);
        let wishes = Wishes {
            fragments: &request.fragments,
            edits: &request.edits,
            strict: request.strict,
            localversion: localversion.as_deref(),
        };
        let Configured { outcome, remarks } = config::configure(&make, &obtained.tree, wishes, report)?;

        report.say(&format!("building kernel {name}; the output of make is in {}", log.display()));
        let total = if fresh { Some(expected_objects(cache, request)) } else { None };
        let progress = report.start(&format!("building kernel {name}"), total, Unit::Items("objects"));
        let boot = install::boot(&make, &outcome);
        let started = Instant::now();
        let objects =
            make.run_expecting(total, &install::targets(&make, boot, &outcome), "build the kernel", progress.as_ref())?;
        progress.total(objects);
        progress.done();
        let seconds = started.elapsed().as_secs();

        let identity =
            Identity { name: name.to_owned(), origin: obtained.origin.clone(), variant: request.variant.clone() };
        let manifest = install::fill(dir, &make, &obtained.tree, &outcome, identity, report)?;
        Record { request: request.clone(), objects: fresh.then_some(objects), seconds, inputs, remarks }.write(dir)?;
        Ok(manifest)
    }
}

/// The build directory of a request within its source's work directory. A kernel with its own name
/// has its own directory, because its configuration differs. The others differ by architecture and
/// compiler.
fn build_dir(request: &BuildRequest) -> String {
    match (&request.name, &request.source) {
        (Some(name), _) => format!("build-{name}"),
        (None, _) => format!("build{}", request.suffix()),
    }
}

/// The text after the version in `uname -r`. It distinguishes kernels of one version, also where
/// modules are installed for them. A user's tree keeps its own local version.
fn local_version(request: &BuildRequest, obtained: &Obtained) -> Option<String> {
    let suffix = match (&request.source, &obtained.origin, &request.name) {
        (Source::Tree { .. }, ..) => return request.variant.as_ref().map(|variant| format!("-{variant}")),
        (Source::Git { .. }, Origin::Git { commit, .. }, None) => {
            let variant = request.variant.as_ref().map_or_else(String::new, |variant| format!("-{variant}"));
            format!("-g{}{variant}", &commit[..12.min(commit.len())])
        }
        (_, _, Some(name)) => {
            let version = obtained.tree.version.to_string();
            let rest = name.strip_prefix(&version).unwrap_or(name).trim_start_matches('-');
            if rest.is_empty() { "-quiz".to_owned() } else { format!("-quiz-{rest}") }
        }
        (_, _, None) => format!("-quiz{}", request.suffix()),
    };
    // `uname -r` may have at most 64 characters.
    Some(suffix.chars().filter(|c| *c != '~').take(40).collect())
}

fn default_name(
    cache: &Cache,
    request: &BuildRequest,
    obtained: &Obtained,
    report: &dyn Report,
) -> Result<String, BuildError> {
    let suffix = request.suffix();
    let version = obtained.tree.version;
    Ok(match &obtained.origin {
        Origin::Git { commit, .. } if !matches!(request.source, Source::Release { .. }) => {
            format!("{version}-g{}{suffix}", &commit[..12.min(commit.len())])
        }
        Origin::Tree { path } => {
            let base = path.file_name().unwrap_or_default().to_string_lossy();
            let plain: String =
                base.chars().map(|c| if c.is_ascii_alphanumeric() || ".+-_".contains(c) { c } else { '_' }).collect();
            let name = format!("tree-{}{suffix}", plain.trim_start_matches('.'));
            // A tree elsewhere may have the same name.
            let taken = kernel::list(cache, report)?.iter().any(|k| {
                k.name() == name && !matches!(&k.manifest.origin, Origin::Tree { path: other } if other == path)
            });
            if taken {
                format!("{name}-{}", &quiz_host::digest::of_bytes(path.to_string_lossy().as_bytes())[..6])
            } else {
                name
            }
        }
        _ => format!("{version}{suffix}"),
    })
}

/// How many objects a full build will make: as many as an earlier build of this architecture, from
/// the same source if possible.
fn expected_objects(cache: &Cache, request: &BuildRequest) -> u64 {
    let records: Vec<Record> = kernel::list(cache, &quiz_host::report::Silent)
        .unwrap_or_default()
        .iter()
        .filter_map(|k| Record::read(k.dir()))
        .filter(|r| r.objects.is_some() && r.request.arch == request.arch)
        .collect();
    let alike = |r: &&Record| {
        r.request.fragments.len() == request.fragments.len() && r.request.edits.len() == request.edits.len()
    };
    let best = records.iter().find(|r| r.request.source == request.source).or_else(|| records.iter().find(alike));
    best.and_then(|r| r.objects).unwrap_or(TYPICAL_OBJECTS)
}

/// Builds a kernel as before, from the present state of its source. The old kernel stays usable
/// meanwhile. A kernel with the same inputs is returned as it is, unless `replace`.
///
/// # Errors
/// Fails if the kernel cannot be built.
pub fn rebuild(
    cache: &Cache,
    kernel: &Kernel,
    jobs: Option<NonZeroUsize>,
    replace: bool,
    environment: Environment,
    report: &dyn Report,
) -> Result<Kernel, BuildError> {
    let record = Record::read(kernel.dir()).ok_or_else(|| BuildError::NoRecord(kernel.name().to_owned()))?;
    let request = BuildRequest { jobs, replace, environment, ..record.again()? };
    build(cache, &request, report)
}

/// Deletes unused work directories (sources and build directories) from which no installed kernel
/// is rebuilt. Returns how many bytes that freed.
pub fn prune_work(cache: &Cache, report: &dyn Report) -> Result<u64, BuildError> {
    let shelf = cache.shelf("work");
    let wanted: Vec<String> = kernel::list(cache, report)?
        .iter()
        .filter_map(|k| Record::read(k.dir()))
        .filter(|r| r.request.keep.unwrap_or(r.request.source.moves()))
        .map(|r| r.request.source.id())
        .collect();
    let found = match fs::read_dir(shelf.dir()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut freed = 0;
    for item in found {
        let path: PathBuf = item?.path();
        let Some(id) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else { continue };
        if wanted.iter().any(|w| w == id) {
            continue;
        }
        let lock = shelf.dir().join(".locks").join(id);
        if let Some(_lock) = quiz_host::lock::Lock::attempt(&lock, &format!("cleaning up {id}"))? {
            freed += tree::size(&path);
            archive::remove(&path)?;
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests;
