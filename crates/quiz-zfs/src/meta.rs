//! Reads the `META` file of an OpenZFS checkout. Not for finding the checkout.

use quiz_kernel::Version;

/// The fields of `META` that quiz uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The version, `2.3.2`.
    pub version: String,
    /// The oldest kernel it can be built for.
    pub minimum: Option<Version>,
    /// The newest series of kernels it can be built for.
    pub maximum: Option<Version>,
}

/// Whether a release supports a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is supported.
    Yes,
    /// It is older than the oldest supported one.
    TooOld,
    /// Its series is newer than the newest supported one.
    TooNew,
}

impl Meta {
    /// Reads the text of a `META` file. `None` if it is not one of OpenZFS.
    pub fn parse(text: &str) -> Option<Meta> {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        (field("Name")? == "zfs").then(|| Meta {
            version: field("Version").unwrap_or_default(),
            minimum: field("Linux-Minimum").and_then(|v| Version::leading(&v)),
            maximum: field("Linux-Maximum").and_then(|v| Version::leading(&v)),
        })
    }

    /// Whether `kernel` is supported. The maximum is a series, as in OpenZFS's own `configure`:
    /// 6.12.30 is not newer than 6.12.
    pub fn supports(&self, kernel: Version) -> Support {
        // A release candidate is treated like its release.
        let number = |version: Version| match version {
            Version::Release { major, minor, patch, .. } => (major, minor, patch),
            Version::Next(_) => (u32::MAX, 0, 0),
        };
        let (major, minor, patch) = number(kernel);
        if self.minimum.is_some_and(|minimum| (major, minor, patch) < number(minimum)) {
            return Support::TooOld;
        }
        let is_newer = |maximum| {
            let (m, n, _) = number(maximum);
            (major, minor) > (m, n)
        };
        if self.maximum.is_some_and(is_newer) { Support::TooNew } else { Support::Yes }
    }

    /// The supported kernels in words: `4.18 to 6.14`.
    pub fn range(&self) -> String {
        let name = |version: &Option<Version>| version.map(|v| v.source_name());
        match (name(&self.minimum), name(&self.maximum)) {
            (Some(from), Some(to)) => format!("{from} to {to}"),
            (Some(from), None) => format!("{from} and newer"),
            (None, Some(to)) => format!("up to {to}"),
            (None, None) => "any".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = "Meta:          1\nName:          zfs\nBranch:        1.0\nVersion:       2.3.2\nRelease:       1\n\
                        Linux-Maximum: 6.14\nLinux-Minimum: 4.18\n";

    #[test]
    fn the_fields_are_read() {
        let meta = Meta::parse(META).unwrap();
        assert_eq!((meta.version.as_str(), meta.range().as_str()), ("2.3.2", "4.18 to 6.14"));
        assert_eq!(Meta::parse("Name: linux\nVersion: 1\n"), None);
        assert_eq!(Meta::parse("name: zfs"), None);
        assert_eq!(Meta::parse(""), None);
        let bare = Meta::parse("Name:zfs\nLinux-Maximum: soon").unwrap();
        assert_eq!((bare.maximum, bare.range().as_str()), (None, "any"));
    }

    #[test]
    fn the_range_is_that_of_configure() {
        let meta = Meta::parse(META).unwrap();
        for (kernel, support) in [
            ("4.17.19", Support::TooOld),
            ("4.18", Support::Yes),
            ("6.12.117", Support::Yes),
            ("6.14.99", Support::Yes),
            ("6.15-rc1", Support::TooNew),
            ("6.15", Support::TooNew),
            ("7.0", Support::TooNew),
            ("next-20261120", Support::TooNew),
        ] {
            assert_eq!(meta.supports(kernel.parse().unwrap()), support, "{kernel}");
        }
        let open = Meta::parse("Name: zfs\n").unwrap();
        assert_eq!(open.supports("next-20261120".parse().unwrap()), Support::Yes);
    }
}
