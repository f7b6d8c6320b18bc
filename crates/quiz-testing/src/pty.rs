//! A pseudo-terminal to run quiz on, whose keyboard the test controls.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A pseudo-terminal, and everything shown on it so far.
#[derive(Debug)]
pub struct Pty {
    master: File,
    slave: OwnedFd,
    shown: Vec<u8>,
}

impl Pty {
    /// Opens a terminal with this many rows and columns.
    ///
    /// # Panics
    /// If the host has no free pseudo-terminal.
    pub fn new(rows: u16, cols: u16) -> Pty {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        rustix::pty::grantpt(&master).expect("a pty");
        rustix::pty::unlockpt(&master).expect("a pty");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("a pty");
        let noctty = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let slave = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(noctty)
            .open(name.to_str().expect("a readable name"))
            .expect("the other end");
        let pty = Pty { master: File::from(master), slave: slave.into_parts().0.into(), shown: Vec::new() };
        pty.resize(rows, cols);
        pty
    }

    /// Starts a program on the terminal, as the leader of a new session.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self, command: &mut Command) -> Child {
        // SAFETY: both calls are async-signal-safe, and touch no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(std::io::stdin().as_fd())?;
                Ok(())
            });
        }
        self.on_it(command)
    }

    /// Starts a program whose streams are the terminal, in a session that has no controlling
    /// terminal.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_without_control(&self, command: &mut Command) -> Child {
        // SAFETY: the call is async-signal-safe, and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        self.on_it(command)
    }

    fn on_it(&self, command: &mut Command) -> Child {
        let end = || self.slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        command.spawn().expect("the program can be started")
    }

    /// Changes the terminal's size.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal takes a size");
    }

    /// The terminal's modes.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).expect("the terminal has modes")
    }

    /// Types `keys`.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn type_keys(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("the terminal takes keys");
    }

    /// Reads until `words` are shown, and returns everything shown so far.
    ///
    /// # Panics
    /// If they are not shown within `limit`; the message contains what was shown.
    pub fn wait_for(&mut self, words: &str, limit: Duration) -> String {
        let until = Instant::now() + limit;
        loop {
            let text = String::from_utf8_lossy(&self.shown).into_owned();
            if let Some(at) = text.find(words) {
                let seen = text[..at + words.len()].to_owned();
                self.shown = text.as_bytes()[at + words.len()..].to_vec();
                return seen;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{words:?} was not shown, but: {text}");
            self.read(left).expect("the terminal can be read");
        }
    }

    fn read(&mut self, limit: Duration) -> io::Result<()> {
        let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? > 0 {
            let mut buffer = [0; 4096];
            let n = self.master.read(&mut buffer)?;
            self.shown.extend_from_slice(&buffer[..n]);
        }
        Ok(())
    }
}
