//! Chooses the machine and the modules, from facts about the kernel. The choice itself reads
//! nothing from the host.

use quiz_arch::{Arch, Discovery, Machine, Transport};
use quiz_kernel::Kernel;
use quiz_vm::Accel;

use crate::assemble::monitor::Monitor;
use crate::fault::Fault;

/// The first release that accepts the TSC's rate (`tsc_early_khz=`, commit bd35c77e32e4 of Linux
/// 5.6).
const KNOWS_TSC_KHZ: (u32, u32) = (5, 6);

/// The facts about a kernel that decide the choice.
#[derive(Debug, Clone)]
pub struct KernelFacts {
    pub name: String,
    pub mmio: bool,
    /// Whether the kernel finds virtio-mmio devices that its command line names.
    pub mmio_on_command_line: bool,
    pub acpi: bool,
    pub pci: bool,
    pub ext4: bool,
    /// Whether the kernel accepts the TSC's rate on its command line.
    pub knows_tsc_khz: bool,
    /// `CONFIG_HZ`.
    pub hz: Option<u32>,
    /// Whether the kernel passes vmcoreinfo to QEMU: the layout of its memory, for dumps.
    pub vmcoreinfo: bool,
}

/// What a run needs of its machine.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// How many virtio devices the machine must have room for.
    pub devices: usize,
    /// Whether quiz may dump the guest's memory. If so, a machine that passes on vmcoreinfo comes
    /// first.
    pub dump: bool,
}

impl KernelFacts {
    /// Reads the facts from the kernel's configuration.
    pub fn of(kernel: &Kernel) -> Result<KernelFacts, Fault> {
        let set = |option: &str| -> Result<bool, Fault> {
            Ok(kernel.option(option)?.is_some_and(|value| value == "y" || value == "m"))
        };
        Ok(KernelFacts {
            name: kernel.name().to_owned(),
            mmio: set("CONFIG_VIRTIO_MMIO")?,
            mmio_on_command_line: set("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES")?,
            acpi: set("CONFIG_ACPI")?,
            pci: set("CONFIG_VIRTIO_PCI")?,
            ext4: set("CONFIG_EXT4_FS")?,
            // linux-next has no series, and is newer than all of them.
            knows_tsc_khz: kernel.manifest.version.series().is_none_or(|series| series >= KNOWS_TSC_KHZ),
            hz: kernel.option("CONFIG_HZ")?.and_then(|hz| hz.parse().ok()),
            // As a module, the driver would load too late, if at all.
            vmcoreinfo: kernel.has_builtin("CONFIG_FW_CFG_SYSFS"),
        })
    }

    /// Returns the modules that the agent needs before it can reach the root and the host. Some of
    /// them may be built into the kernel.
    pub fn modules<'a>(&self, transport: Transport, root: &'a str) -> Vec<&'a str> {
        let mut modules = match transport {
            Transport::Mmio => vec!["virtio_mmio"],
            Transport::Pci => vec!["virtio_pci"],
            Transport::Ccw => Vec::new(),
        };
        modules.extend(["virtio_console", "virtio_blk", "9pnet_virtio", "9p", "overlay", root]);
        if self.ext4 && root != "ext4" {
            modules.push("ext4");
        }
        modules
    }
}

/// Returns the machine that the user named, else the first of the architecture that fits. A machine
/// fits if this kernel runs on it under this accelerator, and if it has what the run needs.
pub fn choose(
    arch: &'static Arch,
    accel: Accel,
    asked: Option<&str>,
    kernel: &KernelFacts,
    tsc_khz: Option<u64>,
    Needs { devices, dump }: Needs,
    qemu: &Monitor,
) -> Result<&'static Machine, Fault> {
    let names = || arch.machines.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
    let named = |machine: &&Machine| asked.is_none_or(|asked| machine.name == asked);
    if let (Some(asked), None) = (asked, arch.machines.iter().find(|m| named(m))) {
        return Err(Fault::new(format!("{} has no machine `{asked}`", arch.name)).hint(format!("it has {}", names())));
    }
    let in_qemu = |machine: &&Machine| qemu.has.has_machine(machine.name);
    if !arch.machines.iter().filter(named).any(|machine| in_qemu(&machine)) {
        let program = qemu.program.display();
        let machines = asked.map_or_else(names, str::to_owned);
        let fault = Fault::new(format!("cannot run this VM with {program}: that QEMU has no machine {machines}"));
        return Err(fault.hint("name another QEMU: --qemu PROGRAM; or another machine: --machine NAME"));
    }
    let works = |machine: &&Machine| {
        let driver = match machine.transport {
            Transport::Mmio => kernel.mmio,
            Transport::Pci => kernel.pci,
            Transport::Ccw => true,
        };
        let found = match machine.discovery {
            Discovery::Bus => true,
            Discovery::CommandLine => kernel.mmio_on_command_line,
            Discovery::Acpi => kernel.acpi,
        };
        let ticks = accel == Accel::Kvm || !machine.needs_tsc_khz || (kernel.knows_tsc_khz && tsc_khz.is_some());
        driver && found && (ticks || asked.is_some()) && in_qemu(machine)
    };
    let fits = |machine: &&Machine| machine.slots >= devices;
    if let Some(most) = arch.machines.iter().filter(named).filter(works).map(|m| m.slots).max()
        && most < devices
    {
        let fault =
            Fault::new(format!("{devices} devices are more than the {most} that a {} machine has room for", arch.name));
        return Err(fault.hint("each disk, share, profile layer and network is one; use fewer disks"));
    }
    let good = || arch.machines.iter().filter(named).filter(fits).filter(works);
    let telling = good().find(|machine| machine.fw_cfg && dump && kernel.vmcoreinfo);
    telling.or_else(|| good().next()).ok_or_else(|| {
        let machines = asked.map_or_else(names, str::to_owned);
        Fault::new(format!("the kernel {} has no virtio driver for QEMU's {machines}", kernel.name)).hint(
            "it needs CONFIG_VIRTIO_PCI, or CONFIG_VIRTIO_MMIO with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES or CONFIG_ACPI",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> KernelFacts {
        KernelFacts {
            name: "k".into(),
            mmio: true,
            mmio_on_command_line: true,
            acpi: true,
            pci: true,
            ext4: true,
            knows_tsc_khz: true,
            hz: Some(250),
            vmcoreinfo: true,
        }
    }

    /// A QEMU that has everything.
    fn any() -> Monitor {
        Monitor { program: "qemu".into(), has: quiz_vm::probe::Qemu::unknown() }
    }

    fn room(devices: usize) -> Needs {
        Needs { devices, dump: false }
    }

    fn chosen(accel: Accel, kernel: &KernelFacts, tsc: Option<u64>) -> &'static str {
        choose(quiz_arch::find("x86_64").unwrap(), accel, None, kernel, tsc, room(5), &any()).unwrap().name
    }

    #[test]
    fn microvm_is_chosen_where_it_works_only() {
        assert_eq!(chosen(Accel::Tcg, &facts(), Some(1)), "microvm");
        assert_eq!(chosen(Accel::Kvm, &facts(), None), "microvm");
        assert_eq!(chosen(Accel::Tcg, &facts(), None), "q35");
        assert_eq!(chosen(Accel::Tcg, &KernelFacts { knows_tsc_khz: false, ..facts() }, Some(1)), "q35");
        assert_eq!(chosen(Accel::Kvm, &KernelFacts { knows_tsc_khz: false, ..facts() }, None), "microvm");
        assert_eq!(chosen(Accel::Kvm, &KernelFacts { mmio: false, ..facts() }, None), "q35");
    }

    #[test]
    fn devices_are_named_where_the_kernel_listens_and_listed_elsewhere() {
        let x86_64 = quiz_arch::find("x86_64").unwrap();
        let stock = KernelFacts { mmio_on_command_line: false, ..facts() };
        let choice =
            |kernel: KernelFacts| choose(x86_64, Accel::Kvm, None, &kernel, None, room(5), &any()).unwrap().discovery;
        assert_eq!(choice(facts()), Discovery::CommandLine);
        assert_eq!(choice(stock.clone()), Discovery::Acpi);
        assert_eq!(choice(KernelFacts { acpi: false, ..stock }), Discovery::Bus);
    }

    #[test]
    fn many_devices_get_a_machine_with_room_for_them() {
        let x86_64 = quiz_arch::find("x86_64").unwrap();
        let choice = |devices| choose(x86_64, Accel::Kvm, None, &facts(), None, room(devices), &any());
        assert_eq!(choice(8).unwrap().discovery, Discovery::CommandLine);
        assert_eq!(choice(9).unwrap().discovery, Discovery::Acpi);
        assert_eq!(choice(25).unwrap().name, "q35");
        assert!(choice(31).unwrap_err().message().contains("31 devices are more than the 30"));
        let simple = KernelFacts { acpi: false, ..facts() };
        assert_eq!(choose(x86_64, Accel::Kvm, None, &simple, None, room(9), &any()).unwrap().name, "q35");
    }

    #[test]
    fn a_guest_that_may_be_dumped_can_say_where_is_what() {
        let x86_64 = quiz_arch::find("x86_64").unwrap();
        let choice = |kernel: &KernelFacts| {
            choose(x86_64, Accel::Tcg, None, kernel, Some(1), Needs { devices: 5, dump: true }, &any())
                .unwrap()
                .discovery
        };
        assert_eq!(choice(&facts()), Discovery::Acpi);
        assert_eq!(choice(&KernelFacts { vmcoreinfo: false, ..facts() }), Discovery::CommandLine);
        assert_eq!(choice(&KernelFacts { acpi: false, ..facts() }), Discovery::Bus);
    }

    #[test]
    fn a_machine_that_was_asked_for_is_taken_or_refused_by_name() {
        let x86_64 = quiz_arch::find("x86_64").unwrap();
        assert_eq!(choose(x86_64, Accel::Tcg, Some("q35"), &facts(), Some(1), room(5), &any()).unwrap().name, "q35");
        let refused = choose(x86_64, Accel::Tcg, Some("virt"), &facts(), Some(1), room(5), &any()).unwrap_err();
        assert!(refused.message().contains("no machine `virt`"));
    }

    #[test]
    fn a_kernel_without_virtio_is_refused_with_the_options_it_lacks() {
        let kernel = KernelFacts { mmio: false, pci: false, ..facts() };
        let refused =
            choose(quiz_arch::find("x86_64").unwrap(), Accel::Kvm, None, &kernel, None, room(5), &any()).unwrap_err();
        assert!(refused.message().contains("no virtio driver"));
        assert!(choose(quiz_arch::find("s390x").unwrap(), Accel::Tcg, None, &kernel, None, room(5), &any()).is_ok());
    }

    #[test]
    fn modules_follow_the_bus_and_the_root() {
        assert!(facts().modules(Transport::Pci, "squashfs").contains(&"virtio_pci"));
        let ext4 = facts().modules(Transport::Mmio, "ext4");
        assert_eq!(ext4.iter().filter(|m| **m == "ext4").count(), 1);
    }
}
