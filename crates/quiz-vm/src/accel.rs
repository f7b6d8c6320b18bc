//! Which accelerator this host can really use, found out by trying, and how fast its TSC runs.
//!
//! `/dev/kvm` that opens is no proof: on nested and paravirtual hosts it can create VMs and vCPUs and still not run a kernel.
//! So KVM is tried with the very kernel that is to run, once for each boot of the host, and the answer is remembered.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_proto::{Decoder, ToHost};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use crate::monitor::Monitor;
use crate::qmp::{self, Said};
use crate::{Accel, VmSpec};

/// How long a kernel may take to start the agent under a KVM that works. It takes well under a second.
const TRIAL: Duration = Duration::from_secs(10);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// KVM where it works, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

/// What will be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The accelerator.
    pub accel: Accel,
    /// The reason, for people.
    pub why: String,
    /// This was found out just now, so the user has not been told yet.
    pub new: bool,
}

/// What is remembered of this host until its next boot.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    boot_id: String,
    tsc_khz: Option<u64>,
    /// The QEMU program whose version is known: path, time of its last change in seconds, and version.
    qemu: Option<(PathBuf, i64, (u32, u32))>,
    /// `Some("")` means that KVM ran a kernel; any other text says why it did not.
    kvm: Option<String>,
}

/// The host's facts, kept in a file that may be deleted at any time.
#[derive(Debug)]
pub struct Host {
    file: PathBuf,
    facts: Facts,
    kvm_device: PathBuf,
}

impl Host {
    /// Reads what is remembered in `file`, if it is of this boot (`boot_id` is the host's
    /// `/proc/sys/kernel/random/boot_id`).
    pub fn open(file: PathBuf, boot_id: &str) -> Host {
        let facts = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
        let facts = facts.filter(|facts| facts.boot_id == boot_id);
        let facts = facts.unwrap_or_else(|| Facts { boot_id: boot_id.to_owned(), ..Facts::default() });
        Host { file, facts, kvm_device: "/dev/kvm".into() }
    }

    /// The rate of this host's TSC in kHz; `None` where it has none.
    pub fn tsc_khz(&mut self) -> Option<u64> {
        if self.facts.tsc_khz.is_none() {
            self.facts.tsc_khz = measure_tsc();
            self.remember();
        }
        self.facts.tsc_khz
    }

    /// The version of the QEMU at `program`; `None` when it does not tell.
    pub fn qemu_version(&mut self, program: &Path) -> Option<(u32, u32)> {
        use std::os::unix::fs::MetadataExt;
        let changed = fs::metadata(program).ok()?.mtime();
        if let Some((known, at, version)) = &self.facts.qemu
            && (known.as_path(), *at) == (program, changed)
        {
            return Some(*version);
        }
        let output =
            std::process::Command::new(program).arg("--version").stdin(std::process::Stdio::null()).output().ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        self.facts.qemu = Some((program.to_owned(), changed, version));
        self.remember();
        Some(version)
    }

    /// What is known without trying; `None` when it has to be tried.
    pub fn known(&self, wish: Wish, same_arch: bool) -> Option<Choice> {
        let tcg = |why: String| Some(Choice { accel: Accel::Tcg, why, new: false });
        match wish {
            Wish::Tcg => return tcg("asked for".to_owned()),
            Wish::Kvm => return Some(Choice { accel: Accel::Kvm, why: "asked for".to_owned(), new: false }),
            Wish::Auto => {}
        }
        if !same_arch {
            return tcg("the guest's architecture is not the host's".to_owned());
        }
        if let Err(e) = fs::OpenOptions::new().read(true).write(true).open(&self.kvm_device) {
            return tcg(match e.kind() {
                io::ErrorKind::NotFound => "this host has no /dev/kvm".to_owned(),
                io::ErrorKind::PermissionDenied => {
                    "you may not open /dev/kvm; join its group, usually `kvm`, to be faster".to_owned()
                }
                _ => e.to_string(),
            });
        }
        match self.facts.kvm.as_deref()? {
            "" => Some(Choice { accel: Accel::Kvm, why: "it has run a kernel here".to_owned(), new: false }),
            why => tcg(why.to_owned()),
        }
    }

    /// Tries KVM with `vm`'s kernel and initramfs, and remembers the answer. Files of the trial are made in `dir`.
    pub fn try_kvm(&mut self, vm: &VmSpec, dir: &Path) -> Choice {
        let trial = VmSpec {
            accel: Accel::Kvm,
            memory_mib: vm.memory_mib.min(512),
            disks: Vec::new(),
            shares: Vec::new(),
            net: None,
            extra: Vec::new(),
            ..vm.clone()
        };
        let tried = try_start(&trial, &dir.join("kvm-trial.log"));
        let (accel, why) = match tried {
            Ok(()) => (Accel::Kvm, "it has run a kernel here".to_owned()),
            Err(why) => (Accel::Tcg, format!("KVM does not run a kernel here: {why}")),
        };
        self.facts.kvm = Some(if accel == Accel::Kvm { String::new() } else { why.clone() });
        self.remember();
        Choice { accel, why, new: true }
    }

    /// Forgetting is harmless, so failures are not worth a word: the next run finds out again.
    fn remember(&self) {
        let Some(dir) = self.file.parent() else { return };
        let Ok(text) = serde_json::to_vec(&self.facts) else { return };
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let mut new = tempfile::NamedTempFile::new_in(dir)?;
            io::Write::write_all(&mut new, &text)?;
            new.persist(&self.file)?;
            Ok(())
        };
        write().ok();
    }
}

/// `QEMU emulator version 7.2.22 (Debian …)`
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Boots until the agent says hello; the error says why it did not.
fn try_start(vm: &VmSpec, log: &Path) -> Result<(), String> {
    let (file, _) = fs::File::create(log).map_err(|e| e.to_string())?.into_parts();
    let mut monitor = Monitor::start(vm, &file).map_err(|e| e.to_string())?;
    let until = Instant::now() + TRIAL;
    let mut decoder = Decoder::default();
    let mut qmp = qmp::Reader::default();
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("the kernel did not start within {} s", TRIAL.as_secs()));
        }
        let timeout = rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        {
            let pidfd = monitor.pidfd();
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&monitor.agent, PollFlags::IN),
                PollFd::new(&monitor.qmp, PollFlags::IN),
                PollFd::new(&monitor.console, PollFlags::IN),
            ];
            poll(&mut fds, Some(&timeout)).ok();
        }
        // The console is only kept from filling up.
        while let Ok(1..) = (&monitor.console).read(&mut buffer) {}
        if let Ok(n @ 1..) = (&monitor.agent).read(&mut buffer) {
            decoder.push(&buffer[..n]);
            if let Ok(Some(ToHost::Hello { .. })) = decoder.next::<ToHost>() {
                return Ok(());
            }
        }
        if let Ok(n @ 1..) = (&monitor.qmp).read(&mut buffer)
            && qmp.push(&buffer[..n]).contains(&Said::Stopped)
        {
            return Err(last_line(log).unwrap_or_else(|| "QEMU reports an internal error".to_owned()));
        }
        if let Some(status) = monitor.ended() {
            return Err(last_line(log).unwrap_or_else(|| format!("QEMU ended ({status})")));
        }
    }
}

/// The first line of the log that says something of KVM, else its last.
fn last_line(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.to_lowercase().contains("kvm")).or_else(|| lines.next_back())?;
    // QEMU puts its own name before its messages.
    let message = line.split_once(": ").filter(|(name, _)| name.starts_with("qemu-system-")).map(|(_, rest)| rest);
    Some(message.unwrap_or(line).to_owned())
}

/// The TSC against the clock, over a few milliseconds; good to about 20 ppm.
#[cfg(target_arch = "x86_64")]
fn measure_tsc() -> Option<u64> {
    /// A reading of both that was not interrupted: of several, the one that took least.
    fn reading() -> (u64, u64) {
        let one = || {
            // SAFETY: RDTSC reads a register. Every x86-64 processor has it.
            let before = unsafe { core::arch::x86_64::_rdtsc() };
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            // SAFETY: as above.
            let after = unsafe { core::arch::x86_64::_rdtsc() };
            (after - before, before / 2 + after / 2, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
        };
        let (_, tsc, ns) = (0..20).map(|_| one()).min().expect("twenty readings");
        (tsc, ns)
    }
    let (tsc, ns) = reading();
    std::thread::sleep(Duration::from_millis(20));
    let (later_tsc, later_ns) = reading();
    let elapsed = later_ns.checked_sub(ns).filter(|ns| *ns > 0)?;
    u64::try_from(u128::from(later_tsc.checked_sub(tsc)?) * 1_000_000 / u128::from(elapsed)).ok()
}

/// Other hosts emulate the guest's TSC from their clock, at a rate that is QEMU's own affair.
#[cfg(not(target_arch = "x86_64"))]
fn measure_tsc() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(dir: &Path, boot: &str) -> Host {
        let mut host = Host::open(dir.join("host.json"), boot);
        host.kvm_device = dir.join("kvm");
        host
    }

    fn trial(qemu: &Path) -> VmSpec {
        let arch = quiz_arch::host();
        VmSpec {
            qemu: qemu.to_owned(),
            arch,
            machine: &arch.machines[0],
            accel: Accel::Tcg,
            tsc_khz: None,
            hz: None,
            fine_timers: false,
            one_thread: false,
            memory_mib: 256,
            ram: None,
            incoming: None,
            cpus: 1,
            kernel: "/nonexistent".into(),
            initramfs: "/nonexistent".into(),
            append: Vec::new(),
            disks: Vec::new(),
            shares: Vec::new(),
            net: None,
            extra: Vec::new(),
        }
    }

    #[test]
    fn without_the_device_there_is_nothing_to_try() {
        let dir = tempfile::tempdir().unwrap();
        let choice = host(dir.path(), "b").known(Wish::Auto, true).unwrap();
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.why.contains("no /dev/kvm"));
    }

    #[test]
    fn a_kvm_that_opens_and_fails_is_told_once_and_remembered_for_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kvm"), "").unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/broken-kvm");
        let mut first = host(dir.path(), "boot 1");
        assert_eq!(first.known(Wish::Auto, true), None);
        let choice = first.try_kvm(&trial(&fake), dir.path());
        assert!(choice.new);
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.why.contains("KVM internal error. Suberror: 1"), "{}", choice.why);
        let again = host(dir.path(), "boot 1").known(Wish::Auto, true).unwrap();
        assert_eq!((again.accel, again.new), (Accel::Tcg, false));
        assert_eq!(host(dir.path(), "boot 2").known(Wish::Auto, true), None);
        assert_eq!(host(dir.path(), "boot 1").known(Wish::Kvm, true).unwrap().accel, Accel::Kvm);
        assert_eq!(host(dir.path(), "boot 1").known(Wish::Auto, false).unwrap().accel, Accel::Tcg);
    }

    #[test]
    fn qemus_version_is_read_and_remembered() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.2"), Some((10, 0)));
        assert_eq!(parse_version("something else"), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_tsc_is_measured_alike_twice() {
        let (a, b) = (measure_tsc().unwrap(), measure_tsc().unwrap());
        assert!(a > 100_000, "{a} kHz");
        assert!(a.abs_diff(b) * 1000 < a, "{a} and {b} kHz");
    }
}
