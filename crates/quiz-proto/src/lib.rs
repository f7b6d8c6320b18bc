#![no_std]
//! The frames between quiz on the host and its agent in the guest, and the codec that bounds them.
//!
//! A frame on the wire is a little-endian `u32` length followed by that many bytes: one message in
//! postcard's format. Host and agent are always built together, so they compare [`VERSION`] for
//! equality and negotiate nothing. Not for transport: the owner of the channel moves the bytes.

extern crate alloc;

mod codec;
mod limits;
mod message;

pub use codec::{Decoder, FrameError, TooLong, encode};
pub use limits::*;
pub use message::*;
