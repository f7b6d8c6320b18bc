//! Bytes queued for a non-blocking socket. Not for reading from it.

use std::os::fd::AsFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Bytes that the socket has not accepted yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The bytes in order. Frames are encoded into it.
    pub bytes: Vec<u8>,
}

impl Outgoing {
    /// The events to poll the socket for beside input.
    pub fn interest(&self) -> PollFlags {
        if self.bytes.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    }

    /// Writes as much as the socket accepts now. After an error, the rest is dropped.
    ///
    /// # Errors
    /// If the other end has closed the socket.
    pub fn flush(&mut self, socket: impl AsFd) -> Result<(), Errno> {
        while !self.bytes.is_empty() {
            match send(&socket, &self.bytes, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.bytes.drain(..n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
