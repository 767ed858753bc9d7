//! When the steps of a plan are due: by bytes and by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::fault::{Direction, Way};
use crate::plan::{Step, When};

/// A time so late that it never comes, for sums that the clock cannot hold.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or_else(|| now + NEVER)
}

/// Forwarded bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, way: Way, bytes: usize) {
        match way {
            Way::Up => self.up += bytes as u64,
            Way::Down => self.down += bytes as u64,
        }
    }

    fn of(self, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
            Direction::Both => self.up + self.down,
        }
    }
}

/// The steps that wait for one scope's bytes and clock. Steps are named by their index.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    up: BinaryHeap<Reverse<(u64, usize)>>,
    down: BinaryHeap<Reverse<(u64, usize)>>,
    sum: BinaryHeap<Reverse<(u64, usize)>>,
    times: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Schedule {
    /// Puts a step in, with the clock at `start`. Steps that are for `always` do not wait.
    pub(crate) fn arm(&mut self, index: usize, step: &Step, start: Instant) {
        match step.when {
            When::Always => {}
            When::At(time) => self.times.push(Reverse((later(start, time), index))),
            When::EveryTime(period) => {
                self.times.push(Reverse((later(start, at_least_1ms(period)), index)));
            }
            When::After { bytes, direction } => self.heap(direction).push(Reverse((bytes, index))),
            When::EveryBytes { bytes, direction } => {
                self.heap(direction).push(Reverse((bytes.get(), index)));
            }
        }
    }

    fn heap(&mut self, direction: Direction) -> &mut BinaryHeap<Reverse<(u64, usize)>> {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
            Direction::Both => &mut self.sum,
        }
    }

    /// How many bytes may go this way before the next step is due.
    pub(crate) fn allowance(&self, way: Way, counts: Counts) -> usize {
        let (one, direction) = match way {
            Way::Up => (&self.up, Direction::Up),
            Way::Down => (&self.down, Direction::Down),
        };
        let left = |heap: &BinaryHeap<Reverse<(u64, usize)>>, count: u64| {
            heap.peek().map_or(u64::MAX, |Reverse((at, _))| at.saturating_sub(count))
        };
        let bytes =
            left(one, counts.of(direction)).min(left(&self.sum, counts.of(Direction::Both)));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Takes the steps out whose byte has been forwarded, in the order of the plan, with those
    /// that repeat put in again.
    pub(crate) fn due_bytes(&mut self, counts: Counts, plan: &[Step]) -> Vec<usize> {
        let mut due = Vec::new();
        for direction in [Direction::Up, Direction::Down, Direction::Both] {
            let count = counts.of(direction);
            let heap = self.heap(direction);
            while let Some(Reverse((at, index))) = heap.peek().copied()
                && at <= count
            {
                heap.pop();
                if let Some(When::EveryBytes { bytes, .. }) = plan.get(index).map(|step| step.when)
                {
                    heap.push(Reverse((at.saturating_add(bytes.get()), index)));
                }
                due.push(index);
            }
        }
        due.sort_unstable();
        due
    }

    /// Puts a step back that was due but found nothing to hit: it is due for the next connection.
    /// One that repeats is not: its next turn waits already.
    pub(crate) fn put_back(&mut self, index: usize, plan: &[Step]) {
        if let Some(When::After { bytes, direction }) = plan.get(index).map(|step| step.when) {
            self.heap(direction).push(Reverse((bytes, index)));
        }
    }

    /// Takes a step out whose time has come; one that repeats is put in again.
    pub(crate) fn due_time(&mut self, now: Instant, plan: &[Step]) -> Option<usize> {
        let Reverse((at, index)) = self.times.peek().copied()?;
        if at > now {
            return None;
        }
        self.times.pop();
        if let Some(When::EveryTime(period)) = plan.get(index).map(|step| step.when) {
            // Turns that were slept through are not made up for.
            self.times.push(Reverse((later(now.max(at), at_least_1ms(period)), index)));
        }
        Some(index)
    }

    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.times.peek().map(|Reverse((at, _))| *at)
    }
}

fn at_least_1ms(period: Duration) -> Duration {
    period.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;
    use crate::plan::Plan;

    fn schedule(script: &str) -> (Schedule, Vec<Step>) {
        let steps = Plan::parse(script).unwrap().steps;
        let mut schedule = Schedule::default();
        let now = Instant::now();
        steps.iter().enumerate().for_each(|(index, step)| schedule.arm(index, step, now));
        (schedule, steps)
    }

    #[test]
    fn nothing_passes_a_step() {
        let (mut schedule, plan) = schedule("after 10 up fin; after 12 reset; every 5 down reset");
        let mut counts = Counts::default();
        assert_eq!(schedule.allowance(Way::Up, counts), 10);
        assert_eq!(schedule.allowance(Way::Down, counts), 5);
        counts.add(Way::Up, 10);
        assert_eq!(schedule.due_bytes(counts, &plan), [0]);
        assert_eq!(schedule.allowance(Way::Up, counts), 2);
        assert_eq!(schedule.allowance(Way::Down, counts), 2);
        counts.add(Way::Down, 2);
        assert_eq!(schedule.due_bytes(counts, &plan), [1]);
        assert_eq!(schedule.allowance(Way::Up, counts), usize::MAX);
        counts.add(Way::Down, 3);
        assert_eq!(schedule.due_bytes(counts, &plan), [2]);
        assert_eq!(schedule.allowance(Way::Down, counts), 5);
        schedule.put_back(0, &plan);
        assert_eq!(schedule.due_bytes(counts, &plan), [0]);
    }

    #[test]
    fn times_come_in_order_and_repeat() {
        let (mut schedule, plan) = schedule("at 1s reset; every 300ms fin");
        let start = Instant::now();
        assert_eq!(schedule.due_time(start, &plan), None);
        let late = start + Duration::from_secs(5);
        assert_eq!(schedule.due_time(late, &plan), Some(1));
        assert_eq!(schedule.due_time(late, &plan), Some(0));
        assert_eq!(schedule.due_time(late, &plan), None);
        assert_eq!(schedule.next_time(), Some(late + Duration::from_millis(300)));
    }
}
