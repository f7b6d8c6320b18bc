//! `quiz runs`: lists the last runs of this worktree.

use clap::Args;

use crate::output;
use crate::output::when;
use quiz_run::history;
use quiz_run::{Context, Fault, Record};

#[derive(Debug, Args)]
pub struct Runs {
    /// Number of runs to list
    #[arg(short, default_value_t = 20, value_name = "N")]
    pub number: usize,
}

pub fn run(args: &Runs, ctx: &Context) -> Result<(), Fault> {
    let mut past = history::all(&ctx.runs_dirs()?);
    past.truncate(args.number);
    if ctx.json {
        let records: Vec<&Record> = past.iter().filter_map(|run| run.record.as_ref()).collect();
        return output::json(&records);
    }
    if past.is_empty() {
        return output::text("no runs yet\n");
    }
    let row = |run: &history::Past| {
        let record = run.record.as_ref();
        let started = record.and_then(|record| record.started_at.parse::<jiff::Timestamp>().ok());
        let total = record.map_or_else(String::new, |record| format!("{:.2} s", record.total_ms as f64 / 1000.0));
        let kernel = record.map(|record| record.kernel.clone()).unwrap_or_default();
        vec![run.id.clone(), started.map(when).unwrap_or_default(), total, run.verdict(), kernel, run.command()]
    };
    output::table(&["ID", "STARTED", "TOOK", "VERDICT", "KERNEL", "COMMAND"], past.iter().map(row).collect())
}
