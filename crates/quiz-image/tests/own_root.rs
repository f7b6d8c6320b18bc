//! Your own roots: quiz makes one root from each archive, once.

use fs_err as fs;
use quiz_host::{Cache, Silent};
use quiz_image::root::{self, RootError};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive of a file system with one program.
fn archive(dir: &Path, name: &str) -> PathBuf {
    let top = dir.join(format!("{name}.d"));
    fs::create_dir_all(top.join("bin")).unwrap();
    fs::write(top.join("bin/sh"), name).unwrap();
    let archive = dir.join(name);
    let done = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&top).arg(".").status().unwrap();
    assert!(done.success());
    archive
}

#[test]
fn the_same_archive_is_made_once_and_another_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path().join("cache"));
    let (one, two) = (archive(dir.path(), "one.tar"), archive(dir.path(), "two.tar"));
    let add = |archive: &Path, replace| root::add(&cache, "mine", quiz_arch::host(), archive, replace, &Silent);
    let first = add(&one, false).unwrap();
    assert_eq!(add(&one, false).unwrap().dir(), first.dir());
    let error = add(&two, false).unwrap_err();
    assert!(matches!(&error, RootError::Taken(name) if *name == first.name()), "{error}");
    assert!(error.to_string().contains("--replace"), "{error}");
    let second = add(&two, true).unwrap();
    assert_ne!(second.identity(), first.identity());
    assert_ne!(add(&two, true).unwrap().dir(), second.dir());
    // Many at once make one.
    let made: std::collections::HashSet<PathBuf> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| add(&two, false).unwrap().dir().to_owned())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(made.len(), 1);
}
