//! `quiz kernel add`: installs a distribution's stock kernel, from its packages.

use std::path::PathBuf;

use clap::Args;
use quiz_kernel::stock;
use quiz_needs::Purpose;

use crate::commands::arch::ArchArgument;
use quiz_run::needs;
use quiz_run::packages::{self, Packages};
use quiz_run::{Context, Fault};

/// Which kernel.
#[derive(Debug, Args)]
pub struct Add {
    /// Package of the kernel: linux-image-cloud-amd64, or its name without linux-image- [default:
    /// the usual kernel]
    #[arg(value_name = "PACKAGE")]
    pub package: Option<String>,
    /// Distribution release [default: the setting `release`]
    #[arg(short, long)]
    pub release: Option<String>,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
    /// Mirror of packages: a URL or a `deb ...` line; can be repeated [default: the setting
    /// `mirrors`]
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
    /// Keyring to check the mirror against [default: the setting `keyring`]
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Download it again if this version is installed
    #[arg(long)]
    pub replace: bool,
}

pub fn run(args: Add, ctx: &Context) -> Result<(), Fault> {
    let spec = ctx.run_spec(&Default::default(), Vec::new())?;
    let arch = args.arch.or_setting(&spec)?;
    needs::require(&[Purpose::KernelAdd], ctx)?;
    let asked =
        Packages { release: args.release, mirrors: args.mirror, keyring: args.keyring.map(|path| ctx.cwd.join(path)) };
    let source = packages::source(arch, &spec, asked);
    packages::say_trust(arch, &source, ctx);
    let wanted = stock::Wanted { source, arch, package: args.package };
    let kernel = stock::add_kernel(&ctx.cache()?, &wanted, args.replace, &ctx.report)?;
    super::installed(&kernel, ctx)
}
