//! In which order the addresses of a server are dialled (RFC 8305, section 4).
//!
//! Each address has a back-off of its own: that one is dead says nothing of the others of its host,
//! and an address family that does not work is no reason to wait with the one that does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// How long an address is put last after its first failure, in microseconds.
const BACK_OFF_MICROS: u64 = 1_000_000;

/// And at most, but for the jitter.
const BACK_OFF_MAX_MICROS: u64 = 120_000_000;

/// Each further failure makes it 1.6 times as long.
const GROWTH: (u64, u64) = (8, 5);

/// A back-off is up to a fifth longer or shorter, so that those who failed together do not come
/// back together.
const JITTER_PERMILLE: u64 = 200;

/// Addresses in back-off that are remembered.
const ADDRESSES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct BackOff {
    /// Without jitter.
    length: u64,
    until: u64,
}

/// Which addresses have failed, and until when they are put last.
#[derive(Debug, Default)]
pub struct Book(BTreeMap<SocketAddr, BackOff>);

impl Book {
    /// One in which no address has failed.
    pub fn new() -> Self {
        Self::default()
    }

    /// No connection came about with this address. `random`, any number, is the jitter. Failures
    /// during a back-off are those of attempts that ran beside the one that began it, or of those
    /// that had no other address to try; they change nothing.
    pub fn failed(&mut self, address: SocketAddr, now: u64, random: u32) {
        let before = self.0.get(&address).copied();
        if before.is_some_and(|back_off| now < back_off.until) {
            return;
        }
        if before.is_none() && self.0.len() >= ADDRESSES_MAX {
            // The one that is over first, which is over already when there is such a one.
            let first = self.0.iter().min_by_key(|(_, back_off)| back_off.until);
            if let Some(first) = first.map(|(address, _)| *address) {
                self.0.remove(&first);
            }
        }
        let length = before.map_or(BACK_OFF_MICROS, |back_off| {
            (back_off.length * GROWTH.0 / GROWTH.1).min(BACK_OFF_MAX_MICROS)
        });
        let permille = 1000 - JITTER_PERMILLE + u64::from(random) % (2 * JITTER_PERMILLE + 1);
        let until = now.saturating_add(length * permille / 1000);
        self.0.insert(address, BackOff { length, until });
    }

    /// A connection came about with this address.
    pub fn succeeded(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    /// What failed before says nothing any more.
    pub fn network_changed(&mut self) {
        self.0.clear();
    }

    /// Until when the address is put last, if it is.
    pub fn back_off(&self, address: SocketAddr, now: u64) -> Option<u64> {
        self.0.get(&address).map(|back_off| back_off.until).filter(|until| now < *until)
    }

    /// The addresses, each once, in the order in which to dial them: the one that was good last,
    /// then the families in turn, beginning with the first one's, each in the order given; at last
    /// those in back-off, the one that is over soonest first. None is left out.
    pub fn order(
        &self,
        addresses: &[SocketAddr],
        last_good: Option<SocketAddr>,
        now: u64,
    ) -> Vec<SocketAddr> {
        let mut seen = BTreeSet::new();
        let mut ready = VecDeque::new();
        let mut waiting = Vec::new();
        for address in addresses.iter().filter(|address| seen.insert(**address)) {
            match self.back_off(*address, now) {
                Some(until) => waiting.push((until, *address)),
                None if Some(*address) == last_good => ready.push_front(*address),
                None => ready.push_back(*address),
            }
        }
        let begins_with_v4 = ready.front().is_some_and(SocketAddr::is_ipv4);
        let (mut these, mut others): (VecDeque<_>, VecDeque<_>) =
            ready.into_iter().partition(|address| address.is_ipv4() == begins_with_v4);
        let mut order = Vec::with_capacity(seen.len());
        while !these.is_empty() || !others.is_empty() {
            order.extend(these.pop_front());
            order.extend(others.pop_front());
        }
        waiting.sort_by_key(|(until, _)| *until);
        order.extend(waiting.into_iter().map(|(_, address)| address));
        order
    }
}
