//! What a store knows about itself without asking: where its changes stand and how much there is.
//! The same for every store that lies on a disk.

use ring::rand::{SecureRandom, SystemRandom};

use super::{Position, Quota, Totals};
use crate::model::{ControllerId, Location, Record};

/// Runs that a store remembers: whoever stands in an older one needs a snapshot.
pub(super) const RUNS_KEPT: usize = 64;

/// One opening of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: u128,
    /// The number of the last change before it.
    pub(super) began: u64,
}

impl Run {
    /// A new one; `None` if the system has no randomness.
    pub(super) fn new(began: u64) -> Option<Self> {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).ok()?;
        Some(Self { id: u128::from_le_bytes(id), began })
    }

    pub(super) fn checksum(&self) -> u32 {
        checksum(&[&self.id.to_le_bytes(), &self.began.to_le_bytes()])
    }
}

/// The one row of counters that each transaction writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    /// The number of the last change.
    pub(super) head: u64,
    pub(super) floor: u64,
    pub(super) totals: Totals,
}

impl Counters {
    pub(super) fn checksum(&self, partition: &str) -> u32 {
        let Self { head, floor, totals } = self;
        let numbers = [*head, *floor, totals.records, totals.bytes].map(u64::to_le_bytes);
        checksum(&[partition.as_bytes(), numbers.as_flattened()])
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    quota: Quota,
    /// The current one is the last.
    runs: Vec<Run>,
    pub(super) now: Counters,
}

/// What a record may take up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// It fits beside all others.
    pub(super) new: bool,
    /// Bytes by which it may be larger than the one that it replaces.
    pub(super) growth: u64,
}

impl Book {
    /// `earlier`: the runs that the store remembers, oldest first.
    pub(super) fn new(quota: Quota, mut earlier: Vec<Run>, current: Run, now: Counters) -> Self {
        earlier.push(current);
        Self { quota, runs: earlier, now }
    }

    pub(super) fn run(&self) -> u128 {
        self.runs.last().map_or(0, |run| run.id)
    }

    /// See [`Store::reaches`](super::Store::reaches).
    pub(super) fn reaches(&self, position: Position) -> bool {
        let Some(at) = self.runs.iter().rposition(|run| run.id == position.run) else {
            return false;
        };
        let end = self.runs.get(at + 1).map_or(self.now.head, |next| next.began);
        (self.now.floor..=end).contains(&position.lsn)
    }

    /// What is left for this record.
    pub(super) fn room(&self, record: &Record) -> Room {
        let left = self.quota.bytes.saturating_sub(self.now.totals.bytes);
        let weight = record.weight() as u64;
        let new = self.now.totals.records < self.quota.records && weight <= left;
        let always = || Location::from_record(record).is_ok_and(|location| !location.stands());
        let growth = if weight > left && always() { u64::MAX } else { left };
        Room { new, growth }
    }

    /// Takes the next number for a record that replaces one of this weight.
    pub(super) fn put(&mut self, record: &Record, replaced: Option<u64>) -> u64 {
        let totals = &mut self.now.totals;
        totals.records += u64::from(replaced.is_none());
        let weight = record.weight() as u64;
        totals.bytes = (totals.bytes + weight).saturating_sub(replaced.unwrap_or(0));
        self.now.head += 1;
        self.now.head
    }

    /// A record of this weight, last changed then, is gone for good.
    pub(super) fn purged(&mut self, weight: u64, lsn: u64) {
        let totals = &mut self.now.totals;
        totals.records = totals.records.saturating_sub(1);
        totals.bytes = totals.bytes.saturating_sub(weight);
        self.now.floor = self.now.floor.max(lsn);
    }
}

/// The checksum of a row: it is what was written, and in the place where it was written.
pub(super) fn row_checksum(record: &Record, lsn: u64, from: Option<&ControllerId>) -> u32 {
    let from = from.map_or("", ControllerId::as_str);
    let Record { kind, key, rank, body } = record;
    checksum(&[&kind.to_le_bytes(), &lsn.to_le_bytes(), from.as_bytes(), key, rank, body])
}

/// The checksum of how far a partner has been taken over.
pub(super) fn taken_checksum(partner: &str, position: Position) -> u32 {
    checksum(&[partner.as_bytes(), &position.run.to_le_bytes(), &position.lsn.to_le_bytes()])
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}
