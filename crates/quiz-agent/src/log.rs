//! Writes the agent's own lines to the kernel's log.

use std::io::Write;

use fs_err as fs;

/// Reports a problem in the kernel's log, and so on the console.
pub fn log(text: &str) {
    write_log(2, text);
}

/// Writes a line of low severity, for readers of the whole log.
pub fn mention(text: &str) {
    write_log(6, text);
}

fn write_log(level: u8, text: &str) {
    if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // If this fails, there is no place left to report it.
        writeln!(kmsg, "<{level}>quiz: {text}").ok();
    }
}

/// Prints why the guest is unusable on the console and ends the VM, which the host sees as a reset.
pub fn give_up(why: &str) -> ! {
    log(why);
    rustix::fs::sync();
    // With the host's `-no-reboot` this ends QEMU.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}
