//! `quiz root show`: shows all that quiz knows about one root.

use clap::Args;
use quiz_image::root;

use super::rm::no_such_root;
use crate::output;
use crate::output::when;
use quiz_run::{Context, Fault};

/// Which root.
#[derive(Debug, Args)]
pub struct Show {
    /// Name of the root, as `quiz root list` shows it
    pub name: String,
}

pub fn run(args: &Show, ctx: &Context) -> Result<(), Fault> {
    let roots = root::list(&ctx.cache()?, &ctx.report)?;
    let root = roots.iter().find(|root| root.name() == args.name).ok_or_else(|| no_such_root(&args.name))?;
    if ctx.json {
        return output::json(&root.manifest);
    }
    let m = &root.manifest;
    let mirrors = if m.mirrors.is_empty() { "the distribution's own".to_owned() } else { m.mirrors.join(", ") };
    let rows = [
        ("name", m.name.clone()),
        ("release", m.release.clone()),
        ("arch", m.arch.clone()),
        ("mirrors", mirrors),
        ("made", format!("{} by quiz {}", when(m.built_at), m.quiz_version)),
        ("image", format!("{} ({}, {})", root.image().display(), m.format, output::size(m.size))),
        ("sha256", m.sha256.clone()),
        ("packages", m.packages.iter().map(|(name, version)| format!("\n  {name} {version}")).collect()),
    ];
    output::text(&rows.map(|(name, value)| format!("{name:<9} {value}\n")).concat())
}
