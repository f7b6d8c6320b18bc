//! A queue of bytes from the supervisor to a thread that is slow. The sender's credit bounds the
//! queue. It takes as much memory as it has bytes, however small the pieces are.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// The sender has ended.
    over: bool,
    /// The receiver has ended.
    gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end. Dropping it ends the queue.
pub struct Feed(Arc<Shared>);

/// The receiving end.
pub struct Intake(Arc<Shared>);

pub fn feed() -> (Feed, Intake) {
    let shared = Arc::new(Shared::default());
    (Feed(shared.clone()), Intake(shared))
}

impl Feed {
    /// Adds bytes. They are dropped if the receiver has ended.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.0.state();
        if !state.gone {
            state.bytes.extend_from_slice(bytes);
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.changed.notify_one();
    }
}

impl Intake {
    /// Waits for bytes and takes all that are queued, at least one. `None` after the end.
    pub fn take(&self) -> Option<Vec<u8>> {
        let waits = |state: &mut State| state.bytes.is_empty() && !state.over;
        let mut state = self.0.changed.wait_while(self.0.state(), waits).unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut state.bytes)).filter(|bytes| !bytes.is_empty())
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.gone, state.bytes) = (true, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_out_in_order_and_then_the_end() {
        let (feed, intake) = feed();
        let taker = std::thread::spawn(move || {
            let mut all = Vec::new();
            while let Some(bytes) = intake.take() {
                all.extend(bytes);
            }
            all
        });
        let sent: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        sent.iter().for_each(|byte| feed.push(&[*byte]));
        drop(feed);
        assert!(taker.join().unwrap() == sent);
    }

    #[test]
    fn nothing_waits_for_one_that_is_gone() {
        let (feed, intake) = feed();
        feed.push(b"x");
        drop(intake);
        feed.push(&[0; 1000]);
        assert!(feed.0.state().bytes.is_empty());
    }
}
