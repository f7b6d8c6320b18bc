//! Archives from a guest: artifacts, and what `quiz cp` brings.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use fs_err as fs;
use quiz_vm::unpack::{Bounds, Rules, Unpacked, unpack};
use walkdir::WalkDir;

/// As much as a run's artifacts may have, on a smaller scale.
const BOUNDS: Bounds = Bounds { bytes: 1 << 20, entries: 64 };

/// The first byte chooses between artifacts and `quiz cp` of `a`.
pub fn run(input: &[u8]) {
    let [kind, archive @ ..] = input else { return };
    let place = tempfile::tempdir().unwrap_or_else(|e| panic!("a place to unpack: {e}"));
    let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
    prepare(&inside, &outside).unwrap_or_else(|e| panic!("a place to unpack: {e}"));
    let dir = Dir::open_ambient_dir(&inside, ambient_authority()).unwrap_or_else(|e| panic!("{e}"));
    let only = BTreeSet::from([OsString::from("a")]);
    let rules = match kind % 2 {
        0 => Rules { bounds: BOUNDS, only: None, faithful: false },
        _ => Rules { bounds: BOUNDS, only: Some(&only), faithful: true },
    };
    let mut done = Unpacked::default();
    let _broken_off = unpack(archive, &dir, &rules, &mut done);
    assert!(done.bytes <= BOUNDS.bytes && done.files <= BOUNDS.entries, "{done:?}");
    check(place.path(), &inside, rules.only.is_some());
}

/// What the user had there before.
fn prepare(inside: &Path, outside: &Path) -> std::io::Result<()> {
    fs::create_dir(inside)?;
    fs::create_dir(outside)?;
    fs::write(outside.join("file"), "untouched")?;
    std::os::unix::fs::symlink("../outside", inside.join("out"))
}

fn check(place: &Path, inside: &Path, only: bool) {
    let mut around: Vec<_> = names(place);
    around.sort();
    assert_eq!(around, ["inside", "outside"]);
    assert_eq!(names(&place.join("outside")), ["file"]);
    assert_eq!(fs::read(place.join("outside/file")).ok().as_deref(), Some(&b"untouched"[..]));
    for entry in WalkDir::new(inside).min_depth(1) {
        // A directory without permissions is not for everybody to look into.
        let Ok(entry) = entry else { continue };
        let below = entry.path().strip_prefix(inside).unwrap_or(entry.path());
        assert!(!only || below.starts_with("a") || below == Path::new("out"), "{} was not asked for", below.display());
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        let kind = metadata.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{}: {kind:?}", below.display());
        if kind.is_symlink() && below != Path::new("out") {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            assert!(stays(below, &target), "{} leads to {}", below.display(), target.display());
        } else if !kind.is_symlink() {
            assert_eq!(metadata.permissions().mode() & 0o7000, 0, "{}", below.display());
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{e}"));
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a link at `link` to `target` leads to something beside or below it, where every name is
/// a directory's.
fn stays(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count() as i64 - 1;
    for part in target.components() {
        match part {
            Component::RootDir | Component::Prefix(_) => return false,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}
