//! The messages between host and agent.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A random number that ties a record to one run. A guest restored from a saved state cannot know
/// it in advance.
pub type Nonce = [u8; 16];

/// Number of a program in the guest: the run's own, or one that was started beside it. The host
/// assigns the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProgramId(pub u32);

impl ProgramId {
    /// The run's own.
    pub const MAIN: ProgramId = ProgramId(0);
}

/// A byte stream of a program, with flow control of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Host to guest: the program's standard input, or what is typed on its terminal.
    Stdin,
    /// Guest to host: standard output, or all output of a program on a terminal.
    Stdout,
    /// Guest to host: standard error.
    Stderr,
    /// Guest to host, of the run's own program: a tar archive of `/quiz/out`.
    Artifacts,
}

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A host directory to mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The 9p mount tag.
    pub tag: String,
    /// Absolute path in the guest (bytes, since a path need not be UTF-8).
    pub path: Vec<u8>,
    /// The guest may write to it.
    pub writable: bool,
}

/// A link in `/dev` that udev would have made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Absolute path of the link.
    pub path: String,
    /// The device that it leads to.
    pub target: Device,
    /// Also make links to the device's partitions, whether or not they exist yet: `quizb0p1` beside
    /// `quizb0`.
    pub partitions: bool,
}

/// A block device of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// The virtio disk that the host gave this serial number.
    Serial(String),
    /// The device with this absolute path.
    Path(String),
}

/// A kernel module to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Absolute path of its file in the guest.
    pub path: String,
    /// Its parameters, in the kernel's syntax.
    pub parameters: String,
}

/// A program that completes the guest before the run's own program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// The name of its profile, for messages.
    pub name: String,
    /// Absolute path of the program.
    pub path: String,
}

/// The part of the guest that is the same for every use. The agent may have set it up before the VM
/// was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Serial number of the disk with the root image.
    pub root_serial: String,
    /// File system types to try for the root image, in order.
    pub root_types: Vec<String>,
    /// Serial numbers of the disks with the layers over the root, the uppermost first. They have
    /// the same file system types as the root.
    pub layers: Vec<String>,
    /// Serial number of the disk for `/quiz/out`, an ext4 file system. Without one, `/quiz/out` is
    /// in the guest's memory.
    pub out_serial: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Modules to load, in order; a module that is already loaded is skipped.
    pub modules: Vec<Module>,
    /// Links to devices.
    pub links: Vec<Link>,
    /// Programs to run at the end of the setup.
    pub inits: Inits,
}

/// State of one run. The agent applies it after a saved VM was resumed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Clock and randomness.
    pub moment: Moment,
    /// Machine id: 32 hexadecimal digits.
    pub machine_id: String,
    /// Host directories to mount, outer ones first.
    pub shares: Vec<Share>,
    /// Serial numbers of disks whose contents may have changed since the guest last read them.
    pub changed: Vec<String>,
    /// Programs to run at the end of the setup.
    pub inits: Inits,
    /// Some disk is the user's own: the agent writes it back at the end.
    pub write_back: bool,
}

/// Clock and randomness, which a guest cannot know by itself after it was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds and nanoseconds since the Unix epoch on the host.
    pub clock: (i64, u32),
    /// Fresh random bytes for the guest's pool.
    pub seed: Vec<u8>,
}

/// Programs that complete the guest, in order. If one fails, the run fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inits {
    /// The programs.
    pub programs: Vec<Init>,
    /// Their complete environment: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The program of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments, unchanged; never empty.
    pub argv: Vec<Vec<u8>>,
    /// The complete environment: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directories to try, in order; the first that exists is used.
    pub cwd: Vec<Vec<u8>>,
    /// Run it on a terminal of this size.
    pub terminal: Option<WinSize>,
    /// With a terminal: keep standard error separate, because the host redirects it.
    pub separate_stderr: bool,
    /// Start a shell on the terminal after the program; the run's status is still the program's.
    pub shell_after: bool,
}

/// A whole run, as the agent in a prepared guest receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The state of this run.
    pub personal: Personal,
    /// The program.
    pub program: Program,
    /// The least severe kernel messages to forward while the program runs: a syslog level, 0
    /// (emergency) to 7 (debug).
    pub messages: Option<u8>,
    /// Keep the guest after the program has ended, until [`ToGuest::End`].
    pub keep: bool,
    /// The run must be free of kernel reports: send [`ToHost::Log`] and [`ToHost::Tainted`].
    pub strict: bool,
}

/// The messages of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest<'a> {
    /// Prepare the guest, and send [`ToHost::Ready`]. The host sends this once, as the first
    /// message.
    Prepare {
        /// The host's clock, and randomness.
        moment: Moment,
        /// What to prepare.
        system: Box<System>,
    },
    /// Rehearse a run in the prepared guest and undo it, so that an emulated CPU has translated the
    /// code. The agent answers with [`ToHost::Ready`] once more.
    Rehearse {
        /// The run; a program that does nothing replaces its program.
        order: Box<Order>,
    },
    /// Run the program in the prepared guest. The host sends this once.
    Start {
        /// Identifies the run in the guest's records.
        nonce: Nonce,
        /// The run.
        order: Box<Order>,
    },
    /// Only send the contents of the disk with this serial as [`Stream::Artifacts`], and end.
    Salvage {
        /// Identifies the run in the guest's records.
        nonce: Nonce,
        /// Serial number of the disk that held `/quiz/out`.
        out_serial: String,
    },
    /// Run another program while the run's own program runs or the guest is kept. The agent answers
    /// with [`ToHost::Ended`].
    Exec {
        /// The program's number from now on.
        id: ProgramId,
        /// The program.
        program: Box<Program>,
    },
    /// Stop keeping the guest, whose program has ended.
    End,
    /// Bytes of a stream.
    Data(ProgramId, Stream, #[serde(borrow)] Cow<'a, [u8]>),
    /// The stream has ended.
    Eof(ProgramId, Stream),
    /// The host has taken this many bytes of the stream.
    Credit(ProgramId, Stream, u32),
    /// Nobody reads the stream any more: the program gets SIGPIPE when it writes.
    Close(ProgramId, Stream),
    /// The terminal's size changed.
    Resize(ProgramId, WinSize),
    /// Send this signal to the program's process group (the foreground one on a terminal).
    Signal(ProgramId, i32),
    /// Report the stack of every process in the guest: [`ToHost::Stacks`].
    Stacks,
    /// Kill the program, because it timed out or the user interrupted it. Do not wait until the
    /// artifacts are complete.
    Kill,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
    /// The program does not exist.
    NotFound,
    /// It exists but cannot be executed; the value is the errno.
    NotExecutable(i32),
}

/// The messages of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost<'a> {
    /// The agent has started. It sends this once, as the first message.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
    },
    /// The guest is prepared, and waits for [`ToGuest::Start`]. The host may save the VM here and
    /// resume it.
    Ready,
    /// The agent has received an order.
    Begun,
    /// The program has started.
    Started,
    /// Heartbeat: the agent sends one about every second while the program runs.
    Pulse,
    /// Bytes of a stream.
    Data(ProgramId, Stream, #[serde(borrow)] Cow<'a, [u8]>),
    /// The stream has ended.
    Eof(ProgramId, Stream),
    /// The program has taken this many bytes of the stream.
    Credit(ProgramId, Stream, u32),
    /// The program has closed its end of the stream.
    Close(ProgramId, Stream),
    /// A kernel message of a requested level, logged since the program started.
    Kernel {
        /// Syslog level: 0 (emergency) to 7 (debug).
        level: u8,
        /// The kernel's time in microseconds.
        micros: u64,
        /// The text, one line.
        #[serde(borrow)]
        text: Cow<'a, str>,
    },
    /// Something the user should know, such as a share that could not be mounted.
    Note(#[serde(borrow)] Cow<'a, str>),
    /// Stacks of the guest's processes; may come in several pieces.
    Stacks(#[serde(borrow)] Cow<'a, str>),
    /// The last [`ToHost::Stacks`] was sent.
    StacksEnd,
    /// A program beside the run's own has ended, and all its output was sent.
    Ended { id: ProgramId, status: Status },
    /// The run's program has ended.
    Exited {
        /// The run's nonce, from [`ToGuest::Start`].
        nonce: Nonce,
        status: Status,
    },
    /// The guest could not be prepared; the program was not started.
    Failed(#[serde(borrow)] Cow<'a, str>),
    /// Everything is sent and written back, except for what [`ToHost::Spoilt`] reports: the host
    /// can end the VM.
    Down {
        /// The run's nonce.
        nonce: Nonce,
    },
    /// The agent itself has failed, and does nothing more.
    Broken(#[serde(borrow)] Cow<'a, str>),
    /// Data of the run is lost in the guest: it could not be read for the host, or not be written
    /// back.
    Spoilt(#[serde(borrow)] Cow<'a, str>),
    /// The kernel's log since the run began, sent at its end: one message per line. The console may
    /// lack some of them.
    Log(#[serde(borrow)] Cow<'a, str>),
    /// The taint bits (`/proc/sys/kernel/tainted`) that the kernel has set while the program ran.
    Tainted(u64),
    /// How much was sent; the agent sends this before [`ToHost::Down`].
    Sent(Sent),
}

/// How many bytes of each stream of the run's own program were sent to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Of [`Stream::Stdout`].
    pub stdout: u64,
    /// Of [`Stream::Stderr`].
    pub stderr: u64,
    /// Of [`Stream::Artifacts`].
    pub artifacts: u64,
}

impl Sent {
    /// Counts bytes of a stream.
    pub fn add(&mut self, stream: Stream, bytes: usize) {
        let count = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Artifacts => &mut self.artifacts,
            Stream::Stdin => return,
        };
        *count = count.saturating_add(bytes as u64);
    }
}
