//! Asks a QEMU program over QMP for its version, machines and device types. Not for running VMs.
//!
//! A program is asked once, and the answer is kept while its file stays the same. quiz asks about
//! each type by name. To list all types, QEMU would load every module of its installation, and
//! abort if one is of another build.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::wait;
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::qemu;

/// How long a QEMU may take to answer. It takes about 0.25 s.
const LIMIT: Duration = Duration::from_secs(10);
/// The maximum size of all answers, in bytes.
const ANSWERS: u64 = 8 << 20;

/// Why a QEMU could not be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// QEMU does not start, or its streams fail.
    #[error("cannot ask {} what it has: {cause}", program.display())]
    Io {
        /// The program.
        program: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// It does not speak QMP, or ended before its last answer.
    #[error("cannot ask {} what it has: {why}", program.display())]
    NoAnswer {
        /// The program.
        program: PathBuf,
        /// The cause.
        why: String,
    },
}

/// Identifies a program's file and its state, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// The first line of `--version`, for a script: it may start another program tomorrow.
    version: Option<String>,
}

impl Identity {
    /// The program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of the file at `program`. If it is a script, it is run with `--version`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(program: &Path) -> io::Result<Identity> {
        let mut file = fs::File::open(program)?;
        let meta = file.metadata()?;
        let mut start = [0; 2];
        let is_script = file.read_exact(&mut start).is_ok() && &start == b"#!";
        Ok(Identity {
            path: program.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            version: is_script.then(|| version_line(program)),
        })
    }
}

fn version_line(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// What a QEMU program supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// The major and minor version; `None` if QEMU did not answer.
    pub version: Option<(u32, u32)>,
    /// The names and aliases of its machines.
    machines: BTreeSet<String>,
    /// The supported types and options, of those that quiz uses.
    types: BTreeSet<String>,
    /// The types and options that it was asked about.
    asked: BTreeSet<String>,
}

impl Qemu {
    /// Asks the QEMU at `program` about everything that guests of `arch` may need.
    ///
    /// # Errors
    /// If it does not answer within 10 s.
    pub fn ask(program: &Path, arch: &Arch) -> Result<Qemu, ProbeError> {
        let asked = types_for(arch);
        let mut questions = vec![
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": "query-machines", "id": { "list": "machines" } }),
        ];
        questions.extend(asked.iter().map(|name| {
            let (command, arguments) = match name.strip_prefix('-') {
                Some(option) => ("query-command-line-options", json!({ "option": option })),
                None => ("qom-list-properties", json!({ "typename": name })),
            };
            json!({ "execute": command, "arguments": arguments, "id": { "type": name } })
        }));
        questions.push(json!({ "execute": "quit" }));
        let text: String = questions.iter().map(|question| format!("{question}\n")).collect();
        let answers = converse(program, &text)?;
        read(&answers, asked).map_err(|why| ProbeError::NoAnswer { program: program.to_owned(), why })
    }

    /// A QEMU that did not answer, and so may support anything.
    pub fn unknown() -> Qemu {
        Qemu { version: None, machines: BTreeSet::new(), types: BTreeSet::new(), asked: BTreeSet::new() }
    }

    /// Whether it has a machine of this name. True if QEMU did not answer.
    pub fn has_machine(&self, name: &str) -> bool {
        self.version.is_none() || self.machines.contains(name)
    }

    /// Whether it has this type. True if it was not asked about it.
    pub fn has_type(&self, name: &str) -> bool {
        self.types.contains(name) || !self.asked.contains(name)
    }

    /// Whether it was asked about everything that guests of `arch` may need.
    pub fn knows(&self, arch: &Arch) -> bool {
        types_for(arch).is_subset(&self.asked)
    }
}

/// The types that quiz may use for guests of `arch`, and command line options with their dash.
fn types_for(arch: &Arch) -> BTreeSet<String> {
    let devices = arch.machines.iter().flat_map(|machine| qemu::DEVICES.map(|name| qemu::on_bus(machine, name)));
    let others = ["virtserialport", qemu::VMCOREINFO, qemu::MEMORY_FILE, qemu::SANDBOX, "kvm-accel", "tcg-accel"];
    devices.chain(others.map(str::to_owned)).chain(arch.console_device.map(str::to_owned)).collect()
}

/// Starts a QEMU without a machine, sends it `questions` and returns all answers.
fn converse(program: &Path, questions: &str) -> Result<String, ProbeError> {
    let io = |cause| ProbeError::Io { program: program.to_owned(), cause };
    let mut command = Command::new(program);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]);
    command.args(["-chardev", "stdio,id=qmp", "-mon", "chardev=qmp,mode=control"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    quiz_host::process::die_with_parent(&mut command, quiz_host::process::Signal::KILL);
    let mut child = command.spawn().map_err(io)?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let mut stdout = child.stdout.take().expect("it was asked for");
    // The few KB fit into the pipe even if QEMU does not read them. If QEMU has closed it, the loop
    // below finds out.
    stdin.write_all(questions.as_bytes()).ok();
    let until = Instant::now() + LIMIT;
    let mut text = Vec::new();
    let heard = loop {
        let left = until.saturating_duration_since(Instant::now());
        match wait::ready(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(left)) {
            Ok(0) => break Err(format!("it did not answer within {} s", LIMIT.as_secs())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => break Err(e.to_string()),
        }
        let mut buffer = [0; 16 * 1024];
        match stdout.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => text.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => break Err(e.to_string()),
        }
        if text.len() as u64 > ANSWERS {
            break Err("it does not stop answering".to_owned());
        }
    };
    child.kill().ok();
    child.wait().map_err(io)?;
    heard.map_err(|why| ProbeError::NoAnswer { program: program.to_owned(), why })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn read(answers: &str, asked: BTreeSet<String>) -> Result<Qemu, String> {
    let (mut version, mut machines, mut types) = (None, None, BTreeSet::new());
    let mut answered = 0;
    for line in answers.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(qemu) = line.pointer("/QMP/version/qemu") {
            let number = |key: &str| qemu.get(key)?.as_u64()?.try_into().ok();
            version = number("major").zip(number("minor"));
        }
        if line.pointer("/id/list").is_some() {
            let listed = line.get("return").and_then(Value::as_array);
            let names = |machine: &Value| {
                ["name", "alias"].map(|key| machine.get(key).and_then(Value::as_str).map(str::to_owned))
            };
            machines = listed.map(|listed| listed.iter().flat_map(names).flatten().collect::<BTreeSet<_>>());
        }
        if let Some(name) = line.pointer("/id/type").and_then(Value::as_str) {
            answered += 1;
            if line.get("return").is_some() {
                types.insert(name.to_owned());
            }
        }
    }
    match (version, machines) {
        (Some(_), Some(machines)) if answered == asked.len() => Ok(Qemu { version, machines, types, asked }),
        (None, _) => Err("it does not speak QMP".to_owned()),
        _ => Err(format!("it ended after {answered} of {} answers", asked.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("qemu");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn answers_become_what_a_qemu_has() {
        let asked: BTreeSet<String> = ["virtio-9p-pci", "virtio-blk-pci"].map(str::to_owned).into();
        let answers = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}}}
{"return": {}}
{"return": [{"name": "pc-q35-7.2", "alias": "q35"}, {"name": "microvm"}], "id": {"list": "machines"}}
{"id": {"type": "virtio-9p-pci"}, "error": {"class": "DeviceNotFound", "desc": "Class not found"}}
{"return": [{"name": "drive"}], "id": {"type": "virtio-blk-pci"}}
"#;
        let qemu = read(answers, asked.clone()).unwrap();
        assert_eq!(qemu.version, Some((7, 2)));
        assert!(qemu.has_machine("q35") && qemu.has_machine("microvm") && !qemu.has_machine("virt"));
        assert!(qemu.has_type("virtio-blk-pci") && !qemu.has_type("virtio-9p-pci"));
        assert!(qemu.has_type("nobody-asked"));
        let half: Vec<&str> = answers.lines().take(4).collect();
        assert_eq!(read(&half.join("\n"), asked.clone()).unwrap_err(), "it ended after 1 of 2 answers");
        assert_eq!(read("usage: qemu", asked).unwrap_err(), "it does not speak QMP");
    }

    #[test]
    fn the_hosts_qemu_answers() {
        let arch = quiz_arch::host();
        let path = std::env::var_os("PATH").unwrap();
        let mut programs = std::env::split_paths(&path).map(|dir| dir.join(arch.qemu));
        let program = programs.find(|path| path.exists()).expect("QEMU is installed");
        let qemu = Qemu::ask(&program, arch).unwrap();
        assert!(qemu.version >= Some((7, 2)), "{:?}", qemu.version);
        assert!(arch.machines.iter().all(|machine| qemu.has_machine(machine.name)));
        assert_eq!(qemu.types, qemu.asked, "Debian's QEMU has all");
        assert!(qemu.knows(arch));
    }

    #[test]
    fn a_program_that_is_no_qemu_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Qemu::ask(&program(dir.path(), "#!/bin/sh\nexit 1\n"), quiz_arch::host()).unwrap_err();
        assert!(error.to_string().ends_with("it does not speak QMP"), "{error}");
        let error = Qemu::ask(&dir.path().join("none"), quiz_arch::host()).unwrap_err();
        assert!(matches!(error, ProbeError::Io { .. }), "{error}");
    }

    #[test]
    fn a_changed_file_is_another_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "#!/bin/sh\ncat \"${0%/*}/version\"\n");
        fs::write(dir.path().join("version"), "QEMU emulator version 7.2.0\n").unwrap();
        let first = Identity::of(&path).unwrap();
        assert_eq!(Identity::of(&path).unwrap(), first);
        // The script is the same, and starts another program.
        fs::write(dir.path().join("version"), "QEMU emulator version 10.0.2\n").unwrap();
        let second = Identity::of(&path).unwrap();
        assert_ne!(first, second);
        fs::remove_file(&path).unwrap();
        program(dir.path(), "#!/bin/sh\ncat \"${0%/*}/version\"\n");
        assert_ne!(Identity::of(&path).unwrap(), second);
    }
}
