//! Waits for descriptors, with a time limit. Outside the agent, this is the only place that polls.

use std::time::Duration;

use rustix::event::{PollFd, Timespec, poll};

/// Waits until one of `fds` is ready, for at most `limit` (`None` is without limit). Returns how
/// many are ready; 0 if it timed out.
///
/// # Errors
/// EINTR after a signal, and the errors of poll(2).
pub fn ready(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> rustix::io::Result<usize> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    poll(fds, limit.as_ref())
}
