//! The engine's timers: a heap; those whose reason is gone do nothing when they fire.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Sweep,
    Redial(u64),
    Stagger(u64),
    DialDeadline(u64, u64),
    Handshake(usize),
    Grace(u64),
    Linger(u64),
    Paths,
    Pump(usize),
}

#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, Timer)>>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}
