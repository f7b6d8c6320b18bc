//! Lengths of time: `250ms`, `30s`, `1m30s`, and limits, which may be `off`. Not for dates.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A limit on how long something may take, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<Duration>);

/// Why a text is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// A number without a unit.
    #[error("`{0}` has no unit; write {0}s or {0}m")]
    NoUnit(u64),
    /// An unknown unit after a number.
    #[error("`{text}` has the unit `{unit}`; the units are d, h, m, s and ms, and can be combined: 1m30s")]
    Unit {
        /// The whole text.
        text: String,
        /// The text after the number.
        unit: String,
    },
    /// A smaller unit comes before a larger one, or a unit comes twice.
    #[error("`{0}` has its units out of order; write each once, the largest first: 1h30m")]
    Order(String),
    /// It does not begin with a number.
    #[error("`{0}` is not a length of time; write 30s, 5m, 1m30s or 250ms")]
    NotATime(String),
    /// It is longer than quiz supports.
    #[error("`{0}` is too long; write `off` for no limit")]
    TooLong(String),
}

/// Largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A hundred years: short enough to add to a clock without overflow.
const LONGEST: u64 = 100 * 365 * 86_400_000;

/// Reads a length of time.
pub fn parse(text: &str) -> Result<Duration, TimeError> {
    let text = text.trim();
    let mut rest = text;
    let mut millis: u64 = 0;
    let mut next_unit = 0;
    let too_long = || TimeError::TooLong(text.to_owned());
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return Err(TimeError::NotATime(text.to_owned()));
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let letters = tail.len() - tail.trim_start_matches(|c: char| !c.is_ascii_digit()).len();
        let (unit, tail) = tail.split_at(letters);
        let unit = unit.trim();
        if unit.is_empty() {
            return if millis == 0 && number == 0 { Ok(Duration::ZERO) } else { Err(TimeError::NoUnit(number)) };
        }
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(TimeError::Unit { text: text.to_owned(), unit: unit.to_owned() });
        };
        if index < next_unit {
            return Err(TimeError::Order(text.to_owned()));
        }
        next_unit = index + 1;
        let part = number.checked_mul(UNITS[index].1).ok_or_else(too_long)?;
        millis = millis.checked_add(part).filter(|m| *m <= LONGEST).ok_or_else(too_long)?;
        rest = tail;
    }
    if next_unit == 0 { Err(TimeError::NotATime(text.to_owned())) } else { Ok(Duration::from_millis(millis)) }
}

/// `time` in the form that [`parse`] reads; fractions of a millisecond are dropped.
pub fn show(time: Duration) -> String {
    let mut millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        if millis >= length {
            text += &format!("{}{unit}", millis / length);
            millis %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

impl FromStr for Limit {
    type Err = TimeError;

    /// Reads `off`, or a length of time. A limit of zero would end everything at once, so it means
    /// no limit.
    fn from_str(text: &str) -> Result<Limit, TimeError> {
        match text.trim() {
            "off" => Ok(Limit(None)),
            text => parse(text).map(|time| Limit(Some(time).filter(|t| !t.is_zero()))),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(time) => f.write_str(&show(time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("1h 30m", 5_400_000),
            ("1d", 86_400_000),
            ("1s500ms", 1500),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!("off".parse(), Ok(Limit(None)));
        assert_eq!("0".parse(), Ok(Limit(None)));
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| text.parse::<Limit>().unwrap_err().to_string();
        assert_eq!(error("30"), "`30` has no unit; write 30s or 30m");
        assert!(error("1m30").contains("`30` has no unit"));
        assert!(error("30sec").contains("the unit `sec`"));
        assert!(error("1.5s").contains("the unit `.`"));
        assert!(error("30s1m").contains("out of order"));
        assert!(error("1s1s").contains("out of order"));
        assert!(error("soon").contains("not a length of time"));
        assert!(error("").contains("not a length of time"));
        assert!(error("9999999999d").contains("too long"));
        assert!(error("99999999999999999999s").contains("too long"));
    }

    proptest! {
        #[test]
        fn is_read_back_as_printed(millis in 0..=LONGEST, shift in 0u32..40) {
            let time = Duration::from_millis(millis >> shift);
            prop_assert_eq!(parse(&show(time)), Ok(time));
        }

        #[test]
        fn never_panics(text in ".{0,20}") {
            let _unused = text.parse::<Limit>();
        }
    }
}
