//! Turns a kernel, a root and the profiles into a VM and the agent's orders, and owns all that the
//! run needs. Not for finding the kernel and the root (`prepare`), nor for starting the VM
//! (`attempt`).

pub mod agents;
pub(crate) mod disks;
pub(crate) mod host;
pub(crate) mod layers;
pub(crate) mod machine;
pub mod monitor;
pub(crate) mod order;
pub(crate) mod setup;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use quiz_arch::Arch;
use quiz_config::{Chosen, DumpWhen, RunSpec};
use quiz_host::Cache;
use quiz_host::tools::boot_id;
use quiz_image::initramfs::{self, Initramfs};
use quiz_image::layer::Layer;
use quiz_image::root::Root;
use quiz_kernel::Kernel;
use quiz_vm::accel::{Choice, Host};
use quiz_vm::proto::{Order, System};
use quiz_vm::{Accel, Disk, DiskFormat, VmSpec};
use tempfile::TempDir;

use crate::context::Context;
use crate::evidence::RunDir;
use crate::fault::Fault;
use crate::frontend::ProgramTerminal;
use crate::running::registry::{self, Running};
use disks::Disks;
use machine::KernelFacts;
use monitor::Monitor;
use order::SharedDir;
use setup::Asked;

/// A kernel and a root. Both stay in use until this value is dropped.
#[derive(Debug)]
pub struct Base {
    pub kernel: Kernel,
    pub root: Root,
}

/// A socket at which the VM waits for gdb.
pub struct GdbSocket {
    pub path: PathBuf,
    /// The directory of the socket. Only its user can enter it, and its path is short enough for
    /// QEMU.
    _dir: TempDir,
}

/// Everything that a run needs until it ends.
pub struct PreparedRun {
    pub spec: RunSpec,
    pub dir: RunDir,
    pub cache: Cache,
    pub chosen: Vec<Chosen>,
    pub base: Base,
    pub qemu: Monitor,
    pub choice: Choice,
    pub vm: VmSpec,
    pub disks: Disks,
    /// What the agent prepares before the program is known.
    pub system: System,
    /// What the agent does for this run alone.
    pub order: Order,
    /// Identities of the contents of the VM's files, by their paths.
    pub contents: BTreeMap<PathBuf, String>,
    /// A fingerprint of each input, by its name.
    pub inputs: BTreeMap<String, String>,
    pub boot_id: String,
    pub gdb: Option<GdbSocket>,
    _layers: Vec<Layer>,
    _initramfs: Initramfs,
    /// What the profiles' programs have made on the host.
    _setup: TempDir,
}

impl PreparedRun {
    /// Makes everything that the run needs, except its kernel and root. `dir` is the run directory.
    pub fn assemble(
        spec: &RunSpec,
        chosen: Vec<Chosen>,
        base: Base,
        dir: RunDir,
        terminal: ProgramTerminal,
        ctx: &Context,
    ) -> Result<PreparedRun, Fault> {
        let cache = ctx.cache()?;
        let setup_dir = tempfile::Builder::new()
            .prefix("setup-")
            .tempdir_in(dir.path())
            .map_err(|e| Fault::new(format!("cannot make a directory for the profiles: {e}")))?;
        let asked = setup::run(&chosen, &base.kernel, setup_dir.path(), ctx)?;
        let gdb = spec.gdb.then(GdbSocket::new).transpose()?;
        let facts = KernelFacts::of(&base.kernel)?;
        let disks = Disks::create(spec, &asked.disks, dir.path(), &cache, facts.ext4, ctx)?;
        let layers = layers::make(&chosen, &asked, &base.kernel, &cache, &ctx.report)?;
        let (modules, module_parameters) = layers::modules(&asked, &base.kernel)?;
        let shares = order::shares(spec, &asked.shares)?;

        let mut host = host::open(ctx)?;
        let arch = crate::arch(Some(&spec.arch))?;
        let qemu = Monitor::of(spec, arch, &mut host, ctx);
        let machine = Machine {
            spec,
            arch,
            base: &base,
            facts,
            asked: &asked,
            append: [&module_parameters[..], &asked.append, &spec.append].concat(),
            disks: root_and_layers(&base.root, &layers).chain(disks.disks.iter().cloned()).collect(),
            shares: &shares,
            qemu: &qemu,
            gdb: gdb.as_ref(),
            cache: &cache,
            ctx,
        };
        let known = host.known(host::wish(spec.accel), arch, &qemu.program).map_err(host::refused)?;
        let choice = match known {
            Some(choice) => choice,
            None => {
                let (trial, _initramfs) = machine.vm(Accel::Kvm, &mut host)?;
                host.try_kvm(&trial, dir.path())
            }
        };
        host::report(&choice, ctx);
        host.told(&choice);
        let (vm, initramfs) = machine.vm(choice.accel, &mut host)?;

        let (system, order) = {
            let serials = (0..layers.len()).map(|i| layers::disk(i, &layers[i]).serial).collect();
            let (root, disks, asked) = (&base.root, &disks, &asked);
            let parts = order::Parts { root, layers: serials, modules: &modules, disks, chosen: &chosen, asked };
            (order::system(&parts), order::order(spec, ctx, &parts, &shares, terminal)?)
        };
        Ok(PreparedRun {
            contents: contents(&base, &initramfs, &layers),
            inputs: inputs(&base, &qemu, &layers),
            boot_id: boot_id()?,
            spec: spec.clone(),
            dir,
            cache,
            chosen,
            base,
            qemu,
            choice,
            vm,
            disks,
            system,
            order,
            gdb,
            _layers: layers,
            _initramfs: initramfs,
            _setup: setup_dir,
        })
    }

    /// Returns the registry entry of the run, for clients. `runs` is the directory of all runs of
    /// its worktree.
    pub fn entry(&self, runs: PathBuf, started_at: SystemTime) -> Running {
        let (spec, dir) = (&self.spec, &self.dir);
        Running {
            id: dir.id().to_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            socket: registry::socket_of(dir.id()),
            dir: dir.path().to_owned(),
            runs,
            started_at: jiff::Timestamp::try_from(started_at).map(|at| at.to_string()).unwrap_or_default(),
            command: spec.command.iter().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            waits: false,
            kernel: self.base.kernel.name().to_owned(),
            memory_mib: self.vm.memory_mib,
            arch: self.vm.arch.name.to_owned(),
            profiles: spec.profiles.clone(),
        }
    }
}

impl GdbSocket {
    fn new() -> Result<GdbSocket, Fault> {
        let dir = tempfile::Builder::new().prefix("quiz-gdb-").tempdir()?;
        Ok(GdbSocket { path: dir.path().join("stub"), _dir: dir })
    }

    /// Returns QEMU's options for the socket.
    fn options(&self) -> [OsString; 3] {
        let mut socket = OsString::from("unix:");
        socket.push(quiz_vm::qemu::escaped(&self.path));
        socket.push(",server=on,wait=off");
        ["-S".into(), "-gdb".into(), socket]
    }
}

/// The parts of a VM that do not depend on its accelerator.
struct Machine<'a> {
    spec: &'a RunSpec,
    arch: &'static Arch,
    base: &'a Base,
    facts: KernelFacts,
    asked: &'a Asked,
    append: Vec<String>,
    disks: Vec<Disk>,
    shares: &'a [SharedDir],
    qemu: &'a Monitor,
    gdb: Option<&'a GdbSocket>,
    cache: &'a Cache,
    ctx: &'a Context,
}

impl Machine<'_> {
    /// Returns the VM with `accel`, and its initramfs.
    fn vm(&self, accel: Accel, host: &mut Host) -> Result<(VmSpec, Initramfs), Fault> {
        let Machine { spec, arch, base, facts, asked, shares, qemu, .. } = self;
        let tsc_khz = if accel == Accel::Tcg { host.tsc_khz() } else { None };
        let devices = VmSpec::devices(self.disks.len(), shares.len(), asked.net.is_some());
        let needs = machine::Needs { devices, dump: spec.dump != DumpWhen::Off };
        let machine = machine::choose(arch, accel, spec.machine.as_deref(), facts, tsc_khz, needs, qemu)?;
        qemu.require(machine, shares.len(), asked.net.is_some())?;
        let modules = facts.modules(machine.transport, &base.root.manifest.format);
        let agent = agents::of(arch)?;
        let initramfs = initramfs::make(self.cache, &base.kernel, agent, &modules, &self.ctx.report)?;
        let mut append = self.append.clone();
        if !spec.panic_on_oops {
            append.insert(0, "oops=continue".to_owned());
        }
        if spec.gdb {
            // Keeps symbols at the addresses that vmlinux has for them.
            append.insert(0, "nokaslr".to_owned());
        }
        let gdb: Vec<OsString> = self.gdb.iter().flat_map(|gdb| gdb.options()).collect();
        let vm = VmSpec {
            qemu: qemu.program.clone(),
            arch,
            machine,
            accel,
            tsc_khz: tsc_khz.filter(|_| facts.knows_tsc_khz),
            hz: facts.hz,
            fine_timers: spec.fine_timers,
            version: qemu.has.version,
            vmcoreinfo: qemu.has.has_type(quiz_vm::qemu::VMCOREINFO),
            sandbox: qemu.has.has_type(quiz_vm::qemu::SANDBOX),
            special_files: spec.special_files,
            memory_mib: spec.memory_mib,
            ram: None,
            incoming: None,
            cpus: spec.cpus,
            kernel: base.kernel.boot(),
            initramfs: initramfs.path.clone(),
            append,
            disks: self.disks.clone(),
            shares: shares.iter().map(|share| share.offered.clone()).collect(),
            net: asked.net.clone(),
            extra: [&asked.qemu_args[..], &spec.qemu_args, &gdb].concat(),
        };
        Ok((vm, initramfs))
    }
}

fn root_and_layers<'a>(root: &Root, layers: &'a [Layer]) -> impl Iterator<Item = Disk> + use<'a> {
    let root = Disk {
        serial: order::ROOT.to_owned(),
        file: root.image(),
        format: DiskFormat::Raw,
        read_only: true,
        sector: None,
    };
    std::iter::once(root).chain(layers.iter().enumerate().map(|(i, layer)| layers::disk(i, layer)))
}

fn contents(base: &Base, initramfs: &Initramfs, layers: &[Layer]) -> BTreeMap<PathBuf, String> {
    let layers = layers.iter().map(|layer| (layer.image.clone(), layer.name.clone()));
    let others = [
        (base.kernel.boot(), base.kernel.identity()),
        (base.root.image(), base.root.identity()),
        (initramfs.path.clone(), initramfs.entry.name().to_owned()),
    ];
    layers.chain(others).collect()
}

fn inputs(base: &Base, qemu: &Monitor, layers: &[Layer]) -> BTreeMap<String, String> {
    let version = qemu.has.version.map(|(major, minor)| format!(" {major}.{minor}")).unwrap_or_default();
    let mut inputs = BTreeMap::from([
        ("kernel".to_owned(), base.kernel.identity()),
        ("root".to_owned(), base.root.identity()),
        ("qemu".to_owned(), qemu.program.display().to_string() + &version),
    ]);
    for layer in layers {
        let label = layer.name.rsplit_once('-').map_or(layer.name.as_str(), |(label, _)| label);
        inputs.insert(format!("layer {label}"), layer.key.clone());
    }
    inputs
}
