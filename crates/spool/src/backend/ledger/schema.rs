//! The tables of a ledger.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::backend::ledger::{ID_REUSED, LedgerConfig};
use crate::record::Record;
use crate::request::RequestId;
use crate::target::ItemResult;

/// "evsL": tells a ledger from other databases.
const APPLICATION: i64 = 0x6576_734c;
const VERSION: i64 = 1;

/// The highest epoch.
pub(super) const EPOCH: &str = "epoch";
/// Milliseconds in which servers ran.
pub(super) const CLOCK_MS: &str = "clock_ms";
/// Bytes of the log.
pub(super) const LOG_BYTES: &str = "log_bytes";
/// 1: something was done that is not in the log.
pub(super) const UNLOGGED: &str = "unlogged";
/// The last epoch under which this storage was that of the main server.
pub(super) const MAIN_EPOCH: &str = "main_epoch";

const TABLES: &str = "
    CREATE TABLE evs_number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE evs_ledger (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        fingerprint INTEGER NOT NULL,
        refused INTEGER,
        answer BLOB NOT NULL,
        at_ms INTEGER NOT NULL
    );
    CREATE TABLE evs_log (
        seq INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        id BLOB NOT NULL,
        kind INTEGER NOT NULL,
        key BLOB NOT NULL,
        payload BLOB NOT NULL,
        accepted_ms INTEGER NOT NULL,
        chain BLOB NOT NULL
    );
";

/// Rows that one call may forget: at least twice what it may add.
pub(super) const PRUNE_MAX: i64 = 2 * crate::limits::BATCH_MAX as i64;

pub(super) fn open(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let until = Instant::now() + busy;
    loop {
        match open_once(path, busy) {
            // Two that make a database at the same time keep each other from its journal's change;
            // SQLite tells both at once, since neither could wait for the other.
            Err(error) if is_busy(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

fn open_once(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.set_prepared_statement_cache_capacity(64);
    if version(&connection)? == Some(VERSION) {
        return Ok(connection);
    }
    // Two servers may make a shared one at the same time: the second finds it made.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&tx)?.is_none() {
        tx.execute_batch(TABLES)?;
        tx.pragma_update(None, "application_id", APPLICATION)?;
        tx.pragma_update(None, "user_version", VERSION)?;
    }
    tx.commit()?;
    Ok(connection)
}

/// `None` for an empty database.
fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => Ok(None),
        (APPLICATION, VERSION, _) => Ok(Some(VERSION)),
        _ => {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
            let what = format!(
                "it is no ledger that this version can read (mark {application:x}, version \
                 {version}): use the version that made it, or another file"
            );
            Err(rusqlite::Error::SqliteFailure(code, Some(what)))
        }
    }
}

pub(super) fn number(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value: Option<i64> = connection
        .prepare_cached("SELECT value FROM evs_number WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
}

pub(super) fn set(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    connection
        .prepare_cached("INSERT OR REPLACE INTO evs_number (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

/// Raises a number that never goes down, and gives what is there then.
pub(super) fn advance(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<u64> {
    let there = number(connection, name)?;
    if there >= value {
        return Ok(there);
    }
    set(connection, name, value)?;
    Ok(value)
}

/// What the ledger has under an id.
pub(super) struct Entry {
    fingerprint: u64,
    refused: Option<u32>,
    answer: Vec<u8>,
}

impl Entry {
    /// What a sender is told that asks again.
    pub(super) fn again(self, item: &Record) -> ItemResult {
        if self.fingerprint != item.fingerprint() {
            let text = format!("the id {} was used for another request", item.id);
            return ItemResult::Refused { code: ID_REUSED, text };
        }
        match self.refused {
            None => ItemResult::Done { answer: self.answer, again: true },
            Some(code) => {
                let text = String::from_utf8_lossy(&self.answer).into_owned();
                ItemResult::Refused { code, text }
            }
        }
    }
}

pub(super) fn find(connection: &Connection, id: RequestId) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached("SELECT fingerprint, refused, answer FROM evs_ledger WHERE id = ?1")?
        .query_row([id.0.to_be_bytes()], |row| {
            Ok(Entry {
                fingerprint: row.get::<_, i64>(0)? as u64,
                refused: row.get(1)?,
                answer: row.get(2)?,
            })
        })
        .optional()
}

/// Keeps how an item ended. Nothing for one that has not. A standby may still know an id that its
/// main has forgotten and done anew: the newer one counts.
pub(super) fn keep(
    connection: &Connection,
    item: &Record,
    result: &ItemResult,
    now_ms: u64,
) -> rusqlite::Result<()> {
    let (refused, answer) = match result {
        ItemResult::Done { answer, .. } => (Value::Null, answer.as_slice()),
        ItemResult::Refused { code, text } => (Value::Integer(i64::from(*code)), text.as_bytes()),
        ItemResult::Later { .. } => return Ok(()),
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO evs_ledger (id, fingerprint, refused, answer, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            item.id.0.to_be_bytes(),
            item.fingerprint() as i64,
            refused,
            answer,
            i64::try_from(now_ms).unwrap_or(i64::MAX)
        ])?;
    Ok(())
}

/// Forgets ids that are too old or too many.
pub(super) fn prune(
    connection: &Connection,
    now_ms: u64,
    config: &LedgerConfig,
) -> rusqlite::Result<()> {
    let keep_ms = u64::try_from(config.keep.as_millis()).unwrap_or(u64::MAX);
    let before = i64::try_from(now_ms.saturating_sub(keep_ms)).unwrap_or(i64::MAX);
    let newest: Option<i64> = connection
        .prepare_cached("SELECT max(n) FROM evs_ledger")?
        .query_row([], |row| row.get(0))?;
    let rows = i64::try_from(config.keep_rows).unwrap_or(i64::MAX);
    let upto = newest.unwrap_or(0).saturating_sub(rows);
    connection
        .prepare_cached(
            "DELETE FROM evs_ledger WHERE n IN (
                SELECT n FROM (SELECT n, at_ms FROM evs_ledger ORDER BY n LIMIT ?3)
                WHERE at_ms < ?1 OR n <= ?2)",
        )?
        .execute(params![before, upto, PRUNE_MAX])?;
    Ok(())
}
