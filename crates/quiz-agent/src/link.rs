//! The channel to the host: sends frames under a lock, receives frames on one thread, and tracks
//! the credit of every stream.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use quiz_proto::{CHUNK, Decoder, ProgramId, Sent, Stream, ToGuest, ToHost, WINDOW, encode};

/// How long to wait before writing again to a port that accepts nothing.
const PAUSE: Duration = Duration::from_millis(2);

/// The sending end, shared by all threads that send.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    /// Blocking writes only, one at a time: the virtio port loses wake-ups when it is polled while
    /// it is written.
    port: Mutex<Port>,
    outgoing: Mutex<HashMap<(ProgramId, Stream), Arc<Window>>>,
}

struct Port {
    file: File,
    buffer: Vec<u8>,
    /// Byte counts of the run's own program.
    sent: Sent,
    /// A frame was not written whole: the host could not decode the next one.
    is_broken: bool,
}

/// How many bytes of one stream may still be sent; `None` when nobody reads it any more.
struct Window {
    credit: Mutex<Option<u32>>,
    changed: Condvar,
}

/// The receiving end; exactly one thread reads.
pub struct Receiver {
    port: File,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// Locks a mutex, even if the thread that held it before has panicked.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Makes both ends of the channel on an open port.
    pub fn new(port: File) -> (Link, Receiver) {
        let reader = port.try_clone().expect("a descriptor can be duplicated this early");
        let port = Port { file: port, buffer: Vec::new(), sent: Sent::default(), is_broken: false };
        let shared = Shared { port: Mutex::new(port), outgoing: Mutex::new(HashMap::new()) };
        (
            Link { shared: Arc::new(shared) },
            Receiver { port: reader, decoder: Decoder::default(), buffer: vec![0; 2 * CHUNK] },
        )
    }

    /// Sends a message. There is no error to handle: if the host process is gone, so is the VM.
    pub fn send(&self, message: &ToHost) {
        send_on(&mut locked(&self.shared.port), message);
    }

    /// Sends a message unless another thread is sending one. For a thread that must not wait.
    pub fn send_if_free(&self, message: &ToHost) {
        if let Ok(mut port) = self.shared.port.try_lock() {
            send_on(&mut port, message);
        }
    }

    /// How many bytes of the program's streams were sent, so that the host can check that it has
    /// all.
    pub fn sent(&self) -> Sent {
        locked(&self.shared.port).sent
    }

    /// The sending end of a new stream.
    pub fn sender(&self, program: ProgramId, stream: Stream) -> Sender {
        let window = Arc::new(Window { credit: Mutex::new(Some(WINDOW)), changed: Condvar::new() });
        locked(&self.shared.outgoing).insert((program, stream), window.clone());
        Sender { link: self.clone(), program, stream, window }
    }

    /// Adds `more` bytes to a stream's credit, or closes the stream for `None`. A stream that has
    /// ended is ignored: the host may not know of its end yet.
    pub fn credit(&self, program: ProgramId, stream: Stream, more: Option<u32>) {
        let window = locked(&self.shared.outgoing).get(&(program, stream)).cloned();
        if let Some(window) = window {
            let mut credit = locked(&window.credit);
            *credit = match (*credit, more) {
                (Some(had), Some(more)) => Some(had.saturating_add(more)),
                _ => None,
            };
            window.changed.notify_all();
        }
    }
}

/// The sending end of one stream. Dropping it sends the end of the stream.
pub struct Sender {
    link: Link,
    program: ProgramId,
    stream: Stream,
    window: Arc<Window>,
}

impl Sender {
    /// Waits until some bytes may be sent, and returns how many (at most [`CHUNK`]). Returns `None`
    /// when nobody reads them any more.
    pub fn wait_for_credit(&self) -> Option<usize> {
        let mut credit = locked(&self.window.credit);
        loop {
            match *credit {
                None => return None,
                Some(0) => credit = self.window.changed.wait(credit).unwrap_or_else(PoisonError::into_inner),
                Some(n) => return Some(CHUNK.min(usize::try_from(n).unwrap_or(CHUNK))),
            }
        }
    }

    /// Sends bytes that [`Sender::wait_for_credit`] has allowed.
    pub fn send(&self, bytes: &[u8]) {
        if let Some(credit) = locked(&self.window.credit).as_mut() {
            *credit = credit.saturating_sub(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        self.link.send(&ToHost::Data(self.program, self.stream, bytes.into()));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        locked(&self.link.shared.outgoing).remove(&(self.program, self.stream));
        self.link.send(&ToHost::Eof(self.program, self.stream));
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let allowed = self.wait_for_credit().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = allowed.min(bytes.len());
        self.send(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send_on(port: &mut Port, message: &ToHost) {
    if port.is_broken {
        return;
    }
    if let ToHost::Data(ProgramId::MAIN, stream, bytes) = message {
        port.sent.add(*stream, bytes.len());
    }
    port.buffer.clear();
    if let Err(e) = encode(message, &mut port.buffer) {
        // Messages other than data may be of any length, and the host must know that one is
        // missing.
        let broken = ToHost::Broken(format!("the agent failed: {e}").into());
        encode(&broken, &mut port.buffer).expect("a short message fits a frame");
    }
    if let Err(e) = write_whole(&port.file, &port.buffer) {
        port.is_broken = true;
        crate::log::log(&format!("the channel to the host is broken: {e}"));
    }
}

/// Writes to a port. The kernel copies what is written. A guest that is short of memory, or is made
/// to look so, may lack memory for the copy: trying again loses nothing.
fn write_whole(mut port: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match port.write(bytes) {
            Ok(0) => thread::sleep(PAUSE),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN | libc::ENOSPC)) => {
                thread::sleep(PAUSE);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Receiver {
    /// Waits for the next message and passes it to `take`.
    pub fn next<T>(&mut self, take: impl FnOnce(ToGuest) -> T) -> io::Result<T> {
        loop {
            // Two steps, because the borrow checker cannot see that a returned message ends the
            // loop.
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
