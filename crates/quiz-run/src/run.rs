//! Plans a whole run: finds or makes its inputs, assembles them, and chooses the start point. Not
//! for the single steps.

use quiz_config::{RunSpec, ShareSpec, WorktreeMode};

use crate::assemble::PreparedRun;
use crate::attempt::PlannedRun;
use crate::attempt::standby;
use crate::context::Context;
use crate::evidence::{self, RunDir, RunsDir};
use crate::fault::Fault;
use crate::find::{chosen, prepare};
use crate::frontend::ProgramTerminal;

/// Makes everything that the run of `spec` needs, and chooses its start point.
///
/// # Errors
/// The input that quiz cannot find or make, with a hint.
pub fn plan(spec: &RunSpec, terminal: ProgramTerminal, ctx: &Context) -> Result<PlannedRun, Fault> {
    let dir = RunDir::create(&runs_dir(spec, ctx)?)?;
    PlannedRun::new(assemble(spec, dir, terminal, ctx)?, true, ctx)
}

/// Like [`plan`], for a program whose streams exist only once: the VM always boots.
///
/// # Errors
/// As [`plan`].
pub fn plan_watched(spec: &RunSpec, ctx: &Context) -> Result<PlannedRun, Fault> {
    let dir = RunDir::create(&runs_dir(spec, ctx)?)?;
    PlannedRun::new(assemble(spec, dir, ProgramTerminal::default(), ctx)?, false, ctx)
}

/// Makes everything that the run needs. `dir` is the run directory.
fn assemble(spec: &RunSpec, dir: RunDir, terminal: ProgramTerminal, ctx: &Context) -> Result<PreparedRun, Fault> {
    let chosen = chosen::choose(&spec.profiles, &spec.profile_options, ctx)?;
    let base = prepare::kernel_and_root(spec, &chosen, ctx)?;
    PreparedRun::assemble(spec, chosen, base, dir, terminal, ctx)
}

/// Keeps a standby VM for the next run of `spec`, until a run takes it or it times out.
///
/// # Errors
/// As [`plan`].
pub fn hold_standby(spec: &RunSpec, ctx: &Context) -> Result<(), Fault> {
    let run = assemble(spec, standby::keepers_dir(ctx)?, ProgramTerminal::default(), ctx)?;
    standby::keep(&run, ctx)
}

/// Returns where to make the run directory of `spec`: not where its guest may write.
fn runs_dir(spec: &RunSpec, ctx: &Context) -> Result<RunsDir, Fault> {
    let usual = ctx.runs_dir()?;
    let path = usual.path();
    let reaches = |share: &ShareSpec| {
        let host = fs_err::canonicalize(&share.host).unwrap_or_else(|_| share.host.clone());
        share.writable && (path.starts_with(&host) || host.starts_with(&path))
    };
    let whole_worktree = spec.worktree.is_some() && spec.worktree_mode == WorktreeMode::ReadWrite;
    if whole_worktree || spec.shares.iter().any(reaches) {
        return Ok(ctx.runs_dir_apart()?.unwrap_or(usual));
    }
    Ok(usual)
}

/// Removes old run directories, as `keep_runs` and `keep_days` of `spec` demand.
///
/// # Errors
/// If there is no place for run directories.
pub fn prune(spec: &RunSpec, ctx: &Context) -> Result<(), Fault> {
    for runs in ctx.runs_dirs()? {
        evidence::prune(&runs, spec.keep_runs, spec.keep_days);
    }
    Ok(())
}
