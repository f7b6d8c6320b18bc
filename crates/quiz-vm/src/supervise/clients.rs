//! The clients of a running VM. Each runs a program of its own in it, or watches the run's program.
//! Not for their requests (`serving`).

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use quiz_proto::{Decoder, ProgramId, Stream, ToHost, WINDOW, encode};
use rustix::event::{PollFd, PollFlags};

use crate::control::Answer;
use crate::outgoing::Outgoing;

/// How many bytes of the program's recent output a new client receives.
const RECENT: usize = 64 * 1024;
/// How many bytes may be queued for a client that does not read. Credit lets an agent send far less
/// than this.
const WAITING: usize = 8 * WINDOW as usize;

/// All clients. No client is served before the program runs, because the VM may yet fail to resume.
/// The run is then tried another way.
#[derive(Default)]
pub(super) struct Clients {
    pub listener: Option<UnixListener>,
    /// Whether the program runs, so that clients are served.
    pub open: bool,
    pub front: Option<UnixStream>,
    pub all: Vec<Client>,
    /// How many programs were started for clients.
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
    /// It has not sent a request yet.
    New,
    /// It runs this program.
    Runs(ProgramId),
    /// It watches the run's program, and has not yet taken this many bytes.
    Watches(u32),
    /// It has received its last message.
    Served,
}

impl Client {
    pub fn new(socket: UnixStream) -> Client {
        Client { socket, decoder: Decoder::default(), outgoing: Outgoing::default(), role: Role::New, gone: false }
    }

    pub fn tell(&mut self, answer: &Answer) {
        // An answer that does not fit a frame would never be complete for its reader.
        self.gone |= encode(answer, &mut self.outgoing.bytes).is_err() || self.outgoing.bytes.len() > WAITING;
    }

    /// Writes as much as the socket accepts now.
    pub fn flush(&mut self) {
        self.gone |= !self.gone && self.outgoing.flush(&self.socket).is_err();
    }
}

impl Clients {
    /// No clients yet but `front`, which was connected before the VM started.
    pub fn new(listener: Option<UnixListener>, front: Option<UnixStream>) -> std::io::Result<Clients> {
        for socket in listener.iter() {
            socket.set_nonblocking(true)?;
        }
        for socket in front.iter() {
            socket.set_nonblocking(true)?;
        }
        Ok(Clients { listener, front, ..Clients::default() })
    }

    /// Serves clients from now on. The front end that was connected before the VM started watches
    /// the output from its first byte.
    pub fn open(&mut self, terminal: bool) {
        self.open = true;
        if let Some(front) = self.front.take() {
            let mut client = Client::new(front);
            client.role = Role::Watches(0);
            client.tell(&Answer::Welcome { version: quiz_proto::VERSION, terminal });
            self.all.push(client);
        }
    }

    /// The descriptors to poll: the listener, if clients are served, then one for each client.
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

    /// Whether a client that watches has more than [`WINDOW`] bytes yet to take.
    pub fn are_behind(&self) -> bool {
        self.all.iter().any(|client| matches!(client.role, Role::Watches(owing) if owing > WINDOW))
    }

    /// Sends output of the run's program to the clients that watch, and keeps it for new clients.
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
