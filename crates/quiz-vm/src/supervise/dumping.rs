//! The supervisor has the guest's memory kept where the guest came to its end. Not for the file's form (see `dump`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fs_err as fs;

use super::{Phase, Supervisor, text};
use crate::dump;
use crate::qmp::{Command, Verb};

/// How long the guest's memory may take to be written.
const LIMIT: Duration = Duration::from_secs(600);
/// The file with it.
const FILE: &str = "vmcore";

impl Supervisor<'_> {
    /// Ends a guest that does not end by itself, after its memory was kept if that is wanted.
    pub(super) fn end_or_dump(&mut self) {
        if self.wants_dump() {
            self.monitor.say(Verb::Stop);
            return self.dump();
        }
        self.monitor.kill();
    }

    pub(super) fn wants_dump(&mut self) -> bool {
        self.read_console();
        let panicked = self.console.panicked();
        self.limits.dump.is_some_and(|dump| panicked || dump.of_every_failure) && self.seen.dump.is_none()
    }

    /// Has the memory of a guest that stands still written.
    pub(super) fn dump(&mut self) {
        let Some(dump) = self.limits.dump else { return };
        let file = self.dir.join(FILE);
        match file.to_str() {
            Some(path) => self.monitor.say(Command::dump(path, dump.format)),
            None => return self.on_dumped(Some("its path is not UTF-8".to_owned())),
        }
        self.enter(Phase::Dumping, Some(LIMIT));
    }

    pub(super) fn on_dumped(&mut self, problem: Option<String>) {
        let problem = problem.or_else(|| self.mend_dump().err().map(|e| e.to_string()));
        self.seen.dump.get_or_insert(problem.is_none());
        self.seen.notes.extend(problem.map(|why| format!("the guest's memory could not be kept: {why}")));
        self.quit();
    }

    fn mend_dump(&self) -> io::Result<()> {
        let Some(wanted) = self.limits.dump else { return Ok(()) };
        let path = self.dir.join(FILE);
        // QEMU makes it for reading only.
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (mut file, _) = fs::OpenOptions::new().read(true).write(true).open(&path)?.into_parts();
        dump::mend(&mut file, wanted.format)
    }

    pub(super) fn give_dump_up(&mut self) {
        self.seen.dump = Some(false);
        self.seen
            .notes
            .push(format!("the guest's memory could not be kept: it was not written within {}", text(LIMIT)));
        self.monitor.kill();
    }

    /// Removes what there is of a dump that is not whole.
    pub(super) fn drop_half_a_dump(&self) {
        if self.limits.dump.is_some() && self.seen.dump != Some(true) {
            fs::remove_file(self.dir.join(FILE)).ok();
        }
    }
}
