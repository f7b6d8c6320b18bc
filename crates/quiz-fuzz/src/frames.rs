//! Frames of the channel to the agent and of a VM's socket, in both directions, in any division.

use quiz_proto::{Decoder, FrameError, MAX_MESSAGE, ToGuest, ToHost, encode};
use quiz_vm::control::{Answer, Request};

/// The first byte chooses the kind of message and the second how many bytes come at a time.
pub fn run(input: &[u8]) {
    let [kind, piece, rest @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    match kind % 4 {
        0 => decode(rest, piece, |decoder| next::<ToHost<'_>>(decoder)),
        1 => decode(rest, piece, |decoder| next::<ToGuest<'_>>(decoder)),
        2 => decode(rest, piece, |decoder| next::<Request<'_>>(decoder)),
        _ => decode(rest, piece, |decoder| next::<Answer<'_>>(decoder)),
    }
}

fn decode(bytes: &[u8], piece: usize, next: fn(&mut Decoder) -> Result<bool, FrameError>) {
    let mut decoder = Decoder::default();
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match next(&mut decoder) {
                Ok(true) => {}
                Ok(false) => break,
                // The reader closes the channel after an error.
                Err(_) => return,
            }
        }
        assert!(decoder.pending() <= MAX_MESSAGE + 4, "{} bytes wait for the end of a frame", decoder.pending());
    }
}

/// Whether there was a message. What was understood can be said again, and means the same.
fn next<'a, T>(decoder: &'a mut Decoder) -> Result<bool, FrameError>
where
    T: serde::Deserialize<'a> + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let Some(message) = decoder.next::<T>()? else { return Ok(false) };
    let mut again = Vec::new();
    encode(&message, &mut again).unwrap_or_else(|e| panic!("{message:?} came in a frame, and {e}"));
    Ok(true)
}
