//! Runs the VMs in which quiz makes roots. Not for what happens in them (`quiz_image::root`).

use std::path::PathBuf;
use std::time::Duration;

use quiz_arch::Arch;
use quiz_config::{DiskSpec, DumpWhen, ImageFormat, RunSpec, WorktreeMode};
use quiz_host::{Cache, Report, Silent};
use quiz_image::root::{Task, Vm, VmError};
use quiz_kernel::kernel::{self, Kernel};
use quiz_kernel::stock;
use quiz_vm::{Streams, Verdict};

use crate::assemble::order;
use crate::assemble::{Base, PreparedRun};
use crate::attempt::{Ended, PlannedRun};
use crate::context::Context;
use crate::evidence::{RunDir, RunsDir};
use crate::fault::Fault;
use crate::find::packages;
use crate::frontend::{Frontend, ProgramStreams, ProgramTerminal};
use crate::signals::ReceivedSignals;

/// In MiB. Enough for dpkg with any packages, because those are on a disk.
const MEMORY_MIB: u32 = 1024;
/// The limit for the boot of an emulated guest on a busy host.
const BOOT: Duration = Duration::from_secs(300);
/// The limit without a heartbeat of the guest.
const HANG: Duration = Duration::from_secs(300);
/// The serial number of a run's first disk.
const DISK: &str = "disk1";
/// The kernel options that such a VM needs.
const OPTIONS: &[&str] = &["SQUASHFS", "OVERLAY_FS", "EXT4_FS", "VIRTIO_BLK", "NET_9P_VIRTIO"];

/// Runs the VMs that make roots.
pub struct RootVm<'a> {
    /// The run that the settings describe. The VM takes QEMU and the accelerator from it.
    pub spec: &'a RunSpec,
    /// The architecture of the roots.
    pub arch: &'static Arch,
    /// Another thread is downloading the kernel of a release, and reports it.
    pub adding: bool,
    /// The context of this call.
    pub ctx: &'a Context,
}

impl Vm for RootVm<'_> {
    fn run(&self, task: Task<'_>) -> Result<(), VmError> {
        let failed = |fault: Fault| VmError::Failed(fault.message());
        let evidence = task.evidence.to_owned();
        let ended = self.try_run(task).map_err(failed)?;
        match &ended.record.verdict {
            Verdict::Exited { code: 0 } => Ok(()),
            Verdict::Interrupted { signal } => Err(VmError::Interrupted(i32::from(*signal))),
            // The log has the output.
            Verdict::Exited { code } => Err(VmError::Failed(format!("the programs of its packages failed ({code})"))),
            other => Err(VmError::Failed(format!(
                "{}; what is known of the VM is in {}",
                other.headline(),
                evidence.display()
            ))),
        }
    }
}

impl RootVm<'_> {
    fn try_run(&self, task: Task<'_>) -> Result<Ended, Fault> {
        let kernel = self.kernel(&self.ctx.cache()?)?;
        let mut spec = self.vm(task.disk.to_owned());
        spec.command = (task.command)(order::ROOT, DISK);
        let place = task.evidence.parent().unwrap_or(task.evidence);
        let name = task.evidence.file_name().and_then(|name| name.to_str()).unwrap_or("vm");
        let dir = RunDir::create(&RunsDir::below(place, &[name]))?;
        let base = Base { kernel, root: task.root };
        let run = PreparedRun::assemble(&spec, Vec::new(), base, dir, ProgramTerminal::default(), self.ctx)?;
        let mut signals = ReceivedSignals::listen()?;
        let streams = Streams { input: None, output: Box::new(task.output), errors: task.errors };
        let frontend =
            Frontend { streams: ProgramStreams::Single(Some(streams)), signals: &mut signals, notices: &mut |_| {} };
        let attempted = PlannedRun::new(run, false, self.ctx)?.attempt(frontend, self.ctx)?;
        Ok(attempted.finish(None, None, &mut signals, self.ctx))
    }

    /// Returns a run without anything that the user wants runs to have, except QEMU and the
    /// accelerator.
    fn vm(&self, disk: PathBuf) -> RunSpec {
        RunSpec {
            shell_after: false,
            kernel: None,
            arch: self.arch.name.to_owned(),
            memory_mib: MEMORY_MIB,
            cpus: 1,
            machine: None,
            qemu: self.spec.qemu.clone().filter(|_| self.spec.arch == self.arch.name),
            qemu_args: Vec::new(),
            append: Vec::new(),
            panic_on_oops: true,
            strict: false,
            profiles: Vec::new(),
            profile_options: Vec::new(),
            gdb: false,
            tmux: false,
            worktree: None,
            worktree_mode: WorktreeMode::Off,
            shares: Vec::new(),
            disks: vec![DiskSpec::File { path: disk, format: ImageFormat::Raw }],
            env: Vec::new(),
            timeout: None,
            boot_timeout: Some(BOOT),
            hang_timeout: Some(HANG),
            dump: DumpWhen::Off,
            keep: None,
            cold: true,
            standby: false,
            special_files: false,
            json: None,
            ..self.spec.clone()
        }
    }

    /// Returns a distribution's kernel, and downloads one if there is none. The user's own kernel
    /// may be the one under test.
    fn kernel(&self, cache: &Cache) -> Result<Kernel, Fault> {
        let serves = |kernel: &Kernel| {
            let manifest = &kernel.manifest;
            let has = |option: &&str| kernel.option(option).is_ok_and(|value| value.is_some());
            manifest.arch == self.arch.name
                && !manifest.origin.is_built()
                && manifest.version.is_stable()
                && OPTIONS.iter().all(has)
        };
        if let Some(kernel) = kernel::list(cache, &Silent)?.into_iter().find(serves) {
            return Ok(kernel);
        }
        let report: &dyn Report = if self.adding { &Silent } else { &self.ctx.report };
        Ok(stock::add_kernel(cache, &packages::wanted_kernel(self.spec, self.arch), false, report)?)
    }
}
