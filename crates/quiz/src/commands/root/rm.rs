//! `quiz root rm`: removes roots by their exact names.

use clap::Args;
use quiz_host::store::StoreError;
use quiz_image::root::{self, RootError};

use quiz_run::{Context, Fault};

/// Which roots.
#[derive(Debug, Args)]
pub struct Rm {
    /// Names of roots, as `quiz root list` shows them
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

pub fn run(args: &Rm, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    for name in &args.names {
        root::remove(&cache, name).map_err(|error| match error {
            RootError::Store(StoreError::Absent { .. }) => no_such_root(name),
            other => other.into(),
        })?;
        quiz_host::Report::say(&ctx.report, &format!("removed root {name}"));
    }
    Ok(())
}

/// Returns the error that no root has the name `name`.
pub fn no_such_root(name: &str) -> Fault {
    Fault::new(format!("there is no root `{name}`")).hint("`quiz root list` shows their names")
}
