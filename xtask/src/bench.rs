//! Benchmarks: one run measures all contenders in turn, so that a noisy host affects all of them.

mod architectures;
mod boots;
mod clones;
mod cold;
mod cycle;
mod floods;
mod floor;
mod inside;
mod restore;
mod samples;
mod vng;
mod warm;

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub enum Bench {
    /// A cold start of `quiz true` against the bare floor and virtme-ng, on the same kernel
    Cold {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        peers: Peers,
    },
    /// A start from a template against the bare restore of a VM, a cold start and virtme-ng, on the
    /// same kernel
    Warm {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        peers: Peers,
        /// Also with a pool, in this checkout of OpenZFS, which is built
        #[arg(long)]
        zfs: Option<PathBuf>,
    },
    /// Many clones of a 1 GiB guest with OpenZFS at once: their number in a second, and their
    /// memory
    Clones {
        #[command(flatten)]
        common: Common,
        /// A checkout of OpenZFS; without one, Debian's release is fetched and built
        #[arg(long)]
        worktree: Option<PathBuf>,
    },
    /// Into a VM that runs: another program, a large file in and out, and many files on a share
    Inside {
        #[command(flatten)]
        common: Common,
    },
    /// Guests of every architecture, cold and from templates: the table in docs/architectures.md
    Architectures {
        /// Rounds
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Profiles to run with, besides none; can be repeated
        #[arg(short, long)]
        profile: Vec<String>,
        /// Architectures [default: all]
        archs: Vec<String>,
    },
    /// How often which kernel boots on which QEMU and machine: the table in docs/machines.md
    Boots(boots::Boots),
    /// How much memory quiz takes while a guest floods it
    Floods(floods::Floods),
    /// From an edited file of OpenZFS to the printed `zpool status`, against installing, indexing,
    /// booting and loading
    Cycle {
        #[command(flatten)]
        common: Common,
        /// A checkout of OpenZFS; without one, Debian's release is fetched and built
        #[arg(long)]
        worktree: Option<PathBuf>,
    },
}

/// What every benchmark is asked.
#[derive(Args)]
pub struct Common {
    /// Rounds; each measures every contender once
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The kernel (as for `quiz -k`)
    #[arg(long, short)]
    kernel: Option<String>,
}

/// Against whom.
#[derive(Args)]
pub struct Peers {
    /// Leave virtme-ng out (it is fetched from PyPI otherwise)
    #[arg(long)]
    no_vng: bool,
}

/// Runs one benchmark and prints its figures.
pub fn run(which: &Bench) -> Result<(), String> {
    match which {
        Bench::Architectures { rounds, profile, archs } => architectures::run(*rounds, archs, profile),
        Bench::Boots(boots) => boots::run(boots),
        Bench::Floods(floods) => floods::run(floods),
        Bench::Cold { common, peers } => cold::run(common.rounds, common.kernel.as_deref(), !peers.no_vng),
        Bench::Warm { common, peers, zfs } => {
            warm::run(common.rounds, common.kernel.as_deref(), !peers.no_vng, zfs.as_deref())
        }
        Bench::Clones { common, worktree } => clones::run(common.rounds, common.kernel.as_deref(), worktree.as_deref()),
        Bench::Inside { common } => inside::run(common.rounds, common.kernel.as_deref()),
        Bench::Cycle { common, worktree } => cycle::run(common.rounds, common.kernel.as_deref(), worktree.as_deref()),
    }
}
