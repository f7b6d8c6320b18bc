//! Finds where quiz's own arguments end and the program's begin. Not for what the arguments mean.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, Command};

/// The parts of a command line.
pub enum Line {
    /// A run: quiz's own arguments, perhaps `--`, and the program's.
    Run {
        /// The index after quiz's own arguments.
        options: usize,
        /// The index of the program's first argument.
        program: usize,
    },
    /// All arguments are quiz's own.
    Command,
}

/// Finds where the program's arguments begin, which clap itself cannot do exactly. clap has no
/// external subcommand together with `--`, nor one whose name is not UTF-8.
pub fn split(words: &[OsString], command: &Command) -> Line {
    let mut behind_run = false;
    // A subcommand has options of its own, besides the global ones.
    let mut subcommand: Option<&Command> = None;
    let mut at = 1;
    while let Some(word) = words.get(at) {
        match word.as_bytes() {
            b"--" => return Line::Run { options: at, program: at + 1 },
            [b'-', b'-', name @ ..] => {
                at += usize::from([Some(command), subcommand].into_iter().flatten().any(|c| long_takes_next(name, c)));
            }
            [b'-', letters @ ..] if !letters.is_empty() => at += usize::from(short_takes_next(letters, command)),
            name @ (b"run" | b"watch" | b"exec") if !behind_run => {
                behind_run = true;
                subcommand = command.get_subcommands().find(|sub| sub.get_name().as_bytes() == name);
            }
            _ if behind_run => return Line::Run { options: at, program: at },
            name => {
                let is_command = command.get_subcommands().any(|sub| sub.get_name().as_bytes() == name);
                return if is_command || name == b"help" {
                    Line::Command
                } else {
                    Line::Run { options: at, program: at }
                };
            }
        }
        at += 1;
    }
    Line::Run { options: words.len(), program: words.len() }
}

/// Whether the long option `name` has its value in the next argument. If the option is unknown,
/// clap reports that.
fn long_takes_next(name: &[u8], command: &Command) -> bool {
    !name.contains(&b'=') && command.get_arguments().any(|arg| long_is(arg, name) && takes_next(arg))
}

fn takes_next(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

fn long_is(arg: &Arg, name: &[u8]) -> bool {
    arg.get_long().is_some_and(|long| long.as_bytes() == name)
}

/// Whether the last of the short options `letters` has its value in the next argument.
fn short_takes_next(letters: &[u8], command: &Command) -> bool {
    let takes = |letter: &u8| {
        let short = Some(char::from(*letter));
        command.get_arguments().any(|arg| arg.get_short() == short && takes_next(arg))
    };
    // The rest of the argument is the value of the first option that takes any.
    letters.iter().position(takes).is_some_and(|at| at + 1 == letters.len())
}
