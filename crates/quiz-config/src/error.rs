//! Errors in a configuration, with the place in the file where there is one. Not for printing them.

use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, NamedSource, SourceSpan};

use crate::origin::Origin;
use crate::value::ValueError;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file exists but cannot be read.
    #[error("cannot read the settings")]
    Read(#[source] std::io::Error),
    /// A file has at least one mistake.
    #[error("{}", summary(.0))]
    File(Vec<FileProblem>),
    /// A variable or an option has a bad value.
    #[error("{origin}: {problem}")]
    Value {
        /// The variable or the option.
        origin: Origin,
        /// What is wrong with it.
        problem: ValueError,
    },
    /// Values do not fit each other, or exceed the limits of a VM.
    #[error("{problem} ({set_by})")]
    Meaning {
        /// What is wrong.
        problem: String,
        /// What set the value: a file and line, a variable, an option.
        set_by: String,
    },
}

fn summary(problems: &[FileProblem]) -> String {
    match problems {
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        [] => "a settings file has mistakes".to_owned(),
    }
}

/// One mistake in a file.
#[derive(Debug, Clone, thiserror::Error, Diagnostic)]
#[error("{}:{line}: {message}", .path.display())]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// A replacement to suggest.
    #[help]
    pub help: Option<String>,
    /// The file's text.
    #[source_code]
    pub source_code: NamedSource<Arc<str>>,
    /// The place in the text.
    #[label("here")]
    pub span: SourceSpan,
}
