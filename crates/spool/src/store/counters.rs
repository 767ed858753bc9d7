//! What a store counts in the row that every transaction writes, so that nobody counts records.

use super::{NewRecord, Totals};

/// What may wait in a store at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Pending records.
    pub records: u64,
    /// Their weight together ([`crate::record::Record::weight`]), in bytes.
    pub bytes: u64,
}

/// The counters of a pair as they stand in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub(super) last_lsn: u64,
    pub(super) pending: u64,
    pub(super) bytes: u64,
    pub(super) held: u64,
    pub(super) in_doubt: u64,
    pub(super) quarantined: u64,
    /// Grows by one with each transaction: tells after an error whether it is on disk.
    pub(super) serial: u64,
}

/// What counts of a pending record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) weight: u64,
    pub(super) sent: bool,
    pub(super) held: bool,
}

impl Share {
    pub(super) fn of(new: &NewRecord) -> Self {
        Self { weight: new.record.weight(), sent: new.sent, held: new.held }
    }
}

impl Counters {
    /// Whether a record of this weight is within the quota.
    pub(super) fn admits(&self, weight: u64, quota: Quota) -> bool {
        self.pending < quota.records
            && self.bytes.checked_add(weight).is_some_and(|bytes| bytes <= quota.bytes)
    }

    /// Gives the next place to a record.
    pub(super) fn append(&mut self, share: Share) -> u64 {
        self.last_lsn += 1;
        self.pending += 1;
        self.bytes += share.weight;
        self.held += u64::from(share.held);
        self.in_doubt += u64::from(share.sent);
        self.last_lsn
    }

    /// A pending record is pending no more.
    pub(super) fn leave(&mut self, share: Share) {
        self.pending = self.pending.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(share.weight);
        self.held = self.held.saturating_sub(u64::from(share.held));
        self.in_doubt = self.in_doubt.saturating_sub(u64::from(share.sent));
    }

    pub(super) fn totals(&self, oldest_ms: u64) -> Totals {
        let &Self { last_lsn, pending, bytes, held, in_doubt, quarantined, serial: _ } = self;
        Totals { pending, bytes, held, in_doubt, quarantined, last_lsn, oldest_ms }
    }

    /// What differs from a count of the records themselves, in words.
    pub(super) fn faults(&self, counted: &Self) -> Vec<String> {
        let pairs = [
            ("pending records", self.pending, counted.pending),
            ("bytes", self.bytes, counted.bytes),
            ("held records", self.held, counted.held),
            ("records in doubt", self.in_doubt, counted.in_doubt),
            ("records set aside", self.quarantined, counted.quarantined),
        ];
        let mut faults: Vec<String> = pairs
            .into_iter()
            .filter(|(_, noted, found)| noted != found)
            .map(|(what, noted, found)| format!("{noted} {what} are noted, {found} are there"))
            .collect();
        if counted.last_lsn > self.last_lsn {
            let (found, noted) = (counted.last_lsn, self.last_lsn);
            faults.push(format!("a record lies at {found}, above the last place given: {noted}"));
        }
        faults
    }
}
