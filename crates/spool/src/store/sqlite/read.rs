//! What a reader finds.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::fault::{Fault, is_local};
use super::schema;
use super::write::{bound, counters, end_of, int, size, uint};
use super::{Lock, check};
use crate::limits::{KEY_MAX, PAYLOAD_MAX};
use crate::record::Lane;
use crate::request::RequestId;
use crate::store::row::{self, End, FAULTS_MAX, Kept, Row, id_bytes, id_of, state};
use crate::store::{Checked, Found, Known, Listed, PairState, SpoolReader, StoreError, Totals};

/// Reads the spool of a pair in SQLite, beside a front that holds it or without one.
///
/// A check looks at SQLite's own pages only while no front has the file: that takes long with a
/// large one, and the log could not be cut meanwhile.
///
/// Alters nothing. Needs the right to write into the directory all the same: SQLite has its
/// readers' marks there. A call that lasts keeps the log from being cut meanwhile.
#[derive(Debug)]
pub struct SqliteReader {
    path: PathBuf,
    conn: Option<Connection>,
}

impl SqliteReader {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut reader = Self { path: path.to_owned(), conn: None };
        reader.at_once(|_| Ok(()))?;
        Ok(reader)
    }

    /// One transaction: sees what was committed when it began. A connection that failed is opened
    /// anew the next time.
    fn at_once<T>(
        &mut self,
        job: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let name = self.path.display().to_string();
        let result = self.transact(job);
        if result.is_err() {
            self.conn = None;
        }
        result.map_err(|fault| schema::error(&name, fault))
    }

    fn part_of_check(
        &mut self,
        step: check::Step,
        checked: &mut Checked,
    ) -> Result<(), StoreError> {
        self.at_once(|conn| {
            let looked = step(conn, checked);
            check::noted(looked, checked)
        })
    }

    /// Whether no front has the file at the moment.
    fn is_unattended(&mut self) -> Result<bool, StoreError> {
        let path = self.path.clone();
        self.at_once(|conn| {
            let pair: String = match conn.query_row("SELECT pair FROM meta", [], |row| row.get(0)) {
                Err(e) if is_local(&e) => return Ok(true),
                pair => pair?,
            };
            Lock::is_free(&path.with_file_name(format!("{pair}.lock")))
        })
    }

    fn transact<T>(
        &mut self,
        job: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => schema::open_reader(&self.path)?,
        };
        let conn = self.conn.insert(conn);
        let tx = conn.unchecked_transaction()?;
        let result = job(&tx)?;
        // Not a commit: one that has met a damaged page is refused.
        tx.rollback()?;
        Ok(result)
    }
}

impl SpoolReader for SqliteReader {
    fn pending(
        &mut self,
        after: u64,
        limit: usize,
        weight_max: u64,
    ) -> Result<Vec<Found>, StoreError> {
        self.at_once(|conn| pending(conn, after, limit, weight_max))
    }

    fn newest(&mut self, lane: Lane) -> Result<Option<Found>, StoreError> {
        self.at_once(|conn| {
            let lsn = conn
                .prepare_cached(
                    "SELECT lsn FROM record INDEXED BY record_lane \
                     WHERE state = 0 AND lane = ?1 \
                     AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
                     ORDER BY lsn DESC LIMIT 1",
                )?
                .query_row(params![lane.0.cast_signed()], |row| row.get(0).map(uint))
                .optional()?;
            Ok(lsn.map(|lsn| found(conn, lsn, lane)).transpose()?)
        })
    }

    fn find(&mut self, id: RequestId) -> Result<Option<Known>, StoreError> {
        self.at_once(|conn| find(conn, id))
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.at_once(|conn| Ok(totals(conn)?))
    }

    fn list(&mut self, after: u64, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.at_once(|conn| list(conn, after, limit))
    }

    fn kept(&mut self, lsn: u64) -> Result<Option<Kept>, StoreError> {
        self.at_once(|conn| {
            let found = row_of(conn, lsn);
            let row = match found {
                Err(e) if is_local(&e) => None,
                found => found?,
            };
            Ok(row.map(|(row, note)| row.kept(note)))
        })
    }

    fn ages(&mut self, now_ms: u64, edges_ms: &[u64]) -> Result<Vec<u64>, StoreError> {
        self.at_once(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT count(*) FROM record INDEXED BY record_age \
                 WHERE state = 0 AND accepted_ms >= ?1 AND accepted_ms < ?2 \
                 AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn)",
            )?;
            row::spans(now_ms, edges_ms)
                .into_iter()
                .map(|(from, until)| {
                    let from = from.map_or(i64::MIN, bound);
                    let until = until.map_or(i64::MAX, bound);
                    Ok(uint(statement.query_row(params![from, until], |row| row.get(0))?))
                })
                .collect()
        })
    }

    fn check(&mut self) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        let mut next = Some(0);
        while let Some(after) = next {
            next = self.at_once(|conn| {
                let looked = check::records(conn, after, &mut checked);
                check::noted(looked, &mut checked)
            })?;
        }
        self.part_of_check(check::COUNT, &mut checked)?;
        if self.is_unattended()? {
            self.part_of_check(check::PAGES, &mut checked)?;
        }
        checked.faults.truncate(FAULTS_MAX);
        Ok(checked)
    }
}

/// What waits.
pub(super) fn totals(conn: &Connection) -> Result<Totals, rusqlite::Error> {
    let oldest = conn
        .prepare_cached(
            "SELECT accepted_ms FROM record INDEXED BY record_age WHERE state = 0 \
             AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
             ORDER BY accepted_ms LIMIT 1",
        )?
        .query_row([], |row| row.get(0).map(uint))
        .optional()?;
    Ok(counters(conn)?.totals(oldest.unwrap_or(0)))
}

/// What was written as the pair's state last.
pub(super) fn pair_state(conn: &Connection) -> Result<PairState, rusqlite::Error> {
    conn.query_row("SELECT epoch, holder, on_hold FROM meta", [], |row| {
        Ok(PairState { epoch: uint(row.get(0)?), holder: row.get(1)?, on_hold: row.get(2)? })
    })
}

/// Pending records by place. The index says which; each row is read by itself, so that one on a
/// damaged page hides no other.
pub(super) fn pending(
    conn: &Connection,
    after: u64,
    limit: usize,
    weight_max: u64,
) -> Result<Vec<Found>, Fault> {
    let mut places = Vec::new();
    let mut weight = 0_u64;
    let mut statement = conn.prepare_cached(
        "SELECT lsn, lane, weight FROM record INDEXED BY record_pending \
         WHERE state = 0 AND lsn > ?1 \
         AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
         ORDER BY lsn LIMIT ?2",
    )?;
    let mut rows = statement.query(params![bound(after), size(limit)])?;
    while let Some(row) = rows.next()? {
        places.push((uint(row.get(0)?), Lane(row.get::<_, i64>(1)?.cast_unsigned())));
        weight = weight.saturating_add(uint(row.get(2)?));
        if weight >= weight_max {
            break;
        }
    }
    places.into_iter().map(|(lsn, lane)| Ok(found(conn, lsn, lane)?)).collect()
}

/// A record that is pending by the index.
fn found(conn: &Connection, lsn: u64, lane: Lane) -> Result<Found, rusqlite::Error> {
    let damaged = |what: String| Found::Damaged { lsn, lane, what };
    // A disk that fails once may read it the second time.
    let row = match row_of(conn, lsn) {
        Err(e) if is_local(&e) => row_of(conn, lsn),
        row => row,
    };
    match row {
        Ok(Some((row, _))) => Ok(row.found(lane)),
        Ok(None) => Ok(damaged("the index knows it, and it is not there".to_owned())),
        Err(e) if is_local(&e) => Ok(damaged(format!("it cannot be read: {e}"))),
        Err(e) => Err(e),
    }
}

/// A record that still has its bytes, and why it was set aside.
fn row_of(conn: &Connection, lsn: u64) -> Result<Option<(Row, String)>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT id, kind, key, payload, epoch, accepted_ms, crc, sent, held, code, note \
         FROM record LEFT JOIN body USING (lsn) \
         WHERE record.lsn = ?1 AND (state = 0 OR aside = 1)",
    )?
    .query_row(params![int(lsn)], |row| {
        let columns = Row {
            lsn,
            id: bytes(row, 0, 64)?,
            kind: row.get(1)?,
            key: bytes(row, 2, KEY_MAX)?,
            payload: bytes(row, 3, PAYLOAD_MAX)?,
            epoch: uint(row.get(4)?),
            accepted_ms: uint(row.get(5)?),
            crc: row.get(6)?,
            sent: row.get(7)?,
            held: row.get(8)?,
        };
        Ok((columns, row::aside_note(row.get(9)?, row.get(10)?)))
    })
    .optional()
}

/// A column of bytes: one byte too long at most, which is then found out.
fn bytes(row: &SqlRow<'_>, column: usize, max: usize) -> Result<Vec<u8>, rusqlite::Error> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(bytes[..bytes.len().min(max + 1)].to_vec()),
        other => Err(rusqlite::Error::InvalidColumnType(
            column,
            "a column of bytes".to_owned(),
            other.data_type(),
        )),
    }
}

fn find(conn: &Connection, id: RequestId) -> Result<Option<Known>, Fault> {
    let lsn = conn
        .prepare_cached("SELECT lsn FROM record INDEXED BY record_id WHERE id = ?1")?
        .query_row(params![id_bytes(id)], |row| row.get(0).map(uint))
        .optional()?;
    let Some(lsn) = lsn else { return Ok(None) };
    let broken = conn
        .prepare_cached("SELECT purged FROM broken WHERE lsn = ?1")?
        .query_row(params![int(lsn)], |row| row.get::<_, bool>(0))
        .optional()?;
    if let Some(purged) = broken {
        let state = if purged { state::PURGED } else { state::QUARANTINED };
        let end = End { state, answer: None, code: None, note: None };
        // Its row may be the broken part.
        let fingerprint = conn
            .prepare_cached("SELECT fingerprint FROM record WHERE lsn = ?1")?
            .query_row(params![int(lsn)], |row| row.get(0).map(uint));
        let fingerprint = match fingerprint {
            Err(rusqlite::Error::QueryReturnedNoRows) => 0,
            Err(e) if is_local(&e) => 0,
            fingerprint => fingerprint?,
        };
        return Ok(Some(end.known(lsn, fingerprint)));
    }
    let end = conn
        .prepare_cached("SELECT fingerprint, state, answer, code, note FROM record WHERE lsn = ?1")?
        .query_row(params![int(lsn)], |row| Ok((row.get(0).map(uint)?, end_of(row, 1)?)));
    match end {
        Ok((fingerprint, end)) => Ok(Some(end.known(lsn, fingerprint))),
        Err(e) if is_local(&e) => {
            let pending = conn
                .prepare_cached(
                    "SELECT 1 FROM record INDEXED BY record_pending WHERE state = 0 AND lsn = ?1",
                )?
                .exists(params![int(lsn)])?;
            let fingerprint = 0;
            Ok(Some(if pending {
                Known::Pending { lsn, fingerprint }
            } else {
                Known::Quarantined { lsn, fingerprint }
            }))
        }
        Err(e) => Err(e.into()),
    }
}

/// Which records a listing names, before their rows are looked at.
const LISTED: [(&str, bool); 3] = [
    (
        "SELECT lsn, sent, held, '' FROM record INDEXED BY record_pending \
         WHERE state = 0 AND lsn > ?1 \
         AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
         ORDER BY lsn LIMIT ?2",
        true,
    ),
    (
        "SELECT lsn, 0, 0, '' FROM record INDEXED BY record_aside \
         WHERE aside = 1 AND lsn > ?1 \
         AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
         ORDER BY lsn LIMIT ?2",
        false,
    ),
    (
        "SELECT lsn, 0, 0, note FROM broken WHERE purged = 0 AND lsn > ?1 ORDER BY lsn LIMIT ?2",
        false,
    ),
];

fn list(conn: &Connection, after: u64, limit: usize) -> Result<Vec<Listed>, Fault> {
    let mut lines = Vec::new();
    for (sql, pending) in LISTED {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![bound(after), size(limit)])?;
        while let Some(row) = rows.next()? {
            let state = row::word(pending, row.get(1)?, row.get(2)?);
            lines.push((uint(row.get(0)?), state, row.get::<_, String>(3)?));
        }
    }
    lines.sort_by_key(|&(lsn, ..)| lsn);
    lines.truncate(limit);
    lines.into_iter().map(|(lsn, state, note)| Ok(listed(conn, lsn, state, note)?)).collect()
}

fn listed(
    conn: &Connection,
    lsn: u64,
    state: &'static str,
    broken: String,
) -> Result<Listed, rusqlite::Error> {
    let line = conn
        .prepare_cached(
            "SELECT id, kind, substr(key, 1, ?2), length(payload), accepted_ms, code, note \
             FROM record LEFT JOIN body USING (lsn) WHERE record.lsn = ?1",
        )?
        .query_row(params![int(lsn), size(row::LISTED_KEY)], |row| {
            let note = row::aside_note(row.get(5)?, row.get(6)?);
            Ok(Listed {
                lsn,
                id: id_of(&bytes(row, 0, 64)?).unwrap_or(RequestId(0)),
                kind: row.get(1)?,
                key: bytes(row, 2, row::LISTED_KEY)?,
                payload_len: uint(row.get(3)?),
                accepted_ms: uint(row.get(4)?),
                state,
                note: if broken.is_empty() { note } else { broken.clone() },
            })
        });
    let cause = match line {
        Ok(line) => return Ok(line),
        Err(rusqlite::Error::QueryReturnedNoRows) => "it is not there".to_owned(),
        Err(e) if is_local(&e) => e.to_string(),
        Err(e) => return Err(e),
    };
    let note = if broken.is_empty() { format!("it cannot be read: {cause}") } else { broken };
    let id = RequestId(0);
    let (kind, key, payload_len, accepted_ms) = (0, Vec::new(), 0, 0);
    Ok(Listed { lsn, id, kind, key, payload_len, accepted_ms, state, note })
}
