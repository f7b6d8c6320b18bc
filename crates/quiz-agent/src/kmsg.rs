//! Forwards the kernel's messages to the host while the program runs.
//!
//! All are on the console anyway; these are the ones that the user wants to see at once.

use std::io::{Read, Seek, SeekFrom};
use std::thread;

use quiz_proto::ToHost;

use crate::link::Link;

/// Forwards those of this level and worse from now on, on a thread of its own.
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
                // EPIPE: the ring buffer was overwritten before we read; go on with what is there.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return,
            }
        }
    });
}

/// Level, time and text of one record of `/dev/kmsg` (`Documentation/ABI/testing/dev-kmsg`), if it is the kernel's own.
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
    use super::parse;

    #[test]
    fn only_the_kernels_own_are_taken() {
        assert_eq!(parse("4,12,99,-;careful\n SUBSYSTEM=x\n"), Some((4, 99, "careful")));
        assert_eq!(parse("12,12,99,-;from user space\n"), None);
        assert_eq!(parse("nonsense"), None);
    }
}
