//! Bytes on their way into a socket that does not block.

use std::os::fd::AsFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Bytes that the socket has not taken yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// In order. Frames are encoded into it.
    pub bytes: Vec<u8>,
}

impl Outgoing {
    /// What to poll the socket for beside input.
    pub fn interest(&self) -> PollFlags {
        if self.bytes.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    }

    /// Writes what the socket takes now. Once it is closed the rest is dropped.
    ///
    /// # Errors
    /// That the other end has closed it.
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
