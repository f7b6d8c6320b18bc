//! The user's standard streams. Programs that share them may have made them non-blocking (Node.js
//! and ssh do). quiz must not change that, so a reader or writer waits instead. Not for quiz's own
//! sockets.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};

/// Wraps a stream: if a non-blocking descriptor has no data or no room, it waits, as a blocking
/// descriptor does.
#[derive(Debug)]
pub struct Patient<S>(pub S);

impl<S: Read + AsFd> Read for Patient<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(self.0.as_fd(), PollFlags::IN)?,
                other => return other,
            }
        }
    }
}

impl<S: Write + AsFd> Write for Patient<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(self.0.as_fd(), PollFlags::OUT)?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.0.flush() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(self.0.as_fd(), PollFlags::OUT)?,
                other => return other,
            }
        }
    }
}

fn wait(stream: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match crate::wait::ready(&mut [PollFd::from_borrowed_fd(stream, what)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_descriptor_that_does_not_block_is_read_and_written_to_its_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n as u8).collect();
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| {
                let (mut from, mut to) = (&theirs, &theirs);
                let mut got = Vec::new();
                let mut piece = [0; 60_000];
                while got.len() < 2_000_000 {
                    std::thread::sleep(Duration::from_millis(2));
                    let n = from.read(&mut piece).unwrap();
                    got.extend_from_slice(&piece[..n]);
                }
                std::thread::sleep(Duration::from_millis(50));
                to.write_all(&got).unwrap();
                theirs.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut patient = Patient(&ours);
            patient.write_all(&sent).unwrap();
            patient.flush().unwrap();
            let mut back = Vec::new();
            patient.read_to_end(&mut back).unwrap();
            assert!(back == sent);
            echo.join().unwrap();
        });
    }

    #[test]
    fn a_reader_that_is_gone_is_told() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(Patient(writer).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
