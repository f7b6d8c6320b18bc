//! `quiz allow`: lets what of a worktree reaches the host, as it is now.

use clap::Args;
use quiz_image::Report;

use crate::consent;
use crate::context::Context;
use crate::errors::Fault;
use crate::output;
use crate::run::{Call, history};

/// What is allowed.
#[derive(Debug, Args)]
#[command(after_help = "\
Settings and profiles of a worktree that reach the host (programs, words for QEMU,
sources of packages and kernels, directories and disks outside of it or writable,
variables of yours) are used only after they were allowed once. What changes has to
be allowed again. Memory, CPUs, kernels, time limits and the like need no leave.")]
pub struct Allow {
    /// Only show what would be allowed
    #[arg(long, conflicts_with = "forget")]
    pub show: bool,
    /// Take back all that was allowed of this worktree
    #[arg(long)]
    pub forget: bool,
    /// Allow `quiz replay` of a run whose record is not of your own quiz
    #[arg(long, value_name = "ID", conflicts_with = "forget")]
    pub run: Option<String>,
}

/// Shows and notes it.
pub fn run(args: &Allow, ctx: &Context) -> Result<(), Fault> {
    if args.forget {
        let there = consent::forget(ctx)?;
        ctx.report.say(if there { "nothing of this worktree is allowed any more" } else { "nothing was allowed" });
        return Ok(());
    }
    let items = match &args.run {
        None => consent::items(ctx)?,
        Some(id) => {
            let past = history::find(&ctx.runs_dirs()?, Some(id))?;
            let call = past.record.as_ref().and_then(Call::of_record);
            let call =
                call.ok_or_else(|| Fault::new(format!("the run {} does not tell how it was called", past.id)))?;
            vec![consent::call_item(&past.id, &call)]
        }
    };
    if items.is_empty() {
        ctx.report.say("nothing of this worktree reaches the host");
    }
    for item in &items {
        output::text(&format!("{}:\n", item.name))?;
        for line in &item.lines {
            output::text(&format!("  {line}\n"))?;
        }
    }
    if !args.show {
        consent::allow(&items, args.run.is_none(), ctx)?;
    }
    Ok(())
}
