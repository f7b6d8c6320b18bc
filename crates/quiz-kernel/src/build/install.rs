//! Makes a kernel's entry from a finished build: image, vmlinux, System.map, configuration, modules
//! and kbuild tree. Not for building, nor for the entry's place in the cache.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fs_err as fs;

use super::fragment::Outcome;
use super::kbuild;
use super::make::{Make, MakeError};
use super::tree::Tree;
use crate::kernel::{Boot, KernelManifest, Origin};
use crate::{bootimage, modules};
use quiz_host::command::{CommandError, Run};
use quiz_host::digest;
use quiz_host::report::{Report, Unit};

/// Why a finished build could not be made into an entry.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be copied.
    #[error("cannot put the kernel together: {0}")]
    Io(#[from] io::Error),
    /// Installing the modules failed.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The configuration has PVH, but the kernel has no PVH entry point.
    #[error("the kernel was configured with PVH but its vmlinux has no PVH entry point: try `-d PVH`")]
    NoPvh,
}

/// How QEMU starts a kernel of this configuration on this architecture.
pub(crate) fn boot(make: &Make<'_>, outcome: &Outcome) -> Boot {
    let pvh = make.arch.machines.iter().any(|machine| machine.pvh);
    if pvh && outcome.has("PVH") {
        Boot::Pvh
    } else if make.arch.kernel_image == "bzImage" {
        Boot::BzImage
    } else {
        Boot::Image
    }
}

/// The targets that make has to build for the entry.
pub(crate) fn targets<'a>(make: &Make<'a>, boot: Boot, outcome: &Outcome) -> Vec<&'a str> {
    let mut targets = vec!["vmlinux"];
    if boot != Boot::Pvh && make.arch.kernel_image != "vmlinux" {
        targets.push(make.arch.kernel_image);
    }
    if outcome.has("MODULES") {
        targets.push("modules");
    }
    targets
}

/// The entry's name and origin.
#[derive(Debug)]
pub(crate) struct Identity {
    pub name: String,
    pub origin: Origin,
    pub variant: Option<String>,
}

/// Fills `dir` and returns its manifest.
pub(crate) fn fill(
    dir: &Path,
    make: &Make<'_>,
    tree: &Tree,
    outcome: &Outcome,
    identity: Identity,
    report: &dyn Report,
) -> Result<KernelManifest, InstallError> {
    let progress = report.start("installing the kernel", None, Unit::None);
    let build = make.output;
    let release = fs::read_to_string(build.join("include/config/kernel.release"))?.trim().to_owned();
    let boot = boot(make, outcome);
    fs::copy(build.join(".config"), dir.join("config"))?;
    fs::copy(build.join("System.map"), dir.join("System.map"))?;
    fs::copy(build.join("vmlinux"), dir.join("vmlinux"))?;
    let elf_image = boot == Boot::Pvh || make.arch.kernel_image == "vmlinux";
    let boot_file = if elf_image {
        // Symbols are for the host; QEMU would read them for every VM.
        strip(make, &build.join("vmlinux"), &dir.join("vmlinux-boot"))?;
        if boot == Boot::Pvh && !bootimage::boots_pvh(&fs::read(dir.join("vmlinux-boot"))?) {
            return Err(InstallError::NoPvh);
        }
        "vmlinux-boot".to_owned()
    } else {
        let image = build.join(make.arch.kernel_image_path);
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(&image, dir.join(&name))?;
        name
    };
    if outcome.has("MODULES") {
        progress.note("modules");
        install_modules(dir, make, &release, outcome)?;
    }
    progress.note("kbuild tree");
    kbuild::make(&tree.path, build, &tree.srcarch(make.arch.kernel_arch), &dir.join("kbuild"))?;
    let mut sha256 = BTreeMap::new();
    for file in ["config", "System.map", "vmlinux", &boot_file] {
        sha256.insert(file.to_owned(), digest::of_file(&dir.join(file))?);
    }
    progress.done();
    let compiler = outcome.value("CC_VERSION_TEXT").to_string().trim_matches('"').to_owned();
    Ok(KernelManifest {
        name: identity.name,
        release,
        version: tree.version,
        arch: make.arch.name.to_owned(),
        origin: identity.origin,
        boot,
        boot_file,
        vmlinux_file: Some("vmlinux".to_owned()),
        // The configuration records the compiler only since 5.8.
        compiler: Some(compiler).filter(|text| text.len() > 1),
        llvm: make.llvm,
        variant: identity.variant,
        built_at: jiff::Timestamp::now(),
        quiz_version: env!("CARGO_PKG_VERSION").to_owned(),
        sha256,
    })
}

fn strip(make: &Make<'_>, from: &Path, to: &Path) -> Result<(), InstallError> {
    let mut command = make.environment.command(make.tool("strip"));
    command.args(["--strip-all", "-o"]).arg(to).arg(from);
    Ok(Run { command, doing: "strip vmlinux", log: make.log }.run(|_| {})?)
}

fn install_modules(dir: &Path, make: &Make<'_>, release: &str, outcome: &Outcome) -> Result<(), InstallError> {
    let doing = "install the modules";
    let silent = quiz_host::report::Silent;
    // quiz runs depmod itself, because it may not be in an ordinary user's PATH.
    let install = |path: &Path, strip: &[&str]| -> Result<(), InstallError> {
        let path = format!("INSTALL_MOD_PATH={}", path.display());
        let mut args = vec![path.as_str(), "DEPMOD=true"];
        args.extend(strip);
        args.push("modules_install");
        make.run(&args, doing, &silent)?;
        Ok(())
    };
    let debug = outcome.has("DEBUG_INFO");
    install(dir, if debug { &["INSTALL_MOD_STRIP=1"] } else { &[] })?;
    let modules = dir.join("lib/modules").join(release);
    for link in ["build", "source"] {
        match fs::remove_file(modules.join(link)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    // A relative link stays valid when the cache is moved.
    fs_err::os::unix::fs::symlink("../../../kbuild", modules.join("build"))?;
    modules::index(dir, release, doing, make.log)?;
    if debug {
        // Debug information stays on the host; the guest would load it into memory with each
        // module.
        install(&dir.join("debug"), &[])?;
    }
    Ok(())
}
