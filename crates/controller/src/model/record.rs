//! What is kept and exchanged: records that merge.

/// What a record is about. Kinds that a version does not know are kept and passed on all the same.
pub mod kind {
    /// Where a device is: see [`Location`](super::super::Location).
    pub const LOCATION: u16 = 1;
    /// The parameters that all controllers share.
    pub const PARAMETERS: u16 = 2;
}

/// One record. Of two with the same kind and key, the one that [`beats`](Self::beats) the other
/// stands, whichever came first and however often: so that all who have seen the same records have
/// the same table. (A join: commutative, associative, idempotent.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// What it is about.
    pub kind: u16,
    /// Of whom; a device's name for a location.
    pub key: Vec<u8>,
    /// Compared byte by byte: the larger one stands.
    pub rank: Vec<u8>,
    /// The content; of two with one rank the larger one stands, so that never two stand.
    pub body: Vec<u8>,
}

impl Record {
    /// Whether it stands and the other one does not. Both have the same kind and key.
    #[must_use]
    pub fn beats(&self, other: &Self) -> bool {
        (&self.rank, &self.body) > (&other.rank, &other.body)
    }

    /// Bytes of it, for windows and quotas.
    #[must_use]
    pub fn weight(&self) -> usize {
        32 + self.key.len() + self.rank.len() + self.body.len()
    }
}
