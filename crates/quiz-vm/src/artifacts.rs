//! Unpacks the archive that the guest sends at its end into the run's `artifacts/`, as it arrives.
//! Not for the unpacking itself (`unpack`).

use std::io::{self, Read};
use std::thread::{self, JoinHandle};

use quiz_host::held::HeldDir;

use crate::feed::{Feed, Intake, feed};
use crate::unpack::{Bounds, Rules, Unpacked, unpack};
use crate::verdict::ArtifactsRecord;

/// The directory's name in the run directory.
pub const DIR: &str = "artifacts";

/// An archive that is being unpacked.
pub struct Unpacking {
    feed: Feed,
    thread: JoinHandle<ArtifactsRecord>,
}

impl Unpacking {
    /// Starts to unpack into `artifacts/` in `dir`, which is created when the first byte arrives.
    /// Calls `taken` with the number of bytes that are consumed.
    ///
    /// # Errors
    /// If the host cannot create a thread.
    pub fn start(
        dir: io::Result<HeldDir>,
        bounds: Bounds,
        taken: impl FnMut(usize) + Send + 'static,
    ) -> io::Result<Unpacking> {
        let (feed, intake) = feed();
        let thread = thread::Builder::new().spawn(move || {
            let mut chunks = Chunks { intake, current: Vec::new(), at: 0, taken };
            let record = read(&mut chunks, dir, bounds);
            // Reads the rest even after an error, so that the guest does not block.
            io::copy(&mut chunks, &mut io::sink()).ok();
            record
        })?;
        Ok(Unpacking { feed, thread })
    }

    /// Adds bytes of the archive.
    pub fn push(&self, bytes: &[u8]) {
        // The thread always reads to the end.
        self.feed.push(bytes);
    }

    /// Ends the archive, and waits until it is unpacked.
    pub fn finish(self) -> ArtifactsRecord {
        drop(self.feed);
        self.thread.join().unwrap_or_else(|_| ArtifactsRecord {
            failed: Some("quiz failed while it read the archive".to_owned()),
            ..ArtifactsRecord::default()
        })
    }
}

struct Chunks<F> {
    intake: Intake,
    current: Vec<u8>,
    at: usize,
    taken: F,
}

impl<F: FnMut(usize)> Read for Chunks<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            (self.taken)(self.current.len());
            self.at = 0;
            self.current = self.intake.take().unwrap_or_default();
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Unpacks one archive. An error ends it and is listed among the refusals.
fn read(archive: &mut impl Read, run: io::Result<HeldDir>, bounds: Bounds) -> ArtifactsRecord {
    // If the archive is empty, do not create an empty directory.
    let mut first = [0];
    if !matches!(archive.read(&mut first), Ok(1)) {
        return ArtifactsRecord::default();
    }
    let mut done = Unpacked::default();
    let dir = match run.and_then(|run| run.make_new_below(DIR)) {
        Ok(dir) => dir,
        Err(e) => return ArtifactsRecord { failed: Some(e.to_string()), ..ArtifactsRecord::default() },
    };
    let rules = Rules { bounds, only: None, faithful: false };
    let read = unpack(first.as_slice().chain(archive), dir.handle(), &rules, &mut done);
    let Unpacked { files, bytes, mut refused, refusals, failed } = done;
    if refusals > refused.len() as u64 {
        refused.push(format!("and {} more", refusals - refused.len() as u64));
    }
    refused.extend(read.err().map(|e| format!("the rest of the archive: {e}")));
    ArtifactsRecord { files, bytes, refused, failed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    fn unpacked(archive: &[u8], bounds: Bounds) -> (tempfile::TempDir, ArtifactsRecord) {
        let dir = tempfile::tempdir().unwrap();
        let record = read(&mut { archive }, HeldDir::open(dir.path()), bounds);
        (dir, record)
    }

    #[test]
    fn what_the_host_cannot_write_is_a_failure_and_not_refused() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "a", &b"x"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        // A directory in which no file can be created.
        let record = read(&mut bytes.as_slice(), HeldDir::open("/proc".as_ref()), Bounds::NONE);
        assert!(record.failed.as_ref().is_some_and(|failed| failed.contains("artifacts")), "{record:?}");
        assert!(record.files == 0 && record.refused.is_empty(), "{record:?}");
    }

    #[test]
    fn nothing_sent_leaves_nothing() {
        let (dir, record) = unpacked(b"", Bounds::NONE);
        assert_eq!(record, ArtifactsRecord::default());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_refused_is_counted_and_what_ends_the_archive_is_told() {
        let mut archive = tar::Builder::new(Vec::new());
        for i in 0..100 {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Fifo);
            archive.append_data(&mut header, format!("fifo{i}"), io::empty()).unwrap();
        }
        let mut bytes = archive.into_inner().unwrap();
        bytes.truncate(100 * 512 + 100);
        let (dir, record) = unpacked(&bytes, Bounds::NONE);
        assert!(dir.path().join(DIR).is_dir());
        let end = &record.refused[record.refused.len() - 2..];
        assert!(end[0].starts_with("and 8") && end[1].starts_with("the rest of the archive: "), "{end:?}");
    }

    #[test]
    fn nothing_is_written_behind_what_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(DIR)).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "file", io::empty()).unwrap();
        let bytes = archive.into_inner().unwrap();
        let record = read(&mut bytes.as_slice(), HeldDir::open(dir.path()), Bounds::NONE);
        assert!(record.files == 0 && record.failed.is_some(), "{record:?}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
