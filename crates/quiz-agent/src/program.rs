//! Starts one program on pipes or a terminal, and waits for it. Not for exchanging data between the
//! program and the host (see `programs`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use quiz_proto::{Program, Status, Stream};

use crate::terminal;

/// A shell that does nothing.
pub fn nothing() -> Program {
    Program {
        argv: ["/bin/sh", "-c", "/bin/true"].map(|word| word.as_bytes().to_vec()).to_vec(),
        env: Vec::new(),
        cwd: vec![b"/".to_vec()],
        terminal: None,
        separate_stderr: false,
        shell_after: false,
    }
}

/// The same with the environment, directory and terminal of `program`.
pub fn nothing_like(program: &Program) -> Program {
    Program { argv: nothing().argv, shell_after: false, ..program.clone() }
}

/// Runs a program to its end, without input and with its output discarded. That brings into memory
/// what every program needs, from the loader to the shell. A root that lacks these is fine, too.
pub fn rehearse(program: &Program) {
    let Ok(running) = Running::start(program) else { return };
    let Running { pid, input, outputs, terminal, slave } = running;
    drop((input, slave));
    let readers = outputs.into_iter().map(|(_, mut file)| thread::spawn(move || io::copy(&mut file, &mut io::sink())));
    let readers: Vec<_> = readers.collect();
    while wait_for_any(|| ()).is_some_and(|(ended, _)| ended != pid) {}
    for reader in readers {
        // Reading a terminal fails with EIO where a pipe would end.
        reader.join().ok();
    }
    drop(terminal);
}

/// A program that was started.
pub struct Running {
    /// Its process, which starts as the leader of its own process group.
    pub pid: i32,
    /// The agent's end of its standard input.
    pub input: Option<File>,
    /// The agent's ends of its output streams.
    pub outputs: Vec<(Stream, File)>,
    /// The agent's end of its terminal.
    pub terminal: Option<File>,
    /// The program's end of its terminal, kept open for the shell that follows.
    pub slave: Option<OwnedFd>,
}

impl Running {
    /// Starts a program. If that fails, returns the status that the program has ended with.
    pub fn start(program: &Program) -> Result<Running, Status> {
        let broken = |e: io::Error| Status::NotExecutable(e.raw_os_error().unwrap_or(libc::EIO));
        let mut command = command(program, program.argv.iter().map(|a| OsStr::from_bytes(a)));
        let mut running = Running { pid: 0, input: None, outputs: Vec::new(), terminal: None, slave: None };
        let mut error_end = None;
        if let Some(size) = program.terminal {
            let (master, slave) = terminal::open(size).map_err(broken)?;
            on_terminal(&mut command, &slave).map_err(broken)?;
            running.input = Some(master.try_clone().map_err(broken)?);
            running.outputs.push((Stream::Stdout, master.try_clone().map_err(broken)?));
            running.terminal = Some(master);
            running.slave = Some(slave);
        } else {
            let (ours, theirs) = pipe().map_err(broken)?;
            command.stdin(Stdio::from(ours));
            running.input = Some(theirs.into());
            let (ours, theirs) = pipe().map_err(broken)?;
            command.stdout(Stdio::from(theirs));
            running.outputs.push((Stream::Stdout, ours.into()));
        }
        if program.terminal.is_none() || program.separate_stderr {
            let (ours, theirs) = pipe().map_err(broken)?;
            command.stderr(Stdio::from(theirs));
            error_end = Some((Stream::Stderr, File::from(ours)));
        }
        running.outputs.extend(error_end);
        let child = command.spawn().map_err(|e| explain(program, &e))?;
        running.pid = i32::try_from(child.id()).expect("a pid is positive and small");
        if !program.shell_after {
            running.slave = None;
        }
        Ok(running)
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn command<'a>(program: &Program, mut argv: impl Iterator<Item = &'a OsStr>) -> Command {
    let mut command = Command::new(argv.next().expect("a program has a name"));
    command.args(argv).env_clear();
    for (name, value) in &program.env {
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    let cwd = program.cwd.iter().map(|dir| Path::new(OsStr::from_bytes(dir))).find(|dir| dir.is_dir());
    command.current_dir(cwd.unwrap_or(Path::new("/")));
    // SAFETY: setsid and setrlimit are async-signal-safe and touch no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            let files = libc::rlimit { rlim_cur: 1024, rlim_max: 524_288 };
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
            libc::umask(0o022);
            Ok(())
        });
    }
    command
}

fn on_terminal(command: &mut Command, slave: &OwnedFd) -> io::Result<()> {
    command.stdin(Stdio::from(slave.try_clone()?));
    command.stdout(Stdio::from(slave.try_clone()?));
    command.stderr(Stdio::from(slave.try_clone()?));
    // SAFETY: an ioctl on descriptor 0, which is the terminal by then; async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::ioctl(0, libc::TIOCSCTTY as _, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    Ok(())
}

/// Distinguishes a program that does not exist from one that cannot be executed, as shells do.
fn explain(program: &Program, error: &io::Error) -> Status {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    if errno == libc::ENOENT && find(program).is_none() {
        return Status::NotFound;
    }
    Status::NotExecutable(errno)
}

fn find(program: &Program) -> Option<PathBuf> {
    let name = OsString::from_vec(program.argv[0].clone());
    if name.is_empty() {
        return None;
    }
    let exists = |path: PathBuf| path.exists().then_some(path);
    if name.as_bytes().contains(&b'/') {
        let cwd = program.cwd.iter().map(|dir| Path::new(OsStr::from_bytes(dir))).find(|dir| dir.is_dir());
        return exists(cwd.unwrap_or(Path::new("/")).join(&name));
    }
    let path = program.env.iter().find(|(key, _)| key == b"PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    std::env::split_paths(&OsString::from_vec(path)).find_map(|dir| exists(dir.join(&name)))
}

/// Starts a shell on the terminal of a program that has ended, so that the user can look around.
/// `QUIZ_STATUS` holds the program's exit code.
pub fn shell_after(program: &Program, slave: &OwnedFd, status: Status) -> Option<i32> {
    let mut shell = command(program, [OsStr::new("/bin/sh")].into_iter());
    if Path::new("/bin/bash").exists() {
        shell = command(program, ["/bin/bash", "-i"].map(OsStr::new).into_iter());
    }
    let code = match status {
        Status::Code(code) => i32::from(code),
        Status::Signal(signal) => 128 + i32::from(signal),
        Status::NotFound => 127,
        Status::NotExecutable(_) => 126,
    };
    shell.env("QUIZ_STATUS", code.to_string());
    on_terminal(&mut shell, slave).ok()?;
    i32::try_from(shell.spawn().ok()?.id()).ok()
}

/// Waits for the next process that ends, including orphans: the first process inherits them.
/// Returns `None` when there is no process.
///
/// The process is reaped under the guard that `hold` returns. A thread that starts a program holds
/// that guard; it reaps the program itself if the program cannot be executed.
pub fn wait_for_any<G>(hold: impl Fn() -> G) -> Option<(i32, Status)> {
    loop {
        // SAFETY: all zeroes is a siginfo; waitid and waitpid write to live variables.
        let (seen, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT), info)
        };
        if seen < 0 {
            if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return None;
        }
        let _guard = hold();
        let mut raw = 0;
        // SAFETY: as above.
        let ended = unsafe { libc::waitpid(info.si_pid(), &raw mut raw, libc::WNOHANG) };
        if ended > 0 {
            let status = if libc::WIFSIGNALED(raw) {
                Status::Signal(libc::WTERMSIG(raw) as u8)
            } else {
                Status::Code(libc::WEXITSTATUS(raw) as u8)
            };
            return Some((ended, status));
        }
    }
}
