//! Versions of the upstream kernel: reads, prints, orders and matches them. Not for package
//! versions, nor for the output of `uname -r`, which may be any text.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version of the upstream kernel, such as `6.12.30`, `6.19.0-rc3` or `next-20261120`. `6.12` is
/// read as `6.12.0`, the version in that source's Makefile.
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
    /// Whether it is neither a release candidate nor linux-next.
    pub fn is_stable(&self) -> bool {
        matches!(self, Version::Release { rc: None, .. })
    }

    /// The series: `6.12` for `6.12.30`. linux-next has none.
    pub fn series(&self) -> Option<(u32, u32)> {
        match self {
            Version::Release { major, minor, .. } => Some((*major, *minor)),
            Version::Next(_) => None,
        }
    }

    /// kernel.org's name of the source: `6.12` for 6.12.0, `6.12.30`, `6.19-rc3`, `next-20261120`.
    pub fn source_name(&self) -> String {
        match *self {
            Version::Release { major, minor, patch: 0, rc: None } => format!("{major}.{minor}"),
            Version::Release { major, minor, patch: 0, rc: Some(rc) } => format!("{major}.{minor}-rc{rc}"),
            _ => self.to_string(),
        }
    }

    /// The version at the start of `uname -r` or of a Debian version: `6.1.137` of
    /// `6.1.137-1~bpo11+1`, `6.19.0-rc3` of `6.19.0-rc3-00012-gdeadbeef` or of `6.19~rc3-1~exp1`.
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
            let digits = rc.find(|c: char| !c.is_ascii_digit()).unwrap_or(rc.len());
            end += if digits > 0 { 3 + digits } else { 0 };
        }
        text[..end].trim_end_matches('.').parse().ok()
    }

    /// Whether `wanted` stands for this version. `6.12` (or `6`) matches any stable `6.12.x`;
    /// `6.12.30` and `6.19-rc3` match only themselves. An incomplete version never matches a
    /// release candidate.
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
        return date(day).map(Version::Next);
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rc) = match text.split_once("-rc") {
        // There is no -rc0, and u32::MAX means "released" in the order.
        Some((numbers, rc)) => (numbers, Some(number(rc).filter(|&n| n > 0 && n < u32::MAX)?)),
        None => (text, None),
    };
    let parts = numbers.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    match parts[..] {
        [major, minor] => Some(Version::Release { major, minor, patch: 0, rc }),
        [major, minor, patch] => Some(Version::Release { major, minor, patch, rc }),
        _ => None,
    }
}

/// A decimal number without sign or leading zeros.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// A day written yyyymmdd.
fn date(text: &str) -> Option<u32> {
    let date = number(text).filter(|_| text.len() == 8)?;
    let (month, day) = (date / 100 % 100, date % 100);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(date)
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
    use proptest::prelude::*;

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
        assert_eq!(v("6.12.0").source_name(), "6.12");
        assert_eq!(v("6.19.0-rc3").source_name(), "6.19-rc3");
        let bad = "|6|6.|.6|6.12.|6.12.x|6.012|6.12-rc|6.12-rc0|6.12-quiz|6.12.30.1|-6.1|6.+1|99999999999.1|６.１|\
                   next-|next-1|next-2026112x|next-20261320|next-20261100|next-202611201";
        for bad in bad.split('|') {
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
            ("6.1.0-56-amd64", "6.1.0"),
            ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0"),
            ("6.19.0-rc", "6.19.0"),
            ("6.18.0-rc7-next-20261120", "next-20261120"),
        ] {
            assert_eq!(Version::leading(text), Some(v(version)), "{text}");
        }
        assert_eq!(Version::leading("amd64"), None);
    }

    fn any_version() -> impl Strategy<Value = Version> {
        prop_oneof![
            (0..40u32, 0..40u32, 0..300u32, proptest::option::of(1..20u32))
                .prop_map(|(major, minor, patch, rc)| Version::Release { major, minor, patch, rc }),
            (2000..2100u32, 1..=12u32, 1..=31u32).prop_map(|(y, m, d)| Version::Next(y * 10000 + m * 100 + d)),
        ]
    }

    proptest! {
        #[test]
        fn every_form_reads_back(version in any_version(), suffix in "(-quiz|\\+|-[0-9]{1,3}-amd64|-dirty)?") {
            prop_assert_eq!(version.to_string().parse(), Ok(version));
            prop_assert_eq!(version.source_name().parse(), Ok(version));
            prop_assert_eq!(Version::leading(&format!("{version}{suffix}")), Some(version));
            let json = serde_json::to_string(&version).unwrap();
            prop_assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), version);
            prop_assert!(version.matches(&version.source_name()) || version.source_name().matches('.').count() == 1);
        }

        #[test]
        fn the_order_is_total_and_an_rc_comes_just_before_its_release(a in any_version(), b in any_version()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.cmp(&b) == Ordering::Equal);
            if let Version::Release { major, minor, patch, rc: Some(_) } = a {
                let released = Version::Release { major, minor, patch, rc: None };
                prop_assert!(a < released);
                prop_assert!(!b.is_stable() || b >= released || b < a);
            }
        }

        #[test]
        fn a_text_without_an_rc_never_means_one(text in "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,2}", version in any_version()) {
            prop_assert!(!version.matches(&text) || version.is_stable());
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC*", version in any_version()) {
            drop((text.parse::<Version>(), Version::leading(&text), version.matches(&text)));
        }
    }
}
