//! quiz: runs a program in a fresh tiny VM. Not a place for anything but the way in.

mod cli;
mod commands;
mod consent;
mod context;
mod errors;
mod output;
mod paths;
mod prepare;
mod profiles;
mod report;
mod run;
mod standard;

fn main() -> std::process::ExitCode {
    // A file that may not grow any more (`ulimit -f`) is an error that is told, and no end. A signal that is ignored would be so in programs
    // that quiz starts, too; one that is caught is not. Without the handler quiz only ends without a word.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default()).ok();
    commands::main(std::env::args_os())
}
