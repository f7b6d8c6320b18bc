//! The merged `/usr` of Debian's releases since 12: `/bin`, `/lib` and similar directories are
//! links to the directories of the same name in `/usr`.

use std::path::{Component, Path, PathBuf};

use quiz_arch::Arch;

/// The top-level directories that are such links on any architecture.
pub const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The real path of a guest's path, without the leading slash.
pub fn merged(guest: &Path) -> PathBuf {
    let plain: PathBuf = guest.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    match plain.components().next() {
        Some(Component::Normal(first)) if MERGED.iter().any(|name| first == *name) => Path::new("usr").join(plain),
        _ => plain,
    }
}

/// The top-level directories that are such links on `arch`.
pub fn links(arch: &Arch) -> Vec<&'static str> {
    let always = ["bin", "sbin", "lib"];
    MERGED.iter().copied().filter(|name| always.contains(name) || arch.lib_links.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_directories_are_merged_into_usr() {
        assert_eq!(merged(Path::new("/lib/modules/x")), Path::new("usr/lib/modules/x"));
        assert_eq!(merged(Path::new("/usr/lib/x")), Path::new("usr/lib/x"));
        assert_eq!(merged(Path::new("/library/x")), Path::new("library/x"));
        assert_eq!(merged(Path::new("/")), Path::new(""));
    }
}
