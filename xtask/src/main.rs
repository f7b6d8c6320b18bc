//! `cargo xtask`: tasks for developers of quiz. They set up a machine, install, test and measure
//! quiz from its source.

mod agents;
mod bench;
mod checks;
mod fresh;
mod fuzz;
mod packages;
mod qemu;
mod report;
mod runner;
mod setup;
mod sh;
mod steps;
mod tidy;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, install, test and measure quiz")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the host programs that quiz and its tests need (with apt-get; elsewhere the command
    /// is printed)
    Setup {
        /// What quiz's own tests and benchmarks need, too
        #[arg(long)]
        tests: bool,
        /// What guests of another architecture need, too; can be repeated
        #[arg(long, value_name = "ARCH")]
        arch: Vec<String>,
    },
    /// Set up, install quiz as cargo installs programs, and run it with these arguments
    #[command(trailing_var_arg = true)]
    Quiz {
        /// quiz's own arguments
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Make the agents for guests of other architectures, with what their kernels and roots need;
    /// the next build of quiz has them
    Agents {
        /// Architectures, or all
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Unpack the QEMU of a Debian release beside the host's, and print the directory of its
    /// programs (for PATH or `quiz --qemu`)
    Qemu {
        /// bookworm, bookworm-backports, trixie, sid, or any other release of Debian
        #[arg(long, default_value = qemu::BACKPORTS)]
        release: String,
        /// Guest architectures [default: the host's]
        archs: Vec<String>,
    },
    /// Set up and run every check: format, lints, unit tests, tests with real VMs, a kernel built
    /// from source
    Test {
        /// And those that take too long for every change
        #[arg(long)]
        long: bool,
    },
    /// Fuzz what reads untrusted input: frames, archives, records, settings, profiles, directives,
    /// the console
    Fuzz(fuzz::Fuzz),
    /// Run the README's quick start on a pristine Debian, and tell how long each command took
    Fresh(fresh::Fresh),
    /// Build quiz with the agents for every architecture, and pack it:
    /// target/quiz-VERSION-ARCH.tar.xz
    Release {
        /// An architecture to leave out, where its compiler cannot be had; can be repeated
        #[arg(long, value_name = "ARCH")]
        without: Vec<String>,
    },
    /// Draw the crates into ARCHITECTURE.md
    Picture,
    /// Write the reference of the command line and the man pages
    Reference,
    /// Measure, side by side in one run
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup { tests: false, arch } if arch.is_empty() => setup::setup(),
        Task::Setup { tests, arch } => setup::all(tests, &arch),
        Task::Quiz { arguments } => return exit(setup::setup().and_then(|()| steps::quiz(&arguments))),
        Task::Agents { names } => agents::agents(&names),
        Task::Qemu { release, archs } => qemu::print(&release, &archs),
        Task::Test { long } => checks::test(long),
        Task::Fuzz(options) => setup::for_fuzzing().and_then(|()| fuzz::run(&options)),
        Task::Fresh(options) => fresh::run(&options),
        Task::Release { without } => setup::setup().and_then(|()| steps::release(&without)),
        Task::Reference => steps::reference(),
        Task::Picture => tidy::draw(),
        Task::Bench(which) => setup::for_benches().and_then(|()| bench::run(&which)),
    };
    exit(done.map(|()| 0))
}

fn exit(done: Result<u8, String>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
