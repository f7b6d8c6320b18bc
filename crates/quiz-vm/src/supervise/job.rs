//! What a VM is started for, and what the caller gives to it. Plain data.

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

/// What the guest is to do.
pub enum Job {
    /// Prepare it, and run a program in it. The VM boots, or goes on from one that was saved at
    /// [`Point::Booted`].
    Program(Box<System>, Box<Order>),
    /// Run a program in a guest that is prepared: the VM goes on from one that was saved at
    /// [`Point::Ready`].
    Resumed(Box<Order>),
    /// Send what an earlier guest left on its disk for artifacts.
    Salvage {
        /// The disk's serial number.
        out_serial: String,
    },
}

/// Where a snapshot of a VM can be taken on its way to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The agent has started, and has done nothing yet.
    Booted,
    /// The guest is prepared as for all runs of its kind, and ready for a program.
    Ready,
}

/// Receives snapshots of a VM. If one cannot be taken, the VM continues all the same.
pub trait SnapshotSink {
    /// The new file for the state of the VM's devices, if a snapshot is wanted at this point.
    fn state_file(&mut self, point: Point) -> Option<PathBuf>;
    /// The state is written, and the VM is paused until this returns.
    fn saved(&mut self, point: Point);
    /// No snapshot could be taken.
    fn not_saved(&mut self, point: Point, why: &str);
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From QEMU's start to the program's.
    pub boot: Duration,
    /// The program.
    pub program: Option<Duration>,
    /// A guest from which nothing is heard; `None` waits for ever.
    pub hang: Option<Duration>,
    /// A report of the guest's kernel about itself is a failure.
    pub strict: bool,
    /// The guest stays for others when the program has ended: so long.
    pub keep: Option<Duration>,
    /// A debugger may have the VM stand still.
    pub debugged: bool,
    /// When the guest's memory is kept.
    pub dump: Option<Dump>,
    /// How much may come back as artifacts.
    pub artifacts: Bounds,
}

/// What is kept of a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dump {
    /// After whatever was not the program's own end; else after panics.
    pub of_every_failure: bool,
    pub format: DumpFormat,
}

/// The user's ends of the program's streams.
pub struct Streams {
    /// Standard input, or the terminal's keyboard; without one the program's input is empty.
    pub input: Option<OwnedFd>,
    /// Standard output, or the terminal's screen.
    pub output: Box<dyn Write + Send>,
    /// Standard error.
    pub errors: Box<dyn Write + Send>,
}

impl Streams {
    /// Nothing to read, and nobody who reads.
    pub fn nowhere() -> Streams {
        Streams { input: None, output: Box::new(io::sink()), errors: Box::new(io::sink()) }
    }
}

/// The signals that quiz gets.
pub trait Signals {
    /// Readable when there are some.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes those that came.
    fn pending(&mut self) -> Vec<i32>;
    /// The terminal's size now.
    fn window_size(&self) -> Option<WinSize>;
}

/// What happens meanwhile.
pub enum Notice<'a> {
    /// Raw output of the guest's console.
    Console(&'a [u8]),
    /// A kernel message.
    Kernel {
        /// Its syslog level.
        level: u8,
        /// The kernel's time in microseconds.
        micros: u64,
        /// One line.
        text: &'a str,
    },
    /// A line that the user should read.
    Note(&'a str),
}

/// One run.
pub struct Run<'a> {
    /// The machine.
    pub vm: &'a VmSpec,
    /// The same, where it was found waiting: it is not started then.
    pub standby: Option<Standby>,
    /// What it is for.
    pub job: Job,
    /// Receives snapshots. The VM's memory must be a file that QEMU shares.
    pub snapshots: Option<&'a mut dyn SnapshotSink>,
    /// How long it may take.
    pub limits: Limits,
    /// The console of the VM that this one goes on from.
    pub console_before: Option<&'a Path>,
    /// The run's directory: `console.log`, `qemu.log`, `stacks.txt`, `oops.txt` and `artifacts/`
    /// are made in it.
    pub dir: &'a HeldDir,
    /// The user's descriptors.
    pub streams: Streams,
    /// Where others come in.
    pub door: Option<UnixListener>,
    /// The key that, three times within a second, leaves the program's terminal.
    pub escape: Option<u8>,
    /// One who is there already, and has been welcomed.
    pub front: Option<UnixStream>,
    /// The user's signals.
    pub signals: &'a mut dyn Signals,
    /// Hears what happens.
    pub show: &'a mut dyn FnMut(Notice),
}

/// Nobody's signals: for a VM that is no one's foreground, and is ended with its quiz.
pub struct NoSignals(OwnedFd);

impl NoSignals {
    /// Never any.
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
