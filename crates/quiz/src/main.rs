//! quiz: runs a program in a fresh tiny VM. Not a place for anything but the way in.

mod cli;
mod commands;
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
    commands::main(std::env::args_os())
}
