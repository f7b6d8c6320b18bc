//! How quiz fails: one type for everything that ends a verb, rendered in one place, with exit code 125. Not for verdicts
//! about guests, which are results and no faults.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use miette::{GraphicalReportHandler, GraphicalTheme};
use quiz_config::{ConfigError, FileProblem};
use quiz_host::stream::Patient;
use quiz_vm::visible::visible_lines;

/// The exit code of a fault of quiz, of the host, or of the command line.
pub const FAULT: u8 = 125;

/// Why a verb could not do its work.
#[derive(Debug)]
pub struct Fault {
    what: What,
    hint: Option<String>,
}

#[derive(Debug)]
enum What {
    Message(String),
    Error(Box<dyn Error + Send + Sync>),
    Config(ConfigError),
}

impl Fault {
    /// A fault that `message` tells whole.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { what: What::Message(message.into()), hint: None }
    }

    /// The same, with a line that says what to do.
    pub fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }

    /// The message with its causes, without the program's name.
    pub fn message(&self) -> String {
        match &self.what {
            What::Message(message) => message.clone(),
            What::Error(error) => chain(error.as_ref()),
            What::Config(error) => chain(error),
        }
    }

    /// Tells the user, on stderr.
    pub fn render(&self) {
        let colour = crate::output::allows_colours(std::io::stderr().is_terminal());
        let mut text = String::new();
        match &self.what {
            What::Config(ConfigError::File(problems)) => problems.iter().for_each(|p| text += &snippet(p, colour)),
            _ => text = format!("quiz: error: {}\n", visible_lines(&self.message())),
        }
        if let Some(hint) = &self.hint {
            text += &format!("quiz: hint: {}\n", visible_lines(hint));
        }
        // Where stderr is gone there is no one left to tell.
        let _told = Patient(std::io::stderr()).write_all(text.as_bytes());
    }

    /// The exit code of every fault.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(FAULT)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Fault {
        let boxed: Box<dyn Error + Send + Sync> = Box::new(error);
        match boxed.downcast::<ConfigError>() {
            Ok(config) => Fault { what: What::Config(*config), hint: None },
            Err(other) => Fault { what: What::Error(other), hint: None },
        }
    }
}

/// The error and its causes in one line; a cause that the line already tells is not told again.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

/// One mistake in a settings file, with the lines around it.
fn snippet(problem: &FileProblem, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1).without_cause_chain();
    let mut drawn = String::new();
    let first = format!("quiz: error: {problem}\n");
    match handler.render_report(&mut drawn, problem) {
        // miette begins with the message, which is told already, in our own form.
        Ok(()) => first + drawn.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n')),
        Err(_) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot do it")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full")]
    struct Inner;

    #[test]
    fn causes_follow_in_one_line() {
        assert_eq!(Fault::from(Outer(Inner)).message(), "cannot do it: the disk is full");
        assert_eq!(Fault::new("no").hint("try yes").message(), "no");
    }
}
