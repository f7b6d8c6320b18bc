//! What both ends have agreed on: the version, and the bounds of what they send.

/// Version of the frames. Any change to a message changes it.
pub const VERSION: u32 = 8;

/// The largest message, in bytes, without its length prefix. Anything longer is refused before it
/// is buffered.
///
/// The only large one is [`crate::ToGuest::Start`] with a program's arguments and environment,
/// which Linux bounds by 6 MiB.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The most payload that one `Data` message carries, in bytes.
///
/// Linux moves 32 KiB through a virtio port at a time; a frame fits that with its length, its kind
/// and its stream.
pub const CHUNK: usize = 32 * 1024 - 64;

/// How many bytes of one stream may be under way without the receiver's [`crate::ToHost::Credit`]
/// or [`crate::ToGuest::Credit`].
///
/// It bounds the memory of both ends, and keeps a stream that nobody reads from blocking the
/// others.
pub const WINDOW: u32 = 1024 * 1024;

/// The name of the virtio-serial port that the frames travel on.
pub const PORT: &str = "quiz.agent";
