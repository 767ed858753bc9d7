//! Rows out of the file.

use rusqlite::types::Type;
use rusqlite::{Connection, Row as SqlRow};

use super::fault::Fault;
use crate::model::{ControllerId, Record};
use crate::store::book::{Counters, Run, row_checksum, taken_checksum};
use crate::store::{Position, Row, Totals};

/// A query for what [`row`] reads.
macro_rules! select {
    ($which:literal) => {
        concat!("SELECT kind, key, lsn, origin, crc, rank, body FROM record ", $which)
    };
}
pub(super) use select;

/// Numbers of SQLite's are signed, and those of a store never that large.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn damaged(what: &str) -> Fault {
    Fault::Damaged(format!("{what} is not as it was written"))
}

fn number(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn run_id(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<u128> {
    let bytes: [u8; 16] = row.get(column)?;
    Ok(u128::from_le_bytes(bytes))
}

pub(super) fn row(row: &SqlRow<'_>) -> Result<Row, Fault> {
    let kind: u16 = row.get(0)?;
    let lsn = number(row, 2)?;
    let origin = row
        .get_ref(3)?
        .as_str()
        .map_err(|_| rusqlite::Error::InvalidColumnType(3, "origin".to_owned(), Type::Text))?;
    let from = match origin {
        "" => None,
        origin => Some(origin.parse::<ControllerId>().map_err(|_| damaged("a record"))?),
    };
    let record = Record { kind, key: row.get(1)?, rank: row.get(5)?, body: row.get(6)? };
    if row.get::<_, i64>(4)? != i64::from(row_checksum(&record, lsn, from.as_ref())) {
        return Err(damaged(&format!("the record with the change {lsn}")));
    }
    Ok(Row { lsn, from, record })
}

pub(super) fn counters(conn: &Connection, partition: &str) -> Result<Counters, Fault> {
    let sql = "SELECT head, floor, records, bytes, crc FROM meta WHERE one = 1 AND partition = ?1";
    let (counters, crc) = conn.query_row(sql, [partition], |row| {
        let totals = Totals { records: number(row, 2)?, bytes: number(row, 3)? };
        let counters = Counters { head: number(row, 0)?, floor: number(row, 1)?, totals };
        Ok((counters, number(row, 4)?))
    })?;
    if crc == u64::from(counters.checksum(partition)) {
        Ok(counters)
    } else {
        Err(damaged("the row of counters"))
    }
}

/// The runs, oldest first.
pub(super) fn runs(conn: &Connection) -> Result<Vec<Run>, Fault> {
    let mut statement = conn.prepare("SELECT run, began, crc FROM run ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut runs: Vec<Run> = Vec::new();
    while let Some(row) = rows.next()? {
        let run = Run { id: run_id(row, 0)?, began: number(row, 1)? };
        let whole = number(row, 2)? == u64::from(run.checksum());
        if !whole || runs.last().is_some_and(|last| last.began > run.began) {
            return Err(damaged("a run"));
        }
        runs.push(run);
    }
    Ok(runs)
}

pub(super) fn taken(conn: &Connection, partner: &str) -> Result<Option<Position>, Fault> {
    let mut statement =
        conn.prepare_cached("SELECT run, lsn, crc FROM taken WHERE partner = ?1")?;
    let mut rows = statement.query([partner])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let position = Position { run: run_id(row, 0)?, lsn: number(row, 1)? };
    if number(row, 2)? == u64::from(taken_checksum(partner, position)) {
        Ok(Some(position))
    } else {
        Err(damaged("a partner's position"))
    }
}
