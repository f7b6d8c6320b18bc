//! The user's ends of a program's streams: input is read and output written by threads, within the
//! credit of each direction. The supervisor has one for the run's program, and each client one for
//! its own. Not for where the other ends are.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use quiz_proto::{Stream, WINDOW};

use crate::feed::Feed;
use crate::pump::{self, Allowance, Event, Mailbox};

/// Credit is returned to the guest in pieces of this size, in bytes: each costs the guest an
/// interrupt.
const CREDIT: u32 = WINDOW / 4;

/// What has happened to the streams.
#[derive(Debug)]
pub enum Change {
    /// The user has typed, or a program has written to quiz's input.
    Input(Vec<u8>),
    /// There is no more input.
    InputEnded,
    /// The input cannot be read.
    InputFailed(io::Error),
    /// So many bytes of artifacts were written.
    Unpacked(u32),
    /// Nobody reads an output stream any more. The error is the host's, unless it is just a closed
    /// pipe.
    OutputClosed(Stream, Option<io::Error>),
}

/// The user's ends.
pub struct Duplex {
    outlets: [Outlet; 2],
    allowance: Option<Allowance>,
    mailbox: Mailbox,
    events: Receiver<Event>,
    wakeup: Arc<OwnedFd>,
}

/// An output stream.
struct Outlet {
    stream: Stream,
    /// None once it was ended.
    feed: Option<Feed>,
    /// How many bytes were written for which no credit was returned yet.
    owed: u32,
    /// Something may still have to be written.
    open: bool,
}

impl Duplex {
    /// Starts the threads that write the output.
    ///
    /// # Errors
    /// If the host has no thread or descriptor for it.
    pub fn new(output: Box<dyn Write + Send>, errors: Box<dyn Write + Send>) -> io::Result<Duplex> {
        let (mailbox, events, wakeup) = Mailbox::new()?;
        let outlet = |stream, output| -> io::Result<Outlet> {
            let feed = pump::write_output(stream, output, mailbox.clone())?;
            Ok(Outlet { stream, feed: Some(feed), owed: 0, open: true })
        };
        let outlets = [outlet(Stream::Stdout, output)?, outlet(Stream::Stderr, errors)?];
        Ok(Duplex { outlets, allowance: None, mailbox, events, wakeup })
    }

    /// Starts the thread that reads the input.
    ///
    /// # Errors
    /// If the host has no thread for it.
    pub fn read(&mut self, input: OwnedFd) -> io::Result<()> {
        self.allowance = Some(pump::read_input(input, self.mailbox.clone())?);
        Ok(())
    }

    /// Where others report bytes that they have written.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Readable when there are changes.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// Lets so many more bytes of input be read.
    pub fn allow(&self, bytes: u32) {
        if let Some(allowance) = &self.allowance {
            allowance.add(bytes);
        }
    }

    /// Ends the reading of input.
    pub fn end_input(&self) {
        self.allowance.iter().for_each(Allowance::close);
    }

    /// Has bytes written; false where the stream was ended, so that nobody reads them.
    pub fn write(&self, stream: Stream, bytes: &[u8]) -> bool {
        let feed = self.outlet(stream).and_then(|outlet| outlet.feed.as_ref());
        // A thread that has given up has reported so.
        feed.inspect(|feed| feed.push(bytes)).is_some()
    }

    /// Ends a stream: what was given to it is still written.
    pub fn end(&mut self, stream: Stream) {
        self.outlets.iter_mut().filter(|outlet| outlet.stream == stream).for_each(|outlet| outlet.feed = None);
    }

    /// Ends both streams.
    pub fn end_output(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.feed = None);
    }

    /// Whether something may still have to be written.
    pub fn is_writing(&self) -> bool {
        self.outlets.iter().any(|outlet| outlet.open)
    }

    /// The credit to return for a stream, as soon as it is worth an interrupt.
    pub fn take_credit(&mut self, stream: Stream) -> Option<u32> {
        let outlet = self.outlets.iter_mut().find(|outlet| outlet.stream == stream)?;
        (outlet.owed >= CREDIT).then(|| std::mem::take(&mut outlet.owed))
    }

    /// What has happened since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        rustix::io::read(&*self.wakeup, &mut [0; 8]).ok();
        let mut changes = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            changes.extend(self.change(event));
        }
        changes
    }

    fn change(&mut self, event: Event) -> Option<Change> {
        match event {
            Event::Input(bytes) => return Some(Change::Input(bytes)),
            Event::InputEnded => return Some(Change::InputEnded),
            Event::ReadFailed(error) => return Some(Change::InputFailed(error)),
            Event::Written(Stream::Artifacts, bytes) => return Some(Change::Unpacked(bytes)),
            Event::Written(stream, bytes) => {
                if let Some(outlet) = self.outlets.iter_mut().find(|outlet| outlet.stream == stream) {
                    outlet.owed = outlet.owed.saturating_add(bytes);
                }
            }
            Event::WriteFailed(stream, error) => {
                self.end(stream);
                let error = (error.kind() != io::ErrorKind::BrokenPipe).then_some(error);
                return Some(Change::OutputClosed(stream, error));
            }
            Event::Finished(stream) => {
                self.outlets.iter_mut().filter(|outlet| outlet.stream == stream).for_each(|outlet| outlet.open = false);
            }
        }
        None
    }

    fn outlet(&self, stream: Stream) -> Option<&Outlet> {
        self.outlets.iter().find(|outlet| outlet.stream == stream)
    }
}

/// Whether so much credit is worth returning.
pub fn is_worth_returning(credit: u32) -> bool {
    credit >= CREDIT
}

/// What a stream is called in messages.
pub fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdin => "standard input",
        Stream::Stdout => "standard output",
        Stream::Stderr => "standard error",
        Stream::Artifacts => "the artifacts",
    }
}
