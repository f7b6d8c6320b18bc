//! Benchmarks: everything that is compared is measured in one run, turn by turn, so that a noisy host is noisy for all.

mod cold;
mod floor;
mod samples;
mod vng;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Bench {
    /// A cold start of `quiz true` against the bare floor and virtme-ng, on the same kernel
    Cold {
        /// Rounds; each measures every contender once
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// The kernel (as for `quiz -k`)
        #[arg(long, short)]
        kernel: Option<String>,
        /// Leave virtme-ng out (it is fetched from PyPI otherwise)
        #[arg(long)]
        no_vng: bool,
    },
}

/// Runs one benchmark and prints its figures.
pub fn run(which: &Bench) -> Result<(), String> {
    match which {
        Bench::Cold { rounds, kernel, no_vng } => cold::run(*rounds, kernel.as_deref(), !no_vng),
    }
}
