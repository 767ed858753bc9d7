//! What was done, in the order in which it was done, for a standby with storage of its own.
//!
//! Each entry has a number and a chain: a hash over itself and the chain before. Two logs with the
//! same number and chain are the same up to there.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Apply, Ledger, LedgerError, one, schema};
use crate::backend::lock::Fenced;
use crate::failpoint::reach;
use crate::record::Record;
use crate::request::{Kind, RequestId};
use crate::target::ItemResult;

/// The kind of what a log begins anew with: it stands for all that was done before, and is no
/// request.
const BASE: Kind = Kind::Custom(0xff01);

/// What an entry weighs besides its key and payload: see [`Record::weight`].
const ENTRY_BYTES: u64 = 64;

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The number of its last entry; 0 if it has none.
    pub seq: u64,
    /// The chain of that entry.
    pub chain: [u8; 16],
    /// The epoch of that entry.
    pub epoch: u64,
}

/// Why entries of a main server were not applied; none of them was.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// They belong behind another entry than the last one here.
    #[error("the entries do not follow on number {}", here.seq)]
    NotNext {
        /// Where the log here ends.
        here: Head,
    },
    /// A higher epoch was seen.
    #[error(transparent)]
    Fenced(Fenced),
    /// An entry cannot be applied now.
    #[error("entry {seq} cannot be applied now")]
    Later {
        /// Which.
        seq: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Ledger {
    /// Where the log ends.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn head(&mut self) -> Result<Head, LedgerError> {
        self.reading(head)
    }

    /// The head as it was at entry `seq`; `None` if that entry is not there (any more).
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn head_at(&mut self, seq: u64) -> Result<Option<Head>, LedgerError> {
        if seq == 0 {
            return Ok(Some(Head::default()));
        }
        self.reading(|connection| {
            connection
                .prepare_cached("SELECT seq, chain, epoch FROM evs_log WHERE seq = ?1")?
                .query_row([signed(seq)], read_head)
                .optional()
        })
    }

    /// Entries behind `after`: at most `limit`, and no more after their weights have reached
    /// `weight_max`. Their `lsn` is the number in the log. What a log began anew with is none.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn entries(
        &mut self,
        after: u64,
        limit: usize,
        weight_max: u64,
    ) -> Result<Vec<Record>, LedgerError> {
        self.reading(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, id, kind, key, payload, epoch, accepted_ms FROM evs_log
                 WHERE seq > ?1 AND kind <> ?3 ORDER BY seq LIMIT ?2",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![signed(after), limit, BASE.code()])?;
            let (mut found, mut weight) = (Vec::new(), 0);
            while weight < weight_max
                && let Some(row) = rows.next()?
            {
                let record = read_record(row)?;
                weight += record.weight();
                found.push(record);
            }
            Ok(found)
        })
    }

    /// The first entry of a higher epoch than this; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn first_above(&mut self, epoch: u64) -> Result<Option<u64>, LedgerError> {
        self.reading(|connection| {
            let first: Option<i64> = connection
                .prepare_cached("SELECT min(seq) FROM evs_log WHERE epoch > ?1")?
                .query_row([signed(epoch)], |row| row.get(0))?;
            Ok(first.map(|seq| seq as u64))
        })
    }

    /// Applies entries of a main server behind `before`, all or none. The epoch is that of the main
    /// server now. Gives the new head.
    ///
    /// # Errors
    ///
    /// See [`LogError`].
    pub fn follow(
        &mut self,
        epoch: u64,
        before: &Head,
        entries: &[Record],
        apply: &mut Apply<'_>,
    ) -> Result<Head, LogError> {
        let (now_ms, config) = (self.clock.now_ms(), self.config.clone());
        let mut why = None;
        let followed = self.writing(|tx| {
            let stop = |why: &mut Option<LogError>, reason: LogError| {
                *why = Some(reason);
                Err(rusqlite::Error::InvalidQuery)
            };
            let seen = schema::number(tx, schema::EPOCH)?;
            if seen > epoch {
                return stop(&mut why, LogError::Fenced(Fenced { asked: epoch, seen }));
            }
            let here = head(tx)?;
            if (here.seq, here.chain) != (before.seq, before.chain) {
                return stop(&mut why, LogError::NotNext { here });
            }
            let now_ms = schema::advance(tx, schema::CLOCK_MS, now_ms)?;
            reach("backend.replica.before_apply");
            for (place, entry) in entries.iter().enumerate() {
                let savepoint = tx.savepoint()?;
                let result = one(&savepoint, place, entry, apply)?;
                if let ItemResult::Later { .. } = result {
                    return stop(&mut why, LogError::Later { seq: entry.lsn });
                }
                schema::keep(&savepoint, entry, &result, now_ms)?;
                append(&savepoint, entry.epoch, entry)?;
                savepoint.commit()?;
            }
            schema::prune(tx, now_ms, &config)?;
            let now = head(tx)?;
            reach("backend.replica.before_commit");
            Ok(now)
        });
        match (followed, why) {
            (_, Some(why)) => Err(why),
            (result, None) => Ok(result?),
        }
    }

    /// Forgets entries up to `confirmed`; the last entry stays. At most `limit` entries go.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub fn prune_log(&mut self, confirmed: u64, limit: usize) -> Result<u64, LedgerError> {
        // Most often there is nothing to do, for which nobody who writes is to wait.
        let has = |connection: &Connection| {
            connection
                .prepare_cached("SELECT 1 FROM evs_log WHERE seq <= ?1")?
                .exists([signed(confirmed)])
        };
        if !self.reading(has)? {
            return Ok(0);
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.writing(|tx| forget(tx, confirmed, 0, limit))
    }

    /// The highest epoch that was stored.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn epoch(&mut self) -> Result<u64, LedgerError> {
        self.reading(|connection| schema::number(connection, schema::EPOCH))
    }

    /// The last epoch under which this storage was that of a main server.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn main_epoch(&mut self) -> Result<u64, LedgerError> {
        self.reading(|connection| schema::number(connection, schema::MAIN_EPOCH))
    }

    /// Keeps that this storage has all that any main did up to this epoch.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub(crate) fn set_main_epoch(&mut self, epoch: u64) -> Result<(), LedgerError> {
        self.writing(|tx| schema::advance(tx, schema::MAIN_EPOCH, epoch)).map(|_| ())
    }

    /// Keeps that this storage is a copy, and was never that of a main server.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub(crate) fn forget_main_epoch(&mut self) -> Result<(), LedgerError> {
        self.writing(|tx| schema::set(tx, schema::MAIN_EPOCH, 0))
    }

    pub(crate) fn reading<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let result = self.connection().and_then(|connection| work(connection));
        result.map_err(|error| self.broke(&error))
    }

    fn writing<T>(
        &mut self,
        work: impl FnOnce(&mut rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let result = self.writing_connection().and_then(|connection| {
            let mut tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&mut tx)?;
            tx.commit()?;
            Ok(value)
        });
        self.note(result.as_ref().err());
        result.map_err(|error| self.broke(&error))
    }

    fn broke(&mut self, error: &rusqlite::Error) -> LedgerError {
        self.connection = None;
        LedgerError { path: self.path.clone(), cause: error.to_string() }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read_head(row: &rusqlite::Row<'_>) -> rusqlite::Result<Head> {
    let (seq, epoch): (i64, i64) = (row.get(0)?, row.get(2)?);
    Ok(Head { seq: seq as u64, chain: row.get(1)?, epoch: epoch as u64 })
}

pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let last = connection
        .prepare_cached("SELECT seq, chain, epoch FROM evs_log ORDER BY seq DESC LIMIT 1")?
        .query_row([], read_head)
        .optional()?;
    Ok(last.unwrap_or_default())
}

/// Begins the log anew if something was done that is not in it: two logs that look the same would
/// else hide that one server has more than the other. What was in it is forgotten, and no other
/// log has what it begins with, so that a standby needs a copy.
pub(super) fn complete(connection: &mut Connection) -> rusqlite::Result<()> {
    if !has_gaps(connection)? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if has_gaps(&tx)? {
        let chain = RequestId::random()
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        // One number is left out: nobody else's log can be next to this one.
        let seq = head(&tx)?.seq + 2;
        let epoch = schema::number(&tx, schema::EPOCH)?;
        tx.execute("DELETE FROM evs_log", [])?;
        tx.execute(
            "INSERT INTO evs_log (seq, epoch, id, kind, key, payload, accepted_ms, chain)
             VALUES (?1, ?2, zeroblob(16), ?3, x'', x'', 0, ?4)",
            params![signed(seq), signed(epoch), BASE.code(), chain.0.to_be_bytes()],
        )?;
        schema::set(&tx, schema::LOG_BYTES, ENTRY_BYTES)?;
        schema::set(&tx, schema::UNLOGGED, 0)?;
    }
    tx.commit()
}

/// Whether something was done without the log; versions before this mark have only left it empty.
fn has_gaps(connection: &Connection) -> rusqlite::Result<bool> {
    if schema::number(connection, schema::UNLOGGED)? > 0 {
        return Ok(true);
    }
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM evs_ledger) AND NOT EXISTS (SELECT 1 FROM evs_log)",
        [],
        |row| row.get(0),
    )
}

fn read_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    let kind: u32 = row.get(2)?;
    let kind = Kind::from_code(kind)
        .ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(2, i64::from(kind)))?;
    let id: [u8; 16] = row.get(1)?;
    Ok(Record {
        lsn: row.get::<_, i64>(0)? as u64,
        id: RequestId(u128::from_be_bytes(id)),
        kind,
        key: row.get(3)?,
        payload: row.get(4)?,
        epoch: row.get::<_, i64>(5)? as u64,
        accepted_ms: row.get::<_, i64>(6)? as u64,
    })
}

/// Forgets the oldest entries up to `upto`, as long as the log has more than `bytes_max`. The last
/// one stays: what comes next is chained to it. At most `limit` go.
pub(super) fn forget(
    tx: &Connection,
    upto: u64,
    bytes_max: u64,
    limit: i64,
) -> rusqlite::Result<u64> {
    let mut bytes = schema::number(tx, schema::LOG_BYTES)?;
    if bytes <= bytes_max {
        return Ok(0);
    }
    let last = head(tx)?.seq;
    let oldest: Vec<(i64, i64)> = tx
        .prepare_cached(
            "SELECT seq, length(key) + length(payload) FROM evs_log
             WHERE seq <= ?1 AND seq < ?2 ORDER BY seq LIMIT ?3",
        )?
        .query_map(params![signed(upto), signed(last), limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut gone = 0;
    for (seq, size) in oldest {
        if bytes <= bytes_max {
            break;
        }
        tx.prepare_cached("DELETE FROM evs_log WHERE seq = ?1")?.execute([seq])?;
        bytes = bytes.saturating_sub(size as u64 + ENTRY_BYTES);
        gone += 1;
    }
    if gone > 0 {
        schema::set(tx, schema::LOG_BYTES, bytes)?;
    }
    Ok(gone)
}

/// Appends an entry; the epoch is that of the main server that did it first.
pub(super) fn append(connection: &Connection, epoch: u64, record: &Record) -> rusqlite::Result<()> {
    let before = head(connection)?;
    let seq = before.seq + 1;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&before.chain);
    context.update(&seq.to_be_bytes());
    context.update(&epoch.to_be_bytes());
    context.update(&record.id.0.to_be_bytes());
    context.update(&record.fingerprint().to_be_bytes());
    context.update(&record.accepted_ms.to_be_bytes());
    let digest = context.finish();
    let chain = &digest.as_ref()[..16];
    connection
        .prepare_cached(
            "INSERT INTO evs_log (seq, epoch, id, kind, key, payload, accepted_ms, chain)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            signed(seq),
            signed(epoch),
            record.id.0.to_be_bytes(),
            record.kind.code(),
            record.key,
            record.payload,
            record.accepted_ms as i64,
            chain
        ])?;
    let bytes = schema::number(connection, schema::LOG_BYTES)?;
    schema::set(connection, schema::LOG_BYTES, bytes + record.weight())
}
