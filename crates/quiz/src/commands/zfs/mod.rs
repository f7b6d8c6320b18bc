//! `quiz zfs`: builds an OpenZFS checkout and installs the build for runs. Not for how it builds
//! (`quiz_zfs`).

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use quiz_arch::Arch;
use quiz_debian::{apt, sysroot};
use quiz_host::Cache;
use quiz_kernel::kernel::{self, Kernel};
use quiz_needs::Purpose;
use quiz_zfs::meta::Support;
use quiz_zfs::{BuildError, Builder, Checkout, CheckoutError, Cross};

use crate::commands::arch::ArchArgument;
use std::ffi::OsString;

use quiz_run::{Asked, needs, packages, prepare};
use quiz_run::{Context, Fault};

mod clean;
mod configure;
mod install;
mod make;
mod test;

const AFTER_HELP: &str = "\
Without a command, quiz runs what is missing of autogen, configure, make and
install. Each kernel has a build directory of its own, .quiz/build/RELEASE/ in the
checkout, which itself stays clean.

`quiz -p zfs` uses the newest build for its kernel: of `quiz zfs make`, or of make in a
build directory or in the checkout. It need not be installed.

To run the program `zfs` in the guest: `quiz -p zfs -- zfs list`.";

/// Build the OpenZFS checkout that this directory is in
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Zfs {
    /// Kernel to build for: a name, a release, or the beginning of a version (6.12)
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
    #[command(subcommand)]
    pub command: Option<ZfsCommand>,
}

impl Zfs {
    /// Whether the command runs the test suite, which is a run.
    pub fn is_test(&self) -> bool {
        matches!(self.command, Some(ZfsCommand::Test(_)))
    }
}

/// What to do with it.
#[derive(Debug, Subcommand)]
pub enum ZfsCommand {
    /// Configure OpenZFS for a kernel
    Configure(configure::Configure),
    /// Compile OpenZFS, and configure it first if necessary
    Make(make::Make),
    /// Update the install tree from the build
    Install(install::Install),
    /// Remove the build and the install tree of a kernel
    Clean(clean::Clean),
    /// Run tests of the ZFS test suite in a VM
    Test(Box<test::Test>),
}

pub fn run(args: Zfs, ctx: &Context) -> Result<ExitCode, Fault> {
    let outer = Which { kernel: args.kernel, arch: args.arch.name };
    match args.command {
        None => all(&outer, ctx)?,
        Some(ZfsCommand::Configure(args)) => configure::run(args, outer, ctx)?,
        Some(ZfsCommand::Make(args)) => make::run(args, outer, ctx)?,
        Some(ZfsCommand::Install(args)) => install::run(&args, outer, ctx)?,
        Some(ZfsCommand::Clean(args)) => clean::run(args, outer, ctx)?,
        Some(ZfsCommand::Test(args)) => return test::run(*args, outer, ctx),
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernel that the user means, from options before the subcommand.
#[derive(Debug, Default)]
pub struct Which {
    kernel: Option<String>,
    arch: Option<String>,
}

impl Which {
    /// Returns the same, but the subcommand's own option for the kernel wins.
    fn or_kernel(self, own: Option<String>) -> Which {
        Which { kernel: own.or(self.kernel), ..self }
    }
}

fn all(which: &Which, ctx: &Context) -> Result<(), Fault> {
    let target = Target::find(which, ctx)?;
    target.require_tools(ctx)?;
    target.build(ctx, |builder| builder.make(&[]))?;
    install::install(&target, ctx)
}

/// A checkout and a kernel to build it for.
struct Target {
    checkout: Checkout,
    kernel: Kernel,
    arch: &'static Arch,
    /// Where packages for that architecture come from.
    source: apt::Source,
    cache: Cache,
}

/// What quiz compiles and links OpenZFS with, by Debian's names.
const LIBRARIES: &[&str] =
    &["libc6-dev", "uuid-dev", "libblkid-dev", "libtirpc-dev", "libssl-dev", "zlib1g-dev", "libudev-dev", "libaio-dev"];

impl Target {
    /// Finds the checkout that the caller is in, and the kernel that `which` or the settings
    /// choose.
    fn find(which: &Which, ctx: &Context) -> Result<Target, Fault> {
        let checkout = checkout(ctx)?;
        let given = |value: &Option<String>| value.iter().map(OsString::from).collect();
        let asked = Asked::of([("kernel", "--kernel", given(&which.kernel)), ("arch", "--arch", given(&which.arch))]);
        let spec = ctx.run_spec(&asked, Vec::new())?;
        let arch = quiz_run::arch(Some(&spec.arch))?;
        let cache = ctx.cache()?;
        match kernel::find(&cache, arch, spec.kernel.as_deref(), &ctx.report)? {
            Some(kernel) => {
                let source = packages::source(arch, &spec, packages::Packages::default());
                Ok(Target { checkout, kernel, arch, source, cache })
            }
            None => Err(prepare::no_such_kernel(spec.kernel.as_deref(), arch, &cache, ctx)?),
        }
    }

    /// Checks that this host has what building needs.
    fn require_tools(&self, ctx: &Context) -> Result<(), Fault> {
        let mut purposes = match self.is_foreign() {
            true => vec![Purpose::ZfsCross(self.arch)],
            false => vec![Purpose::ZfsBuild],
        };
        if self.kernel.manifest.llvm {
            purposes.push(Purpose::Llvm);
        }
        needs::require(&purposes, ctx)
    }

    fn is_foreign(&self) -> bool {
        self.arch != quiz_arch::host()
    }

    fn build<T>(&self, ctx: &Context, work: impl FnOnce(&Builder<'_>) -> Result<T, BuildError>) -> Result<T, Fault> {
        let make = || sysroot::make(&self.cache, &self.source, self.arch, LIBRARIES, &ctx.report);
        let sysroot = self.is_foreign().then(make).transpose()?;
        let environment = ctx.build_environment();
        let builder = Builder {
            cross: sysroot.as_ref().map(|sysroot| Cross { arch: self.arch, sysroot: &sysroot.dir }),
            checkout: &self.checkout,
            kernel: &self.kernel,
            cache: &self.cache,
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            environment: &environment,
            report: &ctx.report,
        };
        work(&builder).map_err(|error| self.explain(error, ctx))
    }

    /// Adds which other kernels would work, if this one does not.
    fn explain(&self, error: BuildError, ctx: &Context) -> Fault {
        let is_about_kernel =
            matches!(error, BuildError::Checkout(CheckoutError::Unsupported { .. } | CheckoutError::NoKbuild { .. }));
        let fault = Fault::from(error);
        if !is_about_kernel {
            return fault;
        }
        let fitting: Vec<String> = kernel::list(&self.cache, &ctx.report)
            .unwrap_or_default()
            .iter()
            .filter(|kernel| kernel.manifest.arch == self.arch.name && kernel.kbuild().is_some())
            .filter(|kernel| self.checkout.meta.supports(kernel.manifest.version) == Support::Yes)
            .map(|kernel| kernel.name().to_owned())
            .collect();
        fault.hint(match (fitting.as_slice(), self.checkout.meta.maximum) {
            ([], Some(series)) => format!(
                "no installed kernel fits; quiz kernel build {} makes one, quiz kernel add gets a stock one",
                series.source_name()
            ),
            ([], None) => {
                "no installed kernel fits; quiz kernel build makes one, quiz kernel add gets a stock one".to_owned()
            }
            (names, _) => format!("of the installed kernels these fit: {}", names.join(", ")),
        })
    }
}

/// Returns the checkout that the caller is in.
fn checkout(ctx: &Context) -> Result<Checkout, Fault> {
    let nearest = Checkout::find(&ctx.cwd);
    let Some(worktree) = &ctx.worktree else {
        let none = || Fault::new(format!("{} is not in an OpenZFS checkout", ctx.cwd.display()));
        return nearest.ok_or_else(|| none().hint("change to one, or name it with -C DIR"));
    };
    Checkout::open(&worktree.dir).map_err(|error| match nearest {
        Some(inner) if inner.dir.starts_with(&worktree.dir) => {
            let hint =
                format!("mkdir {} makes the checkout there a worktree of its own", inner.dir.join(".quiz").display());
            Fault::from(error).hint(hint)
        }
        _ => error.into(),
    })
}
