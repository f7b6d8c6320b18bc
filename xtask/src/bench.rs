//! Benchmarks: everything that is compared is measured in one run, turn by turn, so that a noisy host is noisy for all.

mod cold;
mod cycle;
mod floor;
mod restore;
mod samples;
mod vng;
mod warm;

use std::path::PathBuf;

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
    /// From a touched file of OpenZFS to the printed `zpool status`, against installing, indexing, booting and loading
    Cycle {
        /// Rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// The kernel (as for `quiz -k`)
        #[arg(long, short)]
        kernel: Option<String>,
        /// A checkout of OpenZFS; without one, Debian's release is fetched and built
        #[arg(long)]
        worktree: Option<PathBuf>,
    },
    /// A start from a template against the bare restore of a VM, a cold start and virtme-ng, on the same kernel
    Warm {
        /// Rounds; each measures every contender once
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// The kernel (as for `quiz -k`)
        #[arg(long, short)]
        kernel: Option<String>,
        /// Leave virtme-ng out (it is fetched from PyPI otherwise)
        #[arg(long)]
        no_vng: bool,
        /// Also with a pool, in this checkout of OpenZFS, which is built
        #[arg(long)]
        zfs: Option<PathBuf>,
    },
}

/// Runs one benchmark and prints its figures.
pub fn run(which: &Bench) -> Result<(), String> {
    match which {
        Bench::Warm { rounds, kernel, no_vng, zfs } => warm::run(*rounds, kernel.as_deref(), !no_vng, zfs.as_deref()),
        Bench::Cold { rounds, kernel, no_vng } => cold::run(*rounds, kernel.as_deref(), !no_vng),
        Bench::Cycle { rounds, kernel, worktree } => cycle::run(*rounds, kernel.as_deref(), worktree.as_deref()),
    }
}
