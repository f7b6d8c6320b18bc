//! What the two ends say to each other.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A random number that ties a record to one run: a guest restored from a saved state cannot know
/// it in advance.
pub type Nonce = [u8; 16];

/// Which program of the guest: the run's own, or one that was started beside it. The host counts
/// them.
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
    /// What it leads to.
    pub target: Device,
    /// Make links to the device's partitions too, whether or not they are there yet: `quizb0p1`
    /// beside `quizb0`.
    pub partitions: bool,
}

/// A block device of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// The virtio disk that the host gave this serial number.
    Serial(String),
    /// By its absolute path.
    Path(String),
}

/// A kernel module to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Absolute path of its file in the guest.
    pub path: String,
    /// Its parameters, as the kernel takes them.
    pub parameters: String,
}

/// A program that completes the guest before the run's own program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Whose it is, for messages.
    pub name: String,
    /// Absolute path of the program.
    pub path: String,
}

/// What the guest is whatever it is used for: all of it may have been done before the VM was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Serial number of the disk with the root image.
    pub root_serial: String,
    /// File system types to try for the root image, in order.
    pub root_types: Vec<String>,
    /// Serial numbers of the disks with what lies over the root, the uppermost first; of the same
    /// types.
    pub layers: Vec<String>,
    /// Serial number of the disk for `/quiz/out`, an ext4 file system; without one it is on the
    /// guest's memory.
    pub out_serial: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Modules to load, in order; one that is loaded already is passed over.
    pub modules: Vec<Module>,
    /// Links to devices.
    pub links: Vec<Link>,
    /// Programs to run when all else is done.
    pub inits: Inits,
}

/// What belongs to one run, and so is done after a saved VM was resumed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Time and randomness.
    pub moment: Moment,
    /// Machine id: 32 hexadecimal digits.
    pub machine_id: String,
    /// Host directories, those that hold others first.
    pub shares: Vec<Share>,
    /// Serial numbers of disks that may hold something else than they did when the guest last
    /// looked.
    pub changed: Vec<String>,
    /// Programs to run when all else is done.
    pub inits: Inits,
    /// Some disk is the user's own: it is written back at the end.
    pub write_back: bool,
}

/// What a guest cannot know by itself after it was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds and nanoseconds since the Unix epoch on the host.
    pub clock: (i64, u32),
    /// Fresh random bytes for the guest's pool.
    pub seed: Vec<u8>,
}

/// Programs that complete the guest, in order. One that fails ends the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inits {
    /// The programs.
    pub programs: Vec<Init>,
    /// Their environment, whole: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The program of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments, exactly; never empty.
    pub argv: Vec<Vec<u8>>,
    /// Environment, whole: name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directories to try, in order; the first that exists is used.
    pub cwd: Vec<Vec<u8>>,
    /// Run it on a terminal of this size.
    pub terminal: Option<WinSize>,
    /// On a terminal: standard error is separate all the same, because it is redirected on the
    /// host.
    pub separate_stderr: bool,
    /// Start a shell on the terminal after the program; the program's status stays the run's.
    pub shell_after: bool,
}

/// A whole run, as a prepared guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What is the run's own.
    pub personal: Personal,
    /// The program.
    pub program: Program,
    /// The least severe kernel messages that are forwarded while the program runs: a syslog level,
    /// 0 (emergency) to 7 (debug).
    pub messages: Option<u8>,
    /// The guest stays when the program has ended, until [`ToGuest::End`].
    pub keep: bool,
    /// The run must be free of reports of the kernel's: [`ToHost::Log`] and [`ToHost::Tainted`] are
    /// wanted.
    pub strict: bool,
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest<'a> {
    /// Prepare the guest, and say [`ToHost::Ready`]. Said once, as the first message.
    Prepare {
        /// Now.
        moment: Moment,
        /// What to prepare.
        system: Box<System>,
    },
    /// Do in the prepared guest all that a run does, and undo it: an emulated CPU has everything
    /// translated then. [`ToHost::Ready`] follows once more.
    Rehearse {
        /// The run; in its program's place one runs that does nothing.
        order: Box<Order>,
    },
    /// Run the program in the prepared guest. Said once.
    Start {
        /// Identifies the run in the guest's records.
        nonce: Nonce,
        /// What to run, and with what.
        order: Box<Order>,
    },
    /// Only send what is on the disk with this serial as [`Stream::Artifacts`], and end.
    Salvage {
        /// Identifies the run in the guest's records.
        nonce: Nonce,
        /// Serial number of the disk that held `/quiz/out`.
        out_serial: String,
    },
    /// Run another program while the run's own runs or its guest is kept: [`ToHost::Ended`].
    Exec {
        /// How it is called from now on.
        id: ProgramId,
        /// The program.
        program: Box<Program>,
    },
    /// The guest of a program that has ended is no longer kept.
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
    /// Say where every process of the guest stands: [`ToHost::Stacks`].
    Stacks,
    /// The program's time is over or the user has interrupted: kill it, do not wait for artifacts
    /// to be complete.
    Kill,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It exited with this code.
    Code(u8),
    /// It died of this signal.
    Signal(u8),
    /// There is no such program.
    NotFound,
    /// It exists and cannot be executed; the errno says why.
    NotExecutable(i32),
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost<'a> {
    /// The agent is up. Said once, as the first message.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
    },
    /// The guest is prepared, and waits for [`ToGuest::Start`]. Here it can be saved and resumed.
    Ready,
    /// An order was understood: the guest lives.
    Begun,
    /// The program runs.
    Started,
    /// Still alive; said about once a second while the program runs.
    Pulse,
    /// Bytes of a stream.
    Data(ProgramId, Stream, #[serde(borrow)] Cow<'a, [u8]>),
    /// The stream has ended.
    Eof(ProgramId, Stream),
    /// The program has taken this many bytes of the stream.
    Credit(ProgramId, Stream, u32),
    /// The program has closed its end of the stream.
    Close(ProgramId, Stream),
    /// A kernel message since the program started, of a level that is asked for.
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
    /// Where the processes of the guest stand; may come in several pieces.
    Stacks(#[serde(borrow)] Cow<'a, str>),
    /// That was the last of the [`ToHost::Stacks`].
    StacksEnd,
    /// A program beside the run's own has ended; all its output was sent before.
    Ended { id: ProgramId, status: Status },
    /// The run's program has ended.
    Exited {
        /// The run's.
        nonce: Nonce,
        status: Status,
    },
    /// The guest could not be prepared; the program was not started.
    Failed(#[serde(borrow)] Cow<'a, str>),
    /// Everything is sent and written back, or what is not is told as [`ToHost::Spoilt`]: the VM
    /// can be ended.
    Down {
        /// The run's.
        nonce: Nonce,
    },
    /// The agent itself has failed, and does nothing any more.
    Broken(#[serde(borrow)] Cow<'a, str>),
    /// Something of the run is lost in the guest: what could not be read for the host, or not be
    /// written back.
    Spoilt(#[serde(borrow)] Cow<'a, str>),
    /// What the kernel has logged since the run began, at its end: messages, each a line. Some may
    /// not have come to the console.
    Log(#[serde(borrow)] Cow<'a, str>),
    /// Bits of the kernel's taint (`/proc/sys/kernel/tainted`) that were set while the program ran.
    Tainted(u64),
    /// How much was sent; said before [`ToHost::Down`].
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
