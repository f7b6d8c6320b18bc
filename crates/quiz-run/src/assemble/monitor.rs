//! Chooses the QEMU of a run, and checks that it has what the run needs. Not for asking QEMU
//! (`quiz_vm::probe`).

use std::path::PathBuf;

use quiz_arch::{Arch, Machine};
use quiz_config::{RunSpec, Verbosity};
use quiz_host::Report;
use quiz_vm::accel::Host;
use quiz_vm::probe::Qemu;
use quiz_vm::qemu::on_bus;

use crate::context::Context;
use crate::fault::Fault;

/// Where Red Hat's distributions install the QEMU for the host's own architecture.
const QEMU_KVM: &str = "/usr/libexec/qemu-kvm";

/// Returns the QEMU that the user named, else the one on PATH, else that of Red Hat's
/// distributions.
pub fn program(spec: &RunSpec, arch: &'static Arch, ctx: &Context) -> PathBuf {
    let named = spec.qemu.clone().unwrap_or_else(|| arch.qemu.into());
    let found = named.to_str().and_then(|name| ctx.search().program(name));
    let other = || beside_path(arch).filter(|_| spec.qemu.is_none());
    found.or_else(other).unwrap_or(named)
}

/// Returns a QEMU for guests of `arch` that is not on PATH.
pub fn beside_path(arch: &'static Arch) -> Option<PathBuf> {
    let path = PathBuf::from(QEMU_KVM);
    (quiz_arch::runs_under_kvm_here(arch) && path.is_file()).then_some(path)
}

/// A run's QEMU.
pub struct Monitor {
    pub program: PathBuf,
    /// The machines and devices that it has.
    pub has: Qemu,
}

impl Monitor {
    /// Finds the QEMU of a run. Asks it what it has, unless quiz knows that.
    pub fn of(spec: &RunSpec, arch: &'static Arch, host: &mut Host, ctx: &Context) -> Monitor {
        let program = program(spec, arch, ctx);
        let (has, error) = host.qemu(&program, arch);
        if let Some(error) = error.filter(|_| ctx.verbosity >= Verbosity::Verbose) {
            ctx.report.say(&format!("{error}; assuming that it supports everything"));
        }
        Monitor { program, has }
    }

    /// Refuses a run on `machine` that needs a device which this QEMU lacks. Call it before quiz
    /// starts anything.
    ///
    /// # Errors
    /// The missing device, with a hint.
    pub fn require(&self, machine: &Machine, shares: usize, net: bool) -> Result<(), Fault> {
        let other = "name another QEMU: --qemu PROGRAM";
        let needs = [
            ("virtio-serial", true, other.to_owned()),
            ("virtio-blk", true, other.to_owned()),
            ("virtio-9p", shares > 0, format!("run without shares: --worktree off and no --share; or {other}")),
            ("virtio-net", net, format!("run without the profile that asks for a network; or {other}")),
        ];
        for (name, _, hint) in needs.into_iter().filter(|(_, needed, _)| *needed) {
            let device = on_bus(machine, name);
            if !self.has.has_type(&device) {
                let program = self.program.display();
                let fault = Fault::new(format!("cannot run this VM with {program}: that QEMU has no device {device}"));
                return Err(fault.hint(hint));
            }
        }
        Ok(())
    }
}
