//! The clients of a VM that runs: each has a program of its own run in it, or watches the run's.
//! Not for what they ask for (`serving`).

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use quiz_proto::{Decoder, ProgramId, Stream, ToHost, WINDOW, encode};
use rustix::event::{PollFd, PollFlags};

use crate::control::Answer;
use crate::outgoing::Outgoing;

/// How much of the program's last output those see who come later, in bytes.
const RECENT: usize = 64 * 1024;
/// How much may wait for somebody who does not listen, in bytes: far more than credit allows an
/// agent to send.
const WAITING: usize = 8 * WINDOW as usize;

/// All who are there. Nobody is heard before the program runs: the VM may yet turn out not to come
/// to life, and the run be tried another way.
#[derive(Default)]
pub(super) struct Clients {
    pub listener: Option<UnixListener>,
    /// The program runs.
    pub open: bool,
    pub front: Option<UnixStream>,
    pub all: Vec<Client>,
    /// How many programs were started for them.
    pub programs: u32,
    pub recent: VecDeque<(Stream, Vec<u8>)>,
    pub recent_bytes: usize,
}

pub(super) struct Client {
    pub socket: UnixStream,
    pub decoder: Decoder,
    pub outgoing: Outgoing,
    pub role: Role,
    pub gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It has not said what it wants.
    New,
    /// It has this program run.
    Runs(ProgramId),
    /// It watches the run's program, and has so many bytes yet to take.
    Watches(u32),
    /// It has heard the last word.
    Served,
}

impl Client {
    pub fn new(socket: UnixStream) -> Client {
        Client { socket, decoder: Decoder::default(), outgoing: Outgoing::default(), role: Role::New, gone: false }
    }

    pub fn tell(&mut self, answer: &Answer) {
        // An answer that fits no frame is one that its reader never sees the end of.
        self.gone |= encode(answer, &mut self.outgoing.bytes).is_err() || self.outgoing.bytes.len() > WAITING;
    }

    /// Writes what it takes now.
    pub fn flush(&mut self) {
        self.gone |= !self.gone && self.outgoing.flush(&self.socket).is_err();
    }
}

impl Clients {
    /// Nobody yet but `front`, who was there before the VM.
    pub fn new(listener: Option<UnixListener>, front: Option<UnixStream>) -> std::io::Result<Clients> {
        for socket in listener.iter() {
            socket.set_nonblocking(true)?;
        }
        for socket in front.iter() {
            socket.set_nonblocking(true)?;
        }
        Ok(Clients { listener, front, ..Clients::default() })
    }

    /// Hears everybody from now on. The one who was there before the VM watches from the first byte
    /// on.
    pub fn open(&mut self, terminal: bool) {
        self.open = true;
        if let Some(front) = self.front.take() {
            let mut client = Client::new(front);
            client.role = Role::Watches(0);
            client.tell(&Answer::Welcome { version: quiz_proto::VERSION, terminal });
            self.all.push(client);
        }
    }

    /// What is waited for.
    pub fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = self
            .listener
            .iter()
            .filter(|_| self.open)
            .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        listener.chain(
            self.all.iter().map(|client| {
                PollFd::from_borrowed_fd(client.socket.as_fd(), PollFlags::IN | client.outgoing.interest())
            }),
        )
    }

    pub fn tell_watchers(&mut self, answer: &Answer) {
        self.all.iter_mut().filter(|client| matches!(client.role, Role::Watches(_))).for_each(|c| c.tell(answer));
    }

    /// Somebody who watches has not taken yet what the guest may send without being paid.
    pub fn are_behind(&self) -> bool {
        self.all.iter().any(|client| matches!(client.role, Role::Watches(owing) if owing > WINDOW))
    }

    /// Shows those who watch, and those who come later, what the run's program has written.
    pub fn show(&mut self, stream: Stream, bytes: &[u8]) {
        if self.listener.is_none() && self.all.is_empty() {
            return;
        }
        for client in &mut self.all {
            if let Role::Watches(owing) = &mut client.role {
                *owing = owing.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                client.tell(&Answer::Guest(ToHost::Data(ProgramId::MAIN, stream, bytes.into())));
            }
        }
        self.recent_bytes += bytes.len();
        self.recent.push_back((stream, bytes.to_vec()));
        while self.recent_bytes > RECENT {
            let (_, oldest) = self.recent.pop_front().unwrap_or((stream, Vec::new()));
            self.recent_bytes -= oldest.len();
        }
    }
}
