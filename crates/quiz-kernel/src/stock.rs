//! Adds stock kernels of Debian-like distributions to the cache, from their packages. Not for
//! building kernels (`build`).

use crate::kernel::{self, Boot, Kernel, KernelManifest, Origin, Version};
use crate::{bootimage, modules};
use fs_err as fs;
use quiz_arch::Arch;
use quiz_debian::apt::{Apt, AptError, Package, Source};
use quiz_debian::deb;
use quiz_host::command::CommandError;
use quiz_host::digest;
use quiz_host::report::{Report, Unit};
use quiz_host::store::{Cache, Entry, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread;

/// Why a stock kernel could not be added.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The cache failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The packages could not be fetched.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A program of the host failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A package could not be unpacked.
    #[error(transparent)]
    Deb(#[from] deb::DebError),
    /// A package has unexpected contents.
    #[error(
        "cannot use the kernel package {package}: {what}; please report it, and meanwhile try another release or package"
    )]
    Package {
        /// The package.
        package: String,
        /// The problem.
        what: String,
    },
}

/// The stock kernel to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The release and its mirrors.
    pub source: Source,
    /// The architecture.
    pub arch: &'static Arch,
    /// A package (`linux-image-cloud-amd64`, `linux-image-6.1.0-49-amd64`), or the part of its name
    /// after `linux-image-`. `None`: the architecture's usual kernel.
    pub package: Option<String>,
}

impl Wanted {
    fn image_package(&self) -> String {
        match &self.package {
            None => self.arch.debian_kernel.to_owned(),
            Some(name) if name.starts_with("linux-image-") => name.clone(),
            Some(flavour) => format!("linux-image-{flavour}"),
        }
    }
}

/// Adds a stock kernel with its modules and headers. Takes about ten seconds.
///
/// If the cache has the release's version already, returns that kernel as it is, unless `replace`.
/// The same holds for one that another process adds while this one waits for it.
pub fn add_kernel(cache: &Cache, wanted: &Wanted, replace: bool, report: &dyn Report) -> Result<Kernel, DebianError> {
    let shelf = kernel::shelf(cache);
    let image = wanted.image_package();
    let what = format!("adding the kernel {image} of {}", wanted.source.release);
    let asked = jiff::Timestamp::now();
    // Only the release reveals the kernel's name, so this lock is for the question.
    let question = format!("{}-{image}-{}", wanted.source.release, wanted.arch.debian);
    let _lock = shelf.lock(&question, &what, report)?;
    if let Some(made) = made_since(cache, wanted, asked, report)? {
        return Ok(made);
    }
    let host = quiz_arch::host().debian;
    let archs = if host == wanted.arch.debian { vec![host] } else { vec![wanted.arch.debian, host] };
    let apt = Apt::update(cache, &wanted.source, &archs, report)?;
    let packages = Packages::find(&apt, &image, host, report)?;
    let name = packages.release.clone();
    let newer = shelf.newer(&name);
    // A kernel of the same name may exist in an older version than the release has now.
    let fits = |entry: &Entry| {
        entry.manifest::<KernelManifest>().map_or(true, |there| packages.are_in(&there)) && (!replace || newer(entry))
    };
    let entry = shelf.build_unless(&name, &what, &fits, report, |dir| {
        let mut all = packages.image.clone();
        all.extend(packages.headers.iter().cloned());
        let files = apt.download(&all, report)?;
        let (image_files, header_files) = files.split_at(packages.image.len());
        let progress = report.start(&format!("unpacking {}", packages.main.name), None, Unit::None);
        let manifest = thread::scope(|scope| -> Result<KernelManifest, DebianError> {
            let headers = thread::Builder::new()
                .spawn_scoped(scope, || unpack_headers(dir, header_files, wanted.arch, &apt))
                .map_err(StoreError::io("unpack two packages at once"))?;
            let manifest = unpack_image(dir, image_files, &packages, wanted, &apt);
            headers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            manifest
        })?;
        progress.done();
        Ok::<_, DebianError>(manifest)
    })?;
    Ok(Kernel::from_entry(entry)?)
}

/// The kernel that another quiz process made for the same question during the wait.
fn made_since(
    cache: &Cache,
    wanted: &Wanted,
    since: jiff::Timestamp,
    report: &dyn Report,
) -> Result<Option<Kernel>, DebianError> {
    let list = kernel::list(cache, report).map_err(|e| match e {
        kernel::KernelError::Store(e) => e,
        other => StoreError::Io { doing: "look for kernels".to_owned(), cause: io::Error::other(other.to_string()) },
    })?;
    Ok(list.into_iter().find(|k| {
        let m = &k.manifest;
        m.built_at >= since
            && m.arch == wanted.arch.name
            && matches!(&m.origin, Origin::DebianPackage { release, mirror, asked, .. }
                if *release == wanted.source.release && *mirror == wanted.source.mirror() && *asked == wanted.image_package())
    }))
}

/// The packages of one kernel.
struct Packages {
    /// What `uname -r` will print.
    release: String,
    /// The package with the kernel image.
    main: Package,
    /// The main package, and the packages with its modules if they are separate.
    image: Vec<Package>,
    /// Headers, those for exactly this kernel first; empty if there are none.
    headers: Vec<Package>,
}

impl Packages {
    fn find(apt: &Apt, asked: &str, host: &str, report: &dyn Report) -> Result<Packages, DebianError> {
        let image = closure(
            apt,
            apt.require(asked)?,
            &["linux-image-", "linux-modules-", "linux-binary-", "linux-base-"],
            None,
        )?;
        let main = image.iter().find(|p| release_of(&p.name).is_some()).cloned().ok_or_else(|| {
            DebianError::Package { package: asked.to_owned(), what: "it leads to no image".to_owned() }
        })?;
        let release = release_of(&main.name).unwrap_or_default().to_owned();
        let image = image.into_iter().filter(|p| p.name.contains(&release)).collect();
        let headers = match apt.show(&format!("linux-headers-{release}"))? {
            Some(package) => closure(apt, package, &["linux-headers-", "linux-kbuild-"], Some(host))?,
            None => {
                report.say(&format!("there are no headers for {release}: modules cannot be built for it"));
                Vec::new()
            }
        };
        Ok(Packages { release, main, image, headers })
    }

    /// Whether `kernel` was made from these packages.
    fn are_in(&self, kernel: &KernelManifest) -> bool {
        matches!(&kernel.origin, Origin::DebianPackage { package, version, .. }
            if *package == self.main.name && *version == self.main.version)
    }
}

/// The release in a package name: `6.1.0-50-amd64` of `linux-image-6.1.0-50-amd64`, with or without
/// `unsigned`.
fn release_of(package: &str) -> Option<&str> {
    let rest = package.strip_prefix("linux-image-")?;
    let rest = rest.strip_prefix("unsigned-").unwrap_or(rest);
    let rest = rest.strip_suffix("-unsigned").unwrap_or(rest);
    // A flavour can start with a digit too (`5kc-malta`).
    let numbers = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    numbers.contains('.').then_some(rest)
}

/// `first` and its dependencies, as far as their names start with one of `prefixes`. The tools that
/// a build runs (`linux-kbuild-…`) are for the architecture `host`.
fn closure(apt: &Apt, first: Package, prefixes: &[&str], host: Option<&str>) -> Result<Vec<Package>, AptError> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(package) = all.get(next) {
        let wanted: Vec<String> = package
            .depends
            .iter()
            .filter(|d| prefixes.iter().any(|p| d.starts_with(p)))
            .filter(|d| !all.iter().any(|a| a.name == **d))
            .cloned()
            .collect();
        for name in wanted {
            let found = match host.filter(|_| name.starts_with("linux-kbuild-")) {
                Some(host) => apt.require(&format!("{name}:{host}"))?,
                None => apt.require(&name)?,
            };
            if !all.contains(&found) {
                all.push(found);
            }
        }
        next += 1;
    }
    Ok(all)
}

fn unpack_image(
    dir: &Path,
    debs: &[PathBuf],
    packages: &Packages,
    wanted: &Wanted,
    apt: &Apt,
) -> Result<KernelManifest, DebianError> {
    let release = &packages.release;
    let package = &packages.main.name;
    let strange = |what: String| DebianError::Package { package: package.clone(), what };
    for deb in debs {
        deb::unpack(deb, dir, apt.log(), &|path, _| image_path(path, release))?;
    }
    let doing = || StoreError::io(format!("take the kernel out of {package}"));
    let image = dir.join("image");
    let bytes = fs::read(&image).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => strange(format!("it has no image of {release}")),
        _ => doing()(e).into(),
    })?;
    let (boot, boot_file) = install_boot_file(dir, &image, &bytes, wanted.arch).map_err(doing())?;
    if !dir.join("config").exists() {
        return Err(strange(format!("it has no configuration of {release}")));
    }
    if !dir.join("lib/modules").join(release).is_dir() {
        return Err(strange(format!("it has no modules for {release}")));
    }
    // Debian ships a short text instead; the real file is in a huge package with debug information.
    let map = dir.join("System.map");
    if fs::metadata(&map).is_ok_and(|m| m.len() < 4096) {
        fs::remove_file(&map).map_err(doing())?;
    }
    modules::index(dir, release, &format!("index the modules of {package}"), apt.log())?;
    let version = Version::leading(after_epoch(&packages.main.version))
        .or_else(|| Version::leading(release))
        .ok_or_else(|| strange(format!("its version {} is not one of a kernel", packages.main.version)))?;
    let mut sha256 = BTreeMap::new();
    for file in [boot_file.as_str(), "config"] {
        sha256.insert(file.to_owned(), digest::of_file(&dir.join(file)).map_err(doing())?);
    }
    Ok(KernelManifest {
        name: release.clone(),
        release: release.clone(),
        version,
        arch: wanted.arch.name.to_owned(),
        origin: Origin::DebianPackage {
            release: wanted.source.release.clone(),
            package: package.clone(),
            version: packages.main.version.clone(),
            mirror: wanted.source.mirror(),
            asked: wanted.image_package(),
        },
        boot,
        boot_file,
        vmlinux_file: None,
        compiler: compiler(dir),
        llvm: false,
        variant: None,
        built_at: jiff::Timestamp::now(),
        quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        sha256,
    })
}

fn after_epoch(version: &str) -> &str {
    version.split_once(':').map_or(version, |(_, rest)| rest)
}

/// The compiler's version line in the configuration.
fn compiler(dir: &Path) -> Option<String> {
    let config = fs::read_to_string(dir.join("config")).ok()?;
    let text = config.lines().find_map(|l| l.strip_prefix("CONFIG_CC_VERSION_TEXT="))?;
    Some(text.trim_matches('"').to_owned())
}

/// Installs the form of the image that starts fastest.
fn install_boot_file(dir: &Path, image: &Path, bytes: &[u8], arch: &Arch) -> io::Result<(Boot, String)> {
    let inner = bootimage::inner(bytes);
    if let Some(kernel) = &inner {
        if arch.machines.iter().any(|m| m.pvh) && bootimage::boots_pvh(kernel) {
            fs::write(dir.join("kernel.pvh"), kernel)?;
            fs::remove_file(image)?;
            return Ok((Boot::Pvh, "kernel.pvh".to_owned()));
        }
        // QEMU before 8.1 cannot start zboot images.
        if !kernel.starts_with(b"\x7fELF") {
            fs::write(dir.join(arch.kernel_image), kernel)?;
            fs::remove_file(image)?;
            return Ok((Boot::Image, arch.kernel_image.to_owned()));
        }
    }
    fs::rename(image, dir.join(arch.kernel_image))?;
    let boot = if inner.is_some() { Boot::BzImage } else { Boot::Image };
    Ok((boot, arch.kernel_image.to_owned()))
}

/// The path in the entry for a file of an image package; `None` leaves the file out.
fn image_path(path: &Path, release: &str) -> Option<PathBuf> {
    let path = path.strip_prefix("usr").unwrap_or(path);
    if let Ok(boot) = path.strip_prefix("boot") {
        let name = boot.to_str()?.strip_suffix(release)?.strip_suffix('-')?;
        return match name {
            "vmlinuz" | "vmlinux" => Some("image".into()),
            "config" | "System.map" => Some(name.into()),
            _ => None,
        };
    }
    let within = path.strip_prefix("lib/modules").ok()?.strip_prefix(release).ok()?;
    match within.to_str()? {
        // Links to headers at fixed places of another file system.
        "build" | "source" | "vdso" => None,
        // Debian 14 has the images here instead of in /boot.
        "vmlinuz" | "vmlinux" => Some("image".into()),
        name @ ("config" | "System.map") => Some(name.into()),
        within if within.starts_with("vdso/") => None,
        _ => Some(path.to_owned()),
    }
}

/// Makes `kbuild` from the header packages: one tree, as if the kernel had been built inside its
/// source. It has no absolute paths, so it works wherever the cache is.
fn unpack_headers(dir: &Path, debs: &[PathBuf], arch: &'static Arch, apt: &Apt) -> Result<(), DebianError> {
    if debs.is_empty() {
        return Ok(());
    }
    let srcarch = source_arch(arch);
    for deb in debs {
        deb::unpack(deb, dir, apt.log(), &|path, link| header_path(path, link, srcarch))?;
    }
    let variables = dir.join("kbuild/.kernelvariables");
    let doing = || StoreError::io("adapt the kernel's headers");
    if variables.exists() {
        let text = fs::read_to_string(&variables).map_err(doing())?;
        let foreign = arch.name != quiz_arch::host().name;
        fs::write(&variables, adapt_variables(&text, foreign.then_some(arch.cross))).map_err(doing())?;
    }
    Ok(())
}

/// The directory below `arch/` of the kernel's source.
fn source_arch(arch: &'static Arch) -> &'static str {
    arch.kernel_image_path.strip_prefix("arch/").and_then(|p| p.split('/').next()).unwrap_or(arch.kernel_arch)
}

/// The path in the entry for a file of a header package; `None` leaves the file out. `link` is the
/// target of a symbolic link.
fn header_path(path: &Path, link: Option<&Path>, srcarch: &str) -> Option<PathBuf> {
    let path = path.strip_prefix("usr").unwrap_or(path);
    let rest = path.strip_prefix("src").or_else(|_| path.strip_prefix("lib")).ok()?;
    let mut parts = rest.components();
    let top = parts.next()?.as_os_str().to_str()?;
    if !top.starts_with("linux-headers-") && !top.starts_with("linux-kbuild-") {
        return None;
    }
    let within = parts.as_path();
    // This link connects the trees of two packages, which are one tree here.
    if link.is_some_and(|link| leads_out(within, link)) {
        return None;
    }
    // With this file, a module's build would run pahole to make type information that quiz does not
    // use.
    if within == Path::new("vmlinux") {
        return None;
    }
    let mut names = within.components().filter_map(|c| c.as_os_str().to_str());
    if names.next() == Some("arch")
        && let Some(name) = names.next()
        && within.components().count() > 2
        // arm64 shares some headers with arm.
        && !srcarch.starts_with(name)
    {
        return None;
    }
    (within != Path::new("")).then(|| Path::new("kbuild").join(within))
}

/// Whether a link at `path` to `target` leaves the directory that `path` is relative to.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() as isize - 1;
    target.components().any(|part| {
        depth += match part {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            Component::CurDir => 0,
            Component::RootDir | Component::Prefix(_) => return true,
        };
        depth < 0
    })
}

/// Adapts Debian's make variables. They name the exact compiler that built the kernel, which
/// another host may lack, and leave the cross compiler to the packaging.
fn adapt_variables(text: &str, cross: Option<&str>) -> String {
    let mut out = String::new();
    if let Some(cross) = cross {
        out.push_str(&format!("ifeq ($(CROSS_COMPILE),)\nCROSS_COMPILE = {cross}\nendif\n"));
    }
    for line in text.lines() {
        out.push_str(line);
        out.push('\n');
        if let Some(compiler) = line.strip_prefix("CC = ").and_then(|cc| cc.rsplit("$(CROSS_COMPILE)").next()) {
            out.push_str(&format!(
                "ifeq ($(shell command -v $(CROSS_COMPILE){compiler}),)\nCC = $(CROSS_COMPILE)gcc\nendif\n"
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_in_the_image_packages_name() {
        for (package, release) in [
            ("linux-image-6.1.0-50-amd64", Some("6.1.0-50-amd64")),
            ("linux-image-6.1.0-50-amd64-unsigned", Some("6.1.0-50-amd64")),
            ("linux-image-unsigned-6.8.0-31-generic", Some("6.8.0-31-generic")),
            ("linux-image-6.12.107+deb13-riscv64", Some("6.12.107+deb13-riscv64")),
            ("linux-image-6.19-rc3-amd64", Some("6.19-rc3-amd64")),
            ("linux-image-amd64", None),
            ("linux-image-5kc-malta", None),
            ("linux-image-686-pae", None),
            ("linux-modules-6.8.0-31-generic", None),
        ] {
            assert_eq!(release_of(package), release, "{package}");
        }
    }

    #[test]
    fn files_of_image_packages_find_their_places() {
        let place = |path: &str| image_path(Path::new(path), "6.1.0-50-amd64").map(|p| p.to_str().unwrap().to_owned());
        for (from, to) in [
            ("boot/vmlinuz-6.1.0-50-amd64", Some("image")),
            ("boot/vmlinux-6.1.0-50-amd64", Some("image")),
            ("boot/config-6.1.0-50-amd64", Some("config")),
            ("boot/System.map-6.1.0-50-amd64", Some("System.map")),
            ("boot/vmlinuz-6.1.0-49-amd64", None),
            ("lib/modules/6.1.0-50-amd64/kernel/fs/9p/9p.ko", Some("lib/modules/6.1.0-50-amd64/kernel/fs/9p/9p.ko")),
            ("usr/lib/modules/6.1.0-50-amd64/modules.order", Some("lib/modules/6.1.0-50-amd64/modules.order")),
            ("usr/lib/modules/6.1.0-50-amd64/vmlinuz", Some("image")),
            ("usr/lib/modules/6.1.0-50-amd64/config", Some("config")),
            ("lib/modules/6.1.0-50-amd64/build", None),
            ("lib/modules/6.1.0-50-amd64/source", None),
            ("lib/modules/other/kernel/x.ko", None),
            ("usr/share/doc/linux-image-6.1.0-50-amd64/copyright", None),
        ] {
            assert_eq!(place(from).as_deref(), to, "{from}");
        }
    }

    #[test]
    fn header_packages_become_one_tree() {
        let place = |path: &str, link: Option<&str>| {
            header_path(Path::new(path), link.map(Path::new), "arm64").map(|p| p.to_str().unwrap().to_owned())
        };
        for (from, link, to) in [
            ("usr/src/linux-headers-6.1.0-50-arm64/.config", None, Some("kbuild/.config")),
            ("usr/src/linux-headers-6.1.0-50-common/Makefile", None, Some("kbuild/Makefile")),
            ("usr/lib/linux-kbuild-6.1/scripts/basic/fixdep", None, Some("kbuild/scripts/basic/fixdep")),
            ("usr/src/linux-headers-6.1.0-50-arm64/scripts", Some("../../lib/linux-kbuild-6.1/scripts"), None),
            ("usr/src/linux-headers-6.8.0-31-generic/Kconfig", Some("../linux-headers-6.8.0-31/Kconfig"), None),
            ("usr/src/linux-headers-6.8.0-31-generic/rust", Some("../linux-lib-rust-6.8.0-31-generic"), None),
            ("usr/src/linux-headers-x/a/b/c.h", Some("../../d.h"), Some("kbuild/a/b/c.h")),
            ("usr/src/linux-headers-x/a/b/c.h", Some("../../../d.h"), None),
            ("usr/src/linux-kbuild-6.1", Some("../lib/linux-kbuild-6.1"), None),
            (
                "usr/src/linux-headers-x-common/include/dt-bindings/a.h",
                Some("b.h"),
                Some("kbuild/include/dt-bindings/a.h"),
            ),
            ("usr/src/linux-headers-x-common/arch/arm64/include/a.h", None, Some("kbuild/arch/arm64/include/a.h")),
            ("usr/src/linux-headers-x-common/arch/arm/include/a.h", None, Some("kbuild/arch/arm/include/a.h")),
            ("usr/src/linux-headers-x-common/arch/x86/include/a.h", None, None),
            ("usr/src/linux-headers-x-common", None, None),
            ("usr/src/linux-headers-6.12.95-arm64/vmlinux", None, None),
            ("lib/modules/x/build", Some("/usr/src/linux-headers-x"), None),
            ("usr/share/doc/linux-headers-x/copyright", None, None),
        ] {
            assert_eq!(place(from, link).as_deref(), to, "{from}");
        }
        assert_eq!(source_arch(quiz_arch::find("x86_64").unwrap()), "x86");
        assert_eq!(source_arch(quiz_arch::find("ppc64le").unwrap()), "powerpc");
    }

    #[test]
    fn make_variables_work_on_other_hosts() {
        let text = "override ARCH = x86\nCC = $(if $(CCACHE),ccache) $(CROSS_COMPILE)gcc-12\nX = y\n";
        let here = adapt_variables(text, None);
        assert!(
            here.contains(
                "ifeq ($(shell command -v $(CROSS_COMPILE)gcc-12),)\nCC = $(CROSS_COMPILE)gcc\nendif\nX = y\n"
            )
        );
        assert!(!here.contains("CROSS_COMPILE ="));
        let foreign = adapt_variables(text, Some("s390x-linux-gnu-"));
        assert!(
            foreign.starts_with("ifeq ($(CROSS_COMPILE),)\nCROSS_COMPILE = s390x-linux-gnu-\nendif\n"),
            "{foreign}"
        );
    }

    #[test]
    fn the_form_that_starts_fastest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let install = |arch: &str, bytes: &[u8]| {
            let image = dir.path().join("image");
            fs::write(&image, bytes).unwrap();
            let made = install_boot_file(dir.path(), &image, bytes, quiz_arch::find(arch).unwrap()).unwrap();
            assert!(!image.exists());
            assert!(dir.path().join(&made.1).exists());
            made
        };
        assert_eq!(install("s390x", b"anything"), (Boot::Image, "bzImage".to_owned()));
        assert_eq!(install("ppc64le", b"\x7fELF"), (Boot::Image, "vmlinux".to_owned()));
        let payload = zstd::encode_all(&b"not an ELF file"[..], 1).unwrap();
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64u32.to_le_bytes());
        zboot.extend((payload.len() as u32 + 4).to_le_bytes());
        zboot.resize(64, 0);
        zboot.extend(&payload);
        zboot.extend([0; 4]);
        assert_eq!(install("aarch64", &zboot), (Boot::Image, "Image".to_owned()));
        assert_eq!(fs::read(dir.path().join("Image")).unwrap(), b"not an ELF file");
    }
}
