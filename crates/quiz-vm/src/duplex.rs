//! The user's ends of a program's streams. Threads read the input and write the output, within the
//! credit of each direction. The supervisor has one for the run's program, and each client has one
//! for its own. Not for the guest's ends.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use quiz_proto::{Stream, WINDOW};

use crate::feed::Feed;
use crate::pump::{self, Allowance, Event, Mailbox};

/// The minimum credit that is returned to the guest, in bytes: each return costs the guest an
/// interrupt.
const CREDIT: u32 = WINDOW / 4;

/// An event of the streams.
#[derive(Debug)]
pub enum Change {
    /// Input that the user has typed, or that a program has written.
    Input(Vec<u8>),
    /// The input has ended.
    InputEnded,
    /// The input cannot be read.
    InputFailed(io::Error),
    /// This many bytes of artifacts were written.
    Unpacked(u32),
    /// An output stream is closed. The error is the host's; `None` for a broken pipe.
    OutputClosed(Stream, Option<io::Error>),
}

/// The user's ends of a program's streams.
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
    /// `None` after the stream has ended.
    feed: Option<Feed>,
    /// How many bytes were written for which no credit was returned yet.
    owed: u32,
    /// Whether output may still have to be written.
    open: bool,
}

impl Duplex {
    /// Starts the threads that write the output.
    ///
    /// # Errors
    /// If the host cannot create a thread or descriptor.
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
    /// If the host cannot create a thread.
    pub fn read(&mut self, input: OwnedFd) -> io::Result<()> {
        self.allowance = Some(pump::read_input(input, self.mailbox.clone())?);
        Ok(())
    }

    /// The mailbox in which threads report bytes that they have written.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Readable when there are changes.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// Allows this many more bytes of input to be read.
    pub fn allow(&self, bytes: u32) {
        if let Some(allowance) = &self.allowance {
            allowance.add(bytes);
        }
    }

    /// Ends the reading of input.
    pub fn end_input(&self) {
        self.allowance.iter().for_each(Allowance::close);
    }

    /// Queues bytes for writing. Returns false if the stream has ended, and drops the bytes.
    pub fn write(&self, stream: Stream, bytes: &[u8]) -> bool {
        let feed = self.outlet(stream).and_then(|outlet| outlet.feed.as_ref());
        // If the thread has given up, it has already reported that.
        feed.inspect(|feed| feed.push(bytes)).is_some()
    }

    /// Ends a stream. Bytes that are already queued are still written.
    pub fn end(&mut self, stream: Stream) {
        self.outlets.iter_mut().filter(|outlet| outlet.stream == stream).for_each(|outlet| outlet.feed = None);
    }

    /// Ends both output streams.
    pub fn end_output(&mut self) {
        self.outlets.iter_mut().for_each(|outlet| outlet.feed = None);
    }

    /// Whether output may still have to be written.
    pub fn is_writing(&self) -> bool {
        self.outlets.iter().any(|outlet| outlet.open)
    }

    /// The credit to return for a stream; `None` while it is not worth an interrupt.
    pub fn take_credit(&mut self, stream: Stream) -> Option<u32> {
        let outlet = self.outlets.iter_mut().find(|outlet| outlet.stream == stream)?;
        (outlet.owed >= CREDIT).then(|| std::mem::take(&mut outlet.owed))
    }

    /// The changes since the last call.
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

/// Whether this much credit is worth returning.
pub fn is_worth_returning(credit: u32) -> bool {
    credit >= CREDIT
}

/// The name of a stream, for messages.
pub fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdin => "standard input",
        Stream::Stdout => "standard output",
        Stream::Stderr => "standard error",
        Stream::Artifacts => "the artifacts",
    }
}
