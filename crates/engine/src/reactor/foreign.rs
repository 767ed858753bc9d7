//! Sessions that were born of a listener of ours and belong to another process, which took them
//! from the same number: their resumes come to us, and are passed on.
//!
//! What is kept of them is bounded. A process that ends takes its sessions along, a process that
//! lives tells of each session that has ended; whoever does neither is forgotten, oldest first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use eversock_proto::secret::SessionId;

use super::end::TOMBSTONES_MAX;
use super::timer::Timer;
use super::{Reactor, channel};
use crate::clock;

/// Sessions of other processes that are known at most, ended ones included.
const FOREIGN_MAX: usize = 65_536;
/// With so many it is worth asking whether their processes live.
const LOOK_FROM: usize = 1024;
/// How often a listener that only other processes' sessions keep looks whether they live.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is known of one session.
#[derive(Clone, Copy, Debug)]
struct Known {
    owner: u64,
    /// Its place in the order.
    place: u64,
}

/// Which process has which session.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    owners: HashMap<SessionId, Known>,
    /// In the order in which they came. An entry whose place is not the session's own is of an
    /// earlier stay, and is skipped: a session may come, go back to its parent, and come again.
    order: VecDeque<(SessionId, u64)>,
    /// The place of the next that comes.
    next_place: u64,
    /// Ended ones, for as long as their process has a tombstone for them.
    ended: VecDeque<SessionId>,
    looked_at: usize,
    look_is_planned: bool,
}

impl Foreign {
    pub(super) fn owner(&self, id: &SessionId) -> Option<u64> {
        self.owners.get(id).map(|known| known.owner)
    }

    /// True when no session that goes on is known.
    pub(super) fn is_idle(&self) -> bool {
        self.living() == 0
    }

    /// Sessions that go on.
    pub(super) fn living(&self) -> usize {
        self.owners.len().saturating_sub(self.ended.len())
    }

    pub(super) fn insert(&mut self, id: SessionId, owner: u64) {
        if let Some(known) = self.owners.get_mut(&id) {
            known.owner = owner;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.owners.insert(id, Known { owner, place });
        self.order.push_back((id, place));
        while self.owners.len() > FOREIGN_MAX {
            let Some((oldest, place)) = self.order.pop_front() else { break };
            if self.owners.get(&oldest).is_some_and(|known| known.place == place) {
                self.remove(&oldest);
            }
        }
        self.tidy();
    }

    pub(super) fn remove(&mut self, id: &SessionId) {
        if self.owners.remove(id).is_some() {
            self.ended.retain(|ended| ended != id);
        }
    }

    /// Its process says that a session has ended: a late resume is still its to answer, for as long
    /// as its own tombstones last.
    pub(super) fn end(&mut self, id: SessionId) {
        if !self.owners.contains_key(&id) || self.ended.contains(&id) {
            return;
        }
        self.ended.push_back(id);
        if self.ended.len() > TOMBSTONES_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.owners.remove(&oldest);
            self.tidy();
        }
    }

    /// Forgets the sessions of processes that have ended.
    pub(super) fn forget_dead(&mut self, is_alive: impl Fn(u64) -> bool) {
        let owners: BTreeSet<u64> = self.owners.values().map(|known| known.owner).collect();
        let dead: BTreeSet<u64> = owners.into_iter().filter(|&owner| !is_alive(owner)).collect();
        if !dead.is_empty() {
            self.owners.retain(|_, known| !dead.contains(&known.owner));
            self.ended.retain(|id| self.owners.contains_key(id));
        }
        self.looked_at = self.owners.len();
        self.tidy();
    }

    /// True when so many have come since the last look that the next is due.
    fn wants_look(&self) -> bool {
        self.owners.len() >= LOOK_FROM && self.owners.len() >= 2 * self.looked_at
    }

    /// Keeps what is skipped from outgrowing what is known.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.owners.len() + 64 {
            let owners = &self.owners;
            self.order.retain(|(id, at)| owners.get(id).is_some_and(|known| known.place == *at));
        }
    }
}

impl Reactor {
    /// Another process has taken a session.
    pub(super) fn note_foreign(&mut self, id: SessionId, owner: u64) {
        self.foreign.insert(id, owner);
        if self.foreign.wants_look() {
            self.foreign.forget_dead(channel::is_alive);
        }
    }

    /// A closed listener is kept for sessions of other processes only: look whether they live.
    pub(super) fn plan_look_at_foreign(&mut self) {
        if !self.foreign.look_is_planned {
            self.foreign.look_is_planned = true;
            self.timers.set(clock::now() + LOOK_EVERY, Timer::Foreign);
        }
    }

    pub(super) fn look_at_foreign(&mut self) {
        self.foreign.look_is_planned = false;
        self.foreign.forget_dead(channel::is_alive);
        let all: Vec<u64> = self.listeners.keys().copied().collect();
        for listener in all {
            self.retire_listener(listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SessionId {
        SessionId::new(1, n as u64)
    }

    #[test]
    fn sessions_of_other_processes_are_known_up_to_the_limit_and_the_oldest_is_forgotten_first() {
        let mut foreign = Foreign::default();
        (0..FOREIGN_MAX).for_each(|n| foreign.insert(id(n), 7));
        assert_eq!(foreign.owner(&id(0)), Some(7));
        foreign.insert(id(FOREIGN_MAX), 8);
        assert_eq!(foreign.owner(&id(0)), None);
        assert_eq!(foreign.owner(&id(1)), Some(7));
        assert_eq!(foreign.owners.len(), FOREIGN_MAX);
    }

    /// A session that went back to us and away again stood in the order twice, and the limit took
    /// the newest for the oldest.
    #[test]
    fn a_session_that_comes_again_is_the_newest_and_stands_in_the_order_once() {
        let mut foreign = Foreign::default();
        (0..FOREIGN_MAX).for_each(|n| foreign.insert(id(n), 7));
        foreign.remove(&id(0));
        foreign.insert(id(0), 9);
        foreign.insert(id(FOREIGN_MAX), 7);
        assert_eq!((foreign.owner(&id(0)), foreign.owner(&id(1))), (Some(9), None));
        (0..100_000).for_each(|_| {
            foreign.remove(&id(0));
            foreign.insert(id(0), 9);
        });
        assert!(foreign.order.len() <= 2 * FOREIGN_MAX + 64, "{}", foreign.order.len());
        let places = foreign.order.iter().filter(|(id, place)| {
            foreign.owners.get(id).is_some_and(|known| known.place == *place)
        });
        assert_eq!(places.count(), foreign.owners.len(), "each has one place");
    }

    #[test]
    fn ended_ones_are_known_as_long_as_tombstones_are_and_do_not_count_as_living() {
        let mut foreign = Foreign::default();
        (0..=TOMBSTONES_MAX).for_each(|n| foreign.insert(id(n), 7));
        (0..TOMBSTONES_MAX).for_each(|n| foreign.end(id(n)));
        assert!(!foreign.is_idle());
        assert_eq!(foreign.owner(&id(0)), Some(7));
        foreign.end(id(TOMBSTONES_MAX));
        assert!(foreign.is_idle());
        assert_eq!(foreign.owner(&id(0)), None);
        assert_eq!(foreign.owner(&id(1)), Some(7));
        foreign.end(id(99_999));
        assert_eq!(foreign.ended.len(), TOMBSTONES_MAX);
    }

    #[test]
    fn a_process_that_has_ended_takes_its_sessions_along() {
        let mut foreign = Foreign::default();
        (0..LOOK_FROM - 1).for_each(|n| foreign.insert(id(n), n as u64 % 2));
        assert!(!foreign.wants_look());
        foreign.insert(id(LOOK_FROM), 0);
        assert!(foreign.wants_look());
        foreign.end(id(0));
        foreign.forget_dead(|owner| owner == 1);
        assert_eq!((foreign.owner(&id(0)), foreign.owner(&id(1))), (None, Some(1)));
        assert!(foreign.ended.is_empty() && !foreign.wants_look());
        foreign.forget_dead(|_| false);
        assert!(foreign.is_idle());
        assert!(foreign.order.len() <= 64);
    }
}
