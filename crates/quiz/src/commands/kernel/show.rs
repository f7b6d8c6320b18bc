//! `quiz kernel show`: shows all that quiz knows about one kernel.

use clap::Args;
use quiz_kernel::kernel;
use serde::Serialize;

use crate::commands::arch::ArchArgument;
use crate::output;
use crate::output::when;
use quiz_run::prepare;
use quiz_run::{Context, Fault};

/// Which kernel.
#[derive(Debug, Args)]
pub struct Show {
    /// Kernel: a name, a release, or the beginning of a version [default: the kernel of a run
    /// without -k]
    pub kernel: Option<String>,
    /// For which architecture.
    #[command(flatten)]
    pub arch: ArchArgument,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    manifest: &'a quiz_kernel::KernelManifest,
    dir: &'a std::path::Path,
    kbuild: Option<std::path::PathBuf>,
    vmlinux: Option<std::path::PathBuf>,
    modules: Option<std::path::PathBuf>,
}

pub fn run(args: &Show, ctx: &Context) -> Result<(), Fault> {
    let spec = ctx.run_spec(&Default::default(), Vec::new())?;
    let arch = args.arch.or_setting(&spec)?;
    let selector = args.kernel.as_deref().or(spec.kernel.as_deref());
    let cache = ctx.cache()?;
    let Some(kernel) = kernel::find(&cache, arch, selector, &ctx.report)? else {
        return Err(prepare::no_such_kernel(selector, arch, &cache, ctx)?);
    };
    let record = Record {
        manifest: &kernel.manifest,
        dir: kernel.dir(),
        kbuild: kernel.kbuild(),
        vmlinux: kernel.vmlinux(),
        modules: kernel.modules_dir(),
    };
    if ctx.json {
        return output::json(&record);
    }
    let m = record.manifest;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map_or("none".to_owned(), |p| p.display().to_string());
    let rows = [
        ("name", m.name.clone()),
        ("release", m.release.clone()),
        ("version", m.version.to_string()),
        ("arch", m.arch.clone()),
        ("from", super::origin(&m.origin)),
        ("trusted", super::trusted(&m.origin)),
        ("compiler", m.compiler.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("made", format!("{} by quiz {}", when(m.built_at), m.quiz_version)),
        ("boots", kernel.boot().display().to_string()),
        ("config", kernel.config().display().to_string()),
        ("modules", path(&record.modules)),
        ("kbuild", path(&record.kbuild)),
        ("vmlinux", path(&record.vmlinux)),
    ];
    let text = rows.map(|(name, value)| format!("{name:<9} {value}\n")).concat();
    output::text(&text)
}
