//! `quiz zfs configure`: runs OpenZFS's `configure` for a kernel.

use clap::Args;

use super::{Target, Which};
use quiz_run::{Context, Fault};

/// Which arguments.
///
/// They are kept, and used whenever OpenZFS has to be configured again for this kernel. quiz adds
/// what is needed to build for the kernel and to run in the guest; of two contradicting arguments
/// yours counts.
#[derive(Debug, Args)]
pub struct Configure {
    /// Kernel to build for; stands before the arguments
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// Arguments of `configure`, such as --enable-debug [default: those of the last time]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub args: Vec<String>,
}

/// Configures the checkout for the kernel.
pub fn run(args: Configure, outer: Which, ctx: &Context) -> Result<(), Fault> {
    // `configure` has no such option, but clap does not look at its arguments.
    if let Some(word) = args.args.iter().find(|word| *word == "-k" || word.starts_with("--kernel")) {
        return Err(Fault::new(format!("{word} must come before the arguments of configure")));
    }
    let target = Target::find(&outer.or_kernel(args.kernel), ctx)?;
    target.require_tools(ctx)?;
    let words = (!args.args.is_empty()).then_some(args.args);
    target.build(ctx, |builder| builder.configure(words))
}
