//! `quiz profile`: what profiles there are. Not for running with them.

use clap::Subcommand;

use quiz_run::{Context, Fault};

mod list;
mod show;

/// What to tell of profiles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the profiles
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show all that is known about a profile, with the values that its options have here
    Show(show::Show),
}

/// Tells it.
pub fn run(verb: Verb, ctx: &Context) -> Result<(), Fault> {
    match verb {
        Verb::List(args) => list::run(&args, ctx),
        Verb::Show(args) => show::run(&args, ctx),
    }
}
