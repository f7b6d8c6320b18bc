//! `quiz runs`: the last runs of this worktree.

use clap::Args;
use serde_json::Value;

use crate::output;
use crate::output::when;
use quiz_run::history;
use quiz_run::{Context, Fault};

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
        let records: Vec<&Value> = past.iter().filter_map(|run| run.record.as_ref()).collect();
        return output::json(&records);
    }
    if past.is_empty() {
        return output::text("no runs yet\n");
    }
    let row = |run: &history::Past| {
        let started = run.text("started_at").parse::<jiff::Timestamp>().map(when).unwrap_or_default();
        let total = run.record.as_ref().and_then(|record| record["total_ms"].as_u64());
        let total = total.map_or_else(String::new, |ms| format!("{:.2} s", ms as f64 / 1000.0));
        vec![run.id.clone(), started, total, run.verdict(), run.text("kernel").to_owned(), run.command()]
    };
    output::table(&["ID", "STARTED", "TOOK", "VERDICT", "KERNEL", "COMMAND"], past.iter().map(row).collect())
}
