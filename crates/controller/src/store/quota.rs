//! How much a partition may keep.

/// What a store may hold at most. What is there may be replaced by what is not larger, and
/// registrations may end, however full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Records, of whatever kind.
    pub records: u64,
    /// Their weights ([`Record::weight`](crate::model::Record::weight)), in bytes. The files take
    /// about twice as much.
    pub bytes: u64,
}

impl Default for Quota {
    /// 10 million records, 4 GiB.
    fn default() -> Self {
        Self { records: 10_000_000, bytes: 4 << 30 }
    }
}
