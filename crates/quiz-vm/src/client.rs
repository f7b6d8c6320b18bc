//! The client's side of a running VM: ties the user's streams and signals to a program in it. Not
//! for the supervisor's side (`supervise::clients`).

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use quiz_host::wait;
use quiz_proto::{CHUNK, Decoder, ProgramId, Status, Stream, ToGuest, ToHost, encode};
use rustix::event::{PollFd, PollFlags};

use crate::control::{Answer, Request};
use crate::duplex::{self, Change, Duplex};
use crate::escape::Escape;
use crate::outgoing::Outgoing;
use crate::supervise::job::{Signals, Streams};

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parting {
    /// The client's program has ended.
    Ended(Status),
    /// The VM has shut down, or the program that the client watches has ended.
    Over {
        /// The exit code for the client.
        code: u8,
        /// What has happened, unless the program just ended.
        message: Option<String>,
        /// Whether the VM stays up.
        stays: bool,
    },
    /// The user left with the escape key.
    Escaped,
    /// The user left with a signal.
    Interrupted(u8),
    /// The supervisor is gone without a message.
    Gone,
}

/// Why a session could not begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The VM belongs to another version of quiz.
    #[error("it belongs to another version of quiz (its frames have version {theirs}, not {})", quiz_proto::VERSION)]
    Version {
        /// The version of its frames.
        theirs: u32,
    },
    /// The user's output stream failed.
    #[error("cannot write to {stream}: {error}")]
    Write { stream: &'static str, error: io::Error },
    /// The user's standard input failed.
    #[error("cannot read standard input: {0}")]
    Read(#[source] io::Error),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Waits for the supervisor's welcome, which it sends when the run's program runs. Returns whether
/// that program has a terminal.
pub fn greet(socket: &UnixStream) -> Result<bool, ClientError> {
    let mut decoder = Decoder::default();
    loop {
        // Byte by byte, because the bytes after the welcome belong to the session.
        let mut byte = [0];
        if (&mut &*socket).read(&mut byte)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        decoder.push(&byte);
        match decoder.next::<Answer>() {
            Ok(Some(Answer::Welcome { version: quiz_proto::VERSION, terminal })) => return Ok(terminal),
            Ok(Some(Answer::Welcome { version, .. })) => return Err(ClientError::Version { theirs: version }),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(ClientError::Version { theirs: 0 }),
        }
    }
}

/// The user's side of a session.
pub struct Ends<'a> {
    /// The user's descriptors.
    pub streams: Streams,
    /// The user's signals.
    pub signals: &'a mut dyn Signals,
    /// The key that leaves the program's terminal when it is typed three times within a second.
    pub escape: Option<u8>,
    /// Called when input goes to the program from now on. Only if the caller has not received the
    /// welcome with [`greet`].
    pub begin: &'a mut dyn FnMut(),
    /// Decides what to do about a signal that ends programs.
    pub heed: &'a mut dyn FnMut(i32) -> Heed,
}

/// What happens on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heed {
    /// The program gets the signal.
    Pass,
    /// The program gets the signal, and the session ends.
    PassAndLeave,
    /// The session ends.
    Leave,
    /// Nothing: the caller has handled it.
    Nothing,
}

/// Sends `request`, and ties the program's streams to the user's until the session ends.
pub fn converse(socket: UnixStream, request: &Request, ends: Ends) -> Result<Parting, ClientError> {
    socket.set_nonblocking(true)?;
    let Ends { streams, signals, escape, begin, heed } = ends;
    let mut conversation = Conversation {
        socket,
        decoder: Decoder::default(),
        outgoing: Outgoing::default(),
        escape: Escape::new(escape),
        begin,
        heed,
        duplex: Duplex::new(streams.output, streams.errors)?,
        signals,
        heard_signals: 0,
        last_signal: 0,
        failed: None,
        parting: None,
    };
    encode(request, &mut conversation.outgoing.bytes).map_err(io::Error::other)?;
    match streams.input {
        Some(input) => conversation.duplex.read(input)?,
        // Another process feeds the run's program.
        None if *request == Request::Attach => {}
        None => conversation.say(ToGuest::Eof(ProgramId::MAIN, Stream::Stdin)),
    }
    conversation.go_on()
}

struct Conversation<'a> {
    socket: UnixStream,
    decoder: Decoder,
    outgoing: Outgoing,
    escape: Escape,
    begin: &'a mut dyn FnMut(),
    heed: &'a mut dyn FnMut(i32) -> Heed,
    duplex: Duplex,
    signals: &'a mut dyn Signals,
    heard_signals: u32,
    last_signal: u8,
    failed: Option<ClientError>,
    parting: Option<Parting>,
}

impl Conversation<'_> {
    fn go_on(mut self) -> Result<Parting, ClientError> {
        while self.parting.is_none() && self.failed.is_none() {
            self.turn(true);
        }
        self.duplex.end_output();
        self.duplex.end_input();
        let left = matches!(self.parting, Some(Parting::Escaped | Parting::Interrupted(_)));
        let before = self.heard_signals;
        // Output that has arrived is still written, unless the user sends a signal.
        while !left && self.failed.is_none() && self.heard_signals == before && self.duplex.is_writing() {
            self.turn(false);
        }
        if !left && self.duplex.is_writing() {
            // Incomplete output is no success.
            self.parting = Some(Parting::Interrupted(self.last_signal));
        }
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.parting.unwrap_or(Parting::Gone)),
        }
    }

    fn say(&mut self, message: ToGuest) {
        if let Err(e) = encode(&Request::Say(message), &mut self.outgoing.bytes) {
            self.failed.get_or_insert(io::Error::other(e).into());
        }
    }

    /// Waits for the next event and handles it. Events of the supervisor only if `socket`.
    fn turn(&mut self, socket: bool) {
        let ready = {
            let mut fds = [
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.duplex.wakeup(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | self.outgoing.interest()),
            ];
            let watched = if socket { 3 } else { 2 };
            match wait::ready(&mut fds[..watched], None) {
                Ok(_) => fds.map(|fd| !fd.revents().is_empty()),
                Err(_) => [true, true, socket],
            }
        };
        if ready[0] {
            self.on_signals();
        }
        if ready[1] {
            self.on_streams();
        }
        if ready[2] && socket {
            self.hear();
        }
        self.flush();
    }

    fn flush(&mut self) {
        // If the supervisor has closed the socket, its last messages must still be read.
        self.outgoing.flush(&self.socket).ok();
    }

    fn hear(&mut self) {
        let mut buffer = vec![0; 8 * CHUNK];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.parting = Some(Parting::Gone),
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.parting = Some(Parting::Gone),
        }
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Ok(Some(answer)) = decoder.next::<Answer>() {
            self.on_answer(answer);
        }
        self.decoder = decoder;
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Guest(ToHost::Data(_, stream, bytes)) => {
                if !self.duplex.write(stream, &bytes) {
                    // The output is discarded. Credit is still returned, so that the program can
                    // end.
                    let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    self.say(ToGuest::Credit(ProgramId::MAIN, stream, taken));
                }
            }
            Answer::Guest(ToHost::Eof(_, stream)) => {
                self.duplex.end(stream);
            }
            Answer::Guest(ToHost::Credit(_, Stream::Stdin, bytes)) => {
                self.duplex.allow(bytes);
            }
            Answer::Guest(ToHost::Ended { status, .. }) => self.parting = Some(Parting::Ended(status)),
            Answer::Over { code, message, stays } => self.parting = Some(Parting::Over { code, message, stays }),
            Answer::Welcome { .. } => (self.begin)(),
            Answer::Guest(_) => {}
        }
    }

    fn on_streams(&mut self) {
        for change in self.duplex.changes() {
            self.on_change(change);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(credit) = self.duplex.take_credit(stream) {
                self.say(ToGuest::Credit(ProgramId::MAIN, stream, credit));
            }
        }
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Input(bytes) => {
                if self.escape.typed(&bytes, Instant::now()) {
                    self.parting = Some(Parting::Escaped);
                    return;
                }
                self.say(ToGuest::Data(ProgramId::MAIN, Stream::Stdin, bytes.into()));
            }
            Change::InputEnded => self.say(ToGuest::Eof(ProgramId::MAIN, Stream::Stdin)),
            Change::InputFailed(error) => self.failed = Some(ClientError::Read(error)),
            Change::OutputClosed(stream, Some(error)) => {
                self.failed = Some(ClientError::Write { stream: duplex::name(stream), error });
            }
            Change::OutputClosed(stream, None) => self.say(ToGuest::Close(ProgramId::MAIN, stream)),
            Change::Unpacked(_) => {}
        }
    }

    fn on_signals(&mut self) {
        for signal in self.signals.pending() {
            if signal == libc::SIGWINCH {
                if let Some(size) = self.signals.window_size() {
                    self.say(ToGuest::Resize(ProgramId::MAIN, size));
                }
                continue;
            }
            self.heard_signals += 1;
            self.last_signal = u8::try_from(signal).unwrap_or(libc::SIGTERM as u8);
            let heed = (self.heed)(signal);
            if matches!(heed, Heed::Pass | Heed::PassAndLeave) {
                self.say(ToGuest::Signal(ProgramId::MAIN, signal));
                self.flush();
            }
            if matches!(heed, Heed::Leave | Heed::PassAndLeave) {
                let signal = u8::try_from(signal).unwrap_or(libc::SIGTERM as u8);
                self.parting = Some(Parting::Interrupted(signal));
            }
        }
    }
}
