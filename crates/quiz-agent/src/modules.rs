//! Loads kernel modules that the run asks for, from files of the finished root. Not for modules
//! that the agent itself needs to get there (see `boot`).

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use quiz_proto::Module;

/// Loads one module.
pub fn load(module: &Module) -> io::Result<()> {
    if !module.path.ends_with(".ko") {
        return load_compressed(module);
    }
    let parameters = CString::new(module.parameters.as_str())?;
    match rustix::system::finit_module(fs::File::open(&module.path)?.as_fd(), &parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(refused(module, &e)),
    }
}

fn refused(module: &Module, why: &dyn std::fmt::Display) -> io::Error {
    let parameters = if module.parameters.is_empty() { "" } else { " with " };
    io::Error::other(format!(
        "module {}{parameters}{} was refused by the kernel: {why} (see console.log)",
        module.path, module.parameters
    ))
}

/// Loads a compressed module with modprobe, which knows every compression.
fn load_compressed(module: &Module) -> io::Result<()> {
    let file = Path::new(&module.path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = file.split(".ko").next().unwrap_or_default();
    let mut command = Command::new("/sbin/modprobe");
    command.arg(name).args(module.parameters.split_whitespace()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(module, &String::from_utf8_lossy(&output.stderr).trim_end()))
}
