//! Leaves a terminal whose guest no longer responds: a key (Ctrl-], as in systemd-nspawn) typed
//! three times within a second. Not for reading the terminal.

use std::time::{Duration, Instant};

const TIMES: usize = 3;
const WITHIN: Duration = Duration::from_secs(1);

/// Detects the escape in the user's input.
#[derive(Debug)]
pub struct Escape {
    key: Option<u8>,
    pressed: Vec<Instant>,
}

impl Escape {
    /// Watches for this key; with `None` there is no escape.
    pub fn new(key: Option<u8>) -> Escape {
        Escape { key, pressed: Vec::new() }
    }

    /// Adds input, typed at the time `now`. Returns true if the escape is complete.
    pub fn typed(&mut self, bytes: &[u8], now: Instant) -> bool {
        for byte in bytes {
            if Some(*byte) != self.key {
                self.pressed.clear();
                continue;
            }
            self.pressed.retain(|at| now.duration_since(*at) < WITHIN);
            self.pressed.push(now);
            if self.pressed.len() == TIMES {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_in_a_row_within_a_second_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut escape = Escape::new(Some(0x1d));
        assert!(!escape.typed(b"\x1d\x1d", at(0)));
        assert!(!escape.typed(b"x\x1d\x1d", at(10)));
        assert!(!escape.typed(b"\x1d", at(2000)));
        assert!(!escape.typed(b"\x1d", at(2100)));
        assert!(escape.typed(b"\x1d", at(2200)));
        assert!(Escape::new(Some(1)).typed(b"\x01\x01\x01", at(0)));
        assert!(!Escape::new(None).typed(b"\x1d\x1d\x1d", at(0)));
    }
}
