//! `quiz allow`: consent to what a worktree's files do on the host.

use clap::Args;
use quiz_host::Report;

use crate::output;
use quiz_run::consent;
use quiz_run::history;
use quiz_run::{Context, Fault};

/// Options of `quiz allow`.
#[derive(Debug, Args)]
#[command(after_help = "\
quiz uses these settings and profiles of a worktree only after you have allowed them:
  qemu, qemu_args, watch_build, mirrors, keyring, special_files, kernel_build.*
  worktree = \"rw\"; shares and disks that are outside of the worktree or writable
  env with variables of your environment; options of profiles
  profiles with a `setup` program
A change needs `quiz allow` again. Memory, CPUs, kernel and time limits never do.")]
pub struct Allow {
    /// Show what would be allowed, and allow nothing
    #[arg(long, conflicts_with = "forget")]
    pub show: bool,
    /// Revoke all permissions of this worktree
    #[arg(long)]
    pub forget: bool,
    /// Allow `quiz replay` of a run whose record you have not written
    #[arg(long, value_name = "ID", conflicts_with = "forget")]
    pub run: Option<String>,
}

/// Shows what affects the host, and stores the consent to it.
pub fn run(args: &Allow, ctx: &Context) -> Result<(), Fault> {
    if args.forget {
        let there = consent::forget(ctx)?;
        ctx.report.say(if there {
            "revoked everything that was allowed for this worktree"
        } else {
            "nothing was allowed for this worktree"
        });
        return Ok(());
    }
    let items = match &args.run {
        None => consent::items(ctx)?,
        Some(id) => {
            let past = history::find(&ctx.runs_dirs()?, Some(id))?;
            let call = past.recorded()?.call.as_ref();
            let call =
                call.ok_or_else(|| Fault::new(format!("the run {} has no record of its command line", past.id)))?;
            vec![consent::call_item(&past.id, call)]
        }
    };
    if items.is_empty() {
        ctx.report.say("this worktree has no settings or profiles that reach the host");
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
