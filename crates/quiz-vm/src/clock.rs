//! The clock and random seed that a guest gets from the host. Not for time limits.

use quiz_proto::Moment;

/// The host's current time, and a random seed for the guest.
pub fn now() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let mut seed = vec![0; 64];
    let full = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    // Linux returns this few bytes completely, even if a signal arrives.
    assert_eq!(full, Ok(seed.len()), "the host gives no random numbers");
    Moment { clock: (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0)), seed }
}
