#![no_std]
//! The frames between quiz on the host and its agent in the guest, and the codec that bounds them.
//!
//! A frame on the wire is a little-endian `u32` length followed by that many bytes: one message in
//! postcard's format. Host and agent are always built together, so [`VERSION`] is compared for
//! equality and nothing is negotiated. Not for transport: whoever owns the channel moves the bytes.

extern crate alloc;

mod codec;
mod limits;
mod message;

pub use codec::{Decoder, FrameError, TooLong, encode};
pub use limits::*;
pub use message::*;
