//! The command line of quiz, which runs a program in a fresh tiny VM. It is a library, so that more
//! than the program `quiz` can call it. Only the entry points are here.

mod announce;
mod cli;
mod commands;
mod dispatch;
mod errors;
mod keep;
mod options;
mod output;
#[cfg(test)]
mod reference;
mod report;
mod run;
mod standard;
mod terminal;

use std::process::ExitCode;

use quiz_run::{Record, symbols};

/// Runs the command that this process's arguments name. Returns its exit code.
pub fn main() -> ExitCode {
    // With a handler, SIGXFSZ (`ulimit -f`) becomes the error EFBIG instead of the end of quiz.
    // Programs that quiz starts inherit an ignored signal, but not a handler.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default()).ok();
    if std::env::args_os().nth(1).is_some_and(|first| first == symbols::OPTION) {
        let answered = symbols::answer(std::io::stdin().lock(), std::io::stdout().lock());
        return if answered.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    dispatch::main(std::env::args_os())
}

/// Reads a record as `quiz ps` and `quiz replay` do. Returns for any input, without a panic.
pub fn read_record(bytes: &[u8]) {
    let Some(record) = Record::read(bytes) else { return };
    let _text = record.verdict.brief();
    if let Some(call) = record.call {
        let words = call.words.into_iter().map(std::ffi::OsString::from);
        let _call = cli::parse(std::iter::once("quiz".into()).chain(words));
    }
}
