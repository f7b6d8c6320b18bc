//! `quiz ps`: lists running VMs and standby VMs.

use std::time::Duration;

use clap::Args;

use crate::output;
use quiz_run::history::quoted;
use quiz_run::registry::{self, Running};
use quiz_run::{Context, Fault};

/// Whose.
#[derive(Debug, Args)]
pub struct Ps {
    /// List the VMs of all worktrees, and standby VMs
    #[arg(short, long)]
    pub all: bool,
}

pub fn run(args: &Ps, ctx: &Context) -> Result<(), Fault> {
    let runs = ctx.runs_dir()?.path();
    let mut running = registry::all(&ctx.cache()?);
    running.retain(|one| args.all || (one.runs == runs && !one.waits));
    if ctx.json {
        return output::json(&running);
    }
    let row = |one: &Running| {
        let words: Vec<String> = one.command.iter().map(|word| quoted(word)).collect();
        let command = if words.is_empty() { "(a shell)".to_owned() } else { words.join(" ") };
        let mut row = vec![
            one.id.clone(),
            one.age().map(age).unwrap_or_default(),
            one.pid.to_string(),
            one.kernel.clone(),
            output::size(u64::from(one.memory_mib) << 20),
            if one.waits { format!("(waits) {command}") } else { command },
        ];
        if args.all {
            let worktree = one.runs.parent().and_then(|state| state.parent()).unwrap_or(&one.runs);
            row.insert(5, worktree.display().to_string());
        }
        row
    };
    let mut head = vec!["ID", "AGE", "PID", "KERNEL", "MEMORY", "COMMAND"];
    if args.all {
        head.insert(5, "WORKTREE");
    }
    output::table(&head, running.iter().map(row).collect())
}

/// Formats a time for people: its largest unit and the next.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn ages_have_two_units_at_most() {
        let age = |seconds| super::age(Duration::from_secs(seconds));
        assert_eq!([age(5), age(65), age(3600 * 30 + 61)], ["5 s", "1 min 5 s", "30 h 1 min"]);
    }
}
