//! Sets up the guest for a run: root, file systems, identity, clock, randomness, shares, links.
//!
//! There are two parts: [`prepare`] does what all runs on this guest have in common, and
//! [`personalize`] does what belongs to one run. Between them the host may save the VM, and resume
//! it many times.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use quiz_proto::{Moment, Personal, Share, System};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::mounts::{self, Mount};
use crate::{devices, inits, modules};

/// Content of the machine-id file until a run sets one.
const NO_MACHINE: &str = "00000000000000000000000000000000";

/// Directory in which the program leaves its artifacts for the host.
pub const OUT: &str = "/quiz/out";

/// Prepares the guest for every run on it. The host may save the VM after this and resume it many
/// times.
///
/// This function does all work that can be done this early: after a resume, an emulated CPU has to
/// translate again every piece of the kernel that it runs.
pub fn prepare(moment: &Moment, system: &System) -> io::Result<Identity> {
    now(moment)?;
    switch_to_root(system)?;
    kernel_file_systems();
    names(&system.hostname)?;
    let identity = Identity::none()?;
    loopback_up()?;
    match &system.out_serial {
        Some(serial) => mount_out(serial)?,
        None => fs::create_dir_all(OUT)?,
    }
    system.modules.iter().try_for_each(modules::load)?;
    system.links.iter().try_for_each(devices::link)?;
    devices::settle(&system.links)?;
    inits::run_all(&system.inits)?;
    Ok(identity)
}

/// Sets up a prepared guest for the program of one run.
pub fn personalize(personal: &Personal, identity: &Identity) -> io::Result<()> {
    now(&personal.moment)?;
    identity.become_machine(&personal.machine_id)?;
    personal.changed.iter().try_for_each(|serial| devices::look_again(serial))?;
    // A share may lie within another, so they are mounted in order.
    personal.shares.iter().try_for_each(mount_share)?;
    inits::run_all(&personal.inits)
}

/// Undoes [`personalize`], so that the guest is a prepared one again. A run's `init` programs
/// cannot be undone: the run must have none.
pub fn forget(personal: &Personal, identity: &Identity) -> io::Result<()> {
    for share in personal.shares.iter().rev() {
        let target = Path::new(OsStr::from_bytes(&share.path));
        rustix::mount::unmount(target, UnmountFlags::empty())
            .map_err(|e| io::Error::other(format!("unmounting {}: {e}", target.display())))?;
    }
    identity.become_machine(NO_MACHINE)
}

fn now(moment: &Moment) -> io::Result<()> {
    set_clock(moment.clock)?;
    seed_random_pool(&moment.seed)
}

fn set_clock((tv_sec, nanoseconds): (i64, u32)) -> io::Result<()> {
    let now = rustix::time::Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)
        .map_err(|e| io::Error::other(format!("setting the clock: {e}")))
}

/// Mixes the host's bytes into the kernel's random pool and makes the generator use them at once.
fn seed_random_pool(seed: &[u8]) -> io::Result<()> {
    /// The kernel's `struct rand_pool_info` with room for the seed.
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        bytes: libc::c_int,
        data: [u8; 64],
    }
    // The ioctl numbers differ between architectures.
    const RNDADDENTROPY: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<[libc::c_int; 2]>(b'R', 0x03);
    const RNDRESEEDCRNG: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(b'R', 0x07);
    let mut info = PoolInfo { entropy_bits: 0, bytes: 0, data: [0; 64] };
    let n = seed.len().min(info.data.len());
    info.data[..n].copy_from_slice(&seed[..n]);
    info.bytes = n as libc::c_int;
    info.entropy_bits = info.bytes * 8;
    let pool = fs::OpenOptions::new().write(true).open("/dev/urandom")?;
    // SAFETY: the argument points to a live rand_pool_info whose `bytes` are within `data`.
    let added = unsafe { libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    if added != 0 {
        return Err(io::Error::other(format!("seeding the random pool: {}", io::Error::last_os_error())));
    }
    // Kernels before 4.14 do not have this ioctl; they take up the seed by themselves.
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { libc::ioctl(pool.as_raw_fd(), RNDRESEEDCRNG as _) };
    Ok(())
}

/// Puts a writable layer in memory over the root image and makes that the root.
fn switch_to_root(system: &System) -> io::Result<()> {
    let device = crate::disks::disk(&system.root_serial)?;
    let device = device.to_str().ok_or_else(|| io::Error::other("a device without a readable name"))?;
    let known = crate::mounts::known_filesystems();
    let Some(kind) = system.root_types.iter().find(|kind| crate::mounts::is_known(kind, &known)) else {
        return Err(io::Error::other(format!(
            "this kernel cannot mount the root image: it needs one of {}",
            system.root_types.join(", ")
        )));
    };
    mounts::mount(&Mount::new(device, "/lower", kind).flags(MountFlags::RDONLY | MountFlags::NOATIME))?;
    let mut lower = String::new();
    for (i, serial) in system.layers.iter().enumerate() {
        let device = crate::disks::disk(serial)?;
        let device = device.to_str().ok_or_else(|| io::Error::other("a device without a readable name"))?;
        let place = format!("/layer{i}");
        mounts::mount(&Mount::new(device, &place, kind).flags(MountFlags::RDONLY | MountFlags::NOATIME))?;
        lower = lower + &place + ":";
    }
    mounts::mount(&Mount::new("tmpfs", "/rw", "tmpfs").options("mode=755"))?;
    fs::create_dir("/rw/upper")?;
    fs::create_dir("/rw/work")?;
    let options = format!("lowerdir={lower}/lower,upperdir=/rw/upper,workdir=/rw/work");
    mounts::mount(&Mount::new("root", "/merged", "overlay").options(&options))?;
    for place in ["/dev", "/proc", "/sys"] {
        let target = format!("/merged{place}");
        if !Path::new(&target).is_dir() {
            fs::create_dir(&target)?;
        }
        mounts::move_to(place, &target)?;
    }
    std::env::set_current_dir("/merged")?;
    mounts::move_to(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Mounts the file systems that a Linux user space expects.
fn kernel_file_systems() {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    let none = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/run", "/tmp"] {
        // If a directory cannot be made, the mount below fails and reports that on the console.
        fs::create_dir_all(dir).ok();
    }
    let known = crate::mounts::known_filesystems();
    for m in [
        Mount::new("devpts", "/dev/pts", "devpts").flags(MountFlags::NOSUID).options("mode=620,gid=5,ptmxmode=666"),
        Mount::new("tmpfs", "/dev/shm", "tmpfs").flags(plain).options("mode=1777"),
        Mount::new("mqueue", "/dev/mqueue", "mqueue").flags(none),
        Mount::new("tmpfs", "/run", "tmpfs").flags(plain).options("mode=755"),
        Mount::new("tmpfs", "/tmp", "tmpfs").flags(plain).options("mode=1777"),
        Mount::new("cgroup2", "/sys/fs/cgroup", "cgroup2").flags(none),
        Mount::new("securityfs", "/sys/kernel/security", "securityfs").flags(none),
        Mount::new("debugfs", "/sys/kernel/debug", "debugfs").flags(none),
        Mount::new("tracefs", "/sys/kernel/tracing", "tracefs").flags(none),
        Mount::new("configfs", "/sys/kernel/config", "configfs").flags(none),
        Mount::new("bpf", "/sys/fs/bpf", "bpf").flags(none),
    ] {
        mounts::mount_if_known(&m, &known);
    }
    for (to, at) in [
        ("/proc/self/fd", "/dev/fd"),
        ("fd/0", "/dev/stdin"),
        ("fd/1", "/dev/stdout"),
        ("fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("/run", "/var/run"),
        ("/run/lock", "/var/lock"),
    ] {
        // A root that already has these links is fine.
        symlink(to, at).ok();
    }
    for dir in ["/run/lock", "/run/user", "/dev/disk/by-id"] {
        fs::create_dir_all(dir).ok();
    }
    port_links();
}

fn port_links() {
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else { return };
    for port in ports.flatten() {
        if let Ok(name) = fs::read_to_string(port.path().join("name")) {
            fs::create_dir_all("/dev/virtio-ports").ok();
            symlink(Path::new("../").join(port.file_name()), format!("/dev/virtio-ports/{}", name.trim_end())).ok();
        }
    }
}

fn names(hostname: &str) -> io::Result<()> {
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|e| io::Error::other(format!("setting the host name {hostname}: {e}")))?;
    fs::create_dir_all("/etc")?;
    fs::write("/etc/hostname", format!("{hostname}\n"))?;
    fs::write(
        "/etc/hosts",
        format!("127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    )
}

/// The files that identify the machine; no two runs share them. They are kept open, so that a run
/// only has to write to them.
pub struct Identity {
    machine_id: std::fs::File,
    host_id: std::fs::File,
}

impl Identity {
    /// Opens the files, without identifying a machine yet.
    fn none() -> io::Result<Identity> {
        let create = |path: &str| fs::File::create(path).map(|file| file.into_parts().0);
        let identity = Identity { machine_id: create("/etc/machine-id")?, host_id: create("/etc/hostid")? };
        identity.become_machine(NO_MACHINE)?;
        Ok(identity)
    }

    fn become_machine(&self, machine_id: &str) -> io::Result<()> {
        self.machine_id.write_all_at(format!("{machine_id}\n").as_bytes(), 0)?;
        // `hostid` and OpenZFS identify the machine by these four bytes; zero would mean none.
        let id = u32::from_str_radix(machine_id.get(..8).unwrap_or_default(), 16).unwrap_or(1).max(1);
        self.host_id.write_all_at(&id.to_ne_bytes(), 0)
    }
}

/// `ip link set lo up`, without needing iproute2 in the root. A kernel without networking is fine.
fn loopback_up() -> io::Result<()> {
    // SAFETY: plain system calls on a descriptor that is closed again below; `request` outlives the
    // ioctls, is zeroed (valid for the type), and its name is a terminated string within its array.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Ok(());
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let done = libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request);
        let error = io::Error::last_os_error();
        libc::close(socket);
        match done {
            0 => Ok(()),
            _ if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            _ => Err(io::Error::other(format!("bringing the loopback interface up: {error}"))),
        }
    }
}

fn mount_share(share: &Share) -> io::Result<()> {
    let target = Path::new(OsStr::from_bytes(&share.path));
    let flags = if share.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    // Without a cache the guest sees at once when the host edits a file. `mmap` adds only what
    // writable mappings need.
    let cache = if share.writable { "mmap" } else { "none" };
    mounts::mount(
        &Mount::new(&share.tag, target, "9p")
            .flags(flags)
            .options(format!("trans=virtio,version=9p2000.L,msize=512000,access=client,cache={cache}")),
    )
}

/// Mounts the disk that holds the artifacts, `/quiz/out`.
pub fn mount_out(serial: &str) -> io::Result<()> {
    let device = crate::disks::disk(serial)?;
    let device = device.to_str().ok_or_else(|| io::Error::other("a device without a readable name"))?;
    mounts::mount(&Mount::new(device, OUT, "ext4").flags(MountFlags::NOATIME).options("errors=continue,noinit_itable"))
}
