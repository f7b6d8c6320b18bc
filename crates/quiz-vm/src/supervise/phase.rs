//! The phases of a supervised VM, and the transitions between them. Not for what happens in a
//! phase.

use super::job::Point;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// QEMU loads a saved VM, and the agent has not reported anything.
    Resuming,
    /// The kernel boots, and the agent has not reported anything.
    Booting,
    /// The agent prepares the guest.
    Preparing,
    /// A snapshot of the VM is taken.
    Saving(Point),
    /// The program runs.
    Running,
    /// The program has ended, and the guest stays up for other clients.
    Kept,
    /// The run is over, and the guest sends the artifacts.
    Ending,
    /// A time limit was reached, and quiz waits for the agent's stacks.
    Stacks,
    /// The agent is silent. quiz has sent a non-maskable interrupt and waits for the kernel's
    /// stacks.
    Nmi,
    /// The user has interrupted the run, and the program may still end by itself.
    Grace,
    /// The agent was told to kill the guest's processes.
    Killed,
    /// The guest is paused, and its memory is written to a file.
    Dumping,
    /// QEMU was asked to quit.
    Quitting,
}

/// Each phase with the phases that may follow it. QEMU may end in any phase. `docs/supervision.md`
/// has the same table.
const TRANSITIONS: &[(&str, &[&str])] = &[
    ("resuming", &["preparing", "dumping", "quitting"]),
    ("booting", &["preparing", "nmi", "dumping", "quitting"]),
    ("preparing", &["saving", "running", "ending", "stacks", "dumping", "quitting"]),
    ("saving", &["preparing", "dumping", "quitting"]),
    ("running", &["kept", "ending", "stacks", "nmi", "grace", "dumping", "quitting"]),
    ("kept", &["ending", "nmi", "dumping", "quitting"]),
    ("ending", &["nmi", "dumping", "quitting"]),
    ("stacks", &["nmi", "killed", "dumping", "quitting"]),
    ("nmi", &["killed", "dumping", "quitting"]),
    ("grace", &["killed", "dumping", "quitting"]),
    ("killed", &["dumping", "quitting"]),
    ("dumping", &["quitting"]),
    ("quitting", &["quitting"]),
];

impl Phase {
    /// The phase's name in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Resuming => "resuming",
            Phase::Booting => "booting",
            Phase::Preparing => "preparing",
            Phase::Saving(_) => "saving",
            Phase::Running => "running",
            Phase::Kept => "kept",
            Phase::Ending => "ending",
            Phase::Stacks => "stacks",
            Phase::Nmi => "nmi",
            Phase::Grace => "grace",
            Phase::Killed => "killed",
            Phase::Dumping => "dumping",
            Phase::Quitting => "quitting",
        }
    }

    /// Whether `next` may follow.
    pub(super) fn may_become(self, next: Phase) -> bool {
        let row = TRANSITIONS.iter().find(|(name, _)| *name == self.name());
        row.is_some_and(|(_, following)| following.contains(&next.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the page are `name → name, name`.
    #[test]
    fn the_page_about_supervision_draws_the_same_table() {
        let page = include_str!("../../../../docs/supervision.md");
        let rows: Vec<(&str, Vec<&str>)> = page
            .lines()
            .filter_map(|line| line.split_once(" → "))
            .map(|(name, following)| (name.trim(), following.split(", ").map(str::trim).collect()))
            .collect();
        let table: Vec<(&str, Vec<&str>)> = TRANSITIONS.iter().map(|(name, next)| (*name, next.to_vec())).collect();
        assert_eq!(rows, table);
    }

    #[test]
    fn nothing_follows_the_end_and_every_phase_can_be_reached() {
        let names: Vec<&str> = TRANSITIONS.iter().map(|(name, _)| *name).collect();
        for (name, following) in TRANSITIONS {
            assert!(following.iter().all(|next| names.contains(next)), "{name}");
            assert!(following.contains(&"quitting"), "{name}: QEMU can always be asked to quit");
            let first = ["resuming", "booting"].contains(name);
            let reached = TRANSITIONS.iter().any(|(other, next)| other != name && next.contains(name));
            assert_eq!(reached, !first, "{name}");
        }
    }
}
