//! virtme-ng, from PyPI, on the same kernel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sh::check;

/// virtme-ng in a virtual environment.
pub struct Vng {
    program: PathBuf,
    kernel: PathBuf,
}

impl Vng {
    /// Installs virtme-ng into `dir`, once.
    pub fn new(dir: &Path, kernel: &Path) -> Result<Vng, String> {
        let environment = dir.join("virtme-ng");
        let program = environment.join("bin/vng");
        if !program.exists() {
            check(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            check(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "virtme-ng"]))?;
        }
        Ok(Vng { program, kernel: kernel.to_owned() })
    }

    /// One start, with virtme-ng's defaults except for the accelerator that this host has.
    ///
    /// A kernel without ACPI cannot be powered off, so the program ends its VM by a reset. That
    /// skips virtme-ng's shutdown, and makes its exit code 255 in any case. [`Vng::prove`] checks
    /// once that the program runs.
    pub fn command(&self, emulated: bool) -> Command {
        let mut command = Command::new(&self.program);
        // virtme-ng calls its own parts by name.
        let own = self.program.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        command.env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap_or_default()));
        command.arg("--run").arg(&self.kernel).args(["--memory", "1G", "--cpus", "2"]);
        command.args(["--append", "reboot=t panic=-1"]);
        if emulated {
            command.arg("--disable-kvm");
        }
        command.arg(format!("--exec=echo {RAN} > /dev/kmsg; echo b > /proc/sysrq-trigger"));
        command
    }

    /// Fails unless the program is seen to run in its VM.
    pub fn prove(&self, emulated: bool) -> Result<(), String> {
        let output =
            self.command(emulated).arg("--verbose").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if said.contains(RAN) { Ok(()) } else { Err(format!("virtme-ng does not run this kernel:\n{said}")) }
    }
}

/// The output of the program in virtme-ng's VM.
const RAN: &str = "the-program-ran";
