//! Dumps the guest's memory at the point where the guest failed. Not for the file's format
//! (`dump`).

use std::io;
use std::time::Duration;

use quiz_host::held::path_of;

use super::{Phase, Supervisor, text};
use crate::dump;
use crate::qmp::{Command, CommandName};

/// How long QEMU may take to write the guest's memory.
const LIMIT: Duration = Duration::from_secs(600);
/// The name of the dump in the run directory.
const FILE: &str = "vmcore";

impl Supervisor<'_> {
    /// Ends a guest that does not end by itself. Dumps its memory first, if that is wanted.
    pub(super) fn end_or_dump(&mut self) {
        if self.wants_dump() {
            self.monitor.say(CommandName::Stop);
            return self.dump();
        }
        self.monitor.kill();
    }

    pub(super) fn wants_dump(&mut self) -> bool {
        self.read_console();
        let panicked = self.console.panicked();
        self.limits.dump.is_some_and(|dump| panicked || dump.of_every_failure) && self.dumped.is_none()
    }

    /// Has QEMU write the memory of a paused guest.
    pub(super) fn dump(&mut self) {
        let Some(dump) = self.limits.dump else { return };
        match self.dir.create_with_mode(FILE, 0o600) {
            Ok(file) => {
                // By its descriptor, because its path may name another file by now.
                self.monitor.say(Command::dump(&path_of(&file).to_string_lossy(), dump.format));
                self.vmcore = Some(file);
            }
            Err(e) => return self.on_dumped(Some(e.to_string())),
        }
        self.enter(Phase::Dumping, Some(LIMIT));
    }

    pub(super) fn on_dumped(&mut self, problem: Option<String>) {
        let problem = problem.or_else(|| self.mend_dump().err().map(|e| e.to_string()));
        self.dumped.get_or_insert(problem.is_none());
        self.notes.all.extend(problem.map(|why| format!("the guest's memory could not be kept: {why}")));
        self.quit();
    }

    fn mend_dump(&mut self) -> io::Result<()> {
        let (Some(wanted), Some(file)) = (self.limits.dump, &mut self.vmcore) else { return Ok(()) };
        dump::mend(file, wanted.format)
    }

    pub(super) fn give_dump_up(&mut self) {
        self.dumped = Some(false);
        self.notes.all.push(format!("the guest's memory could not be kept: it was not written within {}", text(LIMIT)));
        self.monitor.kill();
    }

    /// Removes an incomplete dump.
    pub(super) fn drop_half_a_dump(&self) {
        if self.limits.dump.is_some() && self.dumped != Some(true) {
            self.dir.remove_file(FILE);
        }
    }
}
