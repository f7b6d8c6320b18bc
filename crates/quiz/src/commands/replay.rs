//! `quiz replay`: repeats a run as the user called it, and reports what has changed since.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use quiz_config::JsonTo;
use quiz_host::Report;

use crate::options::{Global, RunOptions};
use quiz_run::Fault;
use quiz_run::consent;
use quiz_run::{Call, Record, history};

#[derive(Debug, Args)]
pub struct Replay {
    /// Id of the run, or its beginning or end [default: the newest that has ended]
    pub run: Option<String>,
}

/// Parses the arguments of a run.
pub type ParseRun = dyn Fn(Vec<OsString>) -> Option<(Global, RunOptions, Vec<OsString>)>;

/// Repeats the run, and returns its exit code.
pub fn run(args: &Replay, global: &Global, parse: &ParseRun) -> Result<ExitCode, Fault> {
    let here = global.context()?;
    let past = history::find(&here.runs_dirs()?, args.run.as_deref())?;
    let unknown = || Fault::new(format!("the run {} has no record of its command line", past.id));
    let record = past.recorded()?;
    let call = record.call.clone().ok_or_else(unknown)?;
    // The record may have come with the worktree, or a guest may have written it.
    if !consent::is_sealed(&call, record.call_seal.as_deref(), &here) {
        consent::require(&consent::call_item(&past.id, &call), &here)?;
    }
    let arguments = call.words.iter().map(OsString::from).collect();
    let (mut said, options, command) = parse(arguments).ok_or_else(unknown)?;
    // The recorded call already took a directory among its arguments into account.
    said.directory = Some(call.directory.clone());
    let mut ctx = said.context()?;
    ctx.variables.retain(|(name, _)| !Call::is_setting(name));
    ctx.variables.extend(call.variables.iter().map(|(name, value)| (name.into(), value.into())));
    let mut spec = ctx.run_spec(&options.asked(), command)?;
    // A replay shows how the run ends, so it does not keep the VM.
    spec.keep = None;
    if spec.json != Some(JsonTo::Output) {
        // The place of the record belongs to the original call.
        spec.json = here.json_to.clone();
    }
    let again = crate::run::run(&spec, Some(call), &ctx)?;
    for line in changes(record, &again) {
        ctx.report.say(&line);
    }
    Ok(ExitCode::from(again.exit_code))
}

/// Returns what differs between the two runs.
fn changes(before: &Record, again: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    let was = &before.inputs;
    let mut names = vec![
        ("kernel", before.kernel.as_str(), again.kernel.as_str()),
        ("root", &before.root, &again.root),
        ("accelerator", before.accelerator.name(), again.accelerator.name()),
        ("machine", &before.machine, &again.machine),
        ("quiz", &before.quiz_version, &again.quiz_version),
    ];
    names.retain(|(_, was, is)| was != is);
    for (what, was, is) in &names {
        lines.push(format!("since then: the {what} was {was}, and is {is}"));
    }
    let mut inputs: Vec<&String> = was.keys().chain(again.inputs.keys()).collect();
    inputs.sort();
    inputs.dedup();
    for input in inputs.into_iter().filter(|input| names.iter().all(|(what, ..)| *what != input.as_str())) {
        match (was.get(input), again.inputs.get(input)) {
            (Some(was), Some(is)) if was == is => {}
            (Some(_), Some(_)) => lines.push(format!("since then: the {input} has other contents")),
            (None, _) => lines.push(format!("since then: the {input} has come to it")),
            (_, None) => lines.push(format!("since then: the {input} has gone")),
        }
    }
    if lines.is_empty() {
        lines.push("since then: nothing of what quiz knows has changed".to_owned());
    }
    let (was, is) = (before.verdict.brief(), again.verdict.brief());
    lines.push(match was == is {
        true => format!("the verdict is what it was: {is}"),
        false => format!("the verdict was {was}, and is {is}"),
    });
    lines
}
