//! Turns a [`VmSpec`] into QEMU's command line: a pure function, checked by snapshot tests. Not for
//! starting QEMU (`monitor`).
//!
//! Only options that QEMU 7.2, 10.0 and 11.1 share are used. QEMU inherits a descriptor for every
//! channel to quiz. So no socket is left on disk, and no path can be too long.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use quiz_arch::{Discovery, Machine, Transport};

use crate::spec::{Accel, DiskFormat, VmSpec};

/// The descriptor of the QMP socket in QEMU.
pub const QMP_FD: i32 = 3;
/// The descriptor of the console socket in QEMU.
pub const CONSOLE_FD: i32 = 4;
/// The descriptor of the agent's socket in QEMU.
pub const AGENT_FD: i32 = 5;
/// The descriptor of the saved state from which QEMU resumes.
pub const STATE_FD: i32 = 6;

/// The first QEMU in which each vCPU may have its own thread under TCG. It locks a page of code
/// before it translates it (commit cb62bd15e14e of QEMU). An older QEMU can keep a translation of
/// code that another vCPU has just changed. A kernel that patches itself then hits its own
/// breakpoints and oopses, in about one boot of a few hundred.
const SEVERAL_THREADS: (u32, u32) = (8, 1);

/// The first QEMU that can save to a file and resume from it directly. QEMU from version 11 on no
/// longer accepts a file as a stream.
const KNOWS_FILES: (u32, u32) = (8, 2);

/// Whether the VM's QEMU is known to have this version or a newer one.
fn since(vm: &VmSpec, version: (u32, u32)) -> bool {
    vm.version.is_some_and(|its| its >= version)
}

/// The migration URI from which QEMU resumes.
pub fn state_uri(vm: &VmSpec) -> String {
    match since(vm, KNOWS_FILES) {
        true => format!("file:/proc/self/fd/{STATE_FD}"),
        false => format!("fd:{STATE_FD}"),
    }
}

/// A value that cannot be expressed on QEMU's command line.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// Paths in JSON must be UTF-8.
    #[error("the disk image {0:?} cannot be given to QEMU because its path is not UTF-8; rename it")]
    PathNotUtf8(std::path::PathBuf),
}

/// How QEMU gets the file that it saves the devices' state to. This process has the file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavesTo {
    /// By its path.
    File,
    /// By a descriptor that quiz sends.
    Descriptor,
}

/// How the VM's QEMU can save the devices' state.
pub fn saves_to(vm: &VmSpec) -> SavesTo {
    if since(vm, KNOWS_FILES) { SavesTo::File } else { SavesTo::Descriptor }
}

/// The arguments for the QEMU program, without the program itself.
///
/// # Errors
/// If the path of a disk image is not UTF-8.
pub fn argv(vm: &VmSpec) -> Result<Vec<OsString>, ArgumentError> {
    let mut args = Arguments(Vec::new());
    args.plain("-nodefaults");
    args.plain("-no-user-config");
    args.plain("-no-reboot");
    args.option("-display", "none");
    if vm.sandbox {
        args.option(SANDBOX, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    }
    args.option("-machine", machine(vm));
    args.option("-accel", accelerator(vm));
    args.option("-cpu", cpu(vm));
    args.option("-smp", vm.cpus.to_string());
    args.option("-m", format!("{}M", vm.memory_mib));
    if let Some(ram) = &vm.ram {
        let share = if ram.shared { "on" } else { "off" };
        let mut object =
            OsString::from(format!("memory-backend-file,id=ram,size={}M,share={share},mem-path=", vm.memory_mib));
        object.push(escaped(&ram.path));
        args.option("-object", object);
    }
    if vm.incoming.is_some() {
        args.option("-incoming", "defer");
    }
    args.option("-kernel", vm.kernel.as_os_str());
    args.option("-initrd", vm.initramfs.as_os_str());
    args.option("-append", command_line(vm));
    args.option("-chardev", format!("socket,id=qmp,fd={QMP_FD}"));
    args.option("-mon", "chardev=qmp,mode=control");
    args.option("-chardev", format!("socket,id=console,fd={CONSOLE_FD}"));
    console(vm, &mut args);
    args.option("-chardev", format!("socket,id=agent,fd={AGENT_FD}"));
    args.option("-device", format!("{},max_ports=2", device(vm, "virtio-serial")));
    args.option("-device", format!("virtserialport,nr=1,chardev=agent,id=agent,name={}", quiz_proto::PORT));
    if vm.machine.fw_cfg && vm.vmcoreinfo {
        args.option("-device", VMCOREINFO);
    }
    for (i, disk) in vm.disks.iter().enumerate() {
        args.option("-blockdev", blockdev(i, disk)?);
        let mut device = format!("{},drive=disk{i},serial={}", device(vm, "virtio-blk"), disk.serial);
        if let Some(sector) = disk.sector {
            device.push_str(&format!(",logical_block_size={sector},physical_block_size={sector}"));
        }
        args.option("-device", device);
    }
    for (i, share) in vm.shares.iter().enumerate() {
        let mut fsdev = OsString::from(format!("local,id=share{i},security_model=none,multidevs=remap"));
        if !share.writable {
            fsdev.push(",readonly=on");
        }
        fsdev.push(",path=");
        fsdev.push(escaped(&share.host));
        args.option("-fsdev", fsdev);
        args.option("-device", format!("{},fsdev=share{i},mount_tag={}", device(vm, "virtio-9p"), share.tag));
    }
    if let Some(user) = &vm.net {
        args.option("-netdev", format!("user,id=net{user}"));
        args.option("-device", format!("{},netdev=net", device(vm, "virtio-net")));
    }
    args.0.extend(vm.extra.iter().cloned());
    Ok(args.0)
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn plain(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.plain(name);
        self.0.push(value.as_ref().to_owned());
    }
}

fn machine(vm: &VmSpec) -> String {
    let mut text = vm.machine.name.to_owned();
    let kvm_options = if vm.accel == Accel::Kvm { vm.machine.kvm_options } else { &[] };
    for option in vm.machine.options.iter().chain(kvm_options) {
        text.push(',');
        text.push_str(option);
    }
    if vm.ram.is_some() {
        text.push_str(",memory-backend=ram");
    }
    text
}

fn accelerator(vm: &VmSpec) -> &'static str {
    match vm.accel {
        Accel::Kvm => "kvm",
        Accel::Tcg if vm.cpus > 1 && !since(vm, SEVERAL_THREADS) && vm.arch.yields => "tcg,thread=single",
        Accel::Tcg => "tcg",
    }
}

fn cpu(vm: &VmSpec) -> &'static str {
    match vm.accel {
        Accel::Kvm => "host",
        Accel::Tcg => vm.arch.cpu,
    }
}

fn console(vm: &VmSpec, args: &mut Arguments) {
    match vm.arch.console_device {
        Some(device) => args.option("-device", format!("{device},chardev=console")),
        None => args.option("-serial", "chardev:console"),
    }
}

fn device(vm: &VmSpec, name: &str) -> String {
    on_bus(vm.machine, name)
}

/// The virtio devices that a VM may have.
pub const DEVICES: [&str; 4] = ["virtio-serial", "virtio-blk", "virtio-9p", "virtio-net"];
/// The option that makes QEMU forbid itself system calls. QEMU then cannot start a program or
/// change its user, even if a guest takes it over.
pub const SANDBOX: &str = "-sandbox";
/// The device through which a guest reports where things are in a dump of its memory.
pub const VMCOREINFO: &str = "vmcoreinfo";
/// The object type that makes a file the guest's memory.
pub const MEMORY_FILE: &str = "memory-backend-file";

/// The type of the virtio device `name` on this machine's bus: `virtio-blk-pci` for `virtio-blk`.
pub fn on_bus(machine: &Machine, name: &str) -> String {
    let suffix = match machine.transport {
        Transport::Pci => "pci",
        Transport::Mmio => "device",
        Transport::Ccw => "ccw",
    };
    format!("{name}-{suffix}")
}

/// The kernel command line.
pub fn command_line(vm: &VmSpec) -> String {
    let mut words = vec![
        format!("console={}", vm.arch.console),
        // The console gets all messages, because it may be the only evidence that is left.
        "ignore_loglevel".to_owned(),
        // An oops becomes a panic, and a panic ends the guest at once.
        "oops=panic".to_owned(),
        "panic=-1".to_owned(),
        // Otherwise the kernel first asks a keyboard controller that does not exist to reset the
        // machine.
        "reboot=t".to_owned(),
        "rdinit=/init".to_owned(),
        "mitigations=off".to_owned(),
        "random.trust_cpu=on".to_owned(),
    ];
    if vm.cpus > 1 {
        // On a panic, the kernel also prints the stacks of the other processors.
        words.push("panic_print=0x40".to_owned());
    }
    words.extend(vm.arch.nmi_words.iter().map(|word| word.to_string()));
    if vm.accel == Accel::Tcg {
        // QEMU translates code per address (before 8.0), or per page (since). If each process had
        // its own addresses, QEMU would translate the loader and the C library again for each
        // process. That is most of the run time of a short program.
        words.push("norandmaps".to_owned());
    }
    if let (Accel::Tcg, true, Some(khz)) = (vm.accel, vm.arch.tsc, vm.tsc_khz) {
        // The emulated TSC is the host's. A guest that measures it may hang. A guest with several
        // CPUs does not trust it and falls back to counting timer interrupts, many of which get
        // lost on a busy host.
        words.push(format!("tsc_early_khz={khz}"));
        words.push("tsc=reliable".to_owned());
        if let Some(hz) = vm.hz.filter(|hz| *hz > 0) {
            // Loops per jiffy: otherwise each CPU takes several jiffies to count them.
            words.push(format!("lpj={}", khz * 1000 / u64::from(hz)));
        }
        // QEMU's interrupt controller is wired as it reports.
        words.push("no_timer_check".to_owned());
        // A machine whose ACPI tables report that it lacks the PC's old devices has no other timer.
        let has_pit = vm.machine.discovery != Discovery::Acpi;
        if has_pit && !vm.fine_timers {
            // Calibrating the APIC timer against the PIT takes 200 ms, and fails on a busy host.
            words.push("nolapic_timer".to_owned());
            // Without that timer, both fail in any case, some time into the run, and print
            // warnings.
            words.push("highres=off".to_owned());
            words.push("nohz=off".to_owned());
        }
    }
    words.extend(vm.append.iter().cloned());
    words.join(" ")
}

/// QEMU's name for the disk with this index.
pub fn node(i: usize) -> String {
    format!("disk{i}")
}

fn blockdev(i: usize, disk: &crate::spec::Disk) -> Result<String, ArgumentError> {
    let file = disk.file.to_str().ok_or_else(|| ArgumentError::PathNotUtf8(disk.file.clone()))?;
    let driver = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let mut node = serde_json::json!({
        "driver": driver,
        "node-name": node(i),
        "read-only": disk.read_only,
        "discard": "unmap",
        "file": { "driver": "file", "filename": file, "discard": "unmap" },
    });
    if disk.format == DiskFormat::Qcow2 {
        // Ignores a backing file in the image's header.
        node["backing"] = serde_json::Value::Null;
    }
    Ok(node.to_string())
}

/// Escapes a path for a comma-separated option: QEMU reads two commas as one.
pub fn escaped(path: &Path) -> OsString {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        out.push(*byte);
        if *byte == b',' {
            out.push(b',');
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Disk, Share};

    fn vm(arch: &str, machine: usize, accel: Accel) -> VmSpec {
        let arch = quiz_arch::find(arch).unwrap();
        VmSpec {
            qemu: arch.qemu.into(),
            arch,
            machine: &arch.machines[machine],
            accel,
            tsc_khz: Some(2_000_000),
            hz: Some(250),
            fine_timers: false,
            version: Some((7, 2)),
            vmcoreinfo: true,
            sandbox: true,
            memory_mib: 1024,
            ram: None,
            incoming: None,
            cpus: 2,
            kernel: "/cache/kernels/6.12.1/vmlinux".into(),
            initramfs: "/cache/initramfs/x/initramfs".into(),
            append: vec!["quiet".into()],
            disks: vec![
                Disk {
                    serial: "root".into(),
                    file: "/cache/a, b/root.img".into(),
                    format: DiskFormat::Raw,
                    read_only: true,
                    sector: None,
                },
                Disk {
                    serial: "disk1".into(),
                    file: "/d.qcow2".into(),
                    format: DiskFormat::Qcow2,
                    read_only: false,
                    sector: Some(4096),
                },
            ],
            special_files: false,
            shares: vec![Share { tag: "share0".into(), host: "/home/u/a,b".into(), writable: false }],
            net: None,
            extra: vec!["-s".into()],
        }
    }

    fn text(vm: &VmSpec) -> String {
        let mut out = String::new();
        for word in argv(vm).unwrap() {
            out.push_str(if word.as_bytes().first() == Some(&b'-') && word.len() > 1 { "\n" } else { " " });
            out.push_str(word.to_str().unwrap());
        }
        out
    }

    #[test]
    fn microvm_emulated() {
        insta::assert_snapshot!(text(&vm("x86_64", 0, Accel::Tcg)));
    }

    #[test]
    fn microvm_with_kvm() {
        insta::assert_snapshot!(text(&vm("x86_64", 0, Accel::Kvm)));
    }

    #[test]
    fn microvm_with_acpi() {
        insta::assert_snapshot!(text(&vm("x86_64", 1, Accel::Tcg)));
    }

    #[test]
    fn q35_emulated() {
        insta::assert_snapshot!(text(&vm("x86_64", 2, Accel::Tcg)));
    }

    #[test]
    fn arm64_with_kvm() {
        insta::assert_snapshot!(text(&vm("aarch64", 0, Accel::Kvm)));
    }

    #[test]
    fn a_network_is_on_the_machines_bus() {
        let mut vm = vm("x86_64", 0, Accel::Tcg);
        assert!(!text(&vm).contains("net"));
        vm.net = Some(",hostfwd=tcp::2222-:22".into());
        assert!(text(&vm).contains("-netdev user,id=net,hostfwd=tcp::2222-:22\n-device virtio-net-device,netdev=net"));
    }

    #[test]
    fn a_saved_machine_has_its_memory_in_a_file() {
        let mut vm = vm("x86_64", 0, Accel::Tcg);
        vm.ram = Some(crate::spec::RamFile { path: "/t/a,b/ram".into(), shared: true });
        let object = "-object memory-backend-file,id=ram,size=1024M,share=on,mem-path=/t/a,,b/ram";
        assert!(text(&vm).contains(object) && text(&vm).contains(",memory-backend=ram\n"));
        assert!(!text(&vm).contains("-incoming"));
        vm.ram = Some(crate::spec::RamFile { path: "/t/ram".into(), shared: false });
        vm.incoming = Some("/t/state".into());
        assert!(text(&vm).contains("share=off,mem-path=/t/ram\n-incoming defer\n"));
    }

    #[test]
    fn s390x_emulated() {
        insta::assert_snapshot!(text(&vm("s390x", 0, Accel::Tcg)));
    }

    #[test]
    fn s390x_with_kvm() {
        insta::assert_snapshot!(text(&vm("s390x", 0, Accel::Kvm)));
    }

    #[test]
    fn power_emulated_and_with_kvm() {
        insta::assert_snapshot!(text(&vm("ppc64", 0, Accel::Tcg)));
        insta::assert_snapshot!(text(&vm("ppc64le", 0, Accel::Kvm)));
    }

    #[test]
    fn riscv64_has_a_thread_for_each_cpu() {
        insta::assert_snapshot!(text(&vm("riscv64", 0, Accel::Tcg)));
    }

    #[test]
    fn the_tsc_rate_is_given_only_to_emulated_guests_that_have_one() {
        let words = "tsc_early_khz=2000000 tsc=reliable lpj=8000000 no_timer_check nolapic_timer highres=off nohz=off";
        assert!(command_line(&vm("x86_64", 0, Accel::Tcg)).contains(words));
        assert!(command_line(&vm("x86_64", 2, Accel::Tcg)).contains(words));
        assert!(!command_line(&vm("x86_64", 1, Accel::Tcg)).contains("nolapic_timer"));
        assert!(!command_line(&vm("x86_64", 0, Accel::Kvm)).contains("tsc_early_khz"));
        assert!(!command_line(&vm("aarch64", 0, Accel::Tcg)).contains("tsc"));
    }

    #[test]
    fn a_disk_path_that_json_cannot_carry_is_refused_by_name() {
        let mut vm = vm("x86_64", 0, Accel::Tcg);
        vm.disks[0].file = std::path::PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
        assert!(argv(&vm).unwrap_err().to_string().contains("\\xFF"));
    }
}
