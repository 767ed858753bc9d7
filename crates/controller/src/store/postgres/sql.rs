//! What is asked of the server, and rows out of its answers.

use postgres::{Client, Row as SqlRow, Statement};

use super::Outcome;
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

/// Prepared once for each session.
pub(super) struct Sql {
    pub(super) get: Statement,
    pub(super) put: Statement,
    pub(super) changes: Statement,
    pub(super) count: Statement,
    pub(super) first: Statement,
    pub(super) next: Statement,
    pub(super) purge: Statement,
    pub(super) taken: Statement,
    pub(super) take: Statement,
    pub(super) forget: Statement,
    pub(super) counters: Statement,
}

impl Sql {
    pub(super) fn prepare(client: &mut Client) -> Outcome<Self> {
        Ok(Self {
            get: client.prepare(select!("WHERE kind = $1 AND key = $2"))?,
            // All parts of a statement see the table as it was before.
            put: client.prepare(
                "WITH old AS (
                     SELECT octet_length(rank) + octet_length(body) AS bytes
                     FROM record WHERE kind = $1::int4 AND key = $2::bytea
                 ), put AS (
                     INSERT INTO record (kind, key, lsn, origin, crc, rank, body)
                     SELECT $1::int4, $2::bytea, $3::int8, $4::text, $5::int8, $6::bytea, $7::bytea
                     WHERE coalesce(
                         (SELECT octet_length($6::bytea) + octet_length($7::bytea)
                             <= bytes + $9::int8 FROM old),
                         $8::bool)
                     ON CONFLICT (kind, key) DO UPDATE SET lsn = excluded.lsn,
                     origin = excluded.origin, crc = excluded.crc, rank = excluded.rank,
                     body = excluded.body
                     RETURNING 1
                 )
                 SELECT (SELECT bytes FROM old), EXISTS (SELECT 1 FROM put)",
            )?,
            // The first, and those with which the sum of weights is not above the limit.
            changes: client.prepare(
                "SELECT kind, key, lsn, origin, crc, rank, body FROM (
                     SELECT *, row_number() OVER w AS place,
                     sum(32 + octet_length(key) + octet_length(rank) + octet_length(body)) OVER w
                     AS total
                     FROM (SELECT * FROM record WHERE lsn > $1 ORDER BY lsn LIMIT $2) AS few
                     WINDOW w AS (ORDER BY lsn ROWS UNBOUNDED PRECEDING)
                 ) AS summed WHERE place = 1 OR total <= $3::int8 ORDER BY lsn",
            )?,
            count: client.prepare(
                "SELECT count(*) FROM (SELECT 1 FROM record WHERE lsn > $1 LIMIT $2) AS few",
            )?,
            first: client.prepare(select!("ORDER BY kind, key LIMIT $1"))?,
            next: client
                .prepare(select!("WHERE (kind, key) > ($1, $2) ORDER BY kind, key LIMIT $3"))?,
            purge: client.prepare(
                "DELETE FROM record WHERE kind = $1 AND key = $2 AND lsn = $3
                 RETURNING octet_length(rank) + octet_length(body)",
            )?,
            taken: client.prepare("SELECT run, lsn, crc FROM taken WHERE partner = $1")?,
            take: client.prepare(
                "INSERT INTO taken VALUES ($1, $2, $3, $4) ON CONFLICT (partner) DO UPDATE
                 SET run = excluded.run, lsn = excluded.lsn, crc = excluded.crc",
            )?,
            forget: client.prepare("DELETE FROM taken WHERE partner = $1")?,
            counters: client.prepare(
                "UPDATE meta SET head = $1, floor = $2, records = $3, bytes = $4, crc = $5",
            )?,
        })
    }
}

/// Numbers of the server's are signed, and those of a store never that large.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Of a record with so many bytes of rank and body.
pub(super) fn weight(key: &[u8], bytes: i32) -> u64 {
    let bare = Record { kind: 0, key: key.to_vec(), rank: Vec::new(), body: Vec::new() };
    bare.weight() as u64 + u64::from(bytes.max(0).cast_unsigned())
}

fn damaged(what: &str) -> Fault {
    Fault::Damaged(format!("{what} is not as it was written"))
}

fn number(row: &SqlRow, column: usize) -> Outcome<u64> {
    u64::try_from(row.try_get::<_, i64>(column)?).map_err(|_| damaged("a number"))
}

fn run_id(row: &SqlRow, column: usize) -> Outcome<u128> {
    let bytes: &[u8] = row.try_get(column)?;
    Ok(u128::from_le_bytes(bytes.try_into().map_err(|_| damaged("a run"))?))
}

pub(super) fn row(row: &SqlRow) -> Outcome<Row> {
    let kind: i32 = row.try_get(0)?;
    let lsn = number(row, 2)?;
    let from = match row.try_get(3)? {
        "" => None,
        origin => Some(origin.parse::<ControllerId>().map_err(|_| damaged("a record"))?),
    };
    let record = Record {
        kind: u16::try_from(kind).map_err(|_| damaged("a record"))?,
        key: row.try_get(1)?,
        rank: row.try_get(5)?,
        body: row.try_get(6)?,
    };
    if row.try_get::<_, i64>(4)? != i64::from(row_checksum(&record, lsn, from.as_ref())) {
        return Err(damaged(&format!("the record with the change {lsn}")));
    }
    Ok(Row { lsn, from, record })
}

pub(super) fn counters(
    client: &mut impl postgres::GenericClient,
    partition: &ControllerId,
) -> Outcome<Counters> {
    let row = client.query_one("SELECT head, floor, records, bytes, crc FROM meta", &[])?;
    let totals = Totals { records: number(&row, 2)?, bytes: number(&row, 3)? };
    let counters = Counters { head: number(&row, 0)?, floor: number(&row, 1)?, totals };
    if number(&row, 4)? == u64::from(counters.checksum(partition.as_str())) {
        Ok(counters)
    } else {
        Err(damaged("the row of counters"))
    }
}

/// The runs, oldest first.
pub(super) fn runs(client: &mut impl postgres::GenericClient) -> Outcome<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for row in client.query("SELECT run, began, crc FROM run ORDER BY number", &[])? {
        let run = Run { id: run_id(&row, 0)?, began: number(&row, 1)? };
        let whole = number(&row, 2)? == u64::from(run.checksum());
        if !whole || runs.last().is_some_and(|last| last.began > run.began) {
            return Err(damaged("a run"));
        }
        runs.push(run);
    }
    Ok(runs)
}

pub(super) fn taken(row: &SqlRow, partner: &str) -> Outcome<Position> {
    let position = Position { run: run_id(row, 0)?, lsn: number(row, 1)? };
    if number(row, 2)? == u64::from(taken_checksum(partner, position)) {
        Ok(position)
    } else {
        Err(damaged("a partner's position"))
    }
}
