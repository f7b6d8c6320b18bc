//! `quiz kernel`: manages installed kernels. Not for running them.

use clap::Subcommand;
use quiz_kernel::kernel::{Kernel, Origin};

use quiz_run::{Context, Fault};

mod add;
mod build;
mod list;
mod prune;
mod rm;
mod show;

/// What to do with kernels.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Download a stock kernel of a distribution
    Add(add::Add),
    /// Build a small, fast-booting kernel from source
    Build(Box<build::Build>),
    /// List the installed kernels
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show details of a kernel
    Show(show::Show),
    /// Remove kernels
    Rm(rm::Rm),
    /// Remove kernels that a newer one of the same series supersedes
    Prune(prune::Prune),
}

pub fn run(command: KernelCommand, ctx: &Context) -> Result<(), Fault> {
    match command {
        KernelCommand::Add(args) => add::run(args, ctx),
        KernelCommand::Build(args) => build::run(*args, ctx),
        KernelCommand::List(args) => list::run(&args, ctx),
        KernelCommand::Show(args) => show::run(&args, ctx),
        KernelCommand::Rm(args) => rm::run(&args, ctx),
        KernelCommand::Prune(args) => prune::run(&args, ctx),
    }
}

/// Returns where a kernel is from, in a few words.
fn origin(origin: &Origin) -> String {
    match origin {
        Origin::DebianPackage { release, version, .. } => format!("{release} {version}"),
        Origin::Tarball { url, .. } => url.rsplit('/').next().unwrap_or(url).to_owned(),
        Origin::Git { reference, commit, .. } => format!("git {reference} ({})", commit.get(..12).unwrap_or(commit)),
        Origin::DebianSource { package, version } => format!("{package} {version}"),
        Origin::Tree { path } => path.display().to_string(),
    }
}

/// Returns why quiz trusts the kernel's source, in a few words.
fn trusted(origin: &Origin) -> String {
    match origin {
        Origin::DebianPackage { .. } | Origin::DebianSource { .. } => "signature of the package archive".to_owned(),
        Origin::Tarball { trusted, .. } | Origin::Git { trusted, .. } => {
            trusted.as_ref().map_or_else(|| "not recorded".to_owned(), ToString::to_string)
        }
        Origin::Tree { .. } => "your own tree".to_owned(),
    }
}

/// Reports that a kernel is installed.
fn installed(kernel: &Kernel, ctx: &Context) -> Result<(), Fault> {
    if ctx.json {
        return crate::output::json(&kernel.manifest);
    }
    crate::output::text(&format!("{}\n", kernel.name()))
}
