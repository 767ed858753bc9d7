//! Exactly once: the id of a request is kept in the same transaction as its effect.
//!
//! The effect happens in the database of the ledger: another table of it. Whoever asks again under
//! an id gets the answer that was stored, and nothing happens a second time.
//!
//! The database also keeps the highest epoch, and each transaction compares it with its own before
//! anything else. Two servers that share the database are fenced by it: an old main that was
//! stopped, and wakes up behind all its own checks, finds the epoch of the new one.
//!
//! A request that is refused for good is kept as well: the sender that asks again is told the same.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::backend::epoch::EpochStore;
use crate::backend::lock::Fenced;
use crate::failpoint::reach;
use crate::limits::{BATCH_BYTES_MAX, PAYLOAD_MAX};
use crate::record::Record;
use crate::target::{CallFailed, CallResult, ItemResult};

mod held;
pub(crate) mod log;
mod schema;

use held::Held;

pub use log::{Head, LogError};

/// Refusal: the id was used before for another request.
pub const ID_REUSED: u32 = 0xffff_ff01;
/// Refusal: the effect broke a rule of the database, and would do so again.
pub const AGAINST_RULES: u32 = 0xffff_ff02;
/// Refusal: the answer is longer than an answer may be.
pub const ANSWER_TOO_LONG: u32 = 0xffff_ff03;

/// The longest wait for a transaction under way when the epoch is raised: grants are taken on
/// threads that have reports to write as well, and are tried again.
const EPOCH_BUSY_MAX: Duration = Duration::from_secs(1);

/// How a ledger is kept.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// The longest wait for another process that writes.
    pub busy_timeout: Duration,
    /// How long ids are kept, counted in time in which a server runs: a clock that is set forward
    /// forgets nothing. Must outlive the front's `keep_ids`, and what it has in its spool: an id
    /// that was forgotten is a new one.
    pub keep: Duration,
    /// How many ids are kept at most; older ones go first, even if `keep` says otherwise. Must be
    /// more than what can be accepted within the front's `keep_ids`.
    pub keep_rows: u64,
    /// What senders are told to wait when there is no room or the database is busy.
    pub retry_after: Duration,
    /// Keep what was done in a log too, for a standby with storage of its own: at most so many
    /// bytes of what the standby has not confirmed, and what one call adds; a standby that is
    /// further behind needs a copy. `None`: no log.
    pub log_bytes: Option<u64>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            keep: Duration::from_secs(7 * 24 * 3600),
            keep_rows: 10_000_000,
            retry_after: Duration::from_secs(1),
            log_bytes: None,
        }
    }
}

/// The ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("the ledger {} cannot be read or written: {cause}", path.display())]
pub struct LedgerError {
    /// Its file.
    pub path: PathBuf,
    /// What the database said.
    pub cause: String,
}

/// Applies one item inside the transaction. The number is its place among the items. Whatever it
/// did to the database is undone unless it says [`ItemResult::Done`].
pub type Apply<'a> = dyn FnMut(&Connection, usize, &Record) -> rusqlite::Result<ItemResult> + 'a;

/// Says whether the lease still holds.
pub type Gate<'a> = dyn Fn() -> Result<(), Fenced> + 'a;

/// A database with a ledger. Blocking; one thread at a time. Any number of processes of one machine
/// may have the same one open.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    config: LedgerConfig,
    connection: Option<Connection>,
    clock: RunningTime,
    /// Of all connections of this server to the database.
    held: Arc<Held>,
}

/// Milliseconds in which servers ran, all together at most as many as went by.
#[derive(Debug)]
struct RunningTime {
    before_ms: u64,
    since: Instant,
}

/// Why a transaction has no results.
enum Trouble {
    Fenced(Fenced),
    /// Nothing took effect.
    Undone(rusqlite::Error),
    /// Nobody knows.
    Unknown(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Undone(error)
    }
}

impl Ledger {
    /// Opens the ledger in this file, or makes one.
    ///
    /// # Errors
    ///
    /// It cannot be opened, is not a ledger, or was made by a newer version.
    pub fn open(path: &Path, config: LedgerConfig) -> Result<Self, LedgerError> {
        let failed = |cause: String| LedgerError { path: path.to_owned(), cause };
        let mut connection =
            schema::open(path, config.busy_timeout).map_err(|error| failed(error.to_string()))?;
        if config.log_bytes.is_some() {
            log::complete(&mut connection).map_err(|error| failed(error.to_string()))?;
        }
        let before_ms = schema::number(&connection, schema::CLOCK_MS)
            .map_err(|error| failed(error.to_string()))?;
        let clock = RunningTime { before_ms, since: Instant::now() };
        let (path, held) = (path.to_owned(), Arc::default());
        Ok(Self { path, config, connection: Some(connection), clock, held })
    }

    /// The same database once more, with a connection of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn another(&self) -> Result<Self, LedgerError> {
        let ledger = Self::open(&self.path, self.config.clone())?;
        Ok(Self { held: Arc::clone(&self.held), ..ledger })
    }

    /// Whether changes go through: `false` if another process has held the database for more than
    /// twice the busy timeout, and holds it still. One that is stopped in the middle of a
    /// transaction does so. Does not wait for it.
    pub fn is_writable(&mut self) -> bool {
        let since = self.held.since();
        if since.is_none_or(|since| since.elapsed() <= 2 * self.config.busy_timeout) {
            return true;
        }
        let tried = self.connection().and_then(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            connection.transaction_with_behavior(TransactionBehavior::Immediate)?.rollback()
        });
        self.note(tried.as_ref().err());
        tried.is_ok()
    }

    /// Keeps how an attempt to write has ended.
    fn note(&self, failed: Option<&rusqlite::Error>) {
        match failed {
            None => self.held.is_free(&self.path),
            Some(error) if is_held(error) => {
                self.held.is_busy(&self.path, 2 * self.config.busy_timeout);
            }
            Some(_) => {}
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is kept.
    #[must_use]
    pub fn config(&self) -> &LedgerConfig {
        &self.config
    }

    /// The store of the highest epoch in the same database, with a connection of its own.
    ///
    /// # Errors
    ///
    /// The database cannot be opened.
    pub fn epochs(&self) -> Result<LedgerEpochs, LedgerError> {
        let mut ledger = self.another()?;
        ledger.config.busy_timeout = self.config.busy_timeout.min(EPOCH_BUSY_MAX);
        Ok(LedgerEpochs(std::sync::Mutex::new(ledger)))
    }

    /// Lets the backend do something in the database that is no request: make its tables, tidy up.
    /// One transaction that no other process writes beside.
    ///
    /// # Errors
    ///
    /// What the database or `work` said; nothing is changed.
    pub fn maintain<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let path = self.path.clone();
        self.write(work).map_err(|error| LedgerError { path, cause: error.to_string() })
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let written = self.try_write(work);
        self.note(written.as_ref().err());
        written
    }

    fn try_write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let connection = self.writing_connection()?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    fn connection(&mut self) -> rusqlite::Result<&mut Connection> {
        if self.connection.is_none() {
            self.connection = Some(schema::open(&self.path, self.config.busy_timeout)?);
        }
        self.connection.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// While another process holds the database, whoever comes next does not wait as long as the
    /// first one did: a queue of them would stand still for as long as it is.
    fn writing_connection(&mut self) -> rusqlite::Result<&mut Connection> {
        let mut wait = self.config.busy_timeout;
        if self.held.since().is_some() {
            wait = wait.min(held::WAIT);
        }
        let connection = self.connection()?;
        connection.busy_timeout(wait)?;
        Ok(connection)
    }

    /// Whether this id is in the ledger: a hint that saves preparations, since another process may
    /// write right after.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn knows(&mut self, record: &Record) -> Result<bool, LedgerError> {
        let path = self.path.clone();
        self.connection()
            .and_then(|connection| schema::find(connection, record.id))
            .map(|found| found.is_some())
            .map_err(|error| LedgerError { path, cause: error.to_string() })
    }

    /// Does the items in their order, in one transaction, and gives their results after it was
    /// committed. An item that is [`ItemResult::Later`] lets later ones of its lane be so too.
    ///
    /// `gate` is asked inside the transaction, before the first effect and before the commit.
    ///
    /// # Errors
    ///
    /// [`CallFailed::Fenced`]: nothing took effect. [`CallFailed::Lost`]: the commit failed, and
    /// nobody knows. A full disk or a busy database are no errors: all items are then `Later`.
    pub fn run(
        &mut self,
        epoch: u64,
        items: &[Record],
        gate: &Gate<'_>,
        apply: &mut Apply<'_>,
    ) -> CallResult {
        let (now_ms, config) = (self.clock.now_ms(), self.config.clone());
        if items.iter().all(|item| item.kind.only_looks()) {
            let connection = self.connection().map_err(Trouble::Undone);
            let outcome = connection
                .and_then(|connection| look(connection, epoch, items, gate, apply, &config));
            return self.told(outcome, items.len());
        }
        let connection = self.writing_connection().map_err(Trouble::Undone);
        let outcome = connection.and_then(|connection| {
            transact(connection, epoch, items, gate, apply, &config, now_ms)
        });
        match &outcome {
            Ok(_) => self.note(None),
            Err(Trouble::Undone(error) | Trouble::Unknown(error)) => self.note(Some(error)),
            Err(Trouble::Fenced(_)) => {}
        }
        self.told(outcome, items.len())
    }

    fn told(&mut self, outcome: Result<Vec<ItemResult>, Trouble>, items: usize) -> CallResult {
        match outcome {
            Ok(results) => Ok(results),
            Err(Trouble::Fenced(fenced)) => Err(fenced.into()),
            Err(Trouble::Undone(error)) => {
                ::log::warn!("the ledger {}: nothing was done: {error}", self.path.display());
                if !busy(&error) {
                    // What the connection thinks of the file may be wrong by now.
                    self.connection = None;
                }
                Ok(vec![ItemResult::Later { after: self.config.retry_after }; items])
            }
            Err(Trouble::Unknown(error)) => {
                ::log::error!("the ledger {}: a commit failed: {error}", self.path.display());
                self.connection = None;
                Err(CallFailed::Lost(format!("the ledger's commit failed: {error}")))
            }
        }
    }
}

fn is_held(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn busy(error: &rusqlite::Error) -> bool {
    is_held(error) || error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether the same effect will be refused by the database for ever.
fn against_rules(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

/// The fence that holds behind all others: no one else can write while this transaction is open.
fn fenced(tx: &Connection, epoch: u64) -> Result<(), Trouble> {
    let seen = schema::number(tx, schema::EPOCH)?;
    if seen > epoch {
        return Err(Trouble::Fenced(Fenced { asked: epoch, seen }));
    }
    Ok(())
}

fn look(
    connection: &mut Connection,
    epoch: u64,
    items: &[Record],
    gate: &Gate<'_>,
    apply: &mut Apply<'_>,
    config: &LedgerConfig,
) -> Result<Vec<ItemResult>, Trouble> {
    let tx = connection.transaction()?;
    fenced(&tx, epoch)?;
    gate().map_err(Trouble::Fenced)?;
    let mut results = Results::new(config);
    for (place, item) in items.iter().enumerate() {
        if !results.take_blocked(item) {
            let result = apply(&tx, place, item)?;
            results.take(item, result);
        }
    }
    // The answers are those of a moment at which the lock was held.
    gate().map_err(Trouble::Fenced)?;
    Ok(results.list)
}

fn transact(
    connection: &mut Connection,
    epoch: u64,
    items: &[Record],
    gate: &Gate<'_>,
    apply: &mut Apply<'_>,
    config: &LedgerConfig,
    now_ms: u64,
) -> Result<Vec<ItemResult>, Trouble> {
    let mut tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    fenced(&tx, epoch)?;
    gate().map_err(Trouble::Fenced)?;
    let now_ms = schema::advance(&tx, schema::CLOCK_MS, now_ms)?;
    let before = if config.log_bytes.is_some() { log::head(&tx)?.seq } else { 0 };
    reach("backend.before_apply");
    let mut results = Results::new(config);
    for (place, item) in items.iter().enumerate() {
        if results.take_blocked(item) {
            continue;
        }
        if item.kind.only_looks() {
            let result = apply(&tx, place, item)?;
            results.take(item, result);
            continue;
        }
        if let Some(known) = schema::find(&tx, item.id)? {
            results.take(item, known.again(item));
            continue;
        }
        let savepoint = tx.savepoint()?;
        let result = one(&savepoint, place, item, apply)?;
        if results.take(item, result.clone()) {
            schema::keep(&savepoint, item, &result, now_ms)?;
            match config.log_bytes {
                Some(_) => log::append(&savepoint, epoch, item)?,
                None => schema::advance(&savepoint, schema::UNLOGGED, 1).map(|_| ())?,
            }
            savepoint.commit()?;
        }
    }
    schema::prune(&tx, now_ms, config)?;
    if let Some(bytes_max) = config.log_bytes {
        // Here, and not when the standby has confirmed: it may be away for good.
        log::forget(&tx, before, bytes_max, schema::PRUNE_MAX)?;
    }
    reach("backend.before_commit");
    gate().map_err(Trouble::Fenced)?;
    tx.commit().map_err(|error| match error.sqlite_error_code() {
        // Nothing was written that a later reader would take for a commit.
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Trouble::Undone(error),
        _ => Trouble::Unknown(error),
    })?;
    reach("backend.after_commit");
    Ok(results.list)
}

/// Applies one item. Changes of one that was not done are undone: a refusal leaves nothing behind.
fn one(
    savepoint: &rusqlite::Savepoint<'_>,
    place: usize,
    item: &Record,
    apply: &mut Apply<'_>,
) -> rusqlite::Result<ItemResult> {
    savepoint.execute_batch("SAVEPOINT effect")?;
    let result = match apply(savepoint, place, item) {
        Err(error) if against_rules(&error) && !savepoint.is_autocommit() => {
            ItemResult::Refused { code: AGAINST_RULES, text: error.to_string() }
        }
        result => result?,
    };
    let result = match result {
        ItemResult::Done { answer, .. } if answer.len() > PAYLOAD_MAX => {
            let text = format!("the answer has {} bytes", answer.len());
            ItemResult::Refused { code: ANSWER_TOO_LONG, text }
        }
        result => result,
    };
    if !matches!(result, ItemResult::Done { .. }) {
        savepoint.execute_batch("ROLLBACK TO effect")?;
    }
    savepoint.execute_batch("RELEASE effect")?;
    Ok(result)
}

/// Results of a call so far, within what one message may carry.
struct Results {
    list: Vec<ItemResult>,
    blocked: HashSet<crate::record::Lane>,
    bytes: usize,
    retry_after: Duration,
}

impl Results {
    fn new(config: &LedgerConfig) -> Self {
        let (blocked, retry_after) = (HashSet::new(), config.retry_after);
        Self { list: Vec::new(), blocked, bytes: 0, retry_after }
    }

    /// An item of a lane in which an earlier one is to come later.
    fn take_blocked(&mut self, item: &Record) -> bool {
        let blocked = self.blocked.contains(&item.lane());
        if blocked {
            self.list.push(ItemResult::Later { after: self.retry_after });
        }
        blocked
    }

    /// Whether it stands: a result that would make the answer too long becomes `Later`.
    fn take(&mut self, item: &Record, result: ItemResult) -> bool {
        let result = match result {
            ItemResult::Done { answer, .. }
                if !self.list.is_empty() && self.bytes + answer.len() > BATCH_BYTES_MAX =>
            {
                ItemResult::Later { after: Duration::ZERO }
            }
            ItemResult::Done { answer, .. } if answer.len() > PAYLOAD_MAX => {
                let text = format!("the answer has {} bytes", answer.len());
                ItemResult::Refused { code: ANSWER_TOO_LONG, text }
            }
            result => result,
        };
        match &result {
            ItemResult::Done { answer, .. } => self.bytes += answer.len(),
            ItemResult::Refused { text, .. } => self.bytes += text.len(),
            ItemResult::Later { .. } => {
                self.blocked.insert(item.lane());
            }
        }
        let stands = !matches!(result, ItemResult::Later { .. });
        self.list.push(result);
        stands
    }
}

impl RunningTime {
    fn now_ms(&self) -> u64 {
        let ran = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before_ms.saturating_add(ran)
    }
}

/// The highest epoch, in the database of a ledger: raising it fences every transaction of a lower
/// one, of whatever process.
///
/// Waits for a transaction under way, at most a second. A main that was
/// stopped in the middle of one blocks the database: nobody else can take over before it goes on or
/// is killed, which a pair's `fence` command is for.
#[derive(Debug)]
pub struct LedgerEpochs(std::sync::Mutex<Ledger>);

impl LedgerEpochs {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl EpochStore for LedgerEpochs {
    fn load(&self) -> std::io::Result<u64> {
        let mut ledger = self.ledger();
        ledger
            .connection()
            .and_then(|connection| schema::number(connection, schema::EPOCH))
            .map_err(std::io::Error::other)
    }

    fn raise(&self, epoch: u64) -> std::io::Result<u64> {
        self.store(epoch, false)
    }

    /// Keeps too that the storage is that of a main server from this epoch on.
    fn take(&self, epoch: u64) -> std::io::Result<u64> {
        self.store(epoch, true)
    }
}

impl LedgerEpochs {
    fn store(&self, epoch: u64, as_main: bool) -> std::io::Result<u64> {
        let mut ledger = self.ledger();
        // Renewals come often: they only read, and do not wait for a transaction under way.
        let there = ledger.connection().and_then(|connection| {
            let main = schema::number(connection, schema::MAIN_EPOCH)?;
            Ok((schema::number(connection, schema::EPOCH)?, main))
        });
        let (seen, main) = there.map_err(std::io::Error::other)?;
        if seen > epoch || (seen == epoch && (main >= epoch || !as_main)) {
            return Ok(seen);
        }
        let stored = ledger.write(|tx| {
            let highest = schema::advance(tx, schema::EPOCH, epoch)?;
            if as_main && highest == epoch {
                schema::set(tx, schema::MAIN_EPOCH, epoch)?;
            }
            Ok(highest)
        });
        if stored.is_err() {
            // A commit that failed may be there or not: a new connection sees what is.
            ledger.connection = None;
        }
        stored.map_err(std::io::Error::other)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
