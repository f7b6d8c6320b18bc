//! The supervisor's side of the channel to the agent: sends messages, and handles those that
//! arrive. Not for the frames themselves (`quiz_proto`).

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use fs_err as fs;
use quiz_host::held::path_of;
use quiz_proto::{CHUNK, ProgramId, Status, Stream, ToGuest, ToHost, encode};

use super::{Job, NOTES, Notice, PANIC, Phase, Point, SAMPLE, SAVE, Supervisor, UNTAKEN};
use crate::artifacts::Unpacking;
use crate::clock;
use crate::qemu::SavesTo;
use crate::qmp::{Command, CommandName};

/// How many characters of a failure message of the guest are kept.
const WORDS: usize = 4096;

impl Supervisor<'_> {
    pub(super) fn say(&mut self, message: &ToGuest) {
        if let Err(e) = encode(message, &mut self.to_guest.bytes) {
            self.fail(format!("cannot send the guest its orders: {e}"));
        }
        if self.to_guest.bytes.len() > UNTAKEN {
            self.seen.violation.get_or_insert_with(|| "the guest asked for input and did not read it".to_owned());
            self.to_guest.bytes.clear();
            self.monitor.kill();
        }
    }

    pub(super) fn write_agent(&mut self) {
        // A closed socket means that QEMU is ending, which the pidfd reports.
        self.to_guest.flush(&self.monitor.agent).ok();
    }

    pub(super) fn read_agent(&mut self) {
        let mut buffer = vec![0; 8 * CHUNK];
        // Reads only a few times, so that a guest that sends much does not delay the deadlines.
        for _ in 0..8 {
            let Ok(n @ 1..) = (&self.monitor.agent).read(&mut buffer) else { return };
            let mut decoder = std::mem::take(&mut self.decoder);
            decoder.push(&buffer[..n]);
            loop {
                match decoder.next::<ToHost>() {
                    Ok(Some(message)) => self.on_message(message),
                    Ok(None) => break,
                    Err(e) => {
                        self.seen.violation.get_or_insert_with(|| format!("the agent sent {e}"));
                        self.monitor.kill();
                        return;
                    }
                }
            }
            self.decoder = decoder;
            self.heard = Instant::now();
            if self.heard_mark.at + SAMPLE <= self.heard {
                self.heard_mark = self.mark();
            }
            if self.panic_at.is_some_and(|at| at.elapsed() > PANIC / 5) && self.seen.shutdown.is_none() {
                // The agent still sends, so the kernel is alive and something else printed the
                // panic message.
                self.panic_at = None;
            }
        }
    }

    fn on_message(&mut self, message: ToHost) {
        match message {
            ToHost::Hello { version } => self.on_hello(version),
            ToHost::Ready if self.phase == Phase::Preparing => self.reach(Point::Ready),
            // A time limit was reached in the meantime.
            ToHost::Ready => {}
            ToHost::Begun if self.phase == Phase::Resuming => {
                self.boot = Some(self.began.elapsed());
                self.enter_until(Phase::Preparing, Some(self.boot_deadline()));
            }
            ToHost::Begun => {}
            ToHost::Started => self.on_started(),
            ToHost::Pulse => {}
            ToHost::Data(id, stream, bytes) => self.on_data(id, stream, bytes),
            ToHost::Eof(ProgramId::MAIN, stream) => {
                self.duplex.end(stream);
            }
            ToHost::Credit(ProgramId::MAIN, Stream::Stdin, bytes) => {
                self.duplex.allow(bytes);
                self.tell_watchers(ToHost::Credit(ProgramId::MAIN, Stream::Stdin, bytes));
            }
            ToHost::Credit(ProgramId::MAIN, ..) | ToHost::Close(ProgramId::MAIN, _) => {}
            ToHost::Eof(id, _) | ToHost::Credit(id, ..) | ToHost::Close(id, _) => {
                self.pass_on(id, message);
            }
            ToHost::Ended { id, .. } => self.pass_on(id, message),
            ToHost::Log(messages) => self.console.log(&messages),
            // After a time limit, kernel messages go only to the run's files.
            ToHost::Kernel { .. } if !matches!(self.phase, Phase::Running | Phase::Kept | Phase::Ending) => {}
            ToHost::Kernel { level, micros, text } => {
                // When the run ends, the kernel's log may have overwritten this message.
                self.console.log(&text);
                (self.show)(Notice::Kernel { level, micros, text: &text });
            }
            ToHost::Tainted(bits) => self.taint |= bits,
            ToHost::Note(text) => {
                // A guest could send a note for each of a million files.
                self.notes.of_guest += 1;
                if self.notes.of_guest <= NOTES {
                    let text = shortened(&text);
                    (self.show)(Notice::Note(&text));
                    self.notes.all.push(text);
                }
            }
            ToHost::Stacks(text) => self.on_stacks(&text),
            ToHost::StacksEnd if matches!(self.phase, Phase::Stacks | Phase::Nmi) => {
                self.seen.mute = None;
                if self.wants_dump() { self.end_or_dump() } else { self.kill_processes() }
            }
            ToHost::StacksEnd => {}
            ToHost::Exited { nonce, status } if nonce == self.nonce => self.on_exited(status),
            ToHost::Sent(sent) => self.seen.sent = Some(sent),
            ToHost::Down { nonce } if nonce == self.nonce => {
                self.seen.down = true;
                self.quit();
            }
            ToHost::Exited { .. } | ToHost::Down { .. } => {
                self.seen.violation.get_or_insert_with(|| "a record of another run came from the guest".to_owned());
                self.monitor.kill();
            }
            // The program has not started, so this is no verdict on the kernel under test.
            ToHost::Failed(why) if self.ready.is_none() => {
                self.seen.failed.get_or_insert(shortened(&why));
                self.quit();
            }
            ToHost::Failed(why) | ToHost::Broken(why) => {
                self.seen.violation.get_or_insert(shortened(&why));
                self.monitor.kill();
            }
            ToHost::Spoilt(what) => {
                self.seen.spoilt.get_or_insert(shortened(&what));
            }
        }
    }

    /// Handles output of a program, or bytes of the artifacts.
    fn on_data(&mut self, id: ProgramId, stream: Stream, bytes: Cow<'_, [u8]>) {
        let refused = match id {
            // The agent never puts more than this into one message. More would not fit the frames
            // that pass it on to a client.
            _ if bytes.len() > CHUNK => Some("the guest sent an endless message"),
            _ if bytes.is_empty() => return,
            ProgramId::MAIN if !self.spend(stream, bytes.len()) => {
                Some("the guest sent more than its flow-control window allows")
            }
            _ => None,
        };
        if let Some(what) = refused {
            self.seen.violation.get_or_insert_with(|| what.to_owned());
            self.monitor.kill();
            return;
        }
        match (id, stream) {
            (ProgramId::MAIN, Stream::Artifacts) => {
                self.seen.received.add(stream, bytes.len());
                self.on_artifacts(&bytes);
            }
            (ProgramId::MAIN, _) => {
                self.seen.received.add(stream, bytes.len());
                self.clients.show(stream, &bytes);
                self.duplex.write(stream, &bytes);
            }
            _ => self.pass_on(id, ToHost::Data(id, stream, bytes)),
        }
    }

    /// The run's program has ended.
    fn on_exited(&mut self, status: Status) {
        self.seen.status.get_or_insert(status);
        self.program = self.ready.map(|ready| self.began.elapsed().saturating_sub(ready));
        if let Some(limit) = self.limits.keep.filter(|_| self.phase == Phase::Running) {
            self.enter(Phase::Kept, Some(limit));
            return self.dismiss_watchers();
        }
        // The program did not start, or the run was ending anyway, so the VM is not kept.
        if self.is_kept() {
            self.say(&ToGuest::End);
        }
        if matches!(self.phase, Phase::Preparing | Phase::Running) {
            self.enter(Phase::Ending, None);
        }
    }

    /// Subtracts bytes from what the guest may send of a stream. Returns whether it was allowed to
    /// send them.
    fn spend(&mut self, stream: Stream, bytes: usize) -> bool {
        let Some(spendable) = self.spendable.of(stream) else { return true };
        match spendable.checked_sub(bytes as u64) {
            Some(left) => {
                *spendable = left;
                true
            }
            None => false,
        }
    }

    fn on_hello(&mut self, version: u32) {
        if self.phase != Phase::Booting {
            // The guest has restarted and QEMU has not noticed.
            self.seen.violation.get_or_insert_with(|| "the agent started a second time".to_owned());
            self.monitor.kill();
            return;
        }
        if version != quiz_proto::VERSION {
            self.seen.failed = Some(format!(
                "the agent speaks version {version} of the frames and quiz version {}; delete the initramfs cache",
                quiz_proto::VERSION
            ));
            return self.quit();
        }
        self.boot = Some(self.began.elapsed());
        self.enter_until(Phase::Preparing, Some(self.boot_deadline()));
        self.reach(Point::Booted);
    }

    /// The guest has reached a point at which a snapshot can be taken.
    fn reach(&mut self, point: Point) {
        match self.snapshots.as_mut().and_then(|snapshots| snapshots.state_file(point)) {
            Some(state) => {
                self.enter(Phase::Saving(point), Some(SAVE));
                if let Err(e) = self.save_to(&state) {
                    self.seen.refused = Some(e.to_string());
                    self.on_migration("failed");
                }
            }
            None => self.say_next(point),
        }
    }

    fn save_to(&mut self, state: &Path) -> io::Result<()> {
        let file = fs::File::create(state)?.into_parts().0;
        match self.saves_to {
            SavesTo::File => self.monitor.say(Command::save_to_file(&path_of(&file).to_string_lossy())),
            SavesTo::Descriptor => {
                self.monitor.say_with(&Command::take_descriptor(), file.as_fd())?;
                self.monitor.say(Command::save_to_descriptor());
            }
        }
        self.state = Some(file);
        Ok(())
    }

    /// Continues the VM at `point`, whether or not the snapshot succeeded.
    pub(super) fn continue_from(&mut self, point: Point) {
        self.monitor.say(CommandName::Cont);
        self.enter_until(Phase::Preparing, Some(self.boot_deadline()));
        self.say_next(point);
    }

    fn say_next(&mut self, point: Point) {
        match point {
            Point::Booted => self.say_order(),
            Point::Ready => self.start_program(),
        }
    }

    /// Tells the agent what to do, once it is up.
    pub(super) fn say_order(&mut self) {
        let nonce = self.nonce;
        match &self.job {
            Some(Job::Program(system, _)) => {
                let (moment, system) = (clock::now(), system.clone());
                self.say(&ToGuest::Prepare { moment, system });
            }
            Some(Job::Resumed(_)) => self.start_program(),
            Some(Job::Salvage { out_serial }) => {
                let out_serial = out_serial.clone();
                self.seen.status = Some(Status::Code(0));
                self.say(&ToGuest::Salvage { nonce, out_serial });
            }
            None => {}
        }
    }

    /// Sends the program to the agent, once.
    fn start_program(&mut self) {
        if let Some(Job::Program(_, mut order) | Job::Resumed(mut order)) = self.job.take() {
            order.personal.moment = clock::now();
            order.keep = self.is_kept();
            order.strict = self.limits.strict;
            self.say(&ToGuest::Start { nonce: self.nonce, order });
        }
    }

    fn on_started(&mut self) {
        self.ready = Some(self.began.elapsed());
        if self.phase == Phase::Preparing {
            self.enter(Phase::Running, self.limits.program);
        }
        match self.input.take() {
            Some(input) => {
                if let Err(e) = self.duplex.read(input) {
                    self.fail(format!("cannot start a thread for the program's input: {e}"));
                }
            }
            // The clients that watch the program end its input.
            None if self.is_kept() => {}
            None => self.say(&ToGuest::Eof(ProgramId::MAIN, Stream::Stdin)),
        }
        self.clients.open(self.terminal.is_some());
    }

    fn on_artifacts(&mut self, bytes: &[u8]) {
        let (dir, bounds, mailbox) = (self.dir.try_clone(), self.limits.artifacts, self.duplex.mailbox());
        if self.unpacking.is_none() {
            match Unpacking::start(dir, bounds, move |n| mailbox.written(Stream::Artifacts, n)) {
                Ok(unpacking) => self.unpacking = Some(unpacking),
                Err(e) => self.fail(format!("cannot start a thread for the artifacts: {e}")),
            }
        }
        if let Some(unpacking) = &self.unpacking {
            unpacking.push(bytes);
        }
    }

    /// quiz or the host cannot continue the run.
    fn fail(&mut self, why: String) {
        self.seen.failed.get_or_insert(why);
        self.monitor.kill();
    }

    fn on_stacks(&mut self, text: &str) {
        self.stacks_left = match self.stacks_left.checked_sub(text.len()) {
            Some(left) => left,
            None => return self.notes.stacks_cut = true,
        };
        let written = match &mut self.stacks {
            Some(file) => file.write_all(text.as_bytes()),
            None => self.dir.create("stacks.txt").and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                self.stacks = Some(file);
                Ok(())
            }),
        };
        if let Err(e) = written {
            self.notes.all.push(format!("stacks.txt is incomplete: {e}"));
        }
    }
}

/// A message of the guest, cut to [`WORDS`] characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
