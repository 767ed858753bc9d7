//! The time that leases are counted in.

use std::fmt;

/// A clock that never goes back and that nobody sets.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Microseconds since a moment of its own.
    fn now_us(&self) -> u64;
}

/// The system's time since it was started. It goes on while the machine is suspended: a server that
/// wakes up finds that its lease is over.
///
/// The pause of a virtual machine as a whole is not seen: its clock stands still too, and its lease
/// seems to hold. Then only a ledger that both servers share, or a standby that has to confirm,
/// keeps two from working at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now_us(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)
    }
}
