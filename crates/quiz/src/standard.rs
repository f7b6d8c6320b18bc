//! The standard streams that quiz was started with: which were closed, and whether the last line of
//! output has ended. Not for reading and writing them (`quiz_host::stream`).

use std::ffi::c_int;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use quiz_run::Fault;

/// Standard input, output and error.
pub const INPUT: c_int = 0;
pub const OUTPUT: c_int = 1;
pub const ERRORS: c_int = 2;

/// One bit for each stream that was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Before `main`, Rust opens /dev/null in place of closed standard streams. Output would then be
/// lost without an error, so quiz looks at the streams before that.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for stream in [INPUT, OUTPUT, ERRORS] {
        // SAFETY: fcntl with F_GETFD has no memory effects, and needs nothing that is not there
        // before `main`.
        if unsafe { libc::fcntl(stream, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << stream, Ordering::Relaxed);
        }
    }
}

/// Whether a standard stream was closed when quiz was started.
pub fn is_closed(stream: c_int) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << stream) != 0
}

/// Refuses to continue without a standard output, for commands that need one.
///
/// # Errors
/// If standard output was closed when quiz was started.
pub fn require_output() -> Result<(), Fault> {
    if !is_closed(OUTPUT) {
        return Ok(());
    }
    Err(Fault::new("cannot write to standard output: it is closed").hint("redirect it to /dev/null if nobody reads it"))
}

/// A stream that was closed: every write to it fails.
pub struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the last output on a stream has ended its line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    is_open: Arc<AtomicBool>,
}

impl Line {
    /// Whether the last line has not ended. Further output would continue it.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Wraps `stream`, so that this value follows its output.
    pub fn of<W: Write>(&self, stream: W) -> Lined<W> {
        Lined { stream, line: self.clone() }
    }
}

/// A stream that records whether its last line has ended.
pub struct Lined<W> {
    stream: W,
    line: Line,
}

impl<W: Write> Write for Lined<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.stream.write(bytes)?;
        if let Some(last) = bytes[..n].last() {
            self.line.is_open.store(*last != b'\n', Ordering::Relaxed);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_open_until_it_has_ended() {
        let line = Line::default();
        let mut stream = line.of(Vec::new());
        for (text, is_open) in [("", false), ("a", true), ("b\n", false), ("c\nd", true), ("", true), ("\n", false)] {
            stream.write_all(text.as_bytes()).unwrap();
            assert_eq!(line.is_open(), is_open, "{text:?}");
        }
    }
}
