//! `quiz zfs install`: updates the install tree, and prints what a run gets from it.

use std::path::Path;

use clap::Args;
use fs_err as fs;
use quiz_host::{Report, StoreError};
use quiz_kernel::kernel::{self, Kernel};
use quiz_zfs::{Loading, load, stage};
use serde::Serialize;

use super::{Target, Which};
use crate::output;
use quiz_run::{Context, Fault};

/// Kernel to build for.
#[derive(Debug, Args)]
pub struct Install {
    /// Kernel to build for
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// Answer as a profile's `setup` does, for the kernel entry of exactly that name
    #[arg(long, hide = true, requires = "kernel")]
    pub directives: bool,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    build: &'a Path,
    modules: &'a Path,
    tools: &'a Path,
    suite: &'a Path,
    modules_changed: usize,
    tools_changed: usize,
}

/// Updates the install tree, or prints directives.
pub fn run(args: &Install, outer: Which, ctx: &Context) -> Result<(), Fault> {
    match &args.kernel {
        Some(name) if args.directives => directives(name, ctx),
        selector => install(&Target::find(&outer.or_kernel(selector.clone()), ctx)?, ctx),
    }
}

/// Updates the install tree, and reports what it did.
pub fn install(target: &Target, ctx: &Context) -> Result<(), Fault> {
    let staged = stage(&target.checkout, &target.kernel, &ctx.build_environment(), &ctx.report)?;
    if ctx.json {
        return output::json(&Record {
            build: &staged.build,
            modules: &staged.modules,
            tools: &staged.tools,
            suite: &staged.suite,
            modules_changed: staged.modules_changed,
            tools_changed: staged.tools_changed,
        });
    }
    let what = match (staged.modules_changed, staged.tools_changed) {
        (0, 0) => "up to date".to_owned(),
        (modules, tools) => format!("{modules} modules and {tools} other files brought up to date"),
    };
    ctx.report.say(&format!(
        "the install tree for {}: {what}, from {}",
        target.kernel.manifest.release,
        staged.build.display()
    ));
    Ok(())
}

/// The variable with the module parameters that a run asks for, one in each line.
const PARAMETERS: &str = "QUIZ_ZFS_PARAMETERS";

/// Prints what a run gets: the layers of the install tree, and the modules to load. Does not read
/// the settings, because the run has done that.
fn directives(name: &str, ctx: &Context) -> Result<(), Fault> {
    let checkout = super::checkout(ctx)?;
    let kernel = open(name, ctx)?;
    let staged = stage(&checkout, &kernel, &ctx.build_environment(), &ctx.report)?;
    let parameters = ctx.variable(PARAMETERS).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    let parameters: Vec<String> =
        parameters.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    let loading = load::plan(&staged, &parameters)?;
    let mut text = String::new();
    // A build without the test suite may have no files there.
    let suite = Some(&staged.suite).filter(|dir| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()));
    for tree in suite.into_iter().chain([&staged.tools, &staged.modules]) {
        let Some(tree) = tree.to_str() else {
            return Err(Fault::new(format!("{} cannot be used in a run: it is not UTF-8", tree.display())));
        };
        text += &format!("quiz::layer={tree}\n");
    }
    text += &modules(&loading, &kernel.manifest.release);
    text += &format!("quiz::note=OpenZFS {} is the build in {}\n", checkout.meta.version, staged.build.display());
    output::text(&text)
}

fn open(name: &str, ctx: &Context) -> Result<Kernel, Fault> {
    let shelf = kernel::shelf(&ctx.cache()?);
    let absent = || StoreError::Absent { path: shelf.dir().join(name) };
    Ok(Kernel::from_entry(shelf.open(name)?.ok_or_else(absent)?)?)
}

/// Returns one directive for each module to load.
fn modules(loading: &Loading, release: &str) -> String {
    let mut text: String = loading.kernel.iter().map(|name| format!("quiz::module={name}\n")).collect();
    for (file, parameters) in &loading.modules {
        let words: String = parameters.iter().map(|parameter| format!(" {parameter}")).collect();
        text += &format!("quiz::module=/lib/modules/{release}/extra/{file}{words}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_by_where_the_guest_has_them() {
        let loading = Loading {
            kernel: vec!["zlib_deflate".to_owned()],
            modules: vec![
                ("spl.ko".to_owned(), Vec::new()),
                ("zfs.ko".to_owned(), vec!["zfs_arc_max=1".to_owned(), "zfs_dbgmsg_enable=0".to_owned()]),
            ],
        };
        assert_eq!(
            modules(&loading, "6.1"),
            "quiz::module=zlib_deflate\nquiz::module=/lib/modules/6.1/extra/spl.ko\n\
             quiz::module=/lib/modules/6.1/extra/zfs.ko zfs_arc_max=1 zfs_dbgmsg_enable=0\n"
        );
    }
}
