//! `quiz completions`: a shell's completion script. Reads no settings.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output;
use quiz_run::Fault;

#[derive(Debug, Args)]
pub struct Completions {
    /// Shell; for bash: `quiz completions bash > ~/.local/share/bash-completion/completions/quiz`
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &Completions, command: &mut Command) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "quiz", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
