//! A place for tests of templates: a worktree, and a cache that shares all but the templates with
//! the user's cache.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use crate::{Ran, Sandbox, cache};

/// A sandbox with its own templates. Its cache is beside the worktree and shares everything else
/// with the user's cache.
pub struct Place {
    /// The worktree and the home.
    pub sandbox: Sandbox,
    /// The cache.
    pub cache: PathBuf,
}

impl Place {
    /// Makes a place for this quiz.
    ///
    /// # Panics
    /// If quiz cannot run a VM, or the directories cannot be made.
    pub fn new(quiz: impl Into<PathBuf>) -> Place {
        let sandbox = Sandbox::new(quiz);
        // This run makes whatever the user's cache lacks.
        let first = sandbox.quiz(["--cold", "true"]);
        assert_eq!(first.code, 0, "{}", first.stderr);
        let own = sandbox.beside("cache");
        fs::create_dir(&own).unwrap();
        for entry in fs::read_dir(cache()).unwrap().flatten() {
            if !["templates", "standby"].iter().any(|name| entry.file_name() == *name) {
                fs_err::os::unix::fs::symlink(entry.path(), own.join(entry.file_name())).unwrap();
            }
        }
        Place { sandbox, cache: own }
    }

    /// A command that calls quiz in this place.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.sandbox.command(arguments);
        command.env("QUIZ_CACHE", &self.cache);
        command
    }

    /// Calls quiz and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn quiz(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Calls quiz and returns its standard output.
    ///
    /// # Panics
    /// If the run does not succeed.
    pub fn good(&self, arguments: &[&str]) -> String {
        let ran = self.quiz(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.out()
    }

    /// The template that the last run started from or made.
    ///
    /// # Panics
    /// If that run has no record.
    pub fn template_of_last_run(&self) -> Option<String> {
        let text = fs::read(self.sandbox.last_run().join("result.json")).unwrap();
        let record: Value = serde_json::from_slice(&text).unwrap();
        record["template"].as_str().map(str::to_owned)
    }

    /// The number of processes that belong to this place.
    pub fn processes(&self) -> usize {
        let of_this = format!("QUIZ_CACHE={}", self.cache.display());
        let is_of_this = |pid: &std::ffi::OsStr| {
            let env = fs::read(Path::new("/proc").join(pid).join("environ")).unwrap_or_default();
            env.split(|byte| *byte == 0).any(|word| word == of_this.as_bytes())
        };
        fs::read_dir("/proc").unwrap().flatten().filter(|entry| is_of_this(&entry.file_name())).count()
    }

    /// The templates that runs start from.
    pub fn templates(&self) -> Vec<PathBuf> {
        self.all_templates().into_iter().filter(|path| !is_bare(path)).collect()
    }

    /// The templates that other templates are made from.
    pub fn bare_templates(&self) -> Vec<PathBuf> {
        self.all_templates().into_iter().filter(|path| is_bare(path)).collect()
    }

    /// The templates of both kinds.
    pub fn all_templates(&self) -> Vec<PathBuf> {
        let Ok(found) = fs::read_dir(self.cache.join("templates")) else { return Vec::new() };
        let entries = found.flatten().filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
        entries.map(|e| e.path()).collect()
    }

    /// Calls quiz with `input` on its standard input.
    ///
    /// # Panics
    /// If it cannot be started or does not read.
    pub fn quiz_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        use std::io::Write;
        let mut command = self.command(arguments);
        command.stdin(std::process::Stdio::piped());
        let mut child = self.sandbox.start(&mut command);
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// A QEMU program that writes a line to a file for each kernel boot, and that file.
    pub fn counting_qemu(&self) -> (String, PathBuf) {
        let (qemu, boots) = (self.sandbox.beside("qemu"), self.sandbox.beside("boots"));
        let script =
            "#!/bin/sh\ncase $* in *-incoming*) ;; *-kernel*) echo x >> BOOTS ;; esac\nexec qemu-system-ARCH \"$@\"\n";
        let script = script.replace("BOOTS", &boots.display().to_string()).replace("ARCH", std::env::consts::ARCH);
        write_program(&qemu, &script);
        fs::write(&boots, "").unwrap();
        (qemu.display().to_string(), boots)
    }
}

/// Whether a process keeps a standby VM.
pub fn is_keeper(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == b"--hold-standby")
}

/// Whether the template in this directory is a bare one.
pub fn is_bare(template: &Path) -> bool {
    template.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bare-"))
}

/// Writes an executable file.
///
/// # Panics
/// If it cannot be written.
pub fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// Makes a template useless to QEMU, while all records about it stay correct.
pub fn make_useless(template: &Path) {
    let state = template.join("state");
    fs::write(&state, "no state of any machine").unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&state).output().unwrap();
    let manifest = template.join("manifest.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    record["state_sha256"] = String::from_utf8_lossy(&sum.stdout)[..64].into();
    fs::write(&manifest, record.to_string()).unwrap();
}
