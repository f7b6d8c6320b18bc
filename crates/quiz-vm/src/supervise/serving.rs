//! Serves clients: runs programs for them, and passes messages between them and the agent. Not for
//! the messages (`control`), nor for the clients' own side (`client`).

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use quiz_proto::{CHUNK, MAX_MESSAGE, Program, ProgramId, Status, Stream, ToGuest, ToHost};

use super::clients::{Client, Role};
use super::{Phase, Supervisor};
use crate::control::{Answer, Exec, Request};
use crate::verdict::Verdict;

/// The limit for the arguments and the environment of a program, in bytes. It fits a frame, and is
/// more than Linux accepts.
const WORDS: usize = MAX_MESSAGE - 64 * 1024;
/// How long a client may take to receive its last message.
const FAREWELL: Duration = Duration::from_secs(1);

impl Supervisor<'_> {
    /// Serves the clients whose descriptors are ready, in the order of [`Clients::polled`].
    pub(super) fn serve(&mut self, ready: &[bool]) {
        let listens = self.clients.open && self.clients.listener.is_some();
        for (i, _) in ready.iter().skip(usize::from(listens)).enumerate().filter(|(_, ready)| **ready) {
            self.hear(i);
        }
        if listens && ready[0] {
            while let Some(Ok((socket, _))) = self.clients.listener.as_ref().map(UnixListener::accept) {
                self.welcome(socket);
            }
        }
        self.part_with_the_gone();
    }

    fn welcome(&mut self, socket: UnixStream) {
        // A client whose socket cannot be used is dropped.
        if socket.set_nonblocking(true).is_ok() {
            let mut client = Client::new(socket);
            client.tell(&Answer::Welcome { version: quiz_proto::VERSION, terminal: self.terminal.is_some() });
            self.clients.all.push(client);
        }
    }

    fn hear(&mut self, i: usize) {
        let mut buffer = vec![0; 2 * CHUNK];
        let client = &mut self.clients.all[i];
        match client.socket.read(&mut buffer) {
            Ok(0) => client.gone = true,
            Ok(n) => client.decoder.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(_) => client.gone = true,
        }
        self.do_as_asked(i);
    }

    fn do_as_asked(&mut self, i: usize) {
        if !matches!(self.phase, Phase::Running | Phase::Kept) {
            return;
        }
        let mut decoder = std::mem::take(&mut self.clients.all[i].decoder);
        loop {
            match decoder.next::<Request>() {
                Ok(Some(request)) => self.on_request(i, request),
                Ok(None) => break,
                // A quiz of another version. It has read the version in the welcome by now.
                Err(_) => {
                    self.clients.all[i].gone = true;
                    break;
                }
            }
        }
        self.clients.all[i].decoder = decoder;
    }

    fn on_request(&mut self, i: usize, request: Request) {
        match (request, self.clients.all[i].role) {
            (Request::Exec(exec), Role::New) => {
                self.clients.programs += 1;
                let id = ProgramId(self.clients.programs);
                self.clients.all[i].role = Role::Runs(id);
                let program = Box::new(self.program_of(*exec));
                if size_of_words(&program) > WORDS {
                    let status = Status::NotExecutable(libc::E2BIG);
                    return self.pass_on(id, ToHost::Ended { id, status });
                }
                self.say(&ToGuest::Exec { id, program });
            }
            (Request::Attach, Role::New) => {
                let client = &mut self.clients.all[i];
                let mut owing = 0;
                for (stream, bytes) in &self.clients.recent {
                    owing += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    client.tell(&Answer::Guest(ToHost::Data(ProgramId::MAIN, *stream, bytes.as_slice().into())));
                }
                client.role = Role::Watches(owing);
                if self.phase == Phase::Kept {
                    self.dismiss_watchers();
                }
            }
            (Request::Attach, Role::Watches(_)) => {}
            (Request::Say(message), Role::Runs(id)) => match message {
                ToGuest::Data(_, stream, bytes) => self.say(&ToGuest::Data(id, stream, bytes)),
                ToGuest::Eof(_, stream) => self.say(&ToGuest::Eof(id, stream)),
                ToGuest::Credit(_, stream, bytes) => self.say(&ToGuest::Credit(id, stream, bytes)),
                ToGuest::Close(_, stream) => self.say(&ToGuest::Close(id, stream)),
                ToGuest::Resize(_, size) => self.say(&ToGuest::Resize(id, size)),
                ToGuest::Signal(_, signal) => self.say(&ToGuest::Signal(id, signal)),
                _ => self.clients.all[i].gone = true,
            },
            (Request::Say(message), Role::Watches(owing)) => match message {
                ToGuest::Credit(_, _, bytes) => {
                    self.clients.all[i].role = Role::Watches(owing.saturating_sub(bytes));
                    self.pay_all();
                }
                // A client that watches can leave. A client whose program it is closes the
                // program's output.
                ToGuest::Close(_, stream) if self.is_kept() => {
                    self.clients.all[i].role = Role::Watches(0);
                    self.say(&ToGuest::Close(ProgramId::MAIN, stream));
                }
                ToGuest::Close(..) => {
                    let code = Verdict::Signalled { signal: libc::SIGPIPE as u8 }.exit_code();
                    self.clients.all[i].role = Role::Served;
                    self.clients.all[i].tell(&Answer::Over { code, message: None, stays: true });
                    self.pay_all();
                }
                // Input of clients would mix with the user's own input or terminal.
                ToGuest::Data(_, stream, bytes) if self.terminal.is_some() || self.is_kept() => {
                    self.say(&ToGuest::Data(ProgramId::MAIN, stream, bytes));
                }
                ToGuest::Eof(_, stream) if self.is_kept() => self.say(&ToGuest::Eof(ProgramId::MAIN, stream)),
                ToGuest::Resize(_, size) if self.is_kept() => self.say(&ToGuest::Resize(ProgramId::MAIN, size)),
                ToGuest::Signal(_, signal) => self.say(&ToGuest::Signal(ProgramId::MAIN, signal)),
                _ => {}
            },
            (_, Role::Served) => {}
            _ => self.clients.all[i].gone = true,
        }
    }

    /// A program of a client, in the environment of the run's program.
    fn program_of(&self, exec: Exec) -> Program {
        let (mut env, cwd) = self.surroundings.clone();
        for (name, value) in exec.env {
            env.retain(|(known, _)| *known != name);
            env.push((name, value));
        }
        Program {
            argv: exec.argv,
            env,
            cwd: std::iter::once(exec.cwd).chain(cwd).collect(),
            terminal: exec.terminal,
            separate_stderr: exec.separate_stderr,
            shell_after: false,
        }
    }

    /// Sends a message of the agent about the run's program to the clients that watch it.
    pub(super) fn tell_watchers(&mut self, message: ToHost) {
        self.clients.tell_watchers(&Answer::Guest(message));
    }

    /// Passes a message of the agent about a client's program on to that client.
    pub(super) fn pass_on(&mut self, id: ProgramId, message: ToHost) {
        let owner = self.clients.all.iter_mut().find(|client| client.role == Role::Runs(id));
        // If the client is gone, quiz has already told the agent.
        if let Some(client) = owner {
            if matches!(message, ToHost::Ended { .. }) {
                client.role = Role::Served;
            }
            client.tell(&Answer::Guest(message));
        }
    }

    pub(super) fn write_clients(&mut self) {
        self.clients.all.iter_mut().for_each(Client::flush);
        self.part_with_the_gone();
    }

    fn part_with_the_gone(&mut self) {
        if !self.clients.all.iter().any(|client| client.gone) {
            return;
        }
        let all = std::mem::take(&mut self.clients.all);
        let (gone, there): (Vec<_>, Vec<_>) = all.into_iter().partition(|client| client.gone);
        self.clients.all = there;
        for client in gone {
            if let Role::Runs(id) = client.role {
                self.say(&ToGuest::Signal(id, libc::SIGHUP));
                self.say(&ToGuest::Close(id, Stream::Stdout));
                self.say(&ToGuest::Close(id, Stream::Stderr));
                self.say(&ToGuest::Eof(id, Stream::Stdin));
            }
        }
        let watched = self.clients.all.iter().any(|client| matches!(client.role, Role::Watches(_)));
        if self.is_kept() && self.terminal.is_none() && !watched {
            // No client is left that could type.
            self.say(&ToGuest::Eof(ProgramId::MAIN, Stream::Stdin));
        }
        self.pay_all();
    }

    /// The run's program has ended and the guest stays up. Sends the clients that watch their last
    /// message.
    pub(super) fn dismiss_watchers(&mut self) {
        self.read_console();
        let verdict = match (self.strict_report(), self.seen.status) {
            (Some(message), _) => Verdict::Report { message },
            (None, Some(status)) => status.into(),
            (None, None) => return,
        };
        let message = matches!(verdict, Verdict::Report { .. }).then(|| verdict.headline());
        for client in &mut self.clients.all {
            if matches!(client.role, Role::Watches(_)) {
                client.tell(&Answer::Over { code: verdict.exit_code(), message: message.clone(), stays: true });
                client.role = Role::Served;
            }
        }
    }

    /// The VM has ended. Sends the last message to all remaining clients.
    pub(super) fn say_farewell(&mut self, verdict: &Verdict) {
        // Clients that were never served receive it too.
        self.clients.open(self.terminal.is_some());
        while let Some(Ok((socket, _))) = self.clients.listener.as_ref().map(UnixListener::accept) {
            self.welcome(socket);
        }
        self.clients.listener = None;
        for mut client in std::mem::take(&mut self.clients.all) {
            if client.role != Role::Served {
                client.tell(&last_word(verdict, client.role, self.dir.path()));
            }
            // A client that does not read within [`FAREWELL`] misses the message.
            client.socket.set_nonblocking(false).ok();
            client.socket.set_write_timeout(Some(FAREWELL)).ok();
            client.socket.write_all(&client.outgoing.bytes).ok();
        }
    }
}

fn size_of_words(program: &Program) -> usize {
    let env = program.env.iter().flat_map(|(name, value)| [name, value]);
    // Each string is preceded by its length.
    program.argv.iter().chain(&program.cwd).chain(env).map(|word| word.len() + 5).sum()
}

fn last_word(verdict: &Verdict, role: Role, dir: &Path) -> Answer<'static> {
    let of_program = matches!(verdict, Verdict::Exited { .. } | Verdict::Signalled { .. });
    if of_program && !matches!(role, Role::Watches(_)) {
        let message = "the VM has shut down".to_owned();
        return Answer::Over {
            code: Verdict::Lost { message: String::new() }.exit_code(),
            message: Some(message),
            stays: false,
        };
    }
    let told = || format!("the VM has ended: {}; the evidence is in {}", verdict.headline(), dir.display());
    let message = (!of_program).then(told);
    Answer::Over { code: verdict.exit_code(), message, stays: false }
}
