//! Where requests lie until the new main has them.
//!
//! A store holds the spool of one pair; one process holds a store. [`SpoolStore`] writes, from one
//! thread; any number of [`SpoolReader`]s read beside it. Both have one conformance and crash suite
//! for all implementations (`tests/store`).

pub mod committer;
mod counters;
#[cfg(feature = "postgres")]
pub mod postgres;
mod row;
pub mod sqlite;

use crate::record::{Lane, Record};
use crate::request::RequestId;

pub use counters::Quota;
pub use row::Kept;

/// What lies in a store for good, besides records: written before it is acted upon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairState {
    /// The highest lock key that was ever granted; 0 for none.
    pub epoch: u64,
    /// Which of the two servers it was granted to.
    pub holder: u8,
    /// An operator has stopped drains (`evs spool hold`).
    pub on_hold: bool,
}

/// How a record ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// It took effect; the answer is kept for those who ask by id.
    Done {
        /// What the backend said. Empty where nobody will ask.
        answer: Vec<u8>,
    },
    /// The backend refuses it for good: set aside, for an operator.
    Refused {
        /// The backend's own.
        code: u32,
        /// What it said.
        text: String,
    },
    /// Nobody knows whether it took effect and the pair's policy is to go on without it.
    SkippedInDoubt,
    /// Purged by an operator.
    Purged,
}

/// What is to be written in one transaction: nothing of it, or all of it.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// New records in the order in which they get their places (their `lsn` is not looked at).
    pub append: Vec<NewRecord>,
    /// Records that have ended.
    pub finish: Vec<(u64, Finish)>,
    /// Records that are about to be sent to a backend without a ledger: after a crash they are in
    /// doubt.
    pub sent: Vec<u64>,
    /// Records that were sent and surely have not taken effect, or of which an operator said that
    /// they may be sent again: no longer in doubt.
    pub unsent: Vec<u64>,
    /// Records that the drain leaves alone until [`Batch::release`].
    pub hold: Vec<u64>,
    /// Records that an operator lets go again.
    pub release: Vec<u64>,
    /// Stands from now on.
    pub state: Option<PairState>,
}

/// A record to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// What is to be kept.
    pub record: Record,
    /// Begins as one that was sent and of which nobody knows (see [`Batch::sent`]).
    pub sent: bool,
    /// Begins held (see [`Batch::hold`]).
    pub held: bool,
}

/// What became of an appended record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// On disk, in this place.
    New {
        /// Its place.
        lsn: u64,
    },
    /// The store knows the id, and the request is the same one.
    Duplicate {
        /// Its place.
        lsn: u64,
        /// How it ended, if it has.
        end: Option<Finish>,
    },
    /// The store knows the id, and the request was another one.
    IdReused,
    /// Over the quota of the pair.
    OverQuota,
}

/// What waits in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records that have not ended (those set aside not counted).
    pub pending: u64,
    /// Their weight ([`Record::weight`]).
    pub bytes: u64,
    /// Of them: held.
    pub held: u64,
    /// Of them: sent, and nobody knows.
    pub in_doubt: u64,
    /// Set aside: damaged, or refused by the backend.
    pub quarantined: u64,
    /// The highest place that was ever given.
    pub last_lsn: u64,
    /// When the oldest pending record was accepted: milliseconds since 1970, 0 if none waits.
    pub oldest_ms: u64,
}

/// A pending record as a reader finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// As it was appended.
    Whole {
        /// The record.
        record: Record,
        /// Sent before, and nobody knows.
        sent: bool,
        /// Left alone until released.
        held: bool,
    },
    /// Its checksum is wrong, or it cannot be read. [`SpoolStore::quarantine`] sets it aside.
    Damaged {
        /// Its place.
        lsn: u64,
        /// Its lane, as far as the store can say.
        lane: Lane,
        /// What is wrong.
        what: String,
    },
}

impl Found {
    /// Its place.
    #[must_use]
    pub fn lsn(&self) -> u64 {
        match self {
            Self::Whole { record, .. } => record.lsn,
            Self::Damaged { lsn, .. } => *lsn,
        }
    }
}

/// What a store knows of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Waits in this place.
    Pending {
        /// Its place.
        lsn: u64,
        /// [`Record::fingerprint`] of the request that came under the id; 0 if the store cannot
        /// read it.
        fingerprint: u64,
    },
    /// Has ended.
    Ended {
        /// Its place.
        lsn: u64,
        /// How.
        end: Finish,
        /// [`Record::fingerprint`] of the request that came under the id; 0 if the store cannot
        /// read it.
        fingerprint: u64,
    },
    /// Set aside as damaged.
    Quarantined {
        /// Its place.
        lsn: u64,
        /// [`Record::fingerprint`] of the request that came under the id; 0 if the store cannot
        /// read it.
        fingerprint: u64,
    },
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its place.
    pub lsn: u64,
    /// The sender's number.
    pub id: RequestId,
    /// What it does ([`crate::Kind::code`]).
    pub kind: u32,
    /// The first 256 bytes of its key.
    pub key: Vec<u8>,
    /// Bytes of its payload.
    pub payload_len: u64,
    /// When it was accepted: milliseconds since 1970.
    pub accepted_ms: u64,
    /// What it is: "pending", "held", "in doubt", "quarantined".
    pub state: &'static str,
    /// Why it was set aside.
    pub note: String,
}

/// What a check of a whole store found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Records looked at.
    pub records: u64,
    /// Places of records whose checksum is wrong (the first 1,000).
    pub damaged: Vec<u64>,
    /// What else is wrong: the store's own check, or totals that do not add up (the first 100).
    pub faults: Vec<String>,
}

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room: nothing of the batch is there. Comes again when there is room.
    #[error("no room left for the spool {what}: free some, or raise the quota")]
    Full {
        /// Which store.
        what: String,
    },
    /// Reading or writing failed, and nothing of the batch is there.
    #[error("the spool {what} cannot be read or written: {cause}")]
    Failed {
        /// Which store.
        what: String,
        /// What the store said.
        cause: String,
    },
    /// The commit failed, and nobody can say whether the batch will be found there.
    #[error("nobody knows whether the spool {what} has kept a batch: {cause}")]
    Unknown {
        /// Which store.
        what: String,
        /// What the store said.
        cause: String,
    },
    /// Another process holds it.
    #[error("the spool {what} is held by another process: stop it first")]
    Held {
        /// Which store.
        what: String,
    },
    /// Made by a newer version, or not a spool.
    #[error("{what} is no spool that this version can read: {cause}")]
    Foreign {
        /// Which store.
        what: String,
        /// What stands there.
        cause: String,
    },
}

/// Writes the spool of one pair. When [`SpoolStore::commit`] has returned, a power cut loses
/// nothing of it.
///
/// Blocking; one thread. After [`StoreError::Failed`] or [`StoreError::Unknown`] the store has
/// opened itself anew, or does so in the next call: what it then says is what is on disk.
pub trait SpoolStore: Send {
    /// One transaction: duplicate check, append, ends, marks, state. Gives one [`Appended`] for
    /// each record of `batch.append`, in order. Places are given in the order of the records and
    /// grow by one. An id that stands twice in the batch is a duplicate the second time. `finish`
    /// and marks of places that are not pending are passed over: ends are told twice after a crash.
    /// Only [`Finish::Purged`] also ends what was set aside: its bytes go, and one that the backend
    /// had refused stays known as refused. A record over the quota does not hinder the others.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; nothing of the batch may then be acknowledged.
    fn commit(&mut self, batch: &Batch) -> Result<Vec<Appended>, StoreError>;

    /// Sets a damaged record aside, with what is wrong with it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), StoreError>;

    /// What was written as [`Batch::state`] last.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn state(&mut self) -> Result<PairState, StoreError>;

    /// What waits. Takes the same time however much that is.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn totals(&mut self) -> Result<Totals, StoreError>;

    /// Forgets records that ended before `before_ms` (milliseconds since 1970), at most `limit` of
    /// them: from then on their ids are new ones. What was set aside stays until it is purged, and
    /// counts as ended then. Says how many went.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, StoreError>;

    /// One more reader of the same store, for another thread.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn reader(&self) -> Result<Box<dyn SpoolReader>, StoreError>;
}

/// Reads the spool of one pair beside its writer: sees what was committed when the call began.
///
/// Blocking; one thread each.
pub trait SpoolReader: Send {
    /// Pending records with places above `after`, by place: at most `limit`, and no more after
    /// their weights have reached `weight_max`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn pending(
        &mut self,
        after: u64,
        limit: usize,
        weight_max: u64,
    ) -> Result<Vec<Found>, StoreError>;

    /// The newest pending record of a lane.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn newest(&mut self, lane: Lane) -> Result<Option<Found>, StoreError>;

    /// What is known of an id.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn find(&mut self, id: RequestId) -> Result<Option<Known>, StoreError>;

    /// What waits.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn totals(&mut self) -> Result<Totals, StoreError>;

    /// Pending and set-aside records with places above `after`, by place.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn list(&mut self, after: u64, limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// The bytes of a pending or set-aside record as they lie there, be they whole or not: for an
    /// export. `None` if there is no such record, if it has ended, or if nothing of it can be read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn kept(&mut self, lsn: u64) -> Result<Option<Kept>, StoreError>;

    /// How many pending records were accepted in each span of time before `now_ms`: `[0, edge 0)`,
    /// `[edge 0, edge 1)`, ... and beyond the last; edges in milliseconds, ascending.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn ages(&mut self, now_ms: u64, edges_ms: &[u64]) -> Result<Vec<u64>, StoreError>;

    /// Looks at every record.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn check(&mut self) -> Result<Checked, StoreError>;
}
