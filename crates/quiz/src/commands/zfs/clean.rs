//! `quiz zfs clean`: removes the build and the install tree of a kernel.

use clap::Args;
use quiz_host::Report;

use super::{Target, Which};
use quiz_run::{Context, Fault};

/// Kernel to build for.
///
/// The arguments of `configure` are forgotten too. What was built in the checkout itself stays.
#[derive(Debug, Args)]
pub struct Clean {
    /// Kernel to build for
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
}

pub fn run(args: Clean, outer: Which, ctx: &Context) -> Result<(), Fault> {
    let target = Target::find(&outer.or_kernel(args.kernel), ctx)?;
    if !target.build(ctx, |builder| builder.clean())? {
        ctx.report.say(&format!("nothing was built for {}", target.kernel.manifest.release));
    }
    Ok(())
}
