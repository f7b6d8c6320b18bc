//! `quiz root list`: lists the roots in the cache.

use clap::Args;
use quiz_image::root;

use crate::output;
use crate::output::when;
use quiz_run::{Context, Fault};

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct List {}

pub fn run(_args: &List, ctx: &Context) -> Result<(), Fault> {
    let roots = root::list(&ctx.cache()?, &ctx.report)?;
    if ctx.json {
        return output::json(&roots.iter().map(|root| &root.manifest).collect::<Vec<_>>());
    }
    if roots.is_empty() {
        return output::text("no roots; `quiz root build` makes one, and so does the first run\n");
    }
    let row = |m: &root::RootManifest| {
        let extra = if m.extra_packages.is_empty() { "-".to_owned() } else { m.extra_packages.join(" ") };
        vec![m.name.clone(), m.release.clone(), m.arch.clone(), output::size(m.size), when(m.built_at), extra]
    };
    let rows = roots.iter().map(|root| row(&root.manifest)).collect();
    output::table(&["NAME", "RELEASE", "ARCH", "SIZE", "MADE", "PACKAGES"], rows)
}
