//! The error type of quiz, for everything that ends a command with exit code 125. Not for verdicts
//! about guests, which are results, nor for how quiz shows an error.

use std::error::Error;

use quiz_config::{ConfigError, FileProblem};

/// The exit code of a fault of quiz, of the host, or of the command line.
pub const FAULT: u8 = 125;

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Fault {
    what: What,
    hint: Option<String>,
}

#[derive(Debug)]
enum What {
    Message(String),
    Interrupted(String, i32),
    Error(Box<dyn Error + Send + Sync>),
    Config(ConfigError),
}

impl Fault {
    /// Makes a fault whose whole text is `message`.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { what: What::Message(message.into()), hint: None }
    }

    /// Adds a hint: a line about what to do.
    pub fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }

    /// Returns the message with its causes, without the program's name.
    pub fn message(&self) -> String {
        match &self.what {
            What::Message(message) | What::Interrupted(message, _) => message.clone(),
            What::Error(error) => chain(error.as_ref()),
            What::Config(error) => chain(error),
        }
    }

    /// Returns the hint.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the mistakes in a settings file, if the fault is about one.
    pub fn file_problems(&self) -> Option<&[FileProblem]> {
        match &self.what {
            What::Config(ConfigError::File(problems)) => Some(problems),
            _ => None,
        }
    }

    /// Returns the signal that has ended the work, if one has. The process must end by the same
    /// signal.
    pub fn interrupted_by(&self) -> Option<i32> {
        match self.what {
            What::Interrupted(_, signal) => Some(signal),
            _ => None,
        }
    }

    /// Makes a fault for work that a signal has ended.
    pub fn interrupted(message: impl Into<String>, signal: i32) -> Fault {
        Fault { what: What::Interrupted(message.into(), signal), hint: None }
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

/// Returns the error and its causes in one line. Leaves out a cause that the line already contains.
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
