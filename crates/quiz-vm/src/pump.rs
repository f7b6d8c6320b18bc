//! Threads between the run and the user's descriptors.
//!
//! The user's descriptors are shared with other programs, so they are never made non-blocking. A thread that blocks on one
//! blocks nobody else, and credit bounds what waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use quiz_proto::{CHUNK, Stream, WINDOW};
use rustix::event::{EventfdFlags, eventfd};

/// What a pump tells the supervisor.
#[derive(Debug)]
pub enum Event {
    /// Bytes of standard input.
    Input(Vec<u8>),
    /// Standard input has ended.
    InputEnded,
    /// This many bytes of the stream are written.
    Written(Stream, u32),
    /// The stream cannot be written any more.
    WriteFailed(Stream, io::Error),
    /// The stream is written to its end and closed.
    Finished(Stream),
}

/// Where pumps leave their events; the supervisor polls the descriptor.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Event>,
    bell: Arc<OwnedFd>,
}

impl Mailbox {
    /// A mailbox, its events, and the descriptor that is readable when there are some.
    pub fn new() -> io::Result<(Mailbox, Receiver<Event>, Arc<OwnedFd>)> {
        let (sender, receiver) = mpsc::channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Mailbox { sender, bell: bell.clone() }, receiver, bell))
    }

    /// Bytes of a stream are done with.
    pub fn written(&self, stream: Stream, bytes: usize) {
        self.put(Event::Written(stream, u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    fn put(&self, event: Event) -> bool {
        let there = self.sender.send(event).is_ok();
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).ok();
        there
    }
}

/// How much of standard input may be read ahead.
#[derive(Clone)]
pub struct Allowance(Arc<(Mutex<Option<u32>>, Condvar)>);

impl Allowance {
    /// The guest has taken this many bytes.
    pub fn add(&self, bytes: u32) {
        let (credit, changed) = &*self.0;
        let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
        *credit = credit.map(|credit| credit.saturating_add(bytes).min(WINDOW));
        changed.notify_one();
    }

    /// Nothing will be taken any more, and whoever feeds the input is to notice.
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

/// Reads standard input as far as the guest takes it.
pub fn read_input(input: OwnedFd, mailbox: Mailbox) -> Allowance {
    let allowance = Allowance(Arc::new((Mutex::new(Some(WINDOW)), Condvar::new())));
    let ours = allowance.clone();
    thread::spawn(move || {
        let mut input = File::from(input);
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
                // As for any program, an input that cannot be read has ended.
                Err(_) => break,
            }
        }
        mailbox.put(Event::InputEnded);
    });
    allowance
}

/// Writes what it is given, in order, telling the mailbox. Dropping the sender ends it.
pub fn write_output(stream: Stream, mut output: impl Write + Send + 'static, mailbox: Mailbox) -> Sender<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || {
        for bytes in receiver {
            if let Err(e) = output.write_all(&bytes) {
                mailbox.put(Event::WriteFailed(stream, e));
                break;
            }
            mailbox.written(stream, bytes.len());
        }
        drop(output);
        mailbox.put(Event::Finished(stream));
    });
    sender
}
