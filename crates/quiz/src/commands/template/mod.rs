//! `quiz template`: lists and removes templates, the saved VMs that runs resume from. Not for
//! making one, which runs do by themselves.

use clap::Subcommand;

use quiz_run::{Context, Fault};

mod list;
mod rm;

/// What to do with templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List the templates
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Remove templates
    Rm(rm::Rm),
    /// Remove templates that are old, too many, or unusable since the last boot of the host
    Prune,
}

pub fn run(command: TemplateCommand, ctx: &Context) -> Result<(), Fault> {
    match command {
        TemplateCommand::List(args) => list::run(&args, ctx),
        TemplateCommand::Rm(args) => rm::run(&args, ctx),
        TemplateCommand::Prune => {
            quiz_run::template::prune(&quiz_run::template::shelf(&ctx.cache()?), &quiz_host::tools::boot_id()?);
            Ok(())
        }
    }
}
