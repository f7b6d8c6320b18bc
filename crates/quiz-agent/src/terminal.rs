//! A pseudo-terminal in the guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fs_err::os::unix::fs::OpenOptionsExt;
use quiz_proto::WinSize;
use rustix::pty::OpenptFlags;

/// Opens a new pseudo-terminal of this size: the agent's end and the program's.
pub fn open(size: WinSize) -> io::Result<(File, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?;
    let slave = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(name)?
        .into_parts()
        .0;
    resize(&master, size)?;
    Ok((File::from(master), slave.into()))
}

/// Sets the terminal's size. The kernel then sends SIGWINCH to the foreground process group.
pub fn resize(master: impl AsFd, size: WinSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// The process group that receives signals from the keyboard.
pub fn foreground_group(master: impl AsFd) -> Option<i32> {
    let mut group: libc::pid_t = 0;
    // SAFETY: TIOCGPGRP writes one pid_t, to a live variable.
    let done = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPGRP as _, &raw mut group) };
    (done == 0 && group > 0).then_some(group)
}
