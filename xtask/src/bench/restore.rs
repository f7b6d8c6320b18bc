//! Measures the minimum for starting from a saved VM: QEMU, the saved state, and one byte from a
//! guest that does nothing else.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use super::floor::initramfs;

/// Answers every byte on the console with one: `for (;;) { read(0, buf, 1); write(1, buf, 1); }`
const INIT: &str = r"
.globl _start
_start:
    sub $16, %rsp
1:  xor %eax, %eax
    xor %edi, %edi
    mov %rsp, %rsi
    mov $1, %edx
    syscall
    mov $1, %eax
    mov $1, %edi
    mov %rsp, %rsi
    mov $1, %edx
    syscall
    jmp 1b
";

const CAPABILITIES: &str = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[\
    {\"capability\":\"x-ignore-shared\",\"state\":true}]}}\n";

/// A saved VM.
pub struct Restore {
    arguments: Vec<String>,
    ram: PathBuf,
    state: PathBuf,
    memory: String,
}

/// A running QEMU and its sockets.
struct Running {
    child: Child,
    console: UnixStream,
    qmp: UnixStream,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Restore {
    /// Boots and saves the VM whose command line (a program and its arguments) is `quiz`, with a
    /// minimal first process.
    pub fn new(dir: &Path, quiz: &[String]) -> Result<Restore, String> {
        let of = |option: &str| -> Result<String, String> {
            let at = quiz.iter().position(|word| word == option).ok_or(format!("quiz gave QEMU no {option}"))?;
            quiz.get(at + 1).cloned().ok_or(format!("quiz gave QEMU no {option}"))
        };
        let initrd = initramfs(dir, "restore", INIT)?;
        let mut arguments = vec![quiz[0].clone()];
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned));
        let machine = of("-machine")?.replace(",memory-backend=ram", "") + ",memory-backend=ram";
        arguments.extend(["-machine".to_owned(), machine]);
        for option in ["-accel", "-cpu", "-smp", "-m", "-kernel"] {
            arguments.extend([option.to_owned(), of(option)?]);
        }
        let append = of("-append")?;
        let told = append.split(' ').filter(|word| !word.starts_with("rdinit") && !word.starts_with("ignore_log"));
        arguments.extend(["-initrd".to_owned(), initrd.display().to_string()]);
        arguments.extend(["-append".to_owned(), format!("quiet {}", told.collect::<Vec<_>>().join(" "))]);
        let restore =
            Restore { arguments, ram: dir.join("floor-ram"), state: dir.join("floor-state"), memory: of("-m")? };
        let mut vm = restore.start("on", false)?;
        answer(&mut vm.console, Duration::from_secs(120))?;
        let save = format!(
            "{CAPABILITIES}{{\"execute\":\"migrate\",\"arguments\":{{\"uri\":\"exec:cat > {}\"}}}}\n",
            restore.state.display()
        );
        vm.qmp.write_all(save.as_bytes()).map_err(|e| e.to_string())?;
        let until = Instant::now() + Duration::from_secs(30);
        let mut said = String::new();
        while !said.contains("\"completed\"") {
            if Instant::now() > until {
                return Err(format!("the floor's VM was not saved: {said}"));
            }
            vm.qmp.write_all(b"{\"execute\":\"query-migrate\"}\n").map_err(|e| e.to_string())?;
            std::thread::sleep(Duration::from_millis(50));
            let mut buffer = [0; 4096];
            let n = vm.qmp.read(&mut buffer).map_err(|e| e.to_string())?;
            said = String::from_utf8_lossy(&buffer[..n]).into_owned();
        }
        Ok(restore)
    }

    fn start(&self, share: &str, incoming: bool) -> Result<Running, String> {
        let (console, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let (qmp, qmp_theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let mut command = Command::new(&self.arguments[0]);
        command.args(&self.arguments[1..]);
        let ram = self.ram.display();
        command
            .arg("-object")
            .arg(format!("memory-backend-file,id=ram,size={},share={share},mem-path={ram}", self.memory));
        for (id, socket) in [("console", &theirs), ("qmp", &qmp_theirs)] {
            fcntl_setfd(socket, FdFlags::empty()).map_err(|e| e.to_string())?;
            command.arg("-chardev").arg(format!("socket,id={id},fd={}", socket.as_raw_fd()));
        }
        command.args(["-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"]);
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        let child = command.stdin(Stdio::null()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
        Ok(Running { child, console, qmp })
    }

    /// The time from the start of QEMU to the byte.
    pub fn time(&self) -> Result<Duration, String> {
        let begin = Instant::now();
        let mut vm = self.start("off", true)?;
        let state = self.state.display();
        let go = format!(
            "{CAPABILITIES}{{\"execute\":\"migrate-incoming\",\"arguments\":{{\"uri\":\"exec:cat {state}\"}}}}\n{{\"execute\":\"cont\"}}\n"
        );
        vm.qmp.write_all(go.as_bytes()).map_err(|e| e.to_string())?;
        answer(&mut vm.console, Duration::from_secs(20))?;
        Ok(begin.elapsed())
    }
}

/// Sends a byte repeatedly until the guest returns it. Other output, such as the kernel's, does not
/// count.
fn answer(console: &mut UnixStream, limit: Duration) -> Result<(), String> {
    console.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
    let until = Instant::now() + limit;
    let mut buffer = [0; 4096];
    while Instant::now() < until {
        console.write_all(b"~\n").map_err(|e| e.to_string())?;
        match console.read(&mut buffer) {
            Ok(n) if buffer[..n].contains(&b'~') => return Ok(()),
            _ => {}
        }
    }
    Err("the floor's guest does not answer".to_owned())
}
