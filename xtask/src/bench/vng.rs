//! virtme-ng, from PyPI, on the same kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::check;

/// virtme-ng in a virtual environment of its own.
pub struct Vng {
    program: PathBuf,
    kernel: PathBuf,
}

impl Vng {
    /// Installs it into `dir`, once.
    pub fn new(dir: &Path, kernel: &Path) -> Result<Vng, String> {
        let environment = dir.join("virtme-ng");
        let program = environment.join("bin/vng");
        if !program.exists() {
            check(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            check(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "virtme-ng"]))?;
        }
        Ok(Vng { program, kernel: kernel.to_owned() })
    }

    /// One start, with its own defaults but for the accelerator that this host has.
    pub fn command(&self, emulated: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--run").arg(&self.kernel).args(["--memory", "1G", "--cpus", "2"]);
        if emulated {
            command.arg("--disable-kvm");
        }
        command.args(["--", "true"]);
        command
    }
}
