//! A backend on a ledger: whoever implements [`Effects`] does each request exactly once.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction};

use crate::backend::Backend;
use crate::backend::epoch::EpochStore;
use crate::backend::ledger::{Head, Ledger, LedgerConfig, LedgerError, LogError};
use crate::backend::lock::Permit;
use crate::record::Record;
use crate::target::{CallResult, Class, ItemResult};

/// What requests do to the database. Any number of threads call it at once.
///
/// A closure `Fn(&Connection, &Record) -> rusqlite::Result<ItemResult>` is one that needs no
/// preparations.
pub trait Effects: Send + Sync {
    /// What was prepared for one item.
    type Prepared: Send;

    /// Makes tables, in one transaction, when the backend is opened.
    ///
    /// # Errors
    ///
    /// What the database said.
    fn set_up(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let _unused = tx;
        Ok(())
    }

    /// Does what takes long (writes files), before the transaction and for changes only: while a
    /// transaction is open nobody else can write, not even a server that takes over.
    ///
    /// # Errors
    ///
    /// The item is refused or comes later.
    fn prepare(&self, item: &Record) -> Result<Self::Prepared, ItemResult>;

    /// Applies an item in the transaction, or reads (without preparations). A result other than
    /// [`ItemResult::Done`] undoes what it did to the database.
    ///
    /// # Errors
    ///
    /// What the database said: broken rules refuse the item, everything else undoes the whole call.
    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        prepared: Option<&Self::Prepared>,
    ) -> rusqlite::Result<ItemResult>;

    /// Tidies up after a transaction. `applied`: whether the item took effect now; `None` if nobody
    /// knows.
    fn settle(&self, item: &Record, prepared: Self::Prepared, applied: Option<bool>) {
        let _unused = (item, prepared, applied);
    }
}

impl<F> Effects for F
where
    F: Fn(&Connection, &Record) -> rusqlite::Result<ItemResult> + Send + Sync,
{
    type Prepared = ();

    fn prepare(&self, _item: &Record) -> Result<(), ItemResult> {
        Ok(())
    }

    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        _prepared: Option<&()>,
    ) -> rusqlite::Result<ItemResult> {
        self(tx, item)
    }
}

/// A [`Backend`] of class [`Class::Ledger`] around [`Effects`].
pub struct LedgerBackend<F> {
    effects: F,
    writes: Mutex<Ledger>,
    /// Reads go on while another call writes.
    reads: Mutex<Ledger>,
    /// For short looks: a search may keep `reads` for long.
    notes: Mutex<Ledger>,
}

impl<F> fmt::Debug for LedgerBackend<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerBackend").field("writes", &self.writes).finish_non_exhaustive()
    }
}

pub(super) fn guard(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: Effects> LedgerBackend<F> {
    /// On the database in this file, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is no ledger, or its tables cannot be made.
    pub fn open(path: &Path, config: LedgerConfig, effects: F) -> Result<Self, LedgerError> {
        let mut writes = Ledger::open(path, config.clone())?;
        writes.maintain(|tx| effects.set_up(tx))?;
        let (reads, notes) = (Mutex::new(writes.another()?), Mutex::new(writes.another()?));
        Ok(Self { effects, writes: Mutex::new(writes), reads, notes })
    }

    /// What it was made of.
    #[must_use]
    pub fn effects(&self) -> &F {
        &self.effects
    }

    /// The ledger that changes go through. Calls that change wait while the guard lives.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        guard(&self.writes)
    }

    /// Prepares what is not known to be done already.
    fn prepare(&self, items: &[Record]) -> Vec<Option<Result<F::Prepared, ItemResult>>> {
        let prepare = |item: &Record| {
            if item.kind.only_looks() || guard(&self.notes).knows(item).unwrap_or(false) {
                return None;
            }
            Some(self.effects.prepare(item))
        };
        items.iter().map(prepare).collect()
    }

    /// Does a call's items.
    pub(super) fn run(&self, epoch: u64, items: &[Record], permit: &Permit) -> CallResult {
        if items.iter().all(|item| item.kind.only_looks()) {
            let mut look =
                |tx: &Connection, _: usize, item: &Record| self.effects.apply(tx, item, None);
            return guard(&self.reads).run(epoch, items, &|| permit.still(), &mut look);
        }
        let prepared = self.prepare(items);
        let mut apply = |tx: &Connection, place: usize, item: &Record| match &prepared[place] {
            Some(Ok(prepared)) => self.effects.apply(tx, item, Some(prepared)),
            Some(Err(result)) => Ok(result.clone()),
            None if item.kind.only_looks() => self.effects.apply(tx, item, None),
            // The ledger knew it a moment ago and has forgotten it since.
            None => Ok(ItemResult::Later { after: std::time::Duration::ZERO }),
        };
        let result = self.ledger().run(epoch, items, &|| permit.still(), &mut apply);
        self.settle(items, prepared, &result);
        result
    }

    fn settle(
        &self,
        items: &[Record],
        prepared: Vec<Option<Result<F::Prepared, ItemResult>>>,
        result: &CallResult,
    ) {
        for (place, (item, prepared)) in items.iter().zip(prepared).enumerate() {
            let Some(Ok(prepared)) = prepared else { continue };
            let applied = match result {
                Ok(results) => {
                    Some(matches!(results[place], ItemResult::Done { again: false, .. }))
                }
                Err(failed) if failed.in_doubt() => None,
                Err(_) => Some(false),
            };
            self.effects.settle(item, prepared, applied);
        }
    }

    /// Does what a main has done, in the order of its log; all of it or nothing.
    pub(super) fn follow(
        &self,
        epoch: u64,
        before: &Head,
        entries: &[Record],
    ) -> Result<Head, LogError> {
        let prepare = |entry: &Record| Some(self.effects.prepare(entry));
        let prepared: Vec<_> = entries.iter().map(prepare).collect();
        let mut apply = |tx: &Connection, place: usize, entry: &Record| match &prepared[place] {
            Some(Ok(prepared)) => self.effects.apply(tx, entry, Some(prepared)),
            Some(Err(result)) => Ok(result.clone()),
            None => Ok(ItemResult::Later { after: std::time::Duration::ZERO }),
        };
        let result = self.ledger().follow(epoch, before, entries, &mut apply);
        for (entry, prepared) in entries.iter().zip(prepared) {
            let Some(Ok(prepared)) = prepared else { continue };
            // A database that failed may have committed all the same.
            let applied = match result {
                Ok(_) => Some(true),
                Err(LogError::Ledger(_)) => None,
                Err(_) => Some(false),
            };
            self.effects.settle(entry, prepared, applied);
        }
        result
    }

    /// Looks at the database beside calls. Should be short.
    pub(super) fn looking<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        guard(&self.notes).reading(work)
    }

    /// Whether changes go through; see [`Ledger::is_writable`].
    pub(super) fn is_writable(&self) -> bool {
        guard(&self.notes).is_writable()
    }

    pub(super) fn store(&self) -> io::Result<Box<dyn EpochStore>> {
        let epochs = self.ledger().epochs().map_err(io::Error::other)?;
        Ok(Box::new(epochs))
    }
}

impl<F: Effects> Backend for LedgerBackend<F> {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn epoch_store(&self) -> io::Result<Box<dyn EpochStore>> {
        self.store()
    }

    fn execute(&self, epoch: u64, items: &[Record], permit: &Permit) -> CallResult {
        self.run(epoch, items, permit)
    }
    fn ready(&self) -> bool {
        self.is_writable()
    }
}
