//! Installed kernels: their manifests, and the choice of one. Not for making them (`stock`,
//! `build`).

use crate::trusted::Trusted;
pub use crate::version::{NotAVersion, Version};
use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::report::Report;
use quiz_host::store::{Cache, Entry, Shelf, StoreError};
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The manifest of an installed kernel. Paths are relative to the entry.
///
/// Every entry has `config`. Most have `lib/modules/<release>` (with `modules.dep`) and `kbuild`,
/// the tree that out-of-tree modules are built against with `make -C`. Kernels that quiz built have
/// `System.map`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// The entry's name, unique among all kernels.
    pub name: String,
    /// What `uname -r` prints.
    pub release: String,
    /// The upstream version.
    pub version: Version,
    /// The architecture's name in quiz-arch.
    pub arch: String,
    /// Where it comes from.
    pub origin: Origin,
    /// How QEMU starts it.
    pub boot: Boot,
    /// The file for QEMU's `-kernel`.
    pub boot_file: String,
    /// The unstripped `vmlinux` with symbols, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmlinux_file: Option<String>,
    /// The compiler's version line, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
    /// Built with Clang and LLVM's tools.
    #[serde(default)]
    pub llvm: bool,
    /// The variant, such as `kasan`; `None` for a plain kernel. quiz uses a variant only on
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// When the entry was made.
    pub built_at: jiff::Timestamp,
    /// The version of quiz that made it.
    pub quiz_version: String,
    /// SHA-256 sums of the main files in hexadecimal, by path.
    pub sha256: BTreeMap<String, String>,
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// A distribution's own kernel package.
    DebianPackage {
        /// The suite, such as `bookworm`.
        release: String,
        /// The package with the image.
        package: String,
        /// That package's version.
        version: String,
        /// The mirror it came from.
        mirror: String,
        /// The requested package, which led to the image's package: `linux-image-amd64`.
        #[serde(default)]
        asked: String,
    },
    /// An upstream source archive.
    Tarball {
        /// The archive's URL.
        url: String,
        /// Its SHA-256 in hexadecimal.
        sha256: String,
        /// Why quiz trusted the archive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trusted: Option<Trusted>,
    },
    /// A git repository.
    Git {
        /// The repository.
        url: String,
        /// The requested branch, tag or commit.
        reference: String,
        /// The commit that it named.
        commit: String,
        /// Why quiz trusted the commit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trusted: Option<Trusted>,
    },
    /// A distribution's source package.
    DebianSource {
        /// The package, such as `linux-source-6.12`.
        package: String,
        /// Its version.
        version: String,
    },
    /// The user's own source tree, in whatever state it was.
    Tree {
        /// The tree.
        path: PathBuf,
    },
}

impl Origin {
    /// Whether quiz built it from source. Otherwise it is a distribution's binary.
    pub fn is_built(&self) -> bool {
        !matches!(self, Origin::DebianPackage { .. })
    }

    /// Whether it is from the user's own tree. quiz uses such a kernel only when the user names it.
    pub fn is_tree(&self) -> bool {
        matches!(self, Origin::Tree { .. })
    }
}

/// How QEMU starts a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// An uncompressed ELF file with a Xen PVH entry point: no decompression, no firmware.
    Pvh,
    /// A compressed image with a set-up header.
    BzImage,
    /// The architecture's plain image.
    Image,
}

/// Why kernels could not be listed, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A kernel's configuration cannot be read.
    #[error("cannot read the configuration of kernel {kernel}: {cause}; remove that kernel and make it again")]
    Config {
        /// The entry's name.
        kernel: String,
        /// The system's error, which names the path.
        cause: std::io::Error,
    },
}

/// An installed kernel. The entry counts as in use until this value is dropped.
#[derive(Debug)]
pub struct Kernel {
    /// What is known about it.
    pub manifest: KernelManifest,
    entry: Entry,
}

impl Kernel {
    /// Opens a kernel from an entry of the shelf of kernels.
    pub fn from_entry(entry: Entry) -> Result<Kernel, StoreError> {
        Ok(Kernel { manifest: entry.manifest()?, entry })
    }

    /// The entry's name.
    pub fn name(&self) -> &str {
        self.entry.name()
    }

    /// The entry's directory.
    pub fn dir(&self) -> &Path {
        self.entry.dir()
    }

    /// The file for QEMU's `-kernel`.
    pub fn boot(&self) -> PathBuf {
        self.dir().join(&self.manifest.boot_file)
    }

    /// The kernel's configuration.
    pub fn config(&self) -> PathBuf {
        self.dir().join("config")
    }

    /// The addresses of the kernel's symbols, if the entry has them.
    pub fn system_map(&self) -> Option<PathBuf> {
        Some(self.dir().join("System.map")).filter(|p| p.is_file())
    }

    /// The directory to mount as `/lib/modules/<release>` in the guest, if the kernel has modules.
    pub fn modules_dir(&self) -> Option<PathBuf> {
        Some(self.dir().join("lib/modules").join(&self.manifest.release)).filter(|p| p.is_dir())
    }

    /// The tree to build out-of-tree modules against, if the entry has one.
    pub fn kbuild(&self) -> Option<PathBuf> {
        Some(self.dir().join("kbuild")).filter(|p| p.is_dir())
    }

    /// The kernel with symbols, for debuggers.
    pub fn vmlinux(&self) -> Option<PathBuf> {
        self.manifest.vmlinux_file.as_ref().map(|f| self.dir().join(f))
    }

    /// The value of a configuration option (named with or without `CONFIG_`): `y`, `m`, a number,
    /// or a string with its quotes. `None` if it is not set.
    pub fn option(&self, option: &str) -> Result<Option<String>, KernelError> {
        let text = fs::read_to_string(self.config())
            .map_err(|cause| KernelError::Config { kernel: self.name().to_owned(), cause })?;
        let option = option.strip_prefix("CONFIG_").unwrap_or(option);
        Ok(text.lines().find_map(|line| {
            let (key, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            (key == option).then(|| value.to_owned())
        }))
    }

    /// Whether an option is built in (`=y`). `false` if the configuration cannot be read.
    pub fn has_builtin(&self, option: &str) -> bool {
        self.option(option).is_ok_and(|value| value.as_deref() == Some("y"))
    }

    /// A text that identifies this build of the kernel: it differs after every rebuild under the
    /// same name.
    pub fn identity(&self) -> String {
        let m = &self.manifest;
        format!("{} {} {}", m.name, m.built_at, m.sha256.get(&m.boot_file).map_or("", String::as_str))
    }
}

/// The shelf of kernels.
pub fn shelf(cache: &Cache) -> Shelf {
    cache.shelf("kernels")
}

/// All installed kernels of every architecture, the newest version first. Entries whose manifest
/// this quiz cannot read are left out and reported to `report`.
pub fn list(cache: &Cache, report: &dyn Report) -> Result<Vec<Kernel>, KernelError> {
    let shelf = shelf(cache);
    let mut kernels = Vec::new();
    for name in shelf.names()? {
        match shelf.open(&name).and_then(|entry| entry.map(Kernel::from_entry).transpose()) {
            Ok(kernel) => kernels.extend(kernel),
            Err(error @ StoreError::Manifest { .. }) => report.say(&format!("leaving out kernel {name}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    kernels.sort_by(|a, b| better(&a.manifest, &b.manifest));
    Ok(kernels)
}

/// The kernel of `arch` that `selector` chooses (see [`select`]).
pub fn find(
    cache: &Cache,
    arch: &Arch,
    selector: Option<&str>,
    report: &dyn Report,
) -> Result<Option<Kernel>, KernelError> {
    let mut kernels = list(cache, report)?;
    let chosen = select(kernels.iter().map(|k| &k.manifest), arch.name, selector).map(|m| m.name.clone());
    Ok(chosen.and_then(|name| kernels.iter().position(|k| k.name() == name)).map(|i| kernels.swap_remove(i)))
}

/// Chooses among `kernels` of the architecture `arch`.
///
/// A selector is one of these, tried in this order:
///
/// - an entry's exact name
/// - an exact release (`uname -r`)
/// - a version or its start: `6.12` means the best 6.12.x and never a release candidate
///
/// Without a selector, the newest stable kernel that quiz built is chosen, else the newest stable
/// one of a distribution. Kernels from a user's own tree are chosen by exact name or release only.
/// Variants are chosen by these, or by a version and the variant's name: `6.12-kasan`. Of equal
/// versions, a built kernel comes before a distribution's, and GCC's before Clang's.
pub fn select<'a>(
    kernels: impl IntoIterator<Item = &'a KernelManifest>,
    arch: &str,
    selector: Option<&str>,
) -> Option<&'a KernelManifest> {
    let plain = |k: &KernelManifest| !k.origin.is_tree() && k.variant.is_none();
    let mut kernels: Vec<_> = kernels.into_iter().filter(|k| k.arch == arch).collect();
    kernels.sort_by(|a, b| better(a, b));
    let first = |wanted: &dyn Fn(&KernelManifest) -> bool| kernels.iter().copied().find(|k| wanted(k));
    match selector {
        Some(text) => first(&|k| k.name == text)
            .or_else(|| first(&|k| k.release == text))
            .or_else(|| first(&|k| plain(k) && k.version.matches(text)))
            .or_else(|| first(&|k| !k.origin.is_tree() && is_variant_of(k, text))),
        None => first(&|k| plain(k) && k.origin.is_built() && k.version.is_stable())
            .or_else(|| first(&|k| !k.origin.is_built() && k.version.is_stable())),
    }
}

/// Whether `text` is a version, or the start of one, followed by the kernel's variant.
fn is_variant_of(kernel: &KernelManifest, text: &str) -> bool {
    let version = |variant: &String| text.strip_suffix(variant.as_str())?.strip_suffix('-');
    kernel.variant.as_ref().and_then(version).is_some_and(|version| kernel.version.matches(version))
}

/// Orders the better of two kernels first.
fn better(a: &KernelManifest, b: &KernelManifest) -> Ordering {
    let key = |k: &KernelManifest| {
        (k.origin.is_tree(), Reverse(k.version), !k.origin.is_built(), k.llvm, Reverse(k.built_at))
    };
    key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
}

/// Removes a kernel by its exact name.
pub fn remove(cache: &Cache, name: &str) -> Result<(), KernelError> {
    Ok(shelf(cache).remove(name)?)
}

/// The kernels that an update has made superfluous: all but the newest of each group. A group is an
/// architecture, a series (`6.12`) and a kind: built, Clang-built, a variant, or a distribution's
/// with its flavour.
///
/// A release candidate is superfluous if its release or a later candidate is installed. Of
/// linux-next the newest day stays. Kernels from a user's own tree stay.
pub fn superseded(kernels: &[KernelManifest]) -> Vec<&KernelManifest> {
    let group = |k: &KernelManifest| {
        let flavour = match &k.origin {
            // The flavour `rt-amd64` of `6.1.0-56-rt-amd64`.
            Origin::DebianPackage { .. } => Some(
                k.release
                    .split('-')
                    .filter(|p| !p.starts_with(|c: char| c.is_ascii_digit()) && !p.starts_with("rc"))
                    .collect::<Vec<_>>()
                    .join("-"),
            ),
            _ => None,
        };
        (k.arch.clone(), k.version.series(), k.origin.is_built(), k.llvm, k.variant.clone(), flavour)
    };
    kernels
        .iter()
        .filter(|k| !k.origin.is_tree())
        .filter(|k| kernels.iter().any(|o| !o.origin.is_tree() && group(o) == group(k) && o.version > k.version))
        .collect()
}

/// Removes the superseded kernels that are not in use. Returns the names of those removed, and the
/// errors for those that stay.
pub fn prune(cache: &Cache, report: &dyn Report) -> Result<(Vec<String>, Vec<StoreError>), KernelError> {
    // Keep only the manifests: an open kernel would count as in use.
    let manifests: Vec<_> = list(cache, report)?.into_iter().map(|k| k.manifest).collect();
    let (mut removed, mut kept) = (Vec::new(), Vec::new());
    for old in superseded(&manifests) {
        match shelf(cache).remove(&old.name) {
            Ok(()) => removed.push(old.name.clone()),
            Err(error) => kept.push(error),
        }
    }
    Ok((removed, kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiz_host::report::Silent;

    fn kernel(name: &str, version: &str, origin: Origin) -> KernelManifest {
        KernelManifest {
            name: name.to_owned(),
            release: name.split("-llvm").next().unwrap().to_owned(),
            version: version.parse().unwrap(),
            arch: "x86_64".to_owned(),
            origin,
            boot: Boot::Pvh,
            boot_file: "kernel.pvh".to_owned(),
            vmlinux_file: None,
            compiler: None,
            llvm: name.contains("llvm"),
            variant: name.ends_with("-kasan").then(|| "kasan".to_owned()),
            built_at: "2026-11-22T20:00:00Z".parse().unwrap(),
            quiz_version: "0".to_owned(),
            sha256: BTreeMap::new(),
        }
    }

    fn stock(name: &str, version: &str) -> KernelManifest {
        let text = |t: &str| t.to_owned();
        let origin = Origin::DebianPackage {
            release: text("bookworm"),
            package: format!("linux-image-{name}"),
            version: format!("{version}-1"),
            mirror: text("http://deb.debian.org/debian"),
            asked: text("linux-image-amd64"),
        };
        kernel(name, version, origin)
    }

    fn built(name: &str, version: &str) -> KernelManifest {
        let url = format!("https://cdn.kernel.org/linux-{version}.tar.xz");
        kernel(name, version, Origin::Tarball { url, sha256: String::new(), trusted: None })
    }

    fn tree(name: &str, version: &str) -> KernelManifest {
        kernel(name, version, Origin::Tree { path: "/src/linux".into() })
    }

    fn selected<'a>(kernels: &'a [KernelManifest], selector: Option<&str>) -> Option<&'a str> {
        select(kernels, "x86_64", selector).map(|k| k.name.as_str())
    }

    #[test]
    fn without_a_selector_it_is_the_newest_stable_built_one() {
        let all = [
            stock("6.12.107+deb13-amd64", "6.12.107"),
            built("6.6.9", "6.6.9"),
            built("6.12.30-llvm", "6.12.30"),
            built("6.12.30", "6.12.30"),
            built("6.19.0-rc3", "6.19-rc3"),
            tree("mine", "6.18.2"),
        ];
        assert_eq!(selected(&all, None), Some("6.12.30"));
        assert_eq!(selected(&all[..1], None), Some("6.12.107+deb13-amd64"));
        assert_eq!(selected(&[all[0].clone(), all[4].clone(), all[5].clone()], None), Some("6.12.107+deb13-amd64"));
        assert_eq!(selected(&all[4..], None), None, "neither a candidate nor the user's tree by accident");
        assert_eq!(select(&all, "aarch64", None), None);
    }

    #[test]
    fn a_selector_is_a_name_a_release_or_the_start_of_a_version() {
        let mut odd = built("6.12", "6.1.5");
        odd.release = "6.1.5-odd".to_owned();
        let all = [
            stock("6.12.31-amd64", "6.12.31"),
            built("6.12.31", "6.12.31"),
            built("6.12.4", "6.12.4"),
            built("6.19.0-rc3", "6.19-rc3"),
            tree("mine", "6.12.99"),
            stock("6.1.0-50-amd64", "6.1.176"),
        ];
        assert_eq!(selected(&all, Some("6.12")), Some("6.12.31"));
        assert_eq!(selected(&all, Some("6")), Some("6.12.31"));
        assert_eq!(selected(&all, Some("6.12.4")), Some("6.12.4"));
        assert_eq!(selected(&all, Some("6.12.31-amd64")), Some("6.12.31-amd64"));
        assert_eq!(selected(&all, Some("6.1")), Some("6.1.0-50-amd64"));
        assert_eq!(selected(&all, Some("6.19")), None);
        assert_eq!(selected(&all, Some("6.19-rc3")), Some("6.19.0-rc3"));
        assert_eq!(selected(&all, Some("mine")), Some("mine"));
        assert_eq!(selected(&all, Some("6.12.99")), None);
        assert_eq!(selected(&all, Some("5.10")), None);
        let variants = [built("6.12.5-kasan", "6.12.5"), built("6.12.32-kasan", "6.12.32"), built("6.12.4", "6.12.4")];
        assert_eq!(selected(&variants, Some("6.12")), Some("6.12.4"), "a variant is never taken for a plain kernel");
        assert_eq!(selected(&variants, None), Some("6.12.4"));
        assert_eq!(selected(&variants[..2], Some("6.12")), None);
        assert_eq!(selected(&variants, Some("6.12-kasan")), Some("6.12.32-kasan"));
        assert_eq!(selected(&variants, Some("6.12.5-kasan")), Some("6.12.5-kasan"));
        assert_eq!(selected(&variants, Some("6.12-lockdep")), None);
        assert_eq!(superseded(&variants).len(), 1, "the older of the two of one kind");
        let all = [all[1].clone(), odd];
        assert_eq!(selected(&all, Some("6.12")), Some("6.12"), "an exact name goes first");
        assert_eq!(selected(&all, Some("6.1.5-odd")), Some("6.12"));
    }

    #[test]
    fn only_what_an_update_replaced_is_superseded() {
        let all = [
            stock("6.1.0-49-amd64", "6.1.170"),
            stock("6.1.0-50-amd64", "6.1.176"),
            stock("6.1.0-49-cloud-amd64", "6.1.170"),
            built("6.12.4", "6.12.4"),
            built("6.12.30", "6.12.30"),
            built("6.12.5-llvm", "6.12.5"),
            built("6.19.0-rc2", "6.19-rc2"),
            built("6.19.0-rc3", "6.19-rc3"),
            built("6.6.1", "6.6.1"),
            built("next-20261119", "next-20261119"),
            built("next-20261120", "next-20261120"),
            tree("mine", "6.12.1"),
        ];
        let names: Vec<_> = superseded(&all).into_iter().map(|k| k.name.as_str()).collect();
        assert_eq!(names, ["6.1.0-49-amd64", "6.12.4", "6.19.0-rc2", "next-20261119"]);
    }

    fn install(cache: &Cache, manifest: KernelManifest) -> Kernel {
        let name = manifest.name.clone();
        let entry = shelf(cache).build(&name, "testing", true, &Silent, |dir| {
            fs::write(dir.join("config"), "CONFIG_VIRTIO=y\nCONFIG_9P_FS=m\n# CONFIG_X is not set\nCONFIG_S=\"a=b\"\n")
                .unwrap();
            Ok::<_, StoreError>(manifest)
        });
        Kernel::from_entry(entry.unwrap()).unwrap()
    }

    #[test]
    fn installed_kernels_are_listed_found_and_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned());
        let arch = quiz_arch::find("x86_64").unwrap();
        assert!(find(&cache, arch, None, &Silent).unwrap().is_none());
        for version in ["6.12.4", "6.12.30", "6.12.5"] {
            drop(install(&cache, built(version, version)));
        }
        // An entry of a future version of quiz.
        shelf(&cache).build("7.0", "testing", false, &Silent, |_| Ok::<_, StoreError>("another form")).unwrap();
        let names: Vec<_> = list(&cache, &Silent).unwrap().iter().map(|k| k.name().to_owned()).collect();
        assert_eq!(names, ["6.12.30", "6.12.5", "6.12.4"]);
        let used = find(&cache, arch, Some("6.12.4"), &Silent).unwrap().unwrap();
        let (removed, kept) = prune(&cache, &Silent).unwrap();
        assert_eq!(removed, ["6.12.5"]);
        assert!(matches!(kept[..], [StoreError::InUse { .. }]), "{kept:?}");
        assert_eq!(used.manifest.version, "6.12.4".parse().unwrap());
    }

    #[test]
    fn the_configuration_answers() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = install(&Cache::at(dir.path().to_owned()), built("6.12.4", "6.12.4"));
        assert!(kernel.has_builtin("VIRTIO") && kernel.has_builtin("CONFIG_VIRTIO"));
        assert!(!kernel.has_builtin("9P_FS") && !kernel.has_builtin("X"));
        assert_eq!(kernel.option("9P_FS").unwrap().as_deref(), Some("m"));
        assert_eq!(kernel.option("S").unwrap().as_deref(), Some("\"a=b\""));
        assert_eq!(
            (kernel.modules_dir(), kernel.kbuild(), kernel.vmlinux(), kernel.system_map()),
            (None, None, None, None)
        );
        fs::remove_file(kernel.config()).unwrap();
        assert!(!kernel.has_builtin("VIRTIO"));
        assert!(kernel.option("VIRTIO").unwrap_err().to_string().contains("6.12.4"));
    }

    #[test]
    fn a_manifest_reads_back_and_its_form_is_stable() {
        let manifest = stock("6.1.0-50-amd64", "6.1.176");
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<KernelManifest>(&text).unwrap(), manifest);
        for part in [r#""version":"6.1.176""#, r#""kind":"debian-package""#, r#""boot":"pvh""#] {
            assert!(text.contains(part), "{text}");
        }
    }
}
