//! When each of many devices wants to be looked at.

use std::collections::BTreeSet;

use crate::shard::Millis;

#[derive(Debug)]
pub(super) struct Timers {
    by_time: BTreeSet<(Millis, u32)>,
    /// Of each device; `Millis::MAX` for never.
    at: Vec<Millis>,
}

impl Timers {
    pub(super) fn new(count: usize) -> Self {
        Self { by_time: BTreeSet::new(), at: vec![Millis::MAX; count] }
    }

    /// When this one is due, in the place of what was said before. O(log n).
    pub(super) fn set(&mut self, device: u32, at: Option<Millis>) {
        let Some(known) = self.at.get_mut(device as usize) else { return };
        let at = at.unwrap_or(Millis::MAX);
        if *known == at {
            return;
        }
        self.by_time.remove(&(*known, device));
        *known = at;
        if at < Millis::MAX {
            self.by_time.insert((at, device));
        }
    }

    /// One that is due, until it is set anew.
    pub(super) fn pop(&mut self, now: Millis) -> Option<u32> {
        let (at, device) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        if let Some(known) = self.at.get_mut(device as usize) {
            *known = Millis::MAX;
        }
        Some(device)
    }

    pub(super) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_those_that_are_due_in_their_order() {
        let mut timers = Timers::new(4);
        timers.set(0, Some(30));
        timers.set(1, Some(10));
        timers.set(2, Some(20));
        timers.set(3, Some(5));
        timers.set(3, None);
        timers.set(1, Some(40));
        assert_eq!(timers.next(), Some(20));
        let mut due = Vec::new();
        while let Some(device) = timers.pop(30) {
            due.push(device);
        }
        assert_eq!(due, [2, 0]);
        assert_eq!(timers.next(), Some(40));
        // One that was given can be set to the same time again.
        timers.set(2, Some(20));
        assert_eq!(timers.pop(20), Some(2));
    }
}
