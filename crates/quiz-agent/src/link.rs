//! The channel to the host: frames out under a lock, frames in on one thread, and the credit of every stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use quiz_proto::{CHUNK, Decoder, Stream, ToGuest, ToHost, WINDOW, encode};

/// The sending end, shared by every thread that has something to say.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    /// Blocking writes only, one at a time: the virtio port loses wake-ups when it is polled while it is written.
    port: Mutex<Port>,
    outgoing: [Window; 3],
}

struct Port {
    file: File,
    buffer: Vec<u8>,
}

/// What may still be sent of one stream, in bytes; `None` when nobody reads it any more.
struct Window {
    stream: Stream,
    credit: Mutex<Option<u32>>,
    changed: Condvar,
}

impl Window {
    fn new(stream: Stream) -> Window {
        Window { stream, credit: Mutex::new(Some(WINDOW)), changed: Condvar::new() }
    }
}

/// The receiving end; exactly one thread reads.
pub struct Receiver {
    port: File,
    decoder: Decoder,
    buffer: Vec<u8>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Both ends of the channel on an open port.
    pub fn new(port: File) -> (Link, Receiver) {
        let reader = port.try_clone().expect("a descriptor can be duplicated this early");
        let shared = Shared {
            port: Mutex::new(Port { file: port, buffer: Vec::new() }),
            outgoing: [Stream::Stdout, Stream::Stderr, Stream::Artifacts].map(Window::new),
        };
        (
            Link { shared: Arc::new(shared) },
            Receiver { port: reader, decoder: Decoder::default(), buffer: vec![0; 2 * CHUNK] },
        )
    }

    /// Sends a message. A host that is gone takes the VM with it, so there is no error to handle.
    pub fn send(&self, message: &ToHost) {
        send_on(&mut locked(&self.shared.port), message);
    }

    /// Sends a message unless another thread is in the middle of one; for a thread that must not wait.
    pub fn send_if_free(&self, message: &ToHost) {
        if let Ok(mut port) = self.shared.port.try_lock() {
            send_on(&mut port, message);
        }
    }

    fn window(&self, stream: Stream) -> &Window {
        self.shared.outgoing.iter().find(|w| w.stream == stream).expect("a stream that the agent sends")
    }

    /// Waits until some bytes of the stream may be sent, and says how many (at most [`CHUNK`]); `None` when nobody
    /// reads it any more.
    pub fn wait_for_credit(&self, stream: Stream) -> Option<usize> {
        let window = self.window(stream);
        let mut credit = locked(&window.credit);
        loop {
            match *credit {
                None => return None,
                Some(0) => credit = window.changed.wait(credit).unwrap_or_else(PoisonError::into_inner),
                Some(n) => return Some(CHUNK.min(usize::try_from(n).unwrap_or(CHUNK))),
            }
        }
    }

    /// Sends bytes that [`Link::wait_for_credit`] allowed.
    pub fn send_data(&self, stream: Stream, bytes: &[u8]) {
        if let Some(credit) = locked(&self.window(stream).credit).as_mut() {
            *credit = credit.saturating_sub(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        self.send(&ToHost::Data(stream, bytes.into()));
    }

    /// The host has taken bytes of a stream, or (`None`) will take no more.
    pub fn credit(&self, stream: Stream, more: Option<u32>) {
        if !matches!(stream, Stream::Stdin) {
            let window = self.window(stream);
            let mut credit = locked(&window.credit);
            *credit = match (*credit, more) {
                (Some(had), Some(more)) => Some(had.saturating_add(more)),
                _ => None,
            };
            window.changed.notify_all();
        }
    }
}

fn send_on(port: &mut Port, message: &ToHost) {
    port.buffer.clear();
    encode(message, &mut port.buffer);
    port.file.write_all(&port.buffer).ok();
}

impl Receiver {
    /// Waits for the next message and gives it to `take`.
    pub fn next<T>(&mut self, take: impl FnOnce(ToGuest) -> T) -> io::Result<T> {
        loop {
            // Two steps, because the borrow checker cannot see that a returned message ends the loop.
            if self.decoder.is_ready() {
                let message = self.decoder.next::<ToGuest>().map_err(io::Error::other)?;
                return Ok(take(message.expect("a whole frame is there")));
            }
            match self.port.read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.decoder.push(&self.buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Writes one outgoing stream in frames, as far as the host's credit goes.
pub struct StreamWriter<'a> {
    /// The channel.
    pub link: &'a Link,
    /// The stream.
    pub stream: Stream,
}

impl Write for StreamWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let allowed = self.link.wait_for_credit(self.stream).ok_or(io::ErrorKind::BrokenPipe)?;
        let n = allowed.min(bytes.len());
        self.link.send_data(self.stream, &bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
