//! The signals that this process receives: those that would end it, and those that a terminal
//! sends. Not for what they do to a run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use quiz_vm::Signals;
use quiz_vm::proto::WinSize;
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGSYS, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH, SIGXCPU,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::fault::Fault;

/// How many values of [`ReceivedSignals`] exist. While there is none, signals act as in any
/// program.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// Returns the signals that end a program unless it catches them, except those of faults. quiz
/// catches them all, to restore the terminal and write the record.
fn ending() -> impl Iterator<Item = i32> {
    let named = [
        SIGINT,
        SIGTERM,
        SIGHUP,
        SIGQUIT,
        SIGABRT,
        SIGALRM,
        SIGIO,
        SIGPROF,
        SIGSYS,
        SIGTRAP,
        SIGUSR1,
        SIGUSR2,
        SIGVTALRM,
        SIGXCPU,
        libc::SIGPWR,
        #[cfg(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64")))]
        libc::SIGSTKFLT,
    ];
    named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// The signals that end, stop, continue or resize a run, received as long as this value lives.
pub struct ReceivedSignals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl ReceivedSignals {
    /// Receives the signals from now on.
    ///
    /// # Errors
    /// If the host refuses a socket or a handler.
    pub fn listen() -> Result<ReceivedSignals, Fault> {
        static DEFAULTS: OnceLock<()> = OnceLock::new();
        let make = || {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            if DEFAULTS.set(()).is_ok() {
                ending().try_for_each(end_where_nobody_listens)?;
            }
            SignalDelivery::with_pipe(read, write, SignalOnly, ending().chain([SIGWINCH, SIGCONT]).collect::<Vec<_>>())
        };
        let delivery = make().map_err(|e| Fault::new(format!("cannot listen for signals: {e}")))?;
        // Count this listener last. A signal that came earlier would not end quiz, and no listener
        // would receive it.
        LISTENERS.fetch_add(1, Ordering::SeqCst);
        Ok(ReceivedSignals { delivery })
    }
}

/// Makes `signal` end quiz while there is no listener. A signal that a program has once caught
/// stays caught.
fn end_where_nobody_listens(signal: i32) -> io::Result<()> {
    let end = move || {
        if LISTENERS.load(Ordering::SeqCst) == 0 {
            // SAFETY: both are async-signal-safe; the signal is delivered again when its handler
            // has returned.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    };
    // SAFETY: what is called in the handler is async-signal-safe.
    unsafe { signal_hook::low_level::register(signal, end) }.map(drop)
}

impl Drop for ReceivedSignals {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Signals for ReceivedSignals {
    fn fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    fn pending(&mut self) -> Vec<i32> {
        self.delivery.pending().collect()
    }

    fn window_size(&self) -> Option<WinSize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    const CHILD: &str = "QUIZ_TEST_SIGNALS";

    /// At any time, quiz receives the signal, or the signal ends quiz as it ends any program.
    #[test]
    fn no_signal_is_lost_while_quiz_begins_to_listen() {
        if std::env::var_os(CHILD).is_some() {
            println!("\nready");
            loop {
                let mut signals = ReceivedSignals::listen().unwrap();
                if signals.pending().contains(&SIGTERM) {
                    std::process::exit(7);
                }
            }
        }
        let mut lost = 0;
        for round in 0..20 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "signals::tests::no_signal_is_lost_while_quiz_begins_to_listen", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap() == "ready"));
            std::thread::sleep(Duration::from_micros(1000 + 137 * round));
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            // Only the signal stops the child.
            let guard = std::time::Instant::now() + Duration::from_secs(20);
            let status = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if std::time::Instant::now() > guard => break None,
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            };
            match status {
                Some(status) => assert!(status.code() == Some(7) || status.signal() == Some(SIGTERM), "{status}"),
                // Once, the signal may come between the child's last look and the end of its
                // listening.
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    lost += 1;
                }
            }
            assert!(lost < 2, "{lost} of {} signals were lost", round + 1);
        }
    }
}
