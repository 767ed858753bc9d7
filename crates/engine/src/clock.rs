//! The only place that reads a clock.

use std::time::{Duration, Instant};

/// A moment of the monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds of the monotonic clock, for words that processes and threads share without a lock.
pub(crate) fn millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// Nanoseconds of the monotonic clock, for what happens every few microseconds.
#[inline]
pub(crate) fn nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Time since boot, suspend included, less time since boot without it: grows by the length of each
/// suspend.
pub(crate) fn suspended() -> Duration {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let mono = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let span = |t: rustix::time::Timespec| {
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    };
    span(boot).saturating_sub(span(mono))
}
