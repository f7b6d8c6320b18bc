//! What reads untrusted input in quiz, as targets: functions that take any bytes and panic if a
//! promise breaks.
//!
//! `cargo xtask fuzz` calls them from libFuzzer (`fuzz/`); the tests call them with every file of
//! `fuzz/corpus`. Not for what a target calls: that is where it is used.

mod archive;
mod console;
mod frames;
mod settings;

/// A target and its name, which is that of its directory in `fuzz/corpus`.
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Panics if a promise breaks.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "frames", run: frames::run },
    Target { name: "archive", run: archive::run },
    Target { name: "record", run: quiz::read_record },
    Target { name: "settings", run: settings::file },
    Target { name: "profile", run: settings::profile },
    Target { name: "directives", run: settings::directives },
    Target { name: "console", run: console::run },
];

/// Runs the target `name`.
///
/// # Panics
/// If there is no such target, or a promise breaks.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no target `{name}`"));
    (target.run)(input);
}
