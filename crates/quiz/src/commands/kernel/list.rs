//! `quiz kernel list`: lists the installed kernels, the best first.

use clap::Args;
use quiz_kernel::kernel;

use crate::output;
use crate::output::when;
use quiz_run::{Context, Fault};

/// Which kernels.
#[derive(Debug, Args)]
pub struct List {
    /// List this architecture only
    #[arg(short, long)]
    pub arch: Option<String>,
}

pub fn run(args: &List, ctx: &Context) -> Result<(), Fault> {
    let only = args.arch.as_deref().map(|name| quiz_run::arch(Some(name))).transpose()?;
    let kernels = kernel::list(&ctx.cache()?, &ctx.report)?;
    let shown = kernels.iter().map(|kernel| &kernel.manifest).filter(|m| only.is_none_or(|arch| arch.name == m.arch));
    if ctx.json {
        return output::json(&shown.collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = shown
        .map(|m| {
            vec![m.name.clone(), m.version.to_string(), m.arch.clone(), super::origin(&m.origin), when(m.built_at)]
        })
        .collect();
    if rows.is_empty() {
        return output::text(
            "no kernels; `quiz kernel add` gets a stock one, `quiz kernel build` makes a faster one\n",
        );
    }
    output::table(&["NAME", "VERSION", "ARCH", "FROM", "MADE"], rows)
}
