//! The kernel's log: sends messages that the user wants to see at once, and the whole log of a run
//! for the host to judge. Not for the console, which shows all messages, some of them late.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::thread;

use fs_err::os::unix::fs::OpenOptionsExt;

use quiz_proto::{CHUNK, ToHost};

use crate::link::Link;

/// The most that is sent of the log, in bytes: more than any kernel's log holds. A kernel that
/// never stops logging must not keep the run from ending.
const LOG: usize = 8 << 20;

/// Forwards messages of level `least` and more severe ones from now on, on a thread of its own.
pub fn forward(link: Link, least: u8) {
    let Ok(mut log) = fs_err::File::open("/dev/kmsg") else { return };
    if log.seek(SeekFrom::End(0)).is_err() {
        return;
    }
    thread::spawn(move || {
        let mut record = [0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(n) => {
                    let record = String::from_utf8_lossy(&record[..n]);
                    if let Some((level, micros, text)) = parse(&record).filter(|(level, ..)| *level <= least) {
                        link.send(&ToHost::Kernel { level, micros, text: text.into() });
                    }
                }
                // EPIPE: the kernel overwrote the record before the agent read it; continue with
                // the next.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return,
            }
        }
    });
}

/// Watches for kernel problems during a run: the kernel's log and its taint, in addition to the
/// console.
pub struct Watch {
    log: Option<File>,
    taint: Option<File>,
    taint_before: u64,
}

impl Watch {
    /// Starts watching. If the kernel lacks the log or the taint file, the other one and the
    /// console remain.
    pub fn start() -> Watch {
        let mut log = fs_err::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok();
        if log.as_mut().is_some_and(|log| log.seek(SeekFrom::End(0)).is_err()) {
            log = None;
        }
        let mut watch = Watch {
            log: log.map(|log| log.into_parts().0),
            // Held open, because the program can mount something else there.
            taint: fs_err::File::open("/proc/sys/kernel/tainted").ok().map(|file| file.into_parts().0),
            taint_before: 0,
        };
        watch.begin();
        watch
    }

    /// Marks the program's start: taint from before is not the program's doing.
    pub fn begin(&mut self) {
        self.taint_before = self.taint();
    }

    /// Sends the host the log since the last call, and the taint bits set since [`Watch::begin`].
    pub fn tell(&mut self, link: &Link) {
        self.send_log(link);
        let gained = self.taint() & !self.taint_before;
        if gained != 0 {
            link.send(&ToHost::Tainted(gained));
        }
    }

    fn send_log(&mut self, link: &Link) {
        let Some(log) = &mut self.log else { return };
        let (mut record, mut lines, mut sent) = ([0; 8192], String::new(), 0);
        while sent < LOG {
            match log.read(&mut record) {
                Ok(n) => {
                    let record = String::from_utf8_lossy(&record[..n]);
                    let Some(text) = text(&record) else { continue };
                    // The kernel writes unprintable characters, such as newlines, as numbers.
                    lines += &text.replace("\\x0a", "\n");
                    lines.push('\n');
                }
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if lines.len() >= CHUNK / 2 {
                sent += lines.len();
                link.send(&ToHost::Log(std::mem::take(&mut lines).into()));
            }
        }
        if !lines.is_empty() {
            link.send(&ToHost::Log(lines.into()));
        }
    }

    fn taint(&self) -> u64 {
        let mut text = [0; 32];
        let n = self.taint.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        String::from_utf8_lossy(&text[..n]).trim().parse().unwrap_or(0)
    }
}

/// The text of one `/dev/kmsg` record as the console shows it, from the kernel or a program.
fn text(record: &str) -> Option<&str> {
    record.split_once(';')?.1.split('\n').next()
}

/// Level, time and text of one `/dev/kmsg` record (`Documentation/ABI/testing/dev-kmsg`). `None` if
/// the record is not the kernel's own.
fn parse(record: &str) -> Option<(u8, u64, &str)> {
    let (prefix, rest) = record.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros = fields.nth(1)?.parse().ok()?;
    let (facility, level) = (priority >> 3, priority & 7);
    let text = rest.split('\n').next()?;
    (facility == 0).then_some((level as u8, micros, text))
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn only_the_kernels_own_are_taken() {
        assert_eq!(parse("4,12,99,-;careful\n SUBSYSTEM=x\n"), Some((4, 99, "careful")));
        assert_eq!(parse("12,12,99,-;from user space\n"), None);
        assert_eq!(parse("nonsense"), None);
        assert_eq!(text("12,12,99,-;from user space\n"), Some("from user space"));
        assert_eq!(text("4,12,99,-;careful\n SUBSYSTEM=x\n"), Some("careful"));
    }
}
