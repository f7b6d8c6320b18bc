//! A run in the user's foreground, or for another part of this program: its streams, its signals
//! and its display. Not for the run itself (`quiz_run`).

use std::io::Write;

use quiz_config::{RunSpec, Verbosity};
use quiz_run::{
    Call, Context, Ended, Fault, Frontend, ProgramStreams, ReceivedSignals, Record, plan, plan_watched, prune, standby,
};
use quiz_vm::Streams;
use quiz_vm::supervise::Notice;

use crate::announce::{self, Announcer};
use crate::output::Records;
use crate::standard::{self, Line};
use crate::terminal::Terminal;

/// Runs what `spec` asks for, in the user's foreground. `call` tells how to repeat the run.
pub fn run(spec: &RunSpec, call: Option<Call>, ctx: &Context) -> Result<Record, Fault> {
    standard::require_output()?;
    let records = spec.json.as_ref().map(Records::open).transpose()?;
    let terminal = Terminal::of_this_process();
    let planned = plan(spec, terminal.program(), ctx)?;
    let mut signals = terminal.signals()?;
    let line = Line::default();
    let announcer = Announcer::start(spec.verbosity, terminal.is_raw())?;
    terminal.tell_escape(spec.escape, ctx);
    let attempted = {
        let _raw = terminal.raw()?;
        let frontend = Frontend {
            streams: ProgramStreams::Renewable(&mut || terminal.streams(&line)),
            signals: &mut signals,
            notices: &mut |notice| announcer.show(notice),
        };
        planned.attempt(frontend, ctx)?
    };
    announcer.finish(attempted.verdict());
    let ended = attempted.finish(call, None, &mut signals, ctx);
    let standby_follows = ended.standby_follows;
    let record = conclude(ended, spec)?;
    if let Some(records) = records {
        records.write(&record.line(), line.is_open())?;
    }
    if let Some(call) = record.call.as_ref().filter(|_| standby_follows) {
        standby::leave_one(call, ctx);
    }
    prune(spec, ctx)?;
    Ok(record)
}

/// Shows how a run ended.
///
/// # Errors
/// If its record could not be written.
pub fn conclude(mut ended: Ended, spec: &RunSpec) -> Result<Record, Fault> {
    show(&ended, spec.verbosity);
    match ended.unwritten.take() {
        Some(fault) => Err(fault),
        None => Ok(ended.record),
    }
}

/// Shows how a run ended, unless the program just exited.
pub fn show(ended: &Ended, verbosity: Verbosity) {
    announce::verdict(&ended.outcome, ended.crash.as_deref(), &ended.record, verbosity);
}

/// Watches a program in place of the user. The watcher receives the output; the program gets
/// neither input nor a terminal.
pub struct Watch<'a> {
    /// The program's standard output.
    pub output: Box<dyn Write + Send>,
    /// The program's standard error.
    pub errors: Box<dyn Write + Send>,
    /// Receives the events of the run. It must not block.
    pub notices: &'a mut dyn FnMut(Notice<'_>),
    /// Returns what the program is doing, for the report about a guest that dies.
    pub doing: &'a dyn Fn() -> Option<String>,
}

/// Runs what `spec` asks for, for `watch`. Does not remove old run directories (see [`prune`]).
pub fn watched(spec: &RunSpec, watch: Watch<'_>, ctx: &Context) -> Result<Ended, Fault> {
    let planned = plan_watched(spec, ctx)?;
    let mut signals = ReceivedSignals::listen()?;
    let streams = Streams { input: None, output: watch.output, errors: watch.errors };
    let frontend =
        Frontend { streams: ProgramStreams::Single(Some(streams)), signals: &mut signals, notices: watch.notices };
    let attempted = planned.attempt(frontend, ctx)?;
    Ok(attempted.finish(None, (watch.doing)(), &mut signals, ctx))
}
