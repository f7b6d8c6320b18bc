//! Sizes of memory and disks: `512M`, `4G`. Not for lengths of time (see `time`).

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written with a binary unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A number without a unit.
    #[error("`{0}` has no unit; write {0}M or {0}G")]
    NoUnit(u64),
    /// The number is not a whole number.
    #[error("`{0}` is not a whole number of units; use the next smaller unit, 1536M for one and a half G")]
    Fraction(String),
    /// A decimal unit, or other text after the number.
    #[error("`{text}` has the unit `{unit}`; the units are K, M, G and T, each 1024 times the one before")]
    Unit {
        /// The whole text.
        text: String,
        /// The text after the number.
        unit: String,
    },
    /// It does not begin with a number.
    #[error("`{0}` is not a size; write a number and a unit, like 512M or 4G")]
    NotASize(String),
    /// It does not fit in 64 bits.
    #[error("`{0}` is larger than any disk")]
    TooLarge(String),
}

const UNITS: [(char, u32); 5] = [('T', 40), ('G', 30), ('M', 20), ('K', 10), ('B', 0)];

impl Size {
    /// A size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In MiB, rounded up.
    pub const fn mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return Err(SizeError::NotASize(text.to_owned()));
        }
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge(text.to_owned()))?;
        let unit = unit.trim_start();
        if unit.is_empty() {
            // 0 needs no unit.
            return if number == 0 { Ok(Size(0)) } else { Err(SizeError::NoUnit(number)) };
        }
        if unit.starts_with('.') || unit.starts_with(',') {
            return Err(SizeError::Fraction(text.to_owned()));
        }
        let unknown = || SizeError::Unit { text: text.to_owned(), unit: unit.to_owned() };
        let upper = unit.to_ascii_uppercase();
        let letter = upper.strip_suffix("IB").filter(|l| *l != "B").unwrap_or(&upper);
        let (_, shift) = UNITS.iter().find(|(c, _)| letter == c.to_string()).ok_or_else(unknown)?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| SizeError::TooLarge(text.to_owned()))?;
        Ok(Size(bytes))
    }
}

impl fmt::Display for Size {
    /// Prints the largest unit that leaves a whole number; the output can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0");
        }
        let (unit, shift) =
            UNITS.iter().find(|(_, shift)| self.0.trailing_zeros() >= *shift).expect("every number is whole in bytes");
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1g", 1 << 30),
            ("2T", 2 << 40),
            ("4k", 4096),
            ("100B", 100),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Size>().map(Size::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| text.parse::<Size>().unwrap_err().to_string();
        assert_eq!(error("512"), "`512` has no unit; write 512M or 512G");
        assert!(error("1.5G").contains("next smaller unit"));
        assert!(error("1GB").contains("the unit `GB`"));
        assert!(error("1BiB").contains("the unit `BiB`"));
        assert!(error("lots").contains("is not a size"));
        assert!(error("-1G").contains("is not a size"));
        assert!(error("").contains("is not a size"));
        assert!(error("99999999T").contains("larger than any disk"));
        assert!(error("99999999999999999999G").contains("larger than any disk"));
    }

    #[test]
    fn memory_is_rounded_up_to_whole_mib() {
        assert_eq!(Size::from_bytes(1).mib(), 1);
        assert_eq!(Size::from_bytes(1 << 20).mib(), 1);
        assert_eq!(Size::from_bytes((1 << 20) + 1).mib(), 2);
    }

    proptest! {
        #[test]
        fn is_read_back_as_printed(bytes: u64, shift in 0u32..64) {
            let size = Size::from_bytes(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }

        #[test]
        fn never_panics(text in ".{0,20}") {
            let _unused = text.parse::<Size>();
        }
    }
}
