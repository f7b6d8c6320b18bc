//! Shows a fault on standard error. Not for what faults are (`quiz_run::Fault`).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use miette::{GraphicalReportHandler, GraphicalTheme};
use quiz_config::FileProblem;
use quiz_host::stream::Patient;
use quiz_run::{FAULT, Fault};
use quiz_vm::visible::visible_lines;

/// Shows `fault` and returns its exit code. If a signal has ended the work, ends this process by
/// the same signal.
pub fn report(fault: &Fault) -> ExitCode {
    if let Some(signal) = fault.interrupted_by() {
        // The command has already removed what it had begun.
        signal_hook::low_level::emulate_default_handler(signal).ok();
    }
    let colour = crate::output::allows_colours(std::io::stderr().is_terminal());
    let mut text = match fault.file_problems() {
        Some(problems) => problems.iter().map(|problem| snippet(problem, colour)).collect(),
        None => format!("quiz: error: {}\n", visible_lines(&fault.message())),
    };
    if let Some(hint) = fault.advice() {
        text += &format!("quiz: hint: {}\n", visible_lines(hint));
    }
    // Without stderr, there is nowhere to report the error.
    Patient(std::io::stderr()).write_all(text.as_bytes()).ok();
    ExitCode::from(FAULT)
}

/// One mistake in a settings file, with the lines around it.
fn snippet(problem: &FileProblem, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1).without_cause_chain();
    let mut drawn = String::new();
    let first = format!("quiz: error: {problem}\n");
    match handler.render_report(&mut drawn, problem) {
        // miette begins with the message, which `first` already contains in quiz's own form.
        Ok(()) => first + drawn.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n')),
        Err(_) => first,
    }
}
