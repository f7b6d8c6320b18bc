//! The way out of a terminal whose guest no longer listens: Ctrl-] three times within a second, as in systemd-nspawn.

use std::time::{Duration, Instant};

const KEY: u8 = 0x1d;
const TIMES: usize = 3;
const WITHIN: Duration = Duration::from_secs(1);

/// Watches what is typed.
#[derive(Debug, Default)]
pub struct Escape {
    pressed: Vec<Instant>,
}

impl Escape {
    /// Takes what was typed; true when the user wants out.
    pub fn typed(&mut self, bytes: &[u8], now: Instant) -> bool {
        for byte in bytes {
            if *byte != KEY {
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
        let mut escape = Escape::default();
        assert!(!escape.typed(b"\x1d\x1d", at(0)));
        assert!(!escape.typed(b"x\x1d\x1d", at(10)));
        assert!(!escape.typed(b"\x1d", at(2000)));
        assert!(!escape.typed(b"\x1d", at(2100)));
        assert!(escape.typed(b"\x1d", at(2200)));
        assert!(Escape::default().typed(b"\x1d\x1d\x1d", at(0)));
    }
}
