//! Versions of the upstream kernel: reading, writing, ordering and matching them. Not for package versions or for what
//! `uname -r` prints, which may say anything.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version of the upstream kernel, such as `6.12.30`, `6.19.0-rc3` or `next-20261120`. `6.12` is read as `6.12.0`, which is
/// what that source calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Version {
    /// A release or a release candidate.
    Release {
        /// 6 in `6.12.30`.
        major: u32,
        /// 12 in `6.12.30`.
        minor: u32,
        /// 30 in `6.12.30`.
        patch: u32,
        /// 3 in `6.19.0-rc3`.
        rc: Option<u32>,
    },
    /// linux-next of a day, as yyyymmdd.
    Next(u32),
}

/// A text that is not a version of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kernel version: write one like 6.12, 6.12.30, 6.19-rc3 or next-20261120")]
pub struct NotAVersion(pub String);

impl Version {
    /// Neither a release candidate nor linux-next.
    pub fn is_stable(&self) -> bool {
        matches!(self, Version::Release { rc: None, .. })
    }

    /// The series, `6.12` of `6.12.30`; linux-next has none.
    pub fn series(&self) -> Option<(u32, u32)> {
        match self {
            Version::Release { major, minor, .. } => Some((*major, *minor)),
            Version::Next(_) => None,
        }
    }

    /// The version at the start of what `uname -r` prints or of a Debian version: `6.1.137` of `6.1.137-1~bpo11+1`, `6.19.0-rc3` of
    /// `6.19.0-rc3-00012-gdeadbeef` or of `6.19~rc3-1~exp1`.
    pub fn leading(text: &str) -> Option<Version> {
        if let Some(rest) = text.find("next-").map(|at| &text[at..])
            && let Some(day) = rest.get(..13)
            && let Ok(next) = day.parse()
        {
            return Some(next);
        }
        let text = text.replace("~rc", "-rc");
        let mut end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        if let Some(rc) = text[end..].strip_prefix("-rc") {
            end += 3 + rc.find(|c: char| !c.is_ascii_digit()).unwrap_or(rc.len());
        }
        text[..end].trim_end_matches('.').parse().ok()
    }

    /// Whether a user who asks for `wanted` means this version: `6.12` (or `6`) is any stable `6.12.x`, `6.12.30` and `6.19-rc3` only
    /// themselves. A release candidate is never meant by accident.
    pub fn matches(&self, wanted: &str) -> bool {
        let parts: Option<Vec<u32>> = wanted.split('.').map(|p| p.parse().ok()).collect();
        match (self, parts.as_deref()) {
            (Version::Release { major, rc: None, .. }, Some([a])) => major == a,
            (Version::Release { major, minor, rc: None, .. }, Some([a, b])) => (major, minor) == (a, b),
            _ => wanted.parse() == Ok(*self),
        }
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Version, NotAVersion> {
        parse(text).ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Version> {
    if let Some(day) = text.strip_prefix("next-") {
        return if day.len() == 8 { number(day).map(Version::Next) } else { None };
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rc) = match text.split_once("-rc") {
        Some((numbers, rc)) => (numbers, Some(number(rc)?)),
        None => (text, None),
    };
    let parts = numbers.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    match parts[..] {
        [major, minor] => Some(Version::Release { major, minor, patch: 0, rc }),
        [major, minor, patch] => Some(Version::Release { major, minor, patch, rc }),
        _ => None,
    }
}

fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Release { major, minor, patch, rc } => {
                write!(f, "{major}.{minor}.{patch}")?;
                rc.map_or(Ok(()), |rc| write!(f, "-rc{rc}"))
            }
            Version::Next(day) => write!(f, "next-{day:08}"),
        }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = NotAVersion;

    fn try_from(text: String) -> Result<Version, NotAVersion> {
        text.parse()
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    /// A release candidate is older than its release; linux-next is newer than every release.
    fn cmp(&self, other: &Version) -> Ordering {
        let key = |v: &Version| match *v {
            Version::Release { major, minor, patch, rc } => (0, major, minor, patch, rc.unwrap_or(u32::MAX)),
            Version::Next(day) => (1, day, 0, 0, 0),
        };
        key(self).cmp(&key(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn usual_forms_are_read_and_written() {
        for (given, written) in [
            ("6.12", "6.12.0"),
            ("6.12.30", "6.12.30"),
            ("6.19-rc3", "6.19.0-rc3"),
            ("6.19.0-rc3", "6.19.0-rc3"),
            ("v4.18", "4.18.0"),
            ("next-20261120", "next-20261120"),
        ] {
            assert_eq!(v(given).to_string(), written);
            assert_eq!(v(written), v(given));
        }
        for bad in ["", "6", "6.", "6.12.", "6.12.x", "6.12-rc", "6.12.30.1", "next-1", "next-2026112x", "-6.1", "6.+1"]
        {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn order_is_that_of_release_dates_within_a_series() {
        let sorted =
            ["4.18", "6.1.137", "6.12-rc7", "6.12", "6.12.3", "6.12.30", "6.19-rc3", "next-20261119", "next-20261120"];
        for pair in sorted.windows(2) {
            assert!(v(pair[0]) < v(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn a_prefix_never_means_a_release_candidate() {
        assert!(v("6.12.30").matches("6.12"));
        assert!(v("6.12.30").matches("6"));
        assert!(v("6.12").matches("6.12.0"));
        assert!(!v("6.12.30").matches("6.1"));
        assert!(!v("6.12.30").matches("6.12.3"));
        assert!(!v("6.19-rc3").matches("6.19"));
        assert!(!v("6.19-rc3").matches("6"));
        assert!(v("6.19-rc3").matches("6.19-rc3"));
        assert!(v("6.19-rc3").matches("6.19.0-rc3"));
        assert!(v("next-20261120").matches("next-20261120"));
        assert!(!v("6.12").matches("nonsense"));
    }

    #[test]
    fn the_version_at_the_start_of_other_texts_is_found() {
        for (text, version) in [
            ("6.1.137-1", "6.1.137"),
            ("6.12.30-1~bpo12+1", "6.12.30"),
            ("6.19~rc3-1~exp1", "6.19.0-rc3"),
            ("6.19.0-rc3-00012-gdeadbeef", "6.19.0-rc3"),
            ("6.12.30", "6.12.30"),
            ("6.12.0+", "6.12.0"),
            ("6.18.0-rc7-next-20261120", "next-20261120"),
        ] {
            assert_eq!(Version::leading(text), Some(v(version)), "{text}");
        }
        assert_eq!(Version::leading("amd64"), None);
    }
}
