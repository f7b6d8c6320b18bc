//! What the caller passes to the supervisor: the job, the limits, the streams. Plain data. Not for
//! acting on it (`supervise`).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quiz_host::held::HeldDir;
use quiz_proto::{Order, System, WinSize};
use rustix::event::{EventfdFlags, eventfd};

use crate::spec::{DumpFormat, VmSpec};
use crate::standby::Standby;
use crate::unpack::Bounds;

/// What quiz does with the guest.
pub enum Job {
    /// Prepare the guest and run a program in it. The VM boots, or resumes from a snapshot taken at
    /// [`Point::Booted`].
    Program(Box<System>, Box<Order>),
    /// Run a program in a guest that is already prepared. The VM resumes from a snapshot taken at
    /// [`Point::Ready`].
    Resumed(Box<Order>),
    /// Send back what an earlier guest left on its disk for artifacts.
    Salvage {
        /// The disk's serial number.
        out_serial: String,
    },
}

/// Where a snapshot of a VM can be taken before the program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The agent has started, and has not done anything yet.
    Booted,
    /// The guest is prepared with everything that all runs of its kind share, and can start a
    /// program.
    Ready,
}

/// Receives snapshots of a VM. If one cannot be taken, the VM continues all the same.
pub trait SnapshotSink {
    /// The path of a new file for the state of the VM's devices. `None` if no snapshot is wanted
    /// here.
    fn state_file(&mut self, point: Point) -> Option<PathBuf>;
    /// QEMU has written the state. The VM is paused until this returns.
    fn saved(&mut self, point: Point);
    /// The snapshot failed, for the reason `why`.
    fn not_saved(&mut self, point: Point, why: &str);
}

/// Time limits, and how a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From QEMU's start to the program's start.
    pub boot: Duration,
    /// For the program; `None` is without limit.
    pub program: Option<Duration>,
    /// How long a guest may be silent before it counts as hung; `None` is without limit.
    pub hang: Option<Duration>,
    /// A report of the guest's kernel about itself counts as a failure.
    pub strict: bool,
    /// How long the guest stays up for other clients after the program has ended.
    pub keep: Option<Duration>,
    /// A debugger may pause the VM.
    pub debugged: bool,
    /// Which failures dump the guest's memory; `None` for no dump.
    pub dump: Option<Dump>,
    /// The limits for artifacts.
    pub artifacts: Bounds,
}

/// When the guest's memory is dumped, and in which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dump {
    /// Dump after every failure that is not the program's own; otherwise only after panics.
    pub of_every_failure: bool,
    pub format: DumpFormat,
}

/// The user's ends of the program's streams.
pub struct Streams {
    /// Standard input, or the terminal's keyboard. With `None` the program's input is empty.
    pub input: Option<OwnedFd>,
    /// Standard output, or the terminal's screen.
    pub output: Box<dyn Write + Send>,
    /// Standard error.
    pub errors: Box<dyn Write + Send>,
}

impl Streams {
    /// Empty input, and output that is discarded.
    pub fn nowhere() -> Streams {
        Streams { input: None, output: Box::new(io::sink()), errors: Box::new(io::sink()) }
    }
}

/// The signals that quiz receives.
pub trait Signals {
    /// Readable when signals are pending.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes the pending signals.
    fn pending(&mut self) -> Vec<i32>;
    /// The current size of the terminal.
    fn window_size(&self) -> Option<WinSize>;
}

/// An event to show while the VM runs.
pub enum Notice<'a> {
    /// Raw output of the guest's console.
    Console(&'a [u8]),
    /// A kernel message.
    Kernel {
        /// The syslog level.
        level: u8,
        /// The kernel's time stamp in microseconds.
        micros: u64,
        /// One line.
        text: &'a str,
    },
    /// A line that the user should read.
    Note(&'a str),
}

/// Everything that one run needs.
pub struct Run<'a> {
    pub vm: &'a VmSpec,
    /// A standby VM started from the same specification. If there is one, `vm` is not started.
    pub standby: Option<Standby>,
    pub job: Job,
    /// Receives snapshots. The VM's memory must be a file that QEMU shares.
    pub snapshots: Option<&'a mut dyn SnapshotSink>,
    pub limits: Limits,
    /// The console log of the VM that this one resumes from.
    pub console_before: Option<&'a Path>,
    /// The run directory. `console.log`, `qemu.log`, `stacks.txt`, `oops.txt` and `artifacts/` are
    /// created in it.
    pub dir: &'a HeldDir,
    /// The user's descriptors.
    pub streams: Streams,
    /// The control socket, on which clients connect.
    pub door: Option<UnixListener>,
    /// The key that leaves the program's terminal when it is typed three times within a second.
    pub escape: Option<u8>,
    /// A front end that is connected already.
    pub front: Option<UnixStream>,
    /// The user's signals.
    pub signals: &'a mut dyn Signals,
    /// Called for every [`Notice`].
    pub show: &'a mut dyn FnMut(Notice),
}

/// Never any signals: for a VM in the background, which ends with its quiz process.
pub struct NoSignals(OwnedFd);

impl NoSignals {
    pub fn new() -> io::Result<NoSignals> {
        Ok(NoSignals(eventfd(0, EventfdFlags::CLOEXEC)?))
    }
}

impl Signals for NoSignals {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn pending(&mut self) -> Vec<i32> {
        Vec::new()
    }

    fn window_size(&self) -> Option<WinSize> {
        None
    }
}
