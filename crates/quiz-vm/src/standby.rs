//! VMs that wait for a run: restored, rehearsed, and standing still.
//!
//! A keeper, a process of its own, keeps one ([`Keeper::keep`]). A run that takes it ([`take`])
//! gets QEMU's sockets and disks, and is its supervisor. The keeper stays QEMU's parent: it tells
//! how QEMU ended, and ends it when the taker is gone. So no VM outlives either. Not for which VM
//! fits which run, nor for where sockets are.

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
use crate::qmp::{self, Said, Verb};
use crate::spec::VmSpec;

/// How long a VM may take to be restored and to rehearse.
const REHEARSAL: Duration = Duration::from_secs(60);
/// How long a taker may take to say what it wants, and a keeper to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The most descriptors that are handed over; Linux takes 253 at once.
const DESCRIPTORS: usize = 128;
/// Those that come before the disks: QMP, console, agent, QEMU itself, its log.
const FIRST: usize = 5;

/// Says that the VM is wanted.
const TAKE: u8 = b't';
/// Says that the keeper is to go.
const LEAVE: u8 = b'l';

/// Why no VM waits.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// QEMU could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It did not come to where it could wait.
    #[error("the VM that was to wait {0}")]
    Rehearsal(String),
    /// The host said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a keeper has.
pub struct Keeper<'a> {
    /// The VM, which goes on from a template.
    pub vm: &'a VmSpec,
    /// What is rehearsed.
    pub order: Order,
    /// Where QEMU's words go.
    pub log: &'a File,
    /// The VM's own disks, by their serial numbers.
    pub disks: &'a [(&'a str, &'a File)],
    /// How long it waits.
    pub idle: Duration,
}

/// What goes with the descriptors.
#[derive(Serialize, Deserialize)]
struct Header {
    disks: Vec<String>,
}

/// A VM that was taken over.
pub struct Standby {
    pub(crate) monitor: Monitor,
    /// QEMU's words.
    pub(crate) log: File,
    /// Its own disks, by their serial numbers.
    pub disks: Vec<(String, File)>,
}

impl Keeper<'_> {
    /// Restores the VM and rehearses; has `listen` make the socket when it is ready; then waits
    /// until somebody takes the VM or it has waited long enough. `taken` is called when somebody
    /// has. Returns when QEMU has ended; whoever wanted the keeper to go waits until what is
    /// returned is dropped.
    ///
    /// The calling thread must live as long as the VM.
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
                            monitor.say(Verb::Stop);
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

    /// What somebody wants, if anyone comes in time.
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
            // Whoever says nothing we know is not one of us.
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

/// Waits for QEMU's end and tells the taker; ends QEMU when the taker is gone.
fn end_with(mut monitor: Monitor, mut taker: UnixStream) {
    loop {
        let pidfd = monitor.pidfd();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&taker, PollFlags::IN)];
        match waiting::ready(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            // The taker says nothing more: its socket is readable when it is closed.
            Ok(_) if fds[0].revents().is_empty() => break,
            _ => {
                if let Some(status) = monitor.ended() {
                    // One that is gone needs no answer.
                    taker.write_all(&status.into_raw().to_ne_bytes()).ok();
                    return;
                }
            }
        }
    }
    let _status: ExitStatus = monitor.kill();
}

/// Takes the VM over that waits behind `keeper`.
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

/// Has the keeper go, and its VM with it.
pub fn dismiss(mut keeper: UnixStream) -> io::Result<()> {
    keeper.set_read_timeout(Some(ANSWER))?;
    keeper.write_all(&[LEAVE])?;
    // It closes its end when it goes.
    keeper.read(&mut [0]).map(drop)
}
