//! Boots from the kernel's hand-over to an open channel: the first mounts, the modules of the
//! initramfs, the port.
//!
//! Not for steps that depend on the run (see `setup`).

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use crate::disks;
use crate::mounts::{self, Mount};

/// Mounts what the agent needs and loads the modules of the initramfs.
pub fn early() -> io::Result<()> {
    mounts::mount(&Mount::new("devtmpfs", "/dev", "devtmpfs"))?;
    mounts::mount(&Mount::new("proc", "/proc", "proc"))?;
    mounts::mount(&Mount::new("sysfs", "/sys", "sysfs"))?;
    load_modules()
}

fn load_modules() -> io::Result<()> {
    let order = match fs::read_to_string("/modules/order") {
        Ok(order) => order,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let command_line = fs::read_to_string("/proc/cmdline")?;
    for name in order.lines().filter(|line| !line.is_empty()) {
        let file = fs::File::open(format!("/modules/{name}"))?;
        let parameters = CString::new(parameters(name, &command_line)).expect("the command line is text");
        match rustix::system::finit_module(file.as_fd(), &parameters, 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // The module is a faster variant of another one, for other processors than this.
            Err(rustix::io::Errno::NODEV) => {}
            Err(e) => return Err(io::Error::other(format!("module {name} was refused by the kernel: {e}"))),
        }
    }
    Ok(())
}

/// The parameters on the kernel command line for the module in the file `NN-name.ko`, without the
/// module's name.
///
/// The kernel applies such parameters only to built-in code. For a module, the program that loads
/// it has to pass them.
fn parameters(file: &str, command_line: &str) -> String {
    let stem = file.strip_suffix(".ko").unwrap_or(file);
    let name = stem.split_once('-').map_or(stem, |(_, name)| name).replace('-', "_");
    let of_module = |word: &&str| {
        word.split_once('.').is_some_and(|(module, rest)| module.replace('-', "_") == name && !rest.is_empty())
    };
    let words = command_line.split_whitespace().filter(of_module);
    words.map(|word| &word[name.len() + 1..]).collect::<Vec<_>>().join(" ")
}

/// Opens the port to the host, after waiting for it to appear.
pub fn open_port() -> io::Result<std::fs::File> {
    let path = disks::wait_for(&format!("virtio port {}", quiz_proto::PORT), || {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|port| {
            let name = fs::read_to_string(port.path().join("name")).ok()?;
            (name.trim_end() == quiz_proto::PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
        })
    })?;
    let port = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?;
    Ok(port.into_parts().0)
}

#[cfg(test)]
mod tests {
    use super::parameters;

    #[test]
    fn a_module_gets_its_words_of_the_command_line() {
        let line = "console=ttyS0 virtio_mmio.device=512@0xfeb00e00:12 a.b=1 virtio_mmio.device=512@0xfeb00c00:11\n";
        let devices = "device=512@0xfeb00e00:12 device=512@0xfeb00c00:11";
        assert_eq!(parameters("02-virtio_mmio.ko", line), devices);
        assert_eq!(parameters("02-virtio-mmio.ko", line), devices);
        assert_eq!(parameters("00-virtio.ko", line), "");
    }
}
