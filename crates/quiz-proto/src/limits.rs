//! The version and the size limits that host and agent share.

/// Version of the frames. It changes with any change to a message.
pub const VERSION: u32 = 8;

/// The largest message, in bytes, without its length prefix. The decoder refuses a longer one
/// before it buffers it.
///
/// The only large message is [`crate::ToGuest::Start`], with a program's arguments and environment.
/// Linux limits these to 6 MiB.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The largest payload of one `Data` message, in bytes.
///
/// Linux moves 32 KiB through a virtio port at a time. A frame with this payload fits that,
/// including its length, kind and stream.
pub const CHUNK: usize = 32 * 1024 - 64;

/// How many bytes of one stream the sender may send without the receiver's
/// [`crate::ToHost::Credit`] or [`crate::ToGuest::Credit`].
///
/// The limit bounds the memory of both ends. It also keeps a stream that nobody reads from blocking
/// the other streams.
pub const WINDOW: u32 = 1024 * 1024;

/// The name of the virtio-serial port that carries the frames.
pub const PORT: &str = "quiz.agent";
