//! Measures the minimum for a cold start: the same QEMU, machine and kernel, with a first process
//! that ends the VM at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sh::check;

/// Resets the machine, which ends QEMU because of `-no-reboot`: `reboot(LINUX_REBOOT_MAGIC1,
/// MAGIC2, CMD_RESTART, 0)`.
const INIT: &str = r"
.globl _start
_start:
    mov $169, %eax
    mov $0xfee1dead, %edi
    mov $672274793, %esi
    mov $0x1234567, %edx
    xor %r10d, %r10d
    syscall
    jmp .
";

/// The floor for the VM whose command line (a program and its arguments) is `quiz`.
pub struct Floor {
    arguments: Vec<String>,
}

impl Floor {
    /// Makes the first process and its initramfs in `dir`, and takes machine, kernel and memory
    /// from quiz's own command line. Of its kernel command line it takes only parameters that begin
    /// with an entry of `told`.
    pub fn new(dir: &Path, quiz: &[String], told: &[&str]) -> Result<Floor, String> {
        let initrd = initramfs(dir, "floor", INIT)?;
        let of = |option: &str| -> Result<String, String> {
            let at = quiz.iter().position(|word| word == option).ok_or(format!("quiz gave QEMU no {option}"))?;
            quiz.get(at + 1).cloned().ok_or(format!("quiz gave QEMU no {option}"))
        };
        let append = of("-append")?;
        let words = append.split(' ').filter(|word| told.iter().any(|start| word.starts_with(start)));
        let told = words.collect::<Vec<_>>().join(" ");
        let mut arguments = vec![quiz[0].clone()];
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned));
        for option in ["-machine", "-accel", "-cpu", "-smp", "-m", "-kernel"] {
            arguments.extend([option.to_owned(), of(option)?]);
        }
        arguments.extend(["-initrd".to_owned(), initrd.display().to_string()]);
        arguments.extend(["-append".to_owned(), format!("quiet reboot=t panic=-1 mitigations=off {told}")]);
        Ok(Floor { arguments })
    }

    /// One start.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.arguments[0]);
        command.args(&self.arguments[1..]);
        command
    }
}

/// Makes an initramfs whose first process is the assembly code `init`.
pub fn initramfs(dir: &Path, name: &str, init: &str) -> Result<PathBuf, String> {
    let place = dir.join(name);
    fs_err::create_dir_all(&place).map_err(|e| e.to_string())?;
    let source = dir.join(format!("{name}.s"));
    fs_err::write(&source, init).map_err(|e| e.to_string())?;
    check(Command::new("cc").args(["-static", "-nostdlib", "-o"]).arg(place.join("init")).arg(source))?;
    let archive = dir.join(format!("{name}.cpio"));
    let script = "cd \"$0\" && echo init | cpio --quiet -o -H newc > \"$1\"";
    check(Command::new("sh").args(["-c", script]).arg(&place).arg(&archive))?;
    Ok(archive)
}
