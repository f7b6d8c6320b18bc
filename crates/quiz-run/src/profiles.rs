//! All profiles: the built-in ones, the user's, and the worktree's. Not for those of one run
//! (`chosen`).

use std::io::Write;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use include_dir::{Dir, DirEntry, include_dir};
use quiz_config::profile::Source;
use quiz_config::{Catalog, Worktree};
use quiz_host::{Cache, Entry, Report, StoreError, digest};

use crate::paths::Paths;

/// The built-in profiles. quiz writes them to the cache, because the host can only run programs in
/// files.
static BUILT_IN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/profiles");

/// How many sets of built-in profiles the cache keeps. Several versions of quiz may be in use at
/// once.
const KEPT: usize = 4;

/// All profiles. They stay in use until this value is dropped.
#[derive(Debug)]
pub struct Profiles {
    /// By name.
    pub catalog: Catalog,
    _built_in: Entry,
}

impl Profiles {
    /// Finds all profiles: the built-in ones, the user's, and those of the worktree.
    pub fn find(
        cache: &Cache,
        paths: &Paths,
        worktree: Option<&Worktree>,
        report: &dyn Report,
    ) -> Result<Profiles, StoreError> {
        let built_in = built_in(cache, report)?;
        let mut places = vec![(Source::BuiltIn, built_in.dir().to_owned())];
        places.extend(paths.profiles_dir().map(|dir| (Source::User, dir)));
        if let Some(worktree) = worktree {
            let of_worktree = [worktree.dir.join("profiles"), worktree.state_dir().join("profiles")];
            places.extend(of_worktree.map(|dir| (Source::Worktree, dir)));
        }
        Ok(Profiles { catalog: Catalog::read(&places), _built_in: built_in })
    }
}

fn built_in(cache: &Cache, report: &dyn Report) -> Result<Entry, StoreError> {
    let mut files = Vec::new();
    collect(&BUILT_IN, &mut files);
    let mut text = Vec::new();
    for (path, contents) in &files {
        text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        text.extend_from_slice(&(contents.len() as u64).to_le_bytes());
        text.extend_from_slice(contents);
    }
    let shelf = cache.shelf("profiles");
    let name = &digest::of_bytes(&text)[..20];
    if let Some(entry) = shelf.open(name)? {
        return Ok(entry);
    }
    let entry = shelf.build(name, "writing quiz's own profiles", false, report, |dir| {
        write_all(dir, &files).map_err(StoreError::io("write quiz's own profiles"))?;
        Ok::<_, StoreError>(serde_json::json!({ "quiz_version": env!("CARGO_PKG_VERSION") }))
    })?;
    shelf.keep_newest(KEPT)?;
    Ok(entry)
}

fn collect(dir: &Dir<'static>, files: &mut Vec<(&'static Path, &'static [u8])>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect(dir, files),
            DirEntry::File(file) => files.push((file.path(), file.contents())),
        }
    }
}

fn write_all(dir: &Path, files: &[(&Path, &[u8])]) -> std::io::Result<()> {
    for (path, contents) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        // An embedded file has lost its mode. A program begins with `#!`.
        let mode = if contents.starts_with(b"#!") { 0o755 } else { 0o644 };
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(contents)?;
    }
    Ok(())
}
