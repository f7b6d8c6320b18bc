//! Forwards the kernel's warnings to the host while the program runs.
//!
//! All messages are on the console anyway; these are the ones that the user should see at once.

use std::io::{Read, Seek, SeekFrom};
use std::thread;

use quiz_proto::ToHost;

use crate::link::Link;

/// The least severe level that is forwarded: warning.
const LEVEL: u32 = 4;

/// Forwards from now on, on a thread of its own.
pub fn forward(link: Link) {
    let Ok(mut log) = fs_err::File::open("/dev/kmsg") else { return };
    if log.seek(SeekFrom::End(0)).is_err() {
        return;
    }
    thread::spawn(move || {
        let mut record = [0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(n) => {
                    if let Some((level, text)) = parse(&String::from_utf8_lossy(&record[..n])) {
                        link.send(&ToHost::Kernel { level, text: text.into() });
                    }
                }
                // EPIPE: the ring buffer was overwritten before we read; go on with what is there.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return,
            }
        }
    });
}

/// The level and text of one record of `/dev/kmsg` (`Documentation/ABI/testing/dev-kmsg`), if it is a kernel message of
/// interest.
fn parse(record: &str) -> Option<(u8, &str)> {
    let (prefix, rest) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    let (facility, level) = (priority >> 3, priority & 7);
    let text = rest.split('\n').next()?;
    (facility == 0 && level <= LEVEL).then_some((level as u8, text))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_kernel_warnings_and_worse_are_taken() {
        assert_eq!(parse("4,12,99,-;careful\n SUBSYSTEM=x\n"), Some((4, "careful")));
        assert_eq!(parse("6,12,99,-;chatter\n"), None);
        assert_eq!(parse("12,12,99,-;from user space\n"), None);
        assert_eq!(parse("nonsense"), None);
    }
}
