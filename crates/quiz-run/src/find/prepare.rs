//! Finds the kernel and the root of a run, and makes default ones if they are missing. The user
//! need not set up anything. Not for how quiz makes them (`quiz_image`).

use std::io;

use quiz_arch::Arch;
use quiz_config::{Chosen, RootBuilder, RunSpec};
use quiz_host::{Cache, Report};
use quiz_image::root::{self, Builder, Builders, Facts, Root, RootError, Way};
use quiz_kernel::kernel;
use quiz_kernel::stock;
use quiz_needs::Purpose;

use crate::assemble::Base;
use crate::assemble::agents;
use crate::context::Context;
use crate::fault::Fault;
use crate::find::chosen;
use crate::find::needs::require;
use crate::find::packages::{Packages, say_trust, source, wanted_kernel};
use crate::find::rootvm::RootVm;

/// Finds the kernel and the root that `spec` and `profiles` ask for. Makes what is missing, both at
/// once if both are.
///
/// If another quiz process is making the same, this one waits for it.
pub fn kernel_and_root(spec: &RunSpec, profiles: &[Chosen], ctx: &Context) -> Result<Base, Fault> {
    let arch = crate::arch(Some(&spec.arch))?;
    let cache = ctx.cache()?;
    let kernel = kernel::find(&cache, arch, spec.kernel.as_deref(), &ctx.report)?;
    if kernel.is_none() && spec.kernel.is_some() {
        return Err(no_such_kernel(spec.kernel.as_deref(), arch, &cache, ctx)?);
    }
    if let Some(kernel) = &kernel {
        chosen::require_kernel(kernel, profiles, &spec.profiles, ctx)?;
    }
    let wanted_root = wanted_root(spec, profiles, arch);
    let root = root::find(&cache, &wanted_root)?;
    let mut purposes = Vec::new();
    if spec.qemu.is_none() && crate::assemble::monitor::beside_path(arch).is_none() {
        purposes.push(Purpose::Run(arch));
    }
    if kernel.is_none() {
        purposes.push(Purpose::KernelAdd);
    }
    // Gathered only if they matter: that takes longer than a run from a template.
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
                "using {}, which an older quiz made and which lacks some packages of a current root",
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
    let base = Base { kernel: kernel?, root: root? };
    chosen::require_kernel(&base.kernel, profiles, &spec.profiles, ctx)?;
    Ok(base)
}

/// Returns what this host has of mmdebstrap's needs for roots of `arch`.
pub fn root_facts(arch: &Arch, ctx: &Context) -> Facts {
    Facts::gather(arch, quiz_arch::host(), &ctx.search())
}

/// Returns what this host must have to make a root.
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

/// Makes the root `wanted`. `adding`: another thread is downloading the kernel of a release
/// meanwhile.
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
    root::build(cache, wanted, replace, &builders, &ctx.report).map_err(|error| match error {
        RootError::Interrupted { signal, .. } => Fault::interrupted(error.to_string(), signal),
        error => error.into(),
    })
}

fn wanted_root(spec: &RunSpec, profiles: &[Chosen], arch: &'static Arch) -> root::Wanted {
    root::Wanted { source: source(arch, spec, Packages::default()), arch, packages: chosen::packages(spec, profiles) }
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
    ctx.report.say(&format!("first run: preparing {what} for {} (about a minute, once)", spec.arch));
    ctx.report.say(&format!("for another release, use --release NAME or the setting `release`; for others: {how}"));
}

/// Returns the error that no kernel matches `selector`, with the installed ones and a command that
/// makes one.
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
