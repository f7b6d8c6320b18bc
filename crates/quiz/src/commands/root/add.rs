//! `quiz root add`: makes a root image from your own file system.

use std::path::PathBuf;

use clap::Args;
use quiz_image::root;
use quiz_needs::Purpose;

use crate::commands::arch::ArchArgument;
use crate::output;
use quiz_run::needs;
use quiz_run::{Context, Fault};

/// Which file system. It is as trustworthy as the archive; nothing of it is checked or run here.
#[derive(Debug, Args)]
pub struct Add {
    /// Name of the root: runs select it with --release NAME
    pub name: String,
    /// Tar archive of its top directory, uncompressed or compressed with gzip, xz or zstd
    #[arg(value_name = "ARCHIVE")]
    pub archive: PathBuf,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
    /// Replace the root of that name
    #[arg(long)]
    pub replace: bool,
}

pub fn run(args: Add, ctx: &Context) -> Result<(), Fault> {
    let spec = ctx.run_spec(&Default::default(), Vec::new())?;
    let arch = args.arch.or_setting(&spec)?;
    needs::require(&[Purpose::RootAdd], ctx)?;
    let root = root::add(&ctx.cache()?, &args.name, arch, &ctx.cwd.join(args.archive), args.replace, &ctx.report)?;
    if ctx.json { output::json(&root.manifest) } else { output::text(&format!("{}\n", root.name())) }
}
