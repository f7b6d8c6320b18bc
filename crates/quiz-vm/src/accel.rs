//! Finds out which accelerator works on this host by trying, and how fast the host's TSC runs. Not
//! for what a QEMU program supports (`probe`).
//!
//! That `/dev/kvm` opens is no proof. On nested and paravirtual hosts, KVM can create VMs and vCPUs
//! and still not run a kernel. So quiz tries KVM with the kernel of the run, once for each QEMU
//! program and boot of the host. It remembers the result.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use quiz_arch::Arch;
use quiz_host::wait;
use quiz_proto::{Decoder, ToHost};
use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use crate::monitor::Monitor;
use crate::probe::{Identity, ProbeError, Qemu};
use crate::qmp::{self, Said};
use crate::spec::{Accel, VmSpec};

/// How long a kernel may take to start the agent if KVM works. It takes well under a second.
const TRIAL: Duration = Duration::from_secs(10);

/// The accelerator that the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// KVM if it works, otherwise TCG.
    Auto,
    /// Only KVM.
    Kvm,
    /// Only TCG.
    Tcg,
}

/// The accelerator that is used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub accel: Accel,
    /// The reason, as text for the user.
    pub why: String,
    /// The choice is new, so quiz should report it to the user.
    pub new: bool,
}

/// What quiz remembers of this host until the host's next boot.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    boot_id: String,
    tsc_khz: Option<u64>,
    /// The known QEMU programs, the most recently added last.
    qemus: Vec<KnownQemu>,
    /// The reason against KVM that quiz has reported to the user.
    told: Option<String>,
}

/// A QEMU program whose features are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownQemu {
    identity: Identity,
    qemu: Qemu,
    /// `None` if KVM was not tried. `Some("")` if KVM ran a kernel with this QEMU; any other text
    /// is the reason why it did not.
    kvm: Option<String>,
}

/// The maximum number of QEMU programs that are remembered.
const QEMUS: usize = 32;

/// Why an accelerator cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccelError {
    /// KVM does not run this guest architecture on this host.
    #[error("cannot use KVM for a guest of {0}: KVM does not run that architecture here")]
    OtherArch(&'static str),
    /// The host has no `/dev/kvm`.
    #[error("cannot use KVM: this host has no /dev/kvm")]
    NoDevice,
    /// Only members of this group (a name or number) may open the device.
    #[error("cannot use KVM: you may not open /dev/kvm, which is for members of the group `{0}`")]
    NotInGroup(String),
    /// The device cannot be opened.
    #[error("cannot use KVM: cannot open /dev/kvm: {0}")]
    Device(io::Error),
    /// QEMU was built without the accelerator.
    #[error("cannot use {} with {}: this QEMU has no such accelerator", .0.name(), .1.display())]
    NotInQemu(Accel, PathBuf),
}

impl AccelError {
    /// A command or setting that may help.
    pub fn hint(&self) -> String {
        match self {
            AccelError::NotInGroup(group) => {
                format!("sudo usermod -a -G {group} $USER, and log in again; or --accel tcg")
            }
            AccelError::NotInQemu(..) => "name another QEMU: --qemu PROGRAM".to_owned(),
            AccelError::NoDevice => "load the module kvm_intel or kvm_amd; or --accel tcg".to_owned(),
            AccelError::OtherArch(_) | AccelError::Device(_) => "--accel tcg".to_owned(),
        }
    }
}

/// Facts about the host, kept in a file that may be deleted at any time.
#[derive(Debug)]
pub struct Host {
    file: PathBuf,
    facts: Facts,
    kvm_device: PathBuf,
}

impl Host {
    /// Reads the facts from `file`. Facts of another boot are ignored. `boot_id` is the content of
    /// the host's `/proc/sys/kernel/random/boot_id`.
    pub fn open(file: PathBuf, boot_id: &str) -> Host {
        let facts = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
        let facts = facts.filter(|facts| facts.boot_id == boot_id);
        let facts = facts.unwrap_or_else(|| Facts { boot_id: boot_id.to_owned(), ..Facts::default() });
        Host { file, facts, kvm_device: "/dev/kvm".into() }
    }

    /// The rate of this host's TSC in kHz; `None` if the host has none.
    pub fn tsc_khz(&mut self) -> Option<u64> {
        if self.facts.tsc_khz.is_none() {
            self.facts.tsc_khz = measure_tsc();
            self.remember();
        }
        self.facts.tsc_khz
    }

    /// What the QEMU at `program` supports for guests of `arch`. The answer is remembered until the
    /// program's file changes.
    ///
    /// If the QEMU does not answer, it counts as supporting everything, and quiz asks again next
    /// time. The error is the reason why it did not answer.
    pub fn qemu(&mut self, program: &Path, arch: &Arch) -> (Qemu, Option<ProbeError>) {
        let identity = match Identity::of(program) {
            Ok(identity) => identity,
            Err(cause) => {
                return (Qemu::unknown(), Some(ProbeError::Io { program: program.to_owned(), cause }));
            }
        };
        let known = self.facts.qemus.iter().find(|known| known.identity == identity);
        if let Some(known) = known.filter(|known| known.qemu.knows(arch)) {
            return (known.qemu.clone(), None);
        }
        let kvm = known.and_then(|known| known.kvm.clone());
        let (qemu, error) = match Qemu::ask(program, arch) {
            Ok(qemu) => (qemu, None),
            Err(error) => (Qemu::unknown(), Some(error)),
        };
        self.facts.qemus.retain(|known| known.identity.path() != program);
        let excess = (self.facts.qemus.len() + 1).saturating_sub(QEMUS);
        self.facts.qemus.drain(..excess);
        self.facts.qemus.push(KnownQemu { identity, qemu: qemu.clone(), kvm });
        self.remember();
        (qemu, error)
    }

    fn of_program(&self, program: &Path) -> Option<&KnownQemu> {
        self.facts.qemus.iter().find(|known| known.identity.path() == program)
    }

    /// The accelerator for a guest of `arch` in the QEMU at `program`, if it is known without
    /// trying. `None` if KVM must be tried.
    ///
    /// # Errors
    /// If the accelerator that the user asked for cannot be used.
    pub fn known(&mut self, wish: Wish, arch: &'static Arch, program: &Path) -> Result<Option<Choice>, AccelError> {
        let has = |accel: Accel| {
            let known = self.of_program(program);
            known.is_none_or(|known| known.qemu.has_type(&format!("{}-accel", accel.name())))
        };
        let (has_kvm, has_tcg) = (has(Accel::Kvm), has(Accel::Tcg));
        let no_kvm = match () {
            () if !quiz_arch::runs_under_kvm_here(arch) => Some(AccelError::OtherArch(arch.name)),
            () if !has_kvm => Some(AccelError::NotInQemu(Accel::Kvm, program.to_owned())),
            () => self.closed_device(),
        };
        let why = match (wish, no_kvm) {
            (Wish::Kvm, Some(error)) => return Err(error),
            (Wish::Kvm, None) => {
                return Ok(Some(Choice { accel: Accel::Kvm, why: "asked for".to_owned(), new: false }));
            }
            (Wish::Tcg, _) if !has_tcg => return Err(AccelError::NotInQemu(Accel::Tcg, program.to_owned())),
            (Wish::Tcg, _) => "asked for".to_owned(),
            (Wish::Auto, None) => match self.of_program(program).and_then(|known| known.kvm.as_deref()) {
                None => return Ok(None),
                Some("") => {
                    let why = "it has run a kernel here".to_owned();
                    return Ok(Some(Choice { accel: Accel::Kvm, why, new: false }));
                }
                Some(why) => why.to_owned(),
            },
            (Wish::Auto, Some(_)) if !has_tcg => return Err(AccelError::NotInQemu(Accel::Tcg, program.to_owned())),
            // The user can fix this, so it is worth reporting.
            (Wish::Auto, Some(error @ AccelError::NotInGroup(_))) => {
                let why = format!("{error} (hint: {})", error.hint());
                let new = self.facts.told.as_ref() != Some(&why);
                return Ok(Some(Choice { accel: Accel::Tcg, why, new }));
            }
            (Wish::Auto, Some(AccelError::OtherArch(_))) => "the guest's architecture is not the host's".to_owned(),
            (Wish::Auto, Some(AccelError::NoDevice)) => "this host has no /dev/kvm".to_owned(),
            (Wish::Auto, Some(error)) => error.to_string(),
        };
        Ok(Some(Choice { accel: Accel::Tcg, why, new: false }))
    }

    /// Remembers that this choice was reported to the user.
    pub fn told(&mut self, choice: &Choice) {
        if choice.new && self.facts.told.as_ref() != Some(&choice.why) {
            self.facts.told = Some(choice.why.clone());
            self.remember();
        }
    }

    /// Why `/dev/kvm` cannot be opened; `None` if it can.
    fn closed_device(&self) -> Option<AccelError> {
        let error = fs::OpenOptions::new().read(true).write(true).open(&self.kvm_device).err()?;
        Some(match error.kind() {
            io::ErrorKind::NotFound => AccelError::NoDevice,
            io::ErrorKind::PermissionDenied => AccelError::NotInGroup(group_of(&self.kvm_device)),
            _ => AccelError::Device(error),
        })
    }

    /// Tries KVM with the kernel and initramfs of `vm`, and remembers the result. Creates the files
    /// of the trial in `dir`.
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
        if let Some(known) = self.facts.qemus.iter_mut().find(|known| known.identity.path() == vm.qemu) {
            known.kvm = Some(if accel == Accel::Kvm { String::new() } else { why.clone() });
        }
        self.remember();
        Choice { accel, why, new: true }
    }

    /// Errors are ignored: if the facts are lost, the next run finds them out again.
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

/// The name of the group that owns a file, or its number if it has no name.
fn group_of(path: &Path) -> String {
    let gid = fs::metadata(path).map(|meta| meta.gid().to_string()).unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    name.unwrap_or(gid)
}

/// Boots until the agent sends its hello. The error is the reason why it did not.
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
        {
            let pidfd = monitor.pidfd();
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&monitor.agent, PollFlags::IN),
                PollFd::new(&monitor.qmp, PollFlags::IN),
                PollFd::new(&monitor.console, PollFlags::IN),
            ];
            wait::ready(&mut fds, Some(left)).ok();
        }
        // Reads the console only to keep it from filling up.
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

/// The first line of the log about KVM, or else its last line.
fn last_line(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.to_lowercase().contains("kvm")).or_else(|| lines.next_back())?;
    // QEMU puts its name in front of its messages.
    let message = line.split_once(": ").filter(|(name, _)| name.starts_with("qemu-system-")).map(|(_, rest)| rest);
    Some(message.unwrap_or(line).to_owned())
}

/// Measures the TSC against the clock, over 20 ms. The result is good to about 20 ppm.
#[cfg(target_arch = "x86_64")]
fn measure_tsc() -> Option<u64> {
    /// One reading of both. Takes the fastest of 20, which nothing interrupted.
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

/// On other architectures QEMU emulates the guest's TSC from the host's clock, at a rate of its
/// own.
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
            version: Some((10, 0)),
            vmcoreinfo: true,
            sandbox: false,
            memory_mib: 256,
            ram: None,
            incoming: None,
            cpus: 1,
            kernel: "/nonexistent".into(),
            initramfs: "/nonexistent".into(),
            append: Vec::new(),
            disks: Vec::new(),
            shares: Vec::new(),
            special_files: false,
            net: None,
            extra: Vec::new(),
        }
    }

    /// A host that has remembered `qemu` as supporting everything.
    fn knowing(mut host: Host, qemu: &Path) -> Host {
        let known = KnownQemu {
            identity: Identity::of(qemu).unwrap(),
            qemu: Qemu::unknown(),
            kvm: host.of_program(qemu).and_then(|known| known.kvm.clone()),
        };
        host.facts.qemus = vec![known];
        host
    }

    const NONE: &str = "/nonexistent/qemu";

    #[test]
    fn without_the_device_there_is_nothing_to_try() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = host(dir.path(), "b");
        let choice = host.known(Wish::Auto, quiz_arch::host(), NONE.as_ref()).unwrap().unwrap();
        assert_eq!((choice.accel, choice.new), (Accel::Tcg, false));
        assert!(choice.why.contains("no /dev/kvm"));
        let refused = host.known(Wish::Kvm, quiz_arch::host(), NONE.as_ref()).unwrap_err();
        assert!(matches!(refused, AccelError::NoDevice), "{refused}");
    }

    #[test]
    fn only_an_architecture_that_kvm_can_run_here_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kvm"), "").unwrap();
        let mut host = host(dir.path(), "b");
        for arch in quiz_arch::ALL {
            let tried = host.known(Wish::Auto, arch, NONE.as_ref()).unwrap().is_none();
            assert_eq!(tried, arch.kvm && *arch == quiz_arch::host(), "{}", arch.name);
            assert_eq!(host.known(Wish::Kvm, arch, NONE.as_ref()).is_ok(), tried, "{}", arch.name);
        }
    }

    #[test]
    fn a_device_that_may_not_be_opened_is_told_once_with_its_group() {
        if rustix::process::geteuid().is_root() {
            // root may open every device. `crates/quiz/tests/machines.rs` tests this as another
            // user.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kvm"), "").unwrap();
        fs::set_permissions(dir.path().join("kvm"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        let group = group_of(&dir.path().join("kvm"));
        let mut first = host(dir.path(), "b");
        let choice = first.known(Wish::Auto, quiz_arch::host(), NONE.as_ref()).unwrap().unwrap();
        assert!(choice.new && choice.why.contains(&group), "{choice:?}");
        first.told(&choice);
        let again = host(dir.path(), "b").known(Wish::Auto, quiz_arch::host(), NONE.as_ref()).unwrap().unwrap();
        assert!(!again.new);
        let refused = first.known(Wish::Kvm, quiz_arch::host(), NONE.as_ref()).unwrap_err();
        assert!(refused.to_string().contains(&group) && refused.hint().contains("usermod"), "{refused}");
    }

    #[test]
    fn a_kvm_that_opens_and_fails_is_told_once_and_remembered_for_this_boot_and_qemu() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kvm"), "").unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/broken-kvm");
        let own = quiz_arch::host();
        let mut first = knowing(host(dir.path(), "boot 1"), &fake);
        assert_eq!(first.known(Wish::Auto, own, &fake).unwrap(), None);
        let choice = first.try_kvm(&trial(&fake), dir.path());
        assert!(choice.new);
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.why.contains("KVM internal error. Suberror: 1"), "{}", choice.why);
        let again = host(dir.path(), "boot 1").known(Wish::Auto, own, &fake).unwrap().unwrap();
        assert_eq!((again.accel, again.new), (Accel::Tcg, false));
        assert_eq!(host(dir.path(), "boot 2").known(Wish::Auto, own, &fake).unwrap(), None);
        assert_eq!(host(dir.path(), "boot 1").known(Wish::Auto, own, "/other/qemu".as_ref()).unwrap(), None);
        assert_eq!(host(dir.path(), "boot 1").known(Wish::Kvm, own, &fake).unwrap().unwrap().accel, Accel::Kvm);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_tsc_is_measured_alike_twice() {
        let (a, b) = (measure_tsc().unwrap(), measure_tsc().unwrap());
        assert!(a > 100_000, "{a} kHz");
        assert!(a.abs_diff(b) * 1000 < a, "{a} and {b} kHz");
    }
}
