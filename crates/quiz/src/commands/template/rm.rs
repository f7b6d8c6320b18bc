//! `quiz template rm`: removes templates by their exact names.

use clap::Args;
use quiz_host::store::StoreError;

use quiz_run::{Context, Fault};
use quiz_run::{standby, template};

/// Which templates.
#[derive(Debug, Args)]
pub struct Rm {
    /// Names of templates, as `quiz template list` shows them
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// Remove all templates that are not in use
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

pub fn run(args: &Rm, ctx: &Context) -> Result<(), Fault> {
    let cache = ctx.cache()?;
    // Each standby VM has a template in use.
    standby::dismiss_all(&cache);
    let shelf = template::shelf(&cache);
    if args.all {
        for name in shelf.names()? {
            match shelf.remove(&name) {
                Ok(()) | Err(StoreError::InUse { .. } | StoreError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(());
    }
    for name in &args.names {
        shelf.remove(name).map_err(|error| match error {
            StoreError::Absent { .. } => {
                Fault::new(format!("there is no template `{name}`")).hint("`quiz template list` shows their names")
            }
            other => other.into(),
        })?;
    }
    Ok(())
}
