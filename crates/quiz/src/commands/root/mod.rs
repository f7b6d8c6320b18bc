//! `quiz root`: manages root images. Not for running on them.

use clap::Subcommand;

use quiz_run::{Context, Fault};

mod add;
mod build;
mod list;
mod rm;
mod show;

/// What to do with roots.
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Build the root image of a distribution release
    Build(build::Build),
    /// Add your own root from an archive
    Add(add::Add),
    /// List the roots
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show details of a root
    Show(show::Show),
    /// Remove roots
    Rm(rm::Rm),
}

pub fn run(command: RootCommand, ctx: &Context) -> Result<(), Fault> {
    match command {
        RootCommand::Build(args) => build::run(args, ctx),
        RootCommand::Add(args) => add::run(args, ctx),
        RootCommand::List(args) => list::run(&args, ctx),
        RootCommand::Show(args) => show::run(&args, ctx),
        RootCommand::Rm(args) => rm::run(&args, ctx),
    }
}
