//! Encodes messages to bytes and decodes them, holding at most one message of bounded size.

use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_MESSAGE;

/// The received bytes are not frames. The channel cannot be resynchronised after this error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// The length prefix exceeds [`MAX_MESSAGE`].
    TooLong(usize),
    /// The bytes are not a message of this version.
    Malformed(postcard::Error),
    /// A message was followed by bytes that do not belong to it.
    Trailing(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong(n) => write!(f, "a frame of {n} bytes (at most {MAX_MESSAGE} are allowed)"),
            FrameError::Malformed(e) => write!(f, "a malformed frame ({e})"),
            FrameError::Trailing(n) => write!(f, "a frame with {n} stray bytes"),
        }
    }
}

impl core::error::Error for FrameError {}

/// The message does not fit a frame. The value is its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of {} bytes does not fit a frame (at most {MAX_MESSAGE} do)", self.0)
    }
}

impl core::error::Error for TooLong {}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// Fails if the message is larger than [`MAX_MESSAGE`]; `out` is then unchanged. The sender splits
/// streams into [`crate::CHUNK`]s and bounds everything else.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let taken = core::mem::take(out);
    *out = postcard::to_extend(message, taken).expect("messages are plain data, and a Vec grows");
    let length = out.len() - start - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_MESSAGE => {
            out[start..start + 4].copy_from_slice(&prefix.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(TooLong(length))
        }
    }
}

/// Collects bytes until a frame is whole.
///
/// Memory is bounded by one frame plus what one [`Decoder::push`] adds.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes from the channel, split at any point.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message, which borrows from the decoder; `None` when more bytes are
    /// needed.
    pub fn next<'a, T: Deserialize<'a>>(&'a mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some(prefix) = pending.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong(length));
        }
        if pending.len() < 4 + length {
            return Ok(None);
        }
        let body = self.start + 4..self.start + 4 + length;
        self.start = body.end;
        let (message, rest) = postcard::take_from_bytes(&self.buffer[body]).map_err(FrameError::Malformed)?;
        if rest.is_empty() { Ok(Some(message)) } else { Err(FrameError::Trailing(rest.len())) }
    }

    /// Whether [`Decoder::next`] has a result: a whole frame, or the error of a length that is too
    /// large.
    pub fn is_ready(&self) -> bool {
        let pending = &self.buffer[self.start..];
        pending.first_chunk::<4>().is_some_and(|prefix| {
            let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
            length > MAX_MESSAGE || pending.len() - 4 >= length
        })
    }

    /// The number of bytes that wait for the rest of their frame.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}
