//! The program of the run: started, fed, read, signalled, waited for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use quiz_proto::{CHUNK, Nonce, Program, Status, Stream, ToGuest, ToHost};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::link::{Link, Receiver};
use crate::{kmsg, stacks, terminal};

/// How often the agent says that it is alive.
const PULSE: Duration = Duration::from_secs(1);

/// How long output may still trickle in after every process was killed; only processes stuck in the kernel need it.
const DRAIN: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Runs the program to its end and reports it; all its output is sent before that.
pub fn run(program: &Program, nonce: Nonce, link: &Link, receiver: Receiver) {
    let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd can be made"));
    let mut running = match Running::start(program) {
        Ok(running) => running,
        Err(status) => return link.send(&ToHost::Exited { nonce, status }),
    };
    let control =
        Control { group: Arc::new(AtomicI32::new(running.pid)), terminal: running.terminal.take().map(Arc::new) };
    link.send(&ToHost::Started);
    dispatch(receiver, link.clone(), control.clone(), running.input.take());
    kmsg::forward(link.clone());
    pulse(link.clone());
    let pumps: Vec<_> = running
        .outputs
        .drain(..)
        .map(|(stream, file)| {
            let (link, ended) = (link.clone(), ended.clone());
            thread::spawn(move || pump(&link, stream, file, &ended))
        })
        .collect();
    let mut status = wait_for(running.pid);
    if let (true, Some(slave)) = (program.shell_after, &running.slave) {
        status = shell_after(program, slave, status, &control);
    }
    // What the program left behind would hold its output open, and the VM is about to end anyway.
    kill_all();
    drop(running.slave);
    rustix::io::write(&*ended, &1u64.to_ne_bytes()).expect("an eventfd takes one event");
    for pump in pumps {
        // A pump that panicked has reported itself through the panic hook.
        pump.join().ok();
    }
    link.send(&ToHost::Exited { nonce, status });
}

/// A program that does nothing, by a shell.
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

/// The same in the place of another program, with its environment, directory and terminal.
pub fn nothing_like(program: &Program) -> Program {
    Program { argv: nothing().argv, shell_after: false, ..program.clone() }
}

/// Has a program run to its end that nobody feeds and nobody hears. What every program needs, from the loader to the shell, is in memory
/// then. A root without them is fine, too.
pub fn rehearse(program: &Program) {
    let Ok(running) = Running::start(program) else { return };
    let Running { pid, input, outputs, terminal, slave } = running;
    drop((input, slave));
    let readers = outputs.into_iter().map(|(_, mut file)| thread::spawn(move || io::copy(&mut file, &mut io::sink())));
    let readers: Vec<_> = readers.collect();
    wait_for(pid);
    for reader in readers {
        // A terminal says EIO where a pipe ends.
        reader.join().ok();
    }
    drop(terminal);
}

/// Hears the host when there is no program: only credits matter.
pub fn listen(receiver: Receiver, link: &Link) {
    dispatch(receiver, link.clone(), Control { group: Arc::new(AtomicI32::new(0)), terminal: None }, None);
}

/// What the host's orders act on.
#[derive(Clone)]
struct Control {
    group: Arc<AtomicI32>,
    terminal: Option<Arc<File>>,
}

impl Control {
    fn signal(&self, signal: i32) {
        let foreground = self.terminal.as_deref().and_then(terminal::foreground_group);
        let group = foreground.unwrap_or_else(|| self.group.load(Ordering::Relaxed));
        if group > 1 {
            // SAFETY: kill has no memory effects; the group is the program's.
            unsafe { libc::kill(-group, signal) };
        }
    }
}

struct Running {
    pid: i32,
    input: Option<File>,
    outputs: Vec<(Stream, File)>,
    terminal: Option<File>,
    /// Kept open for the shell that follows.
    slave: Option<OwnedFd>,
}

impl Running {
    fn start(program: &Program) -> Result<Running, Status> {
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

/// Tells a program that is not there from one that cannot be executed, as shells do.
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

/// Waits for the program, and for every orphan that ends meanwhile: the first process inherits them.
fn wait_for(pid: i32) -> Status {
    loop {
        let mut raw = 0;
        // SAFETY: waitpid writes one int, to a live variable.
        let ended = unsafe { libc::waitpid(-1, &raw mut raw, 0) };
        if ended == pid {
            return if libc::WIFSIGNALED(raw) {
                Status::Signal(libc::WTERMSIG(raw) as u8)
            } else {
                Status::Code(libc::WEXITSTATUS(raw) as u8)
            };
        }
        if ended < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            // The kernel no longer knows the program: whatever it did, it cannot be called a success.
            return Status::Signal(libc::SIGKILL as u8);
        }
    }
}

/// A shell for looking around afterwards. The program's status stays the run's.
fn shell_after(program: &Program, slave: &OwnedFd, status: Status, control: &Control) -> Status {
    let mut shell = command(program, [OsStr::new("/bin/sh")].into_iter());
    if Path::new("/bin/bash").exists() {
        shell = command(program, ["/bin/bash", "-i"].map(OsStr::new).into_iter());
    }
    if on_terminal(&mut shell, slave).is_ok()
        && let Ok(child) = shell.spawn()
    {
        let pid = i32::try_from(child.id()).expect("a pid is positive and small");
        control.group.store(pid, Ordering::Relaxed);
        wait_for(pid);
    }
    status
}

fn kill_all() {
    // SAFETY: no memory effects; from the first process it reaches every process but itself.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

fn dispatch(mut receiver: Receiver, link: Link, control: Control, input: Option<File>) {
    let (feed, fed) = mpsc::channel::<Vec<u8>>();
    let mut feed = Some(feed);
    let on_terminal = control.terminal.is_some();
    if let Some(input) = input {
        let link = link.clone();
        thread::spawn(move || feed_input(&link, input, &fed));
    }
    thread::spawn(move || {
        loop {
            let heard = receiver.next(|message| match message {
                ToGuest::Data(Stream::Stdin, bytes) => {
                    if let Some(feed) = &feed {
                        // The feeder has told the host when the program takes no more.
                        feed.send(bytes.into_owned()).ok();
                    }
                }
                ToGuest::Eof(Stream::Stdin) if on_terminal => {}
                ToGuest::Eof(Stream::Stdin) => feed = None,
                ToGuest::Credit(stream, n) => link.credit(stream, Some(n)),
                ToGuest::Close(stream) => link.credit(stream, None),
                ToGuest::Resize(size) => {
                    if let Some(terminal) = &control.terminal {
                        // The old size is no reason to end the run.
                        terminal::resize(&**terminal, size).ok();
                    }
                }
                ToGuest::Signal(signal) => control.signal(signal),
                ToGuest::Stacks => stacks::send(&link),
                ToGuest::Kill => kill_all(),
                ToGuest::Data(..)
                | ToGuest::Eof(_)
                | ToGuest::Prepare { .. }
                | ToGuest::Rehearse { .. }
                | ToGuest::Start { .. }
                | ToGuest::Salvage { .. } => {}
            });
            if let Err(e) = heard {
                return link.send(&ToHost::Failed(format!("the host is not understood: {e}").into()));
            }
        }
    });
}

fn feed_input(link: &Link, mut input: File, fed: &mpsc::Receiver<Vec<u8>>) {
    for bytes in fed {
        if input.write_all(&bytes).is_err() {
            return link.send(&ToHost::Close(Stream::Stdin));
        }
        link.send(&ToHost::Credit(Stream::Stdin, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    }
}

/// Carries one output stream to the host until it ends, nobody reads it, or the program is over and it is drained.
fn pump(link: &Link, stream: Stream, mut file: File, ended: &OwnedFd) {
    let mut buffer = vec![0; CHUNK];
    let mut over = false;
    while let Some(allowed) = link.wait_for_credit(stream) {
        let timeout = over.then_some(DRAIN);
        let mut fds = [PollFd::new(&file, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        let watched = if over { 1 } else { 2 };
        match poll(&mut fds[..watched], timeout.as_ref()) {
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        }
        if fds[0].revents().is_empty() {
            over = true;
            continue;
        }
        match file.read(&mut buffer[..allowed]) {
            Ok(0) => break,
            Ok(n) => link.send_data(stream, &buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A terminal whose last user is gone says EIO.
            Err(_) => break,
        }
    }
    link.send(&ToHost::Eof(stream));
}

fn pulse(link: Link) {
    thread::spawn(move || {
        loop {
            thread::sleep(PULSE);
            link.send(&ToHost::Pulse);
        }
    });
}
