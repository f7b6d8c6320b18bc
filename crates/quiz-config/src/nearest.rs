//! Suggests a correction for a mistyped name.

/// The one of `names` that is most similar to `typed`. `None` if more than a third of it would have
/// to differ.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let most = (typed.chars().count() / 3).max(1);
    let scored = names.into_iter().map(|name| (strsim::damerau_levenshtein(&typed, &name.to_ascii_lowercase()), name));
    scored.filter(|(typos, _)| *typos <= most).min_by_key(|(typos, _)| *typos).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KEYS;

    #[test]
    fn the_nearest_key_is_found_or_none() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("memroy", names()), Some("memory"));
        assert_eq!(nearest("boot-timeout", names()), Some("boot_timeout"));
        assert_eq!(nearest("cpu", names()), Some("cpus"));
        assert_eq!(nearest("QEMU", names()), Some("qemu"));
        assert_eq!(nearest("frobnicate", names()), None);
    }
}
