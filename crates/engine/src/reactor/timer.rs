//! The engine's timers: a heap; those whose reason is gone do nothing when they fire.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::clock;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Sweep,
    Redial(u64),
    Stagger(u64),
    DialDeadline(u64, u64),
    DialAgain(u64, u64),
    Handshake(usize),
    Grace(u64),
    Unclaimed(u64),
    Fault(u64),
    Guests(u64),
    Linger(u64),
    Paths,
    Pump(usize),
    Away(u64),
    Numbers,
    Exit,
    Foreign,
    Start(u64, u64),
    Line(usize),
    Channel,
    Master(usize),
    Silent(usize),
}

/// Timers far off fire together at whole ticks of this length, so that the deadlines of a thousand
/// sessions which were opened together, all of them met, wake the thread a few times, not a
/// thousand.
const TICK: Duration = Duration::from_millis(256);

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
    origin: Option<Instant>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        let now = clock::now();
        let origin = *self.origin.get_or_insert(now);
        let at = if at.saturating_duration_since(now) > 4 * TICK && timer != Timer::Sweep {
            let ticks = (at - origin).as_millis() / TICK.as_millis() + 1;
            let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
            TICK.checked_mul(ticks).and_then(|since| origin.checked_add(since)).unwrap_or(at)
        } else {
            at
        };
        self.heap.push(Reverse((at, timer)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}
