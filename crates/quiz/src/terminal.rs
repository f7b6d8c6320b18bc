//! The user's terminal, if there is one: its size, its raw mode, and its restoration on every way
//! out. Also the signals.

use std::io::{IsTerminal, Stdin, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use quiz_config::{Escape, Verbosity};
use quiz_host::Report;
use quiz_host::stream::Patient;
use quiz_run::{Context, Fault, ProgramTerminal, ReceivedSignals};
use quiz_vm::proto::WinSize;
use quiz_vm::{Signals, Streams};
use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::SIGCONT;

use crate::standard::{self, Closed, Line};

/// The terminal's modes at the start, for the panic hook and for signals that quiz cannot survive.
static FOUND: OnceLock<Termios> = OnceLock::new();

/// How the program's streams connect to the user's.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// What the program gets: a terminal, if the user has one.
    program: ProgramTerminal,
    /// Whether the terminal is this process's own, not that of another quiz process.
    own: bool,
    /// Whether quiz may read standard input: it is no terminal, or this process is in its
    /// foreground.
    readable: bool,
}

impl Terminal {
    /// Describes the standard streams of this process.
    pub fn of_this_process() -> Terminal {
        let stdin = std::io::stdin();
        let in_background = stdin.is_terminal()
            && termios::tcgetpgrp(&stdin).is_ok_and(|foreground| foreground != rustix::process::getpgrp());
        let at_terminal = stdin.is_terminal() && std::io::stdout().is_terminal() && !in_background;
        let program = ProgramTerminal {
            size: at_terminal.then(|| size_of(&stdin)),
            separate_stderr: at_terminal && !std::io::stderr().is_terminal(),
        };
        Terminal { program, own: true, readable: !in_background }
    }

    /// Returns the terminal of another quiz process, from what [`Terminal::describes`] returned
    /// there.
    pub fn of_another(described: &str) -> Option<Terminal> {
        let (size, separate_stderr) = match described.strip_suffix('+') {
            Some(size) => (size, true),
            None => (described, false),
        };
        let size = match size {
            "none" => None,
            size => {
                let (rows, cols) = size.split_once('x')?;
                Some(WinSize { rows: rows.parse().ok()?, cols: cols.parse().ok()? })
            }
        };
        Some(Terminal { program: ProgramTerminal { size, separate_stderr }, own: false, readable: false })
    }

    /// Returns what another quiz process needs to prepare a program for this terminal, in one
    /// argument.
    pub fn describes(&self) -> String {
        let separate = if self.program.separate_stderr { "+" } else { "" };
        match self.program.size {
            Some(WinSize { rows, cols }) => format!("{rows}x{cols}{separate}"),
            None => format!("none{separate}"),
        }
    }

    /// Returns the terminal for the program.
    pub fn program(&self) -> ProgramTerminal {
        self.program
    }

    /// Whether lines on stderr go to a raw terminal.
    pub fn is_raw(&self) -> bool {
        self.program.size.is_some() && !self.program.separate_stderr
    }

    /// Returns standard input for the program. A job in the background has none: reading from the
    /// terminal would stop it.
    pub fn input(&self) -> Option<OwnedFd> {
        // Without standard input there is nothing to read.
        if !self.readable || standard::is_closed(standard::INPUT) {
            return None;
        }
        std::io::stdin().as_fd().try_clone_to_owned().ok()
    }

    /// Returns this process's own streams, for a program. `line` follows whether its output has
    /// ended its last line.
    pub fn streams(&self, line: &Line) -> Result<Streams, Fault> {
        // If stdout and stderr are the same file, the last output on either counts.
        let shared = is_one_file(&std::io::stdout(), &std::io::stderr());
        let errors_line = if shared { line.clone() } else { Line::default() };
        Ok(Streams {
            input: self.input(),
            output: writer(standard::OUTPUT, &std::io::stdout(), line)?,
            errors: writer(standard::ERRORS, &std::io::stderr(), &errors_line)?,
        })
    }

    /// Explains how to leave the guest, the first time that this user is at a guest's terminal.
    pub fn tell_escape(&self, escape: Escape, ctx: &Context) {
        if self.program.size.is_none() || !self.own || escape.0.is_none() || ctx.verbosity == Verbosity::Quiet {
            return;
        }
        let Ok(state) = ctx.paths.state() else { return };
        let first = fs_err::create_dir_all(&state)
            .and_then(|()| fs_err::OpenOptions::new().write(true).create_new(true).open(state.join("told-escape")));
        // If quiz cannot store that it has explained this, it would do so every time.
        if first.is_ok() {
            ctx.report.say(&format!("{} three times within a second leaves the guest (shown once)", escape.name()));
        }
    }

    /// Makes the terminal raw until the value is dropped; every key then goes to the guest.
    pub fn raw(&self) -> Result<Option<Raw>, Fault> {
        if self.program.size.is_none() || !self.own {
            return Ok(None);
        }
        let stdin = std::io::stdin();
        let found =
            termios::tcgetattr(&stdin).map_err(|e| Fault::new(format!("cannot read the terminal's modes: {e}")))?;
        if FOUND.set(found.clone()).is_ok() {
            let default = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if let Some(found) = FOUND.get() {
                    termios::tcsetattr(std::io::stdin(), OptionalActions::Now, found).ok();
                }
                default(info);
            }));
            restore_at_faults();
        }
        make_raw(&stdin, &found).map_err(|e| Fault::new(format!("cannot set the terminal's modes: {e}")))?;
        Ok(Some(Raw { found }))
    }

    /// Receives this process's signals from now on.
    pub fn signals(&self) -> Result<UserSignals, Fault> {
        Ok(UserSignals { received: ReceivedSignals::listen()?, terminal: self.program.size.is_some() && self.own })
    }
}

/// Restores the terminal on a signal of a fault, whether from quiz itself or from another process.
/// Then the signal takes effect.
fn restore_at_faults() {
    extern "C" fn restore(signal: i32) {
        if let Some(found) = FOUND.get() {
            termios::tcsetattr(std::io::stdin(), OptionalActions::Now, found).ok();
        }
        // SAFETY: both are async-signal-safe; the signal is delivered again when this has returned.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
        // SAFETY: all zeroes is a sigaction; the handler calls only what may be called in one, on
        // the stack that Rust has made for them.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = restore as extern "C" fn(i32) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

fn size_of(terminal: &Stdin) -> WinSize {
    match termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WinSize { rows: size.ws_row, cols: size.ws_col },
        // Some terminals do not know their size, such as a serial line.
        _ => WinSize { rows: 24, cols: 80 },
    }
}

fn make_raw(stdin: &Stdin, found: &Termios) -> rustix::io::Result<()> {
    let mut raw = found.clone();
    raw.make_raw();
    termios::tcsetattr(stdin, OptionalActions::Drain, &raw)
}

/// Returns a writer to a standard stream, on a duplicated descriptor, for a thread that closes it
/// at its end.
fn writer(number: i32, stream: &impl AsFd, line: &Line) -> Result<Box<dyn Write + Send>, Fault> {
    if standard::is_closed(number) {
        return Ok(Box::new(Closed));
    }
    let own = stream.as_fd().try_clone_to_owned();
    let own = own.map_err(|e| Fault::new(format!("cannot use the standard streams: {e}")))?;
    Ok(Box::new(line.of(Patient(std::fs::File::from(own)))))
}

fn is_one_file(a: &impl AsFd, b: &impl AsFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// A raw terminal. Dropping this value restores the modes.
pub struct Raw {
    found: Termios,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If the terminal is gone, there are no modes to restore.
        termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.found).ok();
    }
}

/// The signals that this process receives. When quiz continues after a stop, it makes the terminal
/// raw again.
pub struct UserSignals {
    received: ReceivedSignals,
    terminal: bool,
}

impl Signals for UserSignals {
    fn fd(&self) -> BorrowedFd<'_> {
        self.received.fd()
    }

    fn pending(&mut self) -> Vec<i32> {
        let came = self.received.pending();
        if self.terminal
            && came.contains(&SIGCONT)
            && let Some(found) = FOUND.get()
        {
            // The shell has set its own modes while quiz was stopped.
            make_raw(&std::io::stdin(), found).ok();
        }
        came.into_iter().filter(|signal| *signal != SIGCONT).collect()
    }

    fn window_size(&self) -> Option<WinSize> {
        self.terminal.then(|| size_of(&std::io::stdin()))
    }
}
