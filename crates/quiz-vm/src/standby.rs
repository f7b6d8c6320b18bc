//! Standby VMs: restored, rehearsed and paused until a run takes them.
//!
//! A keeper, a process of its own, keeps one standby VM ([`Keeper::keep`]). A run that takes the VM
//! ([`take`]) receives QEMU's sockets and disks, and supervises it. The keeper stays QEMU's parent:
//! it reports how QEMU ended, and ends QEMU when the taker is gone. So the VM does not outlive
//! either process. Not for choosing a VM for a run, nor for the paths of sockets.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use quiz_host::wait as waiting;
use quiz_proto::{Decoder, Order, ToGuest, ToHost, encode};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::monitor::{Monitor, StartError};
use crate::qmp::{self, CommandName, Said};
use crate::spec::VmSpec;

/// How long a VM may take to be restored and to rehearse.
const REHEARSAL: Duration = Duration::from_secs(60);
/// How long a taker may take to send its request, and a keeper to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The maximum number of descriptors that are handed over. Linux accepts 253 in one message.
const DESCRIPTORS: usize = 128;
/// How many descriptors precede the disks: QMP, console, agent, QEMU's pidfd, its log.
const FIRST: usize = 5;

/// The request to take the VM.
const TAKE: u8 = b't';
/// The request to end the keeper.
const LEAVE: u8 = b'l';

/// Why there is no standby VM.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// QEMU could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The VM did not get as far as being paused.
    #[error("the VM that was to wait {0}")]
    Rehearsal(String),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a keeper needs.
pub struct Keeper<'a> {
    /// The VM. It resumes from a template.
    pub vm: &'a VmSpec,
    /// The order that the guest rehearses.
    pub order: Order,
    /// The file that receives QEMU's output.
    pub log: &'a File,
    /// The VM's own disks, with their serial numbers.
    pub disks: &'a [(&'a str, &'a File)],
    /// How long the VM stays on standby before the keeper ends it.
    pub idle: Duration,
}

/// The message that accompanies the descriptors.
#[derive(Serialize, Deserialize)]
struct Header {
    disks: Vec<String>,
}

/// A VM that was taken over from its keeper.
pub struct Standby {
    pub(crate) monitor: Monitor,
    /// QEMU's output.
    pub(crate) log: File,
    /// The VM's own disks, with their serial numbers.
    pub disks: Vec<(String, File)>,
}

impl Keeper<'_> {
    /// Restores the VM and rehearses, then calls `listen` to make the socket. Waits until a run
    /// takes the VM, or until the VM has been idle too long. Calls `taken` when a run has taken it.
    /// Returns when QEMU has ended.
    ///
    /// If a client asked the keeper to leave, its socket is returned. The client waits until the
    /// caller drops it.
    ///
    /// The calling thread must live as long as the VM.
    ///
    /// # Errors
    /// If QEMU does not start, the rehearsal fails, or a system call fails.
    pub fn keep(
        &self,
        listen: impl FnOnce() -> io::Result<UnixListener>,
        taken: impl FnOnce(),
    ) -> Result<Option<UnixStream>, StandbyError> {
        let mut monitor = Monitor::start(self.vm, self.log)?;
        self.rehearse(&mut monitor)?;
        let listener = listen()?;
        match self.wish(&monitor, &listener)? {
            Some((TAKE, taker)) => {
                taken();
                drop(listener);
                self.hand_over(&monitor, &taker)?;
                end_with(monitor, taker);
                Ok(None)
            }
            Some((_, other)) => Ok(Some(other)),
            None => Ok(None),
        }
    }

    fn rehearse(&self, monitor: &mut Monitor) -> Result<(), StandbyError> {
        let failed = |why: &str| StandbyError::Rehearsal(why.to_owned());
        let mut order = self.order.clone();
        order.personal.moment = crate::clock::now();
        let mut bytes = Vec::new();
        encode(&ToGuest::Rehearse { order: Box::new(order) }, &mut bytes).map_err(io::Error::other)?;
        monitor.agent.set_nonblocking(false)?;
        monitor.agent.set_write_timeout(Some(ANSWER))?;
        (&monitor.agent).write_all(&bytes)?;
        monitor.agent.set_nonblocking(true)?;
        let deadline = Instant::now() + REHEARSAL;
        let (mut decoder, mut reader, mut buffer) = (Decoder::default(), qmp::Reader::default(), vec![0; 64 * 1024]);
        let mut rehearsed = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let pidfd = monitor.pidfd();
            let mut fds = [
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&monitor.agent, PollFlags::IN),
                PollFd::new(&monitor.qmp, PollFlags::IN),
            ];
            match waiting::ready(&mut fds, Some(left)) {
                Ok(0) => return Err(failed("was not ready in time")),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(io::Error::from(e).into()),
            }
            if !fds[0].revents().is_empty() {
                return Err(failed("ended"));
            }
            if let Ok(n @ 1..) = (&monitor.agent).read(&mut buffer) {
                decoder.push(&buffer[..n]);
                loop {
                    match decoder.next::<ToHost>() {
                        Ok(Some(ToHost::Ready)) if !rehearsed => {
                            rehearsed = true;
                            monitor.say(CommandName::Stop);
                        }
                        Ok(Some(ToHost::Begun | ToHost::Pulse)) => {}
                        Ok(None) => break,
                        Ok(Some(_)) | Err(_) => return Err(failed("sent an unexpected message")),
                    }
                }
            }
            if let Ok(n @ 1..) = (&monitor.qmp).read(&mut buffer) {
                for said in reader.push(&buffer[..n]) {
                    match said {
                        Said::Stopped if rehearsed => return Ok(()),
                        Said::Refused(_, why) => return Err(failed(&format!("refused: {why}"))),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Waits for a request. `None` if QEMU ends or the VM has been idle too long.
    fn wish(&self, monitor: &Monitor, listener: &UnixListener) -> io::Result<Option<(u8, UnixStream)>> {
        let deadline = Instant::now() + self.idle;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let pidfd = monitor.pidfd();
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
            match waiting::ready(&mut fds, Some(left)) {
                Ok(0) => return Ok(None),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let (mut stream, _) = listener.accept()?;
            let mut wish = [0];
            let said = stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.read_exact(&mut wish));
            // A client that sends an unknown request is ignored.
            if let (Ok(()), [wish @ (TAKE | LEAVE)]) = (said, wish) {
                return Ok(Some((wish, stream)));
            }
        }
    }

    fn hand_over(&self, monitor: &Monitor, taker: &UnixStream) -> io::Result<()> {
        let header = Header { disks: self.disks.iter().map(|(serial, _)| (*serial).to_owned()).collect() };
        let mut text = serde_json::to_vec(&header).map_err(io::Error::other)?;
        text.push(b'\n');
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            monitor.qmp.as_fd(),
            monitor.console.as_fd(),
            monitor.agent.as_fd(),
            monitor.pidfd(),
            self.log.as_fd(),
        ];
        fds.extend(self.disks.iter().map(|(_, file)| file.as_fd()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if fds.len() > DESCRIPTORS || !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("the VM has too many disks to be handed over"));
        }
        let sent = rustix::net::sendmsg(taker, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        if sent < text.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }
}

/// Waits for QEMU's end and reports it to the taker. Ends QEMU when the taker is gone.
fn end_with(mut monitor: Monitor, mut taker: UnixStream) {
    loop {
        let pidfd = monitor.pidfd();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&taker, PollFlags::IN)];
        match waiting::ready(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            // The taker sends nothing more, so its socket is readable only after it is closed.
            Ok(_) if fds[0].revents().is_empty() => break,
            _ => {
                if let Some(status) = monitor.ended() {
                    // A taker that is gone needs no answer.
                    taker.write_all(&status.into_raw().to_ne_bytes()).ok();
                    return;
                }
            }
        }
    }
    let _status: ExitStatus = monitor.kill();
}

/// Takes the standby VM over from the process at the other end of `keeper`.
///
/// # Errors
/// If the keeper does not answer within 2 s, or hands over something unexpected.
pub fn take(mut keeper: UnixStream) -> io::Result<Standby> {
    keeper.set_read_timeout(Some(ANSWER))?;
    keeper.set_write_timeout(Some(ANSWER))?;
    keeper.write_all(&[TAKE])?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; 64 * 1024];
    let got = rustix::net::recvmsg(&keeper, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds: Vec<OwnedFd> = fds.flatten().collect();
    let header: Header = serde_json::from_slice(&text[..got.bytes]).map_err(io::Error::other)?;
    if fds.len() != FIRST + header.disks.len() {
        return Err(io::Error::other("the keeper handed over something unexpected"));
    }
    let disks = header.disks.into_iter().zip(fds.split_off(FIRST).into_iter().map(File::from)).collect();
    let mut fds = fds.into_iter();
    let mut next = || fds.next().expect("they were counted");
    let sockets = [next().into(), next().into(), next().into()];
    let (pidfd, log) = (next(), next().into());
    Ok(Standby { monitor: Monitor::kept(keeper, pidfd, sockets)?, log, disks })
}

/// Ends the keeper and its VM, and waits up to 2 s for that.
///
/// # Errors
/// If the keeper does not end in time.
pub fn dismiss(mut keeper: UnixStream) -> io::Result<()> {
    keeper.set_read_timeout(Some(ANSWER))?;
    keeper.write_all(&[LEAVE])?;
    // The keeper closes its end when it ends.
    keeper.read(&mut [0]).map(drop)
}
