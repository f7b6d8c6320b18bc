//! `quiz zfs clean`: removes what was built and installed for a kernel.

use clap::Args;
use quiz_host::Report;

use super::{Target, Which};
use quiz_run::{Context, Fault};

/// For which kernel.
///
/// The arguments of `configure` are forgotten too. What was built in the checkout itself stays.
#[derive(Debug, Args)]
pub struct Clean {
    /// For which kernel
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
}

/// Removes it.
pub fn run(args: Clean, outer: Which, ctx: &Context) -> Result<(), Fault> {
    let target = Target::find(&outer.or_kernel(args.kernel), ctx)?;
    if !target.build(ctx, |builder| builder.clean())? {
        ctx.report.say(&format!("nothing was built for {}", target.kernel.manifest.release));
    }
    Ok(())
}
