//! Waiting for descriptors, with a limit. Outside the agent, the only place that polls.

use std::time::Duration;

use rustix::event::{PollFd, Timespec, poll};

/// Waits until one of `fds` is ready, for at most `limit`; how many are.
///
/// # Errors
/// EINTR after a signal, and what poll(2) lists.
pub fn ready(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> rustix::io::Result<usize> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    poll(fds, limit.as_ref())
}
