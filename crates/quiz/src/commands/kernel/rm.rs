//! `quiz kernel rm`: removes kernels by their exact names.

use clap::Args;
use quiz_host::store::StoreError;
use quiz_kernel::kernel::{self, KernelError};

use quiz_run::{Context, Fault};

/// Which kernels.
#[derive(Debug, Args)]
pub struct Rm {
    /// Names of kernels, as `quiz kernel list` shows them
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

pub fn run(args: &Rm, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    for name in &args.names {
        kernel::remove(&cache, name).map_err(|error| match error {
            KernelError::Store(StoreError::Absent { .. }) => {
                Fault::new(format!("there is no kernel `{name}`")).hint("`quiz kernel list` shows their names")
            }
            other => other.into(),
        })?;
        quiz_host::Report::say(&ctx.report, &format!("removed kernel {name}"));
    }
    Ok(())
}
