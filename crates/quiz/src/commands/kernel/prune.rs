//! `quiz kernel prune`: removes the kernels that a newer one of their series has replaced.

use clap::Args;
use quiz_kernel::{build, kernel};
use serde::Serialize;

use crate::output;
use quiz_run::{Context, Fault};

#[derive(Debug, Args)]
pub struct Prune {
    /// List what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct Record {
    removed: Vec<String>,
    kept: Vec<String>,
    /// Bytes of removed sources and build directories that no kernel needs for a rebuild.
    freed: u64,
}

pub fn run(args: &Prune, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    let record = if args.dry_run {
        let manifests: Vec<_> = kernel::list(&cache, &ctx.report)?.into_iter().map(|kernel| kernel.manifest).collect();
        let removed = kernel::superseded(&manifests).iter().map(|m| m.name.clone()).collect();
        Record { removed, kept: Vec::new(), freed: 0 }
    } else {
        let (removed, kept) = kernel::prune(&cache, &ctx.report)?;
        let freed = build::prune_work(&cache, &ctx.report)?;
        Record { removed, kept: kept.iter().map(ToString::to_string).collect(), freed }
    };
    if ctx.json {
        return output::json(&record);
    }
    let done = if args.dry_run { "would remove" } else { "removed" };
    let removed = record.removed.iter().map(|name| format!("{done} {name}\n"));
    let kept = record.kept.iter().map(|why| format!("kept: {why}\n"));
    let freed = (record.freed > 0).then(|| format!("freed {} of build directories\n", output::size(record.freed)));
    let text: String = removed.chain(kept).chain(freed).collect();
    output::text(if text.is_empty() { "nothing to remove\n" } else { &text })
}
