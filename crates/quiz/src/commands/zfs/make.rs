//! `quiz zfs make`: compiles OpenZFS for a kernel.

use clap::Args;

use super::{Target, Which};
use quiz_run::{Context, Fault};

/// What to make.
#[derive(Debug, Args)]
pub struct Make {
    /// Kernel to build for; stands before the arguments
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// Arguments of `make`: targets, variables, options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub args: Vec<String>,
}

pub fn run(args: Make, outer: Which, ctx: &Context) -> Result<(), Fault> {
    let target = Target::find(&outer.or_kernel(args.kernel), ctx)?;
    target.require_tools(ctx)?;
    target.build(ctx, |builder| builder.make(&args.args))
}
