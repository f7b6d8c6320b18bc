//! `quiz profile`: lists and shows profiles. Not for running with them.

use clap::Subcommand;

use quiz_run::{Context, Fault};

mod list;
mod show;

/// What to tell of profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// List the profiles
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show details of a profile and the values of its options
    Show(show::Show),
}

pub fn run(command: ProfileCommand, ctx: &Context) -> Result<(), Fault> {
    match command {
        ProfileCommand::List(args) => list::run(&args, ctx),
        ProfileCommand::Show(args) => show::run(&args, ctx),
    }
}
