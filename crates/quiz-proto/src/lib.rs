#![no_std]
//! The frames between quiz on the host and its agent in the guest, and the codec that bounds them.
//!
//! A frame on the wire is a little-endian `u32` length followed by that many bytes: one message in postcard's format.
//! Host and agent are always built together, so [`VERSION`] is compared for equality and nothing is negotiated.
//! Not for transport: whoever owns the channel moves the bytes.

extern crate alloc;

mod codec;
mod message;

pub use codec::{Decoder, FrameError, TooLong, encode};
pub use message::*;

/// Version of the frames. Any change to a message changes it.
pub const VERSION: u32 = 8;

/// The largest message, in bytes, without its length prefix. Anything longer is refused before it is buffered.
///
/// The only large one is [`ToGuest::Start`] with a program's arguments and environment, which Linux bounds by 6 MiB.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The most payload that one `Data` message carries, in bytes.
///
/// Linux moves 32 KiB through a virtio port at a time; a frame fits that with its length, its kind and its stream.
pub const CHUNK: usize = 32 * 1024 - 64;

/// How many bytes of one stream may be under way without the receiver's [`ToHost::Credit`] or [`ToGuest::Credit`].
///
/// It bounds the memory of both ends, and keeps a stream that nobody reads from blocking the others.
pub const WINDOW: u32 = 1024 * 1024;

/// The name of the virtio-serial port that the frames travel on.
pub const PORT: &str = "quiz.agent";
