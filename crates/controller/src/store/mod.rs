//! Where a partition's records lie.
//!
//! A store holds one partition; one process holds a store, and one thread writes to it. The table
//! is its own change log: each record has the number of its last change, so that "what has changed
//! since" is a range of the table, is never longer than the table, and cannot overflow. Only ends
//! of registrations that were purged are missing from it; see [`Store::purge`].

mod book;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod quota;
pub mod sqlite;

use std::path::PathBuf;

use crate::model::{ControllerId, Record};

pub use self::quota::Quota;

/// A place in a partition's changes, as its store counts them. Each opening of a store begins a new
/// `run`, so that a store that was brought back from a backup, or lost its last changes, is not
/// mistaken for the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The run (random) in which the change was made.
    pub run: u128,
    /// The number of the change; 0 is before the first.
    pub lsn: u64,
}

/// A record and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The number of its last change.
    pub lsn: u64,
    /// The partner that it was learnt from: it is not told again. `None`: made here.
    pub from: Option<ControllerId>,
    /// The record.
    pub record: Record,
}

/// How much there is in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Totals {
    /// Records, of whatever kind.
    pub records: u64,
    /// Their weights.
    pub bytes: u64,
}

/// What went wrong in a store. After any error but `Full` of a write that was not begun, the
/// partition opens its store anew.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room, or over the partition's quota: nothing of the transaction is there.
    #[error("no room left in {what}: free some, or raise the quota")]
    Full {
        /// Which store.
        what: String,
    },
    /// Reading or writing failed; nothing of the transaction is there, or nobody knows.
    #[error("{what} cannot be read or written: {cause}")]
    Failed {
        /// Which store.
        what: String,
        /// What was said.
        cause: String,
    },
    /// Another process holds it.
    #[error("{what} is held by another process: stop it first")]
    Held {
        /// Which store.
        what: String,
    },
    /// Made by a newer version, for another partition, or no store.
    #[error("{what} is no store that this version can use here: {cause}")]
    Foreign {
        /// Which store.
        what: String,
        /// What stands there.
        cause: String,
    },
    /// It is damaged: it has to be set aside, and the partners have what was in it.
    #[error("{what} is damaged: {cause}")]
    Damaged {
        /// Which store.
        what: String,
        /// What was found.
        cause: String,
    },
}

/// The result of what a store does.
pub type Result<T> = std::result::Result<T, StoreError>;

/// See the module. All but [`Store::commit`] see and change the transaction that is open; one
/// always is. Everything blocks shortly.
pub trait Store: Send {
    /// The run of this opening.
    fn run(&self) -> u128;

    /// The number of the last change.
    fn head(&self) -> u64;

    /// Changes up to this one may be missing, as ends were purged.
    fn floor(&self) -> u64;

    /// Whether [`Store::changes`] after this position gives all that whoever stands there lacks:
    /// the run is one of this store, it went on so far, and nothing behind it was purged.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn reaches(&self, position: Position) -> Result<bool>;

    /// What stands under a kind and key.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn get(&mut self, kind: u16, key: &[u8]) -> Result<Option<Row>>;

    /// Puts a record in the place of what stood there, as the next change; gives its number.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn put(&mut self, record: &Record, from: Option<&ControllerId>) -> Result<u64>;

    /// The first records behind a change, in the order of their changes: at most `count`, and at
    /// most `bytes` unless the first alone is larger.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn changes(&mut self, after: u64, count: usize, bytes: usize) -> Result<Vec<Row>>;

    /// How many changes there are behind this one, counted up to `most`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn count_after(&mut self, after: u64, most: u64) -> Result<u64>;

    /// The first `count` records behind this kind and key, in their order.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn scan(&mut self, after: Option<(u16, &[u8])>, count: usize) -> Result<Vec<Row>>;

    /// Removes these records for good if their last change is still the one given, and raises the
    /// floor to the highest of them.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn purge(&mut self, rows: &[(u16, Vec<u8>, u64)]) -> Result<()>;

    /// How far a partner's changes of this partition have been taken over.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn taken(&mut self, partner: &ControllerId) -> Result<Option<Position>>;

    /// Sets it, in the transaction that is open. `None` forgets it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn set_taken(&mut self, partner: &ControllerId, position: Option<Position>) -> Result<()>;

    /// How much there is.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn totals(&mut self) -> Result<Totals>;

    /// Makes the transaction durable and opens the next. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. Then nothing of it is there, or nobody knows: the store is opened anew.
    fn commit(&mut self) -> Result<()>;

    /// A way to write a snapshot of what is committed, from another thread.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn snapshots(&self) -> Result<Box<dyn Snapshot>>;
}

/// Reads the whole table of a store beside its writer, at one moment, with memory for a few
/// records.
pub trait Snapshot: Send {
    /// Calls `each` with every record in the order of kind and key; gives the position that the
    /// table had. Stops early when `each` fails. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; an error of `each` comes as `Failed`.
    fn read(&mut self, each: &mut dyn FnMut(&Record) -> std::io::Result<()>) -> Result<Position>;
}

/// Opens the store of a partition, again after an error. What is on disk is found by the
/// partition's name.
pub trait Opens: Send + Sync {
    /// Opens or makes it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>>;

    /// Sets a damaged one aside, so that the next opening makes a new one.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    fn set_aside(&self, partition: &ControllerId) -> Result<()>;

    /// A folder for the partition's snapshots.
    fn folder(&self, partition: &ControllerId) -> PathBuf;
}
