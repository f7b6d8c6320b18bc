//! Threads between a run and the user's descriptors. Not for the guest's side of the streams.
//!
//! The user's descriptors are shared with other programs, so quiz never changes whether they block.
//! A thread that waits for one delays nothing else, and credit bounds what is queued for it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use quiz_host::stream::Patient;
use quiz_proto::{CHUNK, Stream, WINDOW};
use rustix::event::{EventfdFlags, eventfd};

use crate::feed::{Feed, feed};

/// What a thread reports to the supervisor.
#[derive(Debug)]
pub enum Event {
    /// Bytes of standard input.
    Input(Vec<u8>),
    /// Standard input has ended.
    InputEnded,
    /// Standard input cannot be read any more. The guest has received only a part of it.
    ReadFailed(io::Error),
    /// This many bytes of the stream were written.
    Written(Stream, u32),
    /// The stream cannot be written any more.
    WriteFailed(Stream, io::Error),
    /// The stream was written to its end and closed.
    Finished(Stream),
}

/// Where the threads put their events. Each event wakes up the thread that polls the descriptor.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Event>,
    bell: Arc<OwnedFd>,
}

impl Mailbox {
    /// A mailbox, its events, and the descriptor that is readable when there are events.
    pub fn new() -> io::Result<(Mailbox, Receiver<Event>, Arc<OwnedFd>)> {
        let (sender, receiver) = mpsc::channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Mailbox { sender, bell: bell.clone() }, receiver, bell))
    }

    /// Reports that bytes of a stream were written.
    pub fn written(&self, stream: Stream, bytes: usize) {
        self.put(Event::Written(stream, u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    fn put(&self, event: Event) -> bool {
        let there = self.sender.send(event).is_ok();
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).ok();
        there
    }
}

/// How many bytes of standard input may be read ahead.
#[derive(Clone)]
pub struct Allowance(Arc<(Mutex<Option<u32>>, Condvar)>);

impl Allowance {
    /// Allows this many more bytes, because the guest has taken as many.
    pub fn add(&self, bytes: u32) {
        let (credit, changed) = &*self.0;
        let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
        *credit = credit.map(|credit| credit.saturating_add(bytes).min(WINDOW));
        changed.notify_one();
    }

    /// Ends the reading. The process that feeds the input then gets a broken pipe.
    pub fn close(&self) {
        let (credit, changed) = &*self.0;
        *credit.lock().unwrap_or_else(PoisonError::into_inner) = None;
        changed.notify_one();
    }

    fn wait(&self) -> Option<usize> {
        let (credit, changed) = &*self.0;
        let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
        while *credit == Some(0) {
            credit = changed.wait(credit).unwrap_or_else(PoisonError::into_inner);
        }
        credit.map(|credit| CHUNK.min(usize::try_from(credit).unwrap_or(CHUNK)))
    }

    fn take(&self, bytes: usize) {
        let (credit, _) = &*self.0;
        let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
        *credit = credit.map(|credit| credit.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }
}

/// Starts a thread that reads standard input as far as the allowance permits.
///
/// # Errors
/// If the host cannot create a thread.
pub fn read_input(input: OwnedFd, mailbox: Mailbox) -> io::Result<Allowance> {
    let allowance = Allowance(Arc::new((Mutex::new(Some(WINDOW)), Condvar::new())));
    let ours = allowance.clone();
    let read = move || {
        let is_terminal = input.is_terminal();
        let mut input = Patient(File::from(input));
        while let Some(allowed) = ours.wait() {
            let mut bytes = vec![0; allowed];
            match input.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => {
                    bytes.truncate(n);
                    ours.take(n);
                    if !mailbox.put(Event::Input(bytes)) {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The descriptor is not open for reading, as under `nohup`: there is no input.
                Err(e) if e.raw_os_error() == Some(libc::EBADF) => break,
                // The terminal was hung up, or belongs to another session now.
                Err(_) if is_terminal => break,
                Err(e) => {
                    mailbox.put(Event::ReadFailed(e));
                    break;
                }
            }
        }
        mailbox.put(Event::InputEnded);
    };
    thread::Builder::new().spawn(read)?;
    Ok(allowance)
}

/// Starts a thread that writes the bytes of the returned feed in order, and reports to `mailbox`.
/// Dropping the feed ends it.
///
/// # Errors
/// If the host cannot create a thread.
pub fn write_output(stream: Stream, mut output: impl Write + Send + 'static, mailbox: Mailbox) -> io::Result<Feed> {
    let (feed, intake) = feed();
    let write = move || {
        'all: while let Some(bytes) = intake.take() {
            for piece in bytes.chunks(CHUNK) {
                if let Err(e) = output.write_all(piece) {
                    mailbox.put(Event::WriteFailed(stream, e));
                    break 'all;
                }
                mailbox.written(stream, piece.len());
            }
        }
        drop(intake);
        drop(output);
        mailbox.put(Event::Finished(stream));
    };
    thread::Builder::new().spawn(write)?;
    Ok(feed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// The input and the other events of a reader of `input`. Calls `feed` when it reads.
    fn read(input: OwnedFd, feed: impl FnOnce()) -> (Vec<u8>, Vec<Event>) {
        let (mailbox, events, _bell) = Mailbox::new().unwrap();
        let _allowance = read_input(input, mailbox).unwrap();
        feed();
        let (mut bytes, mut others) = (Vec::new(), Vec::new());
        loop {
            match events.recv_timeout(Duration::from_secs(20)).unwrap() {
                Event::Input(more) => bytes.extend(more),
                Event::InputEnded => return (bytes, others),
                other => others.push(other),
            }
        }
    }

    #[test]
    fn an_input_that_does_not_block_is_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (bytes, others) = read(theirs.into(), || {
            for piece in [b"one", b"two"] {
                thread::sleep(Duration::from_millis(100));
                (&ours).write_all(piece).unwrap();
            }
            drop(ours);
        });
        assert!(bytes == b"onetwo" && others.is_empty(), "{others:?}");
    }

    #[test]
    fn an_input_that_fails_is_no_end_but_one_that_is_not_for_reading_is() {
        let (bytes, others) = read(fs_err::File::open("/").unwrap().into_parts().0.into(), || {});
        assert!(bytes.is_empty());
        assert!(matches!(&others[..], [Event::ReadFailed(e)] if e.raw_os_error() == Some(libc::EISDIR)), "{others:?}");
        let write_only = fs_err::OpenOptions::new().write(true).open("/dev/null").unwrap().into_parts().0;
        let (bytes, others) = read(write_only.into(), || {});
        assert!(bytes.is_empty() && others.is_empty(), "{others:?}");
    }

    #[test]
    fn an_output_that_does_not_block_gets_everything() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (mailbox, events, _bell) = Mailbox::new().unwrap();
        let sender = write_output(Stream::Stdout, Patient(theirs), mailbox).unwrap();
        let sent = vec![7; 3_000_000];
        sender.push(&sent);
        drop(sender);
        thread::sleep(Duration::from_millis(100));
        let mut got = Vec::new();
        (&ours).read_to_end(&mut got).unwrap();
        assert!(got == sent);
        let mut written = 0;
        while written < 3_000_000 {
            let Event::Written(Stream::Stdout, bytes) = events.recv().unwrap() else { panic!("not all was written") };
            written += bytes;
        }
        assert!(matches!(events.recv().unwrap(), Event::Finished(Stream::Stdout)));
    }
}
