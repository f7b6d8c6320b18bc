//! The QEMU process. It cannot outlive quiz, quiz watches it by a descriptor, and only quiz ends
//! it. Not for what QEMU reports (`supervise`).

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use quiz_host::wait;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::qemu::{self, AGENT_FD, ArgumentError, CONSOLE_FD, QMP_FD, STATE_FD};
use crate::qmp::{Command, CommandName};
use crate::spec::VmSpec;
use crate::special;

/// Why QEMU could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program does not exist or is not executable.
    #[error("cannot start {program}: {source}; is QEMU installed? `quiz doctor` lists what is missing")]
    Spawn {
        /// The QEMU program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// The command line cannot be built.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// The host could not provide a resource, such as a descriptor or a process.
    #[error("the host refused {what}: {source}")]
    Host {
        /// The resource.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A running QEMU and quiz's ends of its sockets.
pub struct Monitor {
    process: Process,
    pidfd: OwnedFd,
    /// The QMP socket.
    pub qmp: UnixStream,
    /// The guest's serial console.
    pub console: UnixStream,
    /// The channel to the agent.
    pub agent: UnixStream,
    ended: Option<ExitStatus>,
}

impl Monitor {
    /// Starts QEMU. Its output goes to `log`.
    ///
    /// The calling thread must live as long as the VM: the kernel kills QEMU when that thread ends.
    pub fn start(vm: &VmSpec, log: &File) -> Result<Monitor, StartError> {
        let host = |what| move |source| StartError::Host { what, source };
        let pair = || UnixStream::pair().map_err(host("a pair of sockets"));
        let (qmp, qmp_theirs) = pair()?;
        let (console, console_theirs) = pair()?;
        let (agent, agent_theirs) = pair()?;
        for ours in [&qmp, &console, &agent] {
            ours.set_nonblocking(true).map_err(host("a socket that does not block"))?;
        }
        let mut command = std::process::Command::new(&vm.qemu);
        command.args(qemu::argv(vm)?);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(host("a descriptor"))?);
        command.stderr(log.try_clone().map_err(host("a descriptor"))?);
        let mut descriptors = vec![
            FdMapping { parent_fd: qmp_theirs.into(), child_fd: QMP_FD },
            FdMapping { parent_fd: console_theirs.into(), child_fd: CONSOLE_FD },
            FdMapping { parent_fd: agent_theirs.into(), child_fd: AGENT_FD },
        ];
        if let Some(state) = &vm.incoming {
            let state = fs_err::File::open(state).map_err(host("the saved state"))?.into_parts().0;
            descriptors.push(FdMapping { parent_fd: state.into(), child_fd: STATE_FD });
        }
        command.fd_mappings(descriptors).expect("the descriptors are distinct");
        // Its own process group, so that signals of the terminal reach quiz and not QEMU.
        command.process_group(0);
        if !vm.special_files && vm.shares.iter().any(|share| share.writable) {
            special::refuse_special_files(&mut command)
                .map_err(host("a system call filter for writable shares (`special_files = true` needs none)"))?;
        }
        quiz_host::process::die_with_parent(&mut command, quiz_host::process::Signal::KILL);
        let child =
            command.spawn().map_err(|source| StartError::Spawn { program: vm.qemu.display().to_string(), source })?;
        let pid = Pid::from_child(&child);
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(e) => {
                let mut child = child;
                end(&mut child);
                return Err(StartError::Host { what: "a descriptor for the QEMU process", source: e.into() });
            }
        };
        let mut monitor = Monitor { process: Process::Child(child), pidfd, qmp, console, agent, ended: None };
        monitor.say(CommandName::Capabilities);
        if vm.ram.is_some() {
            monitor.say(Command::migration());
        }
        if vm.incoming.is_some() {
            monitor.say(Command::resume(&qemu::state_uri(vm)));
        }
        Ok(monitor)
    }

    /// Wraps a QEMU that a keeper, another process, has started. `pidfd` is QEMU's.
    pub fn kept(keeper: UnixStream, pidfd: OwnedFd, [qmp, console, agent]: [UnixStream; 3]) -> io::Result<Monitor> {
        for ours in [&qmp, &console, &agent] {
            ours.set_nonblocking(true)?;
        }
        Ok(Monitor { process: Process::Kept(keeper), pidfd, qmp, console, agent, ended: None })
    }

    /// Readable when QEMU has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a QMP command. QEMU reads commands faster than quiz sends them. So a full socket means
    /// that QEMU is stuck, and the caller's deadlines handle that.
    pub fn say(&mut self, command: impl Into<Command>) {
        rustix::net::send(&self.qmp, &command.into().line(), rustix::net::SendFlags::NOSIGNAL).ok();
    }

    /// Sends a QMP command with a descriptor.
    pub fn say_with(&mut self, command: &Command, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let line = command.line();
        rustix::net::sendmsg(&self.qmp, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// How QEMU ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = match &mut self.process {
                // An error means that another process has reaped the child, which cannot happen to
                // quiz's own child.
                Process::Child(child) => child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(libc::SIGKILL))),
                Process::Kept(keeper) => is_over(&self.pidfd).then(|| told_by(keeper)),
            };
        }
        self.ended
    }

    /// Kills QEMU and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        let status = match &mut self.process {
            Process::Child(child) => end(child),
            Process::Kept(keeper) => {
                // QEMU may have ended in the meantime.
                rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
                told_by(keeper)
            }
        };
        self.ended = Some(status);
        status
    }
}

/// The process that started QEMU.
enum Process {
    /// This process.
    Child(Child),
    /// A keeper. It reports how QEMU ended, and ends QEMU when this process is gone.
    Kept(UnixStream),
}

/// How long a keeper may take to report how QEMU ended.
const TOLD: Duration = Duration::from_secs(5);

/// How QEMU ended, as its keeper reports it. A keeper that is gone has killed QEMU.
fn told_by(keeper: &mut UnixStream) -> ExitStatus {
    let mut raw = [0; 4];
    let told = keeper.set_read_timeout(Some(TOLD)).and_then(|()| keeper.read_exact(&mut raw));
    ExitStatus::from_raw(told.map_or(libc::SIGKILL, |()| i32::from_ne_bytes(raw)))
}

fn is_over(pidfd: &OwnedFd) -> bool {
    wait::ready(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
}

fn end(child: &mut Child) -> ExitStatus {
    child.kill().ok();
    child.wait().unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL))
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.kill();
    }
}
