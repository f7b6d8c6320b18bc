//! The programs of the guest: the run's own program and the programs started beside it. The agent
//! feeds, reads, signals and waits for them. Not for starting a program (see `program`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quiz_proto::{CHUNK, Nonce, Order, Program, ProgramId, Status, Stream, ToGuest, ToHost};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::link::{Link, Receiver, Sender, locked};
use crate::program::{self, Running};
use crate::{kmsg, stacks, terminal};

/// Time between two heartbeats.
const PULSE: Duration = Duration::from_secs(1);

/// How long output may still arrive after a program has ended. Only processes that the program left
/// behind need this time.
const DRAIN: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Limits for reading from processes that an ended program left behind: time, without the time that
/// the host takes, and size in bytes. The program's own last output always fits: the largest pipe
/// holds no more.
const TALK: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// All programs that run.
pub struct Programs {
    link: Link,
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    running: HashMap<ProgramId, Entry>,
    /// Number of programs started.
    started: u64,
    /// The host no longer keeps the guest.
    ending: bool,
}

/// The parts of a running program that the host's orders act on.
struct Entry {
    /// Its process group.
    group: i32,
    terminal: Option<Arc<File>>,
    /// Its input, until that has ended.
    feed: Option<mpsc::Sender<Vec<u8>>>,
    /// Receives the status when the program ends.
    ended: Option<mpsc::Sender<Status>>,
}

impl Entry {
    fn signal(&self, signal: i32) {
        let group = self.terminal.as_deref().and_then(terminal::foreground_group).unwrap_or(self.group);
        if group > 1 {
            // SAFETY: kill has no memory effects; the group is the program's.
            unsafe { libc::kill(-group, signal) };
        }
        if signal == libc::SIGHUP && self.group > 1 {
            // The terminal is gone for all of its processes: stopped ones too, and the shell that
            // is not in the foreground.
            for signal in [libc::SIGHUP, libc::SIGCONT] {
                // SAFETY: as above.
                unsafe { libc::kill(-self.group, signal) };
            }
        }
    }
}

/// The threads that carry a program's output, and the eventfd that reports the program's end to
/// them.
struct Outputs {
    over: Arc<OwnedFd>,
    pumps: Vec<JoinHandle<()>>,
}

impl Outputs {
    /// Returns when all output is sent.
    fn drain(self) {
        rustix::io::write(&*self.over, &1u64.to_ne_bytes()).expect("an eventfd takes one event");
        for pump in self.pumps {
            // A pump that panicked has reported itself through the panic hook.
            pump.join().ok();
        }
    }
}

/// Runs the order's program to its end and reports its status. Before that it sends all of the
/// program's output and the findings of `watch`. A guest that is to be kept then waits until the
/// host ends it.
pub fn run(order: &Order, nonce: Nonce, link: &Link, receiver: Receiver, mut watch: Option<&mut kmsg::Watch>) {
    let program = &order.program;
    let programs = listen(receiver, link);
    if let Some(watch) = &mut watch {
        watch.begin();
    }
    let mut running = match Running::start(program) {
        Ok(running) => running,
        Err(status) => return link.send(&ToHost::Exited { nonce, status }),
    };
    let (pid, slave) = (running.pid, running.slave.take());
    let outputs = {
        // The host sends orders as soon as it knows that the program runs. They must find the
        // program in the table.
        let mut table = locked(&programs.table);
        link.send(&ToHost::Started);
        programs.add(&mut table, ProgramId::MAIN, running, None)
    };
    if let Some(level) = order.messages {
        kmsg::forward(link.clone(), level);
    }
    pulse(link.clone());
    let status = programs.wait_for(pid);
    if let (true, Some(slave)) = (program.shell_after, &slave)
        && let Some(shell) = program::shell_after(program, slave, status)
    {
        if let Some(entry) = locked(&programs.table).running.get_mut(&ProgramId::MAIN) {
            entry.group = shell;
        }
        // The run's status is the program's, not the shell's.
        programs.wait_for(shell);
    }
    if !order.keep {
        // Processes that the program left behind would hold its output open. The VM is about to end
        // anyway.
        kill_all();
    }
    drop(slave);
    outputs.drain();
    locked(&programs.table).running.remove(&ProgramId::MAIN);
    if let Some(watch) = watch {
        watch.tell(link);
    }
    link.send(&ToHost::Exited { nonce, status });
    if order.keep {
        programs.wait_for_end();
        kill_all();
    }
}

/// Receives the host's messages from now on, on a thread of its own.
pub fn listen(receiver: Receiver, link: &Link) -> Arc<Programs> {
    let table = Mutex::new(Table::default());
    let programs = Arc::new(Programs { link: link.clone(), table, changed: Condvar::new() });
    let ours = programs.clone();
    thread::spawn(move || ours.hear(receiver));
    programs
}

impl Programs {
    /// Carries out the host's messages as they arrive.
    fn hear(self: &Arc<Self>, mut receiver: Receiver) {
        loop {
            if let Err(e) = receiver.next(|message| self.obey(message)) {
                return self.link.send(&ToHost::Broken(format!("the host is not understood: {e}").into()));
            }
        }
    }

    fn obey(self: &Arc<Self>, message: ToGuest) {
        match message {
            ToGuest::Exec { id, program } => self.exec(id, &program),
            ToGuest::Data(id, Stream::Stdin, bytes) => self.with(id, |entry| {
                if let Some(feed) = &entry.feed {
                    // If the program takes no more input, the feeder has already reported that to
                    // the host.
                    feed.send(bytes.into_owned()).ok();
                }
            }),
            ToGuest::Eof(id, Stream::Stdin) => self.with(id, |entry| {
                if entry.terminal.is_none() {
                    entry.feed = None;
                }
            }),
            ToGuest::Credit(id, stream, n) => self.link.credit(id, stream, Some(n)),
            ToGuest::Close(id, stream) => self.link.credit(id, stream, None),
            ToGuest::Resize(id, size) => self.with(id, |entry| {
                if let Some(terminal) = &entry.terminal {
                    // A terminal that keeps its old size must not end the run.
                    terminal::resize(&**terminal, size).ok();
                }
            }),
            ToGuest::Signal(id, signal) => self.with(id, |entry| entry.signal(signal)),
            ToGuest::Stacks => stacks::send(&self.link),
            ToGuest::Kill => kill_all(),
            ToGuest::End => {
                locked(&self.table).ending = true;
                self.changed.notify_all();
            }
            ToGuest::Data(..)
            | ToGuest::Eof(..)
            | ToGuest::Prepare { .. }
            | ToGuest::Rehearse { .. }
            | ToGuest::Start { .. }
            | ToGuest::Salvage { .. } => {}
        }
    }

    fn with(&self, id: ProgramId, act: impl FnOnce(&mut Entry)) {
        // A program that has just ended is no longer in the table; the host may not know that yet.
        if let Some(entry) = locked(&self.table).running.get_mut(&id) {
            act(entry);
        }
    }

    /// Starts a program beside the run's own, and reports its end.
    fn exec(self: &Arc<Self>, id: ProgramId, program: &Program) {
        let (ended, end) = mpsc::channel();
        // The table stays locked until it holds the program: the thread that learns of its end
        // looks it up there.
        let mut table = locked(&self.table);
        let outputs = match Running::start(program) {
            Ok(running) => self.add(&mut table, id, running, Some(ended)),
            Err(status) => return self.link.send(&ToHost::Ended { id, status }),
        };
        drop(table);
        self.changed.notify_all();
        let ours = self.clone();
        thread::spawn(move || {
            // No status arrives if the guest is shutting down.
            let Ok(status) = end.recv() else { return };
            outputs.drain();
            locked(&ours.table).running.remove(&id);
            ours.link.send(&ToHost::Ended { id, status });
        });
    }

    /// Adds a started program to the table and carries its streams from now on.
    fn add(&self, table: &mut Table, id: ProgramId, running: Running, ended: Option<mpsc::Sender<Status>>) -> Outputs {
        let feed = running.input.map(|input| {
            let (feed, fed) = mpsc::channel();
            let link = self.link.clone();
            thread::spawn(move || feed_input(&link, id, input, &fed));
            feed
        });
        let over = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd can be made"));
        let pump = |(stream, file)| {
            let (sender, over) = (self.link.sender(id, stream), over.clone());
            thread::spawn(move || pump(sender, file, &over))
        };
        let pumps = running.outputs.into_iter().map(pump).collect();
        table.running.insert(id, Entry { group: running.pid, terminal: running.terminal.map(Arc::new), feed, ended });
        table.started += 1;
        Outputs { over, pumps }
    }

    /// Waits for the process `pid`. Forwards the statuses of other programs that end meanwhile.
    fn wait_for(&self, pid: i32) -> Status {
        loop {
            match program::wait_for_any(|| locked(&self.table)) {
                Some((ended, status)) if ended == pid => return status,
                Some((ended, status)) => self.on_end(ended, status),
                // The kernel no longer knows the program. Its status is unknown, so it must not
                // count as success.
                None => return Status::Signal(libc::SIGKILL as u8),
            }
        }
    }

    fn on_end(&self, pid: i32, status: Status) {
        let mut table = locked(&self.table);
        // An earlier program may have had the same process number, and its output may still be on
        // its way.
        let entry = table.running.values_mut().find(|entry| entry.group == pid && entry.ended.is_some());
        if let Some(ended) = entry.and_then(|entry| entry.ended.take()) {
            // The thread that waits for the status waits without a time limit.
            ended.send(status).ok();
        }
    }

    /// Returns when the host no longer keeps the guest. Processes that are stuck in the kernel do
    /// not delay that.
    fn wait_for_end(self: &Arc<Self>) {
        let ours = self.clone();
        thread::spawn(move || ours.reap());
        let mut table = locked(&self.table);
        while !table.ending {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn reap(&self) {
        loop {
            let started = locked(&self.table).started;
            match program::wait_for_any(|| locked(&self.table)) {
                Some((pid, status)) => self.on_end(pid, status),
                None => {
                    let mut table = locked(&self.table);
                    while table.started == started {
                        table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }
}

fn kill_all() {
    // SAFETY: no memory effects; from the first process it reaches every process but itself.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

fn feed_input(link: &Link, id: ProgramId, mut input: File, fed: &mpsc::Receiver<Vec<u8>>) {
    for bytes in fed {
        if input.write_all(&bytes).is_err() {
            return link.send(&ToHost::Close(id, Stream::Stdin));
        }
        link.send(&ToHost::Credit(id, Stream::Stdin, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    }
}

/// Carries one output stream to the host. Stops when the stream ends, when nobody reads it any
/// more, or when the program has ended and the stream is drained.
fn pump(sender: Sender, mut file: File, over: &OwnedFd) {
    let mut buffer = vec![0; CHUNK];
    let mut is_over = false;
    let (mut waited, mut taken) = (Duration::ZERO, 0);
    while let Some(allowed) = sender.wait_for_credit() {
        let timeout = is_over.then_some(DRAIN);
        let mut fds = [PollFd::new(&file, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
        let watched = if is_over { 1 } else { 2 };
        let begin = Instant::now();
        let polled = poll(&mut fds[..watched], timeout.as_ref());
        if is_over {
            waited += begin.elapsed();
        }
        match polled {
            Ok(0) => break,
            // Processes that the program left behind keep writing.
            Ok(_) if waited > TALK.0 || taken > TALK.1 => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        }
        if fds[0].revents().is_empty() {
            is_over = true;
            continue;
        }
        match file.read(&mut buffer[..allowed]) {
            Ok(0) => break,
            Ok(n) => {
                sender.send(&buffer[..n]);
                taken += if is_over { n } else { 0 };
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Reading a terminal whose last user is gone fails with EIO.
            Err(_) => break,
        }
    }
}

fn pulse(link: Link) {
    thread::spawn(move || {
        loop {
            thread::sleep(PULSE);
            link.send(&ToHost::Pulse);
        }
    });
}
