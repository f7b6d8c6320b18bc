//! Lines of the agent's own in the kernel's log.

use std::io::Write;

use fs_err as fs;

/// Writes a line to the kernel's log, and so to the console: something is wrong.
pub fn log(text: &str) {
    write_log(2, text);
}

/// The same of something that is worth knowing only to those who read all.
pub fn mention(text: &str) {
    write_log(6, text);
}

fn write_log(level: u8, text: &str) {
    if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // Nothing is left to tell it to when this fails.
        writeln!(kmsg, "<{level}>quiz: {text}").ok();
    }
}

/// The guest is of no use. Says why on the console and ends the VM, which the host sees as a reset.
pub fn give_up(why: &str) -> ! {
    log(why);
    rustix::fs::sync();
    // The host's `-no-reboot` turns this into QEMU's end.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}
