//! Finds the kernel and the root of a run, and prepares a default one where there is none: nothing is set up by hand.
//! Not for making them (`quiz_image`).

use std::io;
use std::path::PathBuf;

use quiz_arch::{Arch, Port};
use quiz_config::{Chosen, RootBuilder, RunSpec};
use quiz_debian::apt::{self, Source};
use quiz_host::tools::{self, Distribution, Search};
use quiz_host::{Cache, Report};
use quiz_image::root::{self, Builder, Builders, Facts, Root, RootError, Way};
use quiz_kernel::kernel::{self, Kernel};
use quiz_kernel::stock;
use quiz_needs::Purpose;

use crate::context::Context;
use crate::errors::Fault;
use crate::profiles;
use crate::run::agents;
use crate::run::rootvm::RootVm;

/// The kernel and the root of a run, in use until they are dropped.
#[derive(Debug)]
pub struct Prepared {
    /// The kernel.
    pub kernel: Kernel,
    /// The root.
    pub root: Root,
}

/// Finds the kernel and the root that `spec` and the profiles `chosen` ask for. What is missing is made, both at once if both are.
///
/// Another quiz that is making the same is waited for.
pub fn kernel_and_root(spec: &RunSpec, chosen: &[Chosen], ctx: &Context) -> Result<Prepared, Fault> {
    let arch = crate::commands::arch(Some(&spec.arch))?;
    let cache = ctx.cache()?;
    let kernel = kernel::find(&cache, arch, spec.kernel.as_deref(), &ctx.report)?;
    if kernel.is_none() && spec.kernel.is_some() {
        return Err(no_such_kernel(spec.kernel.as_deref(), arch, &cache, ctx)?);
    }
    if let Some(kernel) = &kernel {
        profiles::require_kernel(kernel, chosen, &spec.profiles, ctx)?;
    }
    let wanted_root = wanted_root(spec, chosen, arch);
    let root = root::find(&cache, &wanted_root)?;
    let mut purposes = Vec::new();
    if spec.qemu.is_none() && crate::run::monitor::beside_path(arch).is_none() {
        purposes.push(Purpose::Run(arch));
    }
    if kernel.is_none() {
        purposes.push(Purpose::KernelAdd);
    }
    // Gathered only where they matter: it takes longer than a run from a template.
    let facts = root.is_none().then(|| root_facts(arch, ctx));
    if let Some(facts) = &facts {
        purposes.extend(root_purposes(spec.root_builder, arch, facts));
    }
    require(&purposes, ctx)?;
    if kernel.is_none() || root.is_none() {
        say_what_is_prepared(kernel.is_none(), root.is_none(), &wanted_root, spec, ctx);
        say_trust(arch, &wanted_root.source, ctx);
    }
    let adding = kernel.is_none();
    let add_kernel = || match kernel {
        Some(kernel) => Ok(kernel),
        None => stock::add_kernel(&cache, &wanted_kernel(spec, arch), false, &ctx.report).map_err(Fault::from),
    };
    let build_root = || {
        if let Some(root) = root {
            return Ok::<Root, Fault>(root);
        }
        let facts = facts.unwrap_or_else(|| root_facts(arch, ctx));
        build_root(&cache, &wanted_root, false, spec, facts, adding, ctx).or_else(|error| {
            let Some(old) = root::outdated(&cache, &wanted_root)? else { return Err(error) };
            ctx.report.say(&error.message());
            ctx.report.say(&format!(
                "going on with {}, made by an older quiz, which lacks some of what roots have by now",
                old.name()
            ));
            Ok(old)
        })
    };
    let (kernel, root) = std::thread::scope(|scope| -> io::Result<_> {
        let kernel = std::thread::Builder::new().spawn_scoped(scope, add_kernel)?;
        let root = build_root();
        Ok((kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), root))
    })?;
    let prepared = Prepared { kernel: kernel?, root: root? };
    profiles::require_kernel(&prepared.kernel, chosen, &spec.profiles, ctx)?;
    Ok(prepared)
}

/// What this host has of what mmdebstrap needs to make roots of `arch`.
pub fn root_facts(arch: &Arch, ctx: &Context) -> Facts {
    Facts::gather(arch, quiz_arch::host(), &search(ctx))
}

/// What has to be on this host for a root to be made.
pub fn root_purposes(builder: RootBuilder, arch: &'static Arch, facts: &Facts) -> Vec<Purpose> {
    match root::way(asked(builder), arch, quiz_arch::host(), facts) {
        Way::Mmdebstrap => vec![Purpose::RootBuild(arch)],
        // apt and the keys, an image, and the VM with its kernel.
        Way::Vm(_) => vec![Purpose::KernelAdd, Purpose::RootAdd, Purpose::Run(arch)],
    }
}

fn asked(builder: RootBuilder) -> Builder {
    match builder {
        RootBuilder::Auto => Builder::Auto,
        RootBuilder::Mmdebstrap => Builder::Mmdebstrap,
        RootBuilder::Vm => Builder::Vm,
    }
}

/// Makes the root that is `wanted`; `adding` tells that another thread is fetching the kernel of a release meanwhile.
///
/// Ends this process by the signal that has ended a VM in which the root was made.
pub fn build_root(
    cache: &Cache,
    wanted: &root::Wanted,
    replace: bool,
    spec: &RunSpec,
    facts: Facts,
    adding: bool,
    ctx: &Context,
) -> Result<Root, Fault> {
    // Without an agent there is no VM.
    if matches!(root::way(asked(spec.root_builder), wanted.arch, quiz_arch::host(), &facts), Way::Vm(_)) {
        agents::of(wanted.arch)?;
    }
    let vm = RootVm { spec, arch: wanted.arch, adding, ctx };
    let builders = Builders { asked: asked(spec.root_builder), facts, vm: &vm };
    let made = root::build(cache, wanted, replace, &builders, &ctx.report);
    if let Err(RootError::Interrupted { signal, .. }) = &made {
        // What was begun is gone by now.
        signal_hook::low_level::emulate_default_handler(*signal).ok();
    }
    Ok(made?)
}

/// Where packages come from, as far as a verb's own options say; the settings say the rest.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// `--release`
    pub release: Option<String>,
    /// `--mirror`
    pub mirrors: Vec<String>,
    /// `--keyring`
    pub keyring: Option<PathBuf>,
}

/// The release that packages for `arch` are of, and where they come from.
pub fn source(arch: &Arch, spec: &RunSpec, asked: Packages) -> Source {
    let own = arch.port.release().filter(|_| spec.release_is_default);
    // The keyring of the settings is for the mirrors of the settings.
    let keyring = asked.keyring.or_else(|| spec.keyring.clone().filter(|_| asked.mirrors.is_empty()));
    let mut mirrors = if asked.mirrors.is_empty() { spec.mirrors.clone() } else { asked.mirrors };
    if mirrors.is_empty() && arch.port == Port::Unofficial {
        mirrors = vec![apt::PORTS_MIRROR.to_owned()];
    }
    Source { release: asked.release.unwrap_or_else(|| own.unwrap_or(&spec.release).to_owned()), mirrors, keyring }
}

/// Tells what the packages of `source` are to be trusted for, where it is less than usual.
pub fn say_trust(arch: &Arch, source: &Source, ctx: &Context) {
    if source.mirrors == [apt::PORTS_MIRROR] {
        ctx.report.say(&format!(
            "Debian has no release for {}: its packages come from the archive of unofficial ports, built by volunteers and signed by that archive's own keys",
            arch.name
        ));
    }
}

pub fn wanted_kernel(spec: &RunSpec, arch: &'static Arch) -> stock::Wanted {
    stock::Wanted { source: source(arch, spec, Packages::default()), arch, package: None }
}

fn wanted_root(spec: &RunSpec, chosen: &[Chosen], arch: &'static Arch) -> root::Wanted {
    root::Wanted { source: source(arch, spec, Packages::default()), arch, packages: profiles::packages(spec, chosen) }
}

fn say_what_is_prepared(kernel: bool, root: bool, wanted: &root::Wanted, spec: &RunSpec, ctx: &Context) {
    let release = &wanted.source.release;
    if root && !kernel && !spec.profiles.is_empty() {
        let packages = wanted.packages.join(" ");
        ctx.report.say(&format!("no root of {release} has what the profiles need: {packages}"));
        ctx.report.say(&format!("making one now; `quiz root build -p {}` does it ahead", spec.profiles.join(",")));
        return;
    }
    let (what, how) = match (kernel, root) {
        (false, false) => return,
        (true, false) => (format!("the stock kernel of {release}"), "`quiz kernel --help`".to_owned()),
        (false, true) => (format!("a root of {release}"), "`quiz root build --help`".to_owned()),
        (true, true) => (
            format!("the stock kernel of {release} and a root"),
            "`quiz kernel --help`, `quiz root build --help`".to_owned(),
        ),
    };
    ctx.report.say(&format!("preparing what is not there yet: {what}, for {}; this happens once", spec.arch));
    ctx.report.say(&format!("for another release: --release NAME, or `release` in the settings; for others: {how}"));
}

/// The error that no kernel is what `selector` says, with what there is and what would make one.
pub fn no_such_kernel(selector: Option<&str>, arch: &Arch, cache: &Cache, ctx: &Context) -> Result<Fault, Fault> {
    let installed: Vec<String> = kernel::list(cache, &ctx.report)?
        .iter()
        .filter(|kernel| kernel.manifest.arch == arch.name)
        .map(|kernel| kernel.name().to_owned())
        .collect();
    let there = match installed.as_slice() {
        [] => "none is".to_owned(),
        names => format!("installed: {}", names.join(", ")),
    };
    let option = if arch == quiz_arch::host() { String::new() } else { format!(" --arch {}", arch.name) };
    let Some(selector) = selector else {
        let fault = Fault::new(format!("no kernel for {} is installed", arch.name));
        return Ok(
            fault.hint(format!("quiz kernel add{option} gets a stock one, quiz kernel build{option} 6.12 makes one"))
        );
    };
    let fault = Fault::new(format!("no kernel `{selector}` for {} is installed; {there}", arch.name));
    let is_version = selector.parse::<quiz_kernel::Version>().is_ok();
    Ok(fault.hint(if is_version {
        format!(
            "quiz kernel build{option} {selector} makes it from source; quiz kernel add{option} gets a stock kernel"
        )
    } else {
        format!("quiz kernel list shows all; quiz kernel add{option} and quiz kernel build{option} make more")
    }))
}

/// Where this host's programs are.
pub fn search(ctx: &Context) -> Search {
    Search::new(ctx.variable("PATH").map_or("".as_ref(), |path| path.as_os_str()))
}

/// The user's distribution, by its own words.
pub fn distribution() -> Distribution {
    let text = fs_err::read_to_string("/etc/os-release").or_else(|_| fs_err::read_to_string("/usr/lib/os-release"));
    Distribution::from_os_release(&text.unwrap_or_default())
}

/// Makes sure that this host has what `purposes` need; all that is missing is named at once.
pub fn require(purposes: &[Purpose], ctx: &Context) -> Result<(), Fault> {
    let search = search(ctx);
    let missing = quiz_needs::missing(purposes, quiz_arch::host(), |sign| search.has(sign));
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|tool| format!("{} ({})", tool.name(), tool.does)).collect();
    let fault = Fault::new(format!("this host lacks {}", names.join(", ")));
    Err(fault.hint(tools::install_hint(&distribution(), &missing)))
}
