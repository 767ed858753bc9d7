//! The engine's timers: a heap for those that are near, lists by ticks for the others. Those whose
//! reason is gone do nothing when they fire.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
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
    /// Those that are far off, by their ticks: each outage of each session leaves some, most of
    /// them for nothing, so that they must cost next to nothing.
    far: BTreeMap<Instant, Vec<Timer>>,
    /// The tick that was looked through last by [`Timers::weed`].
    weeded: Option<Instant>,
    origin: Option<Instant>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        let now = clock::now();
        let origin = *self.origin.get_or_insert(now);
        if at.saturating_duration_since(now) <= 4 * TICK || timer == Timer::Sweep {
            return self.heap.push(Reverse((at, timer)));
        }
        let ticks = (at - origin).as_millis() / TICK.as_millis() + 1;
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        let tick = TICK.checked_mul(ticks).and_then(|since| origin.checked_add(since));
        self.far.entry(tick.unwrap_or(at)).or_default().push(timer);
    }

    /// Forgets those of the next tick whose reason is gone, so that nobody wakes up for them. Each
    /// tick is looked through once, before the first sleep that it would end.
    pub(super) fn weed(&mut self, mut is_wanted: impl FnMut(Timer) -> bool) {
        while let Some(mut next) = self.far.first_entry() {
            if self.weeded == Some(*next.key()) {
                return;
            }
            next.get_mut().retain(|&timer| is_wanted(timer));
            if !next.get().is_empty() {
                self.weeded = Some(*next.key());
                return;
            }
            next.remove();
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let near = self.heap.peek().map(|Reverse((at, _))| *at);
        let far = self.far.keys().next().copied();
        near.into_iter().chain(far).min()
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.heap.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            return self.heap.pop().map(|Reverse((_, timer))| timer);
        }
        let mut due = self.far.first_entry().filter(|tick| *tick.key() <= now)?;
        let timer = due.get_mut().pop();
        if due.get().is_empty() {
            due.remove();
        }
        timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_near_and_far_all_fire_once_and_none_before_its_time() {
        let mut timers = Timers::default();
        let begun = clock::now();
        let mut wanted = Vec::new();
        for n in 0..2000u64 {
            // From a millisecond to a minute, most of them far off.
            let after = Duration::from_millis(1 + n * n * 15 / 1000);
            timers.set(begun + after, Timer::Grace(n));
            wanted.push(after);
        }
        let mut fired = vec![false; wanted.len()];
        while let Some(at) = timers.next() {
            assert_eq!(timers.pop(at - Duration::from_nanos(1)), None, "nothing is due before");
            while let Some(timer) = timers.pop(at) {
                let Timer::Grace(n) = timer else { panic!("{timer:?} was never set") };
                let n = usize::try_from(n).expect("a small number");
                assert!(!std::mem::replace(&mut fired[n], true), "timer {n} has fired twice");
                let late = (at - begun).checked_sub(wanted[n]).expect("none is early");
                assert!(late <= 2 * TICK, "timer {n} is {late:?} late");
            }
        }
        assert!(fired.iter().all(|&fired| fired));
    }

    #[test]
    fn nobody_wakes_up_for_a_deadline_that_was_met() {
        let mut timers = Timers::default();
        let begun = clock::now();
        for n in 0..100 {
            timers.set(begun + Duration::from_millis(5000 + 200 * n), Timer::Grace(n));
        }
        timers.weed(|timer| timer == Timer::Grace(99));
        let last = timers.next().expect("the one that is wanted");
        assert!(last >= begun + Duration::from_millis(5000 + 200 * 99));
        assert_eq!(timers.pop(last), Some(Timer::Grace(99)));
        timers.weed(|_| false);
        assert_eq!((timers.next(), timers.pop(last + TICK)), (None, None));
    }
}
