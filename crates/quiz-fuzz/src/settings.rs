//! What a worktree brings: its settings, its profiles, and what they answer.

use std::path::Path;

use fs_err as fs;
use quiz_config::profile::{Source, directive};
use quiz_config::{Invocation, Profile, Sources, build_defaults, load, lower};

/// The file `quiz.toml`.
pub fn file(input: &[u8]) {
    let place = written("quiz.toml", input);
    let sources = Sources { worktree_file: Some(place.path().join("quiz.toml")), ..sources(place.path()) };
    match load(&sources) {
        Ok(loaded) => {
            let _defaults = build_defaults(&loaded.settings);
            if let Err(error) = lower(&loaded.settings, Invocation::default()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The file `profile.toml`.
pub fn profile(input: &[u8]) {
    let place = written("profile.toml", input);
    if let Err(error) = Profile::read("fuzzed", Source::Worktree, place.path()) {
        assert!(!error.to_string().is_empty());
    }
}

/// The output of a profile's `setup`.
pub fn directives(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for line in text.lines() {
        match directive::read(line) {
            Some(Ok(directive::Directive::Disk(disk))) => {
                assert!(!disk.name.is_empty() && disk.name.len() <= 20, "{:?}", disk.name);
            }
            Some(Ok(directive::Directive::Link { path, target })) => {
                assert!(path.starts_with("/dev/") && target.starts_with("/dev/"), "{path} {target}");
            }
            Some(Ok(directive::Directive::Layer(path))) => assert!(path.is_absolute(), "{}", path.display()),
            Some(Err(why)) => assert!(!why.is_empty()),
            _ => {}
        }
    }
}

fn written(name: &str, contents: &[u8]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap_or_else(|e| panic!("a place for {name}: {e}"));
    fs::write(place.path().join(name), contents).unwrap_or_else(|e| panic!("{e}"));
    place
}

fn sources(cwd: &Path) -> Sources {
    Sources {
        user_file: None,
        worktree_file: None,
        variables: Vec::new(),
        options: Vec::new(),
        cwd: cwd.to_owned(),
        home: Some("/home/somebody".into()),
    }
}
