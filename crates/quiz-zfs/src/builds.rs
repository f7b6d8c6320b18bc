//! Finds the builds of a checkout, and the one for a kernel. Not for making them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;
use quiz_kernel::KernelManifest;

use crate::checkout::Checkout;
use crate::elf::ModuleInfo;
use crate::meta::Support;

/// Why there is no usable build.
#[derive(Debug, thiserror::Error)]
pub enum BuildsError {
    /// None of the builds is for the kernel.
    #[error(
        "OpenZFS {zfs} in {} is not compiled for kernel {release}{}",
        checkout.display(), others(release, unsupported.as_deref(), found)
    )]
    NoneFor {
        /// OpenZFS's version.
        zfs: String,
        /// The checkout.
        checkout: PathBuf,
        /// The kernel's `uname -r`.
        release: String,
        /// The kernels that this version supports, if the kernel is not among them.
        unsupported: Option<String>,
        /// The existing builds.
        found: Vec<Build>,
    },
    /// The builds cannot be read.
    #[error("cannot look for builds of OpenZFS: {0}")]
    Io(#[from] io::Error),
}

fn others(release: &str, unsupported: Option<&str>, found: &[Build]) -> String {
    let build = match unsupported {
        Some(range) => format!("that release supports kernels {range}"),
        None => format!("`quiz zfs -k {release}` compiles it"),
    };
    if found.is_empty() {
        return format!("; {build}");
    }
    let list: Vec<String> = found.iter().map(|b| format!("{} in {}", b.release, b.dir.display())).collect();
    let run = found.iter().map(|b| format!("-k {}", b.release)).collect::<Vec<_>>().join(" or ");
    format!("; it is for {}: {build}, and {run} runs what there is", list.join(" and for "))
}

/// One build with modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its directory: one below `.quiz/build`, or the checkout itself.
    pub dir: PathBuf,
    /// The `uname -r` of the kernels for its modules.
    pub release: String,
}

impl Build {
    /// The build in `dir`, if there is one with a `zfs.ko`.
    fn in_dir(dir: &Path) -> io::Result<Option<Build>> {
        for module in ["module/zfs.ko", "module/zfs/zfs.ko"] {
            let path = dir.join(module);
            if !path.exists() {
                continue;
            }
            // A file that a linker is still writing is not readable.
            let info = ModuleInfo::read(&path)?;
            return Ok(info.release().map(|release| Build { dir: dir.to_owned(), release: release.to_owned() }));
        }
        Ok(None)
    }

    /// When an installed product was last compiled or linked in it.
    fn compiled(&self) -> io::Result<SystemTime> {
        let mut newest = SystemTime::UNIX_EPOCH;
        for (dir, of_modules) in [("module", true), (".libs", false), ("cmd", false), ("lib", false)] {
            let dir = self.dir.join(dir);
            for_each(&dir, &mut |path| {
                let inner = if of_modules { path.clone() } else { path.join(".libs") };
                consider(&path, of_modules, &mut newest)?;
                for_each(&inner, &mut |path| consider(&path, of_modules, &mut newest))
            })?;
        }
        Ok(newest)
    }
}

/// Calls `found` with each entry of a directory. Does nothing if there is no directory.
fn for_each(dir: &Path, found: &mut dyn FnMut(PathBuf) -> io::Result<()>) -> io::Result<()> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.into_iter().try_for_each(|entry| found(entry?.path())),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        Err(e) => Err(e),
    }
}

fn consider(path: &Path, of_modules: bool, newest: &mut SystemTime) -> io::Result<()> {
    let is_product = if of_modules {
        path.extension().is_some_and(|e| e == "ko")
    } else {
        // `make install` links libraries again under names that end in T. They contain nothing
        // newer than their inputs.
        path.parent().is_some_and(|dir| dir.ends_with(".libs")) && !path.as_os_str().as_encoded_bytes().ends_with(b"T")
    };
    if is_product
        && let Ok(meta) = fs::metadata(path)
        && meta.is_file()
    {
        *newest = (*newest).max(meta.modified()?);
    }
    Ok(())
}

/// All builds of `checkout`, those of quiz first.
pub fn all(checkout: &Checkout) -> io::Result<Vec<Build>> {
    let mut builds = Vec::new();
    for_each(&checkout.dir.join(".quiz/build"), &mut |dir| {
        builds.extend(Build::in_dir(&dir)?);
        Ok(())
    })?;
    builds.sort_by(|a, b| a.dir.cmp(&b.dir));
    builds.extend(Build::in_dir(&checkout.dir)?);
    Ok(builds)
}

/// The build for `kernel`, by its `uname -r`; of several, the one compiled last.
///
/// # Errors
/// Fails if there is none. A build for another kernel is never used instead.
pub fn choose(checkout: &Checkout, kernel: &KernelManifest) -> Result<Build, BuildsError> {
    let release = &kernel.release;
    let quiz_built = Build::in_dir(&checkout.build_dir(release))?;
    let in_checkout = Build::in_dir(&checkout.dir)?;
    let mut fitting: Vec<Build> =
        [quiz_built, in_checkout].into_iter().flatten().filter(|b| b.release == *release).collect();
    match fitting.len() {
        0 => Err(BuildsError::NoneFor {
            zfs: checkout.meta.version.clone(),
            checkout: checkout.dir.clone(),
            release: release.clone(),
            unsupported: (checkout.meta.supports(kernel.version) != Support::Yes).then(|| checkout.meta.range()),
            found: all(checkout)?,
        }),
        1 => Ok(fitting.remove(0)),
        _ => {
            let is_later = fitting[1].compiled()? > fitting[0].compiled()?;
            Ok(fitting.remove(usize::from(is_later)))
        }
    }
}
