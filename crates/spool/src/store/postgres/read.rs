//! What a reader finds.

use std::fmt;
use std::time::{Duration, Instant};

use tokio_postgres::Row as SqlRow;

use super::PostgresConfig;
use super::line::{Line, Transaction};
use super::schema::Names;
use super::session::{self, Fault};
use super::write::{counters_of, end_of};
use crate::limits::BATCH_BYTES_MAX;
use crate::record::Lane;
use crate::request::RequestId;
use crate::store::counters::Counters;
use crate::store::row::{self, DAMAGED_MAX, Kept, Row, id_bytes, id_of};
use crate::store::{Checked, Found, Known, Listed, SpoolReader, StoreError, Totals};

/// The columns of [`Row`], the lane, and why a record was set aside.
const COLUMNS: &str =
    "lsn, id, kind, key, payload, epoch, accepted_ms, crc, sent, held, lane, code, note";
/// Records that a check has in memory at once.
const STEP: usize = 256;
/// How long one statement may take that counts all there is.
const COUNTING: Duration = Duration::from_secs(3600);
/// How often the newest record may end while it is read.
const TRIES: usize = 8;

/// Reads the spool of a pair in PostgreSQL, beside a front that holds it or without one.
///
/// Not from a thread of tokio's: the client would panic. A call takes up to
/// [`PostgresConfig::call_timeout`], and connects anew where that is needed.
pub struct PostgresReader {
    config: PostgresConfig,
    names: Names,
    client: Option<Line>,
}

impl fmt::Debug for PostgresReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresReader").field("pair", &self.names.pair).finish_non_exhaustive()
    }
}

impl PostgresReader {
    pub(super) fn open(config: &PostgresConfig, pair: &str) -> Result<Self, StoreError> {
        let names = Names::new(&config.schema, pair);
        let mut reader = Self { config: config.clone(), names, client: None };
        reader.at_once(|_, _| Ok(())).map_err(|fault| reader.error(fault))?;
        Ok(reader)
    }

    fn error(&self, fault: Fault) -> StoreError {
        session::error(&super::name(&self.names), fault)
    }

    /// One transaction: sees what was committed when it began. Begins anew where the connection
    /// was lost.
    fn at_once<T>(
        &mut self,
        mut job: impl FnMut(&mut Transaction<'_>, &Names) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let until = Instant::now() + self.config.call_timeout;
        loop {
            match self.transact(&mut job, until) {
                Err(Fault::Lost(_)) if Instant::now() < until => self.client = None,
                Err(fault) => {
                    self.client = None;
                    return Err(fault);
                }
                done => return done,
            }
        }
    }

    fn transact<T>(
        &mut self,
        job: &mut impl FnMut(&mut Transaction<'_>, &Names) -> Result<T, Fault>,
        until: Instant,
    ) -> Result<T, Fault> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let mut client = session::patiently(until, || {
                    session::connect(&self.config, &session::reader_name(&self.names.pair), until)
                })?;
                if !self.names.judge(&mut client)? {
                    let cause = format!("there is no pair {} in it", self.names.pair);
                    return Err(Fault::Foreign(cause));
                }
                client
            }
        };
        let client = self.client.insert(client);
        client.bound(until);
        let mut tx = client.snapshot()?;
        let result = job(&mut tx, &self.names)?;
        tx.commit()?;
        Ok(result)
    }

    /// Pending records one by one, where some cannot be read.
    fn pending_singly(&mut self, places: Vec<(i64, Lane)>) -> Result<Vec<Found>, Fault> {
        let mut all = Vec::with_capacity(places.len());
        for (place, lane) in places {
            let lsn = place.cast_unsigned();
            match self.at_once(|tx, names| rows(tx, names, &[place])) {
                Ok(found) => all.extend(found),
                Err(Fault::Damaged(cause)) => {
                    let what = format!("it cannot be read: {cause}");
                    all.push(Found::Damaged { lsn, lane, what });
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(all)
    }

    fn find_pending(
        &mut self,
        after: u64,
        limit: usize,
        weight_max: u64,
    ) -> Result<Vec<Found>, Fault> {
        let bulk = self.at_once(|tx, names| {
            let places = places(tx, names, after, limit, weight_max)?;
            let places: Vec<i64> = places.into_iter().map(|(lsn, _)| lsn).collect();
            rows(tx, names, &places)
        });
        let Err(Fault::Damaged(_)) = bulk else { return bulk };
        let places = self.at_once(|tx, names| places(tx, names, after, limit, weight_max))?;
        self.pending_singly(places)
    }

    /// Checksums of all that is pending, and the counters.
    fn check_all(&mut self) -> Result<Checked, Fault> {
        let mut checked = Checked::default();
        let mut after = 0;
        loop {
            let step = self.find_pending(after, STEP, BATCH_BYTES_MAX as u64)?;
            let Some(last) = step.last() else { break };
            after = last.lsn();
            for found in step {
                if let Found::Damaged { lsn, .. } = found
                    && checked.damaged.len() < DAMAGED_MAX
                {
                    checked.damaged.push(lsn);
                }
            }
        }
        let (records, faults) = self.at_once(count)?;
        checked.records = records;
        checked.faults = faults;
        Ok(checked)
    }
}

impl SpoolReader for PostgresReader {
    fn pending(
        &mut self,
        after: u64,
        limit: usize,
        weight_max: u64,
    ) -> Result<Vec<Found>, StoreError> {
        self.find_pending(after, limit, weight_max).map_err(|fault| self.error(fault))
    }

    fn newest(&mut self, lane: Lane) -> Result<Option<Found>, StoreError> {
        for _ in 0..TRIES {
            let place = self.at_once(|tx, names| {
                let sql = format!(
                    "SELECT lsn FROM {} WHERE state = 0 AND lane = $1 ORDER BY lsn DESC LIMIT 1",
                    names.record
                );
                let found = tx.query_opt(&sql, &[&lane.0.cast_signed()])?;
                Ok(found.map(|row| row.try_get::<_, i64>(0)).transpose()?)
            });
            let found = place.and_then(|place| match place {
                Some(place) => Ok(Some(self.pending_singly(vec![(place, lane)])?.pop())),
                None => Ok(None),
            });
            match found.map_err(|fault| self.error(fault))? {
                // It has ended between the two looks, and another may be the newest now.
                Some(None) => {}
                Some(found) => return Ok(found),
                None => return Ok(None),
            }
        }
        let cause = "records end faster than they can be read".to_owned();
        Err(self.error(Fault::Failed(cause)))
    }

    fn find(&mut self, id: RequestId) -> Result<Option<Known>, StoreError> {
        let known = self.at_once(|tx, names| {
            let sql = format!(
                "SELECT lsn, fingerprint, state, answer, code, note FROM {} WHERE id = $1",
                names.record
            );
            let Some(row) = tx.query_opt(&sql, &[&&id_bytes(id)[..]])? else { return Ok(None) };
            let lsn: i64 = row.try_get(0)?;
            let fingerprint: i64 = row.try_get(1)?;
            Ok(Some(end_of(&row, 2)?.known(lsn.cast_unsigned(), fingerprint.cast_unsigned())))
        });
        known.map_err(|fault| self.error(fault))
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.at_once(totals).map_err(|fault| self.error(fault))
    }

    fn list(&mut self, after: u64, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let listed = self.at_once(|tx, names| {
            // Two of the indexes, and not the ended records between.
            let record = &names.record;
            let columns = "lsn, id, kind, substr(key, 1, $3) AS head, \
                           length(payload)::int8 AS long, accepted_ms, state, sent, held, \
                           code, note";
            let sql = format!(
                "(SELECT {columns} FROM {record} WHERE state = 0 AND lsn > $1
                  ORDER BY lsn LIMIT $2)
                 UNION ALL
                 (SELECT {columns} FROM {record} WHERE aside AND lsn > $1
                  ORDER BY lsn LIMIT $2)
                 ORDER BY lsn LIMIT $2"
            );
            let head = i32::try_from(row::LISTED_KEY).unwrap_or(i32::MAX);
            let rows = tx.query(&sql, &[&bound(after), &size(limit), &head])?;
            rows.iter().map(listed).collect()
        });
        listed.map_err(|fault| self.error(fault))
    }

    fn kept(&mut self, lsn: u64) -> Result<Option<Kept>, StoreError> {
        let kept = self.at_once(|tx, names| {
            let sql = format!(
                "SELECT {COLUMNS} FROM {} WHERE lsn = $1 AND (state = 0 OR aside)",
                names.record
            );
            let Some(found) = tx.query_opt(&sql, &[&lsn.cast_signed()])? else { return Ok(None) };
            let (row, _) = row_of(&found)?;
            Ok(Some(row.kept(note_of(&found, 11)?)))
        });
        kept.map_err(|fault| self.error(fault))
    }

    fn ages(&mut self, now_ms: u64, edges_ms: &[u64]) -> Result<Vec<u64>, StoreError> {
        let ages = self.at_once(|tx, names| {
            at_leisure(tx)?;
            let sql = tx.prepare(&format!(
                "SELECT count(*) FROM {}
                 WHERE state = 0 AND accepted_ms >= $1 AND accepted_ms < $2",
                names.record
            ))?;
            row::spans(now_ms, edges_ms)
                .into_iter()
                .map(|(from, until)| {
                    let from = from.map_or(i64::MIN, bound);
                    let until = until.map_or(i64::MAX, bound);
                    let row = tx.query_one(&sql, &[&from, &until])?;
                    Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
                })
                .collect()
        });
        ages.map_err(|fault| self.error(fault))
    }

    fn check(&mut self) -> Result<Checked, StoreError> {
        self.check_all().map_err(|fault| self.error(fault))
    }
}

fn bound(moment: u64) -> i64 {
    i64::try_from(moment).unwrap_or(i64::MAX)
}

fn size(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// What waits.
pub(super) fn totals(tx: &mut Transaction<'_>, names: &Names) -> Result<Totals, Fault> {
    let oldest = tx.query_opt(
        &format!(
            "SELECT accepted_ms FROM {} WHERE state = 0 ORDER BY accepted_ms LIMIT 1",
            names.record
        ),
        &[],
    )?;
    let oldest = match oldest {
        Some(row) => row.try_get::<_, i64>(0)?.cast_unsigned(),
        None => 0,
    };
    Ok(counters(tx, names)?.totals(oldest))
}

fn counters(tx: &mut Transaction<'_>, names: &Names) -> Result<Counters, Fault> {
    let sql = format!(
        "SELECT last_lsn, pending, bytes, held, in_doubt, quarantined, serial
         FROM {} WHERE pair = $1",
        names.meta
    );
    counters_of(&tx.query_one(&sql, &[&names.pair])?)
}

/// Which pending records come next.
fn places(
    tx: &mut Transaction<'_>,
    names: &Names,
    after: u64,
    limit: usize,
    weight_max: u64,
) -> Result<Vec<(i64, Lane)>, Fault> {
    let sql = format!(
        "SELECT lsn, lane, weight FROM {} WHERE state = 0 AND lsn > $1 ORDER BY lsn LIMIT $2",
        names.record
    );
    let mut places = Vec::new();
    let mut weight = 0_u64;
    for row in tx.query(&sql, &[&bound(after), &size(limit)])? {
        let lane: i64 = row.try_get(1)?;
        places.push((row.try_get(0)?, Lane(lane.cast_unsigned())));
        weight = weight.saturating_add(row.try_get::<_, i64>(2)?.cast_unsigned());
        if weight >= weight_max {
            break;
        }
    }
    Ok(places)
}

fn rows(tx: &mut Transaction<'_>, names: &Names, places: &[i64]) -> Result<Vec<Found>, Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {} WHERE lsn = ANY($1) AND state = 0 ORDER BY lsn",
        names.record
    );
    tx.query(&sql, &[&places])?
        .iter()
        .map(|row| {
            let (row, lane) = row_of(row)?;
            Ok(row.found(lane))
        })
        .collect()
}

fn row_of(row: &SqlRow) -> Result<(Row, Lane), Fault> {
    let number = |column: usize| row.try_get::<_, i64>(column);
    let bytes =
        |column: usize| row.try_get::<_, Option<Vec<u8>>>(column).map(Option::unwrap_or_default);
    let columns = Row {
        lsn: number(0)?.cast_unsigned(),
        id: bytes(1)?,
        kind: number(2)?,
        key: bytes(3)?,
        payload: bytes(4)?,
        epoch: number(5)?.cast_unsigned(),
        accepted_ms: number(6)?.cast_unsigned(),
        crc: number(7)?,
        sent: row.try_get(8)?,
        held: row.try_get(9)?,
    };
    Ok((columns, Lane(number(10)?.cast_unsigned())))
}

/// From the columns for code and note.
fn note_of(row: &SqlRow, from: usize) -> Result<String, Fault> {
    let code: Option<i64> = row.try_get(from)?;
    let note: Option<&[u8]> = row.try_get(from + 1)?;
    let note = note.map(|note| String::from_utf8_lossy(note).into_owned());
    Ok(row::aside_note(code.and_then(|code| u32::try_from(code).ok()), note))
}

fn listed(row: &SqlRow) -> Result<Listed, Fault> {
    let pending = row.try_get::<_, i16>(6)? == row::state::PENDING;
    Ok(Listed {
        lsn: row.try_get::<_, i64>(0)?.cast_unsigned(),
        id: id_of(row.try_get(1)?).unwrap_or(RequestId(0)),
        kind: u32::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0),
        key: row.try_get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default(),
        payload_len: row.try_get::<_, Option<i64>>(4)?.unwrap_or(0).cast_unsigned(),
        accepted_ms: row.try_get::<_, i64>(5)?.cast_unsigned(),
        state: row::word(pending, row.try_get(7)?, row.try_get(8)?),
        note: note_of(row, 9)?,
    })
}

/// Lets the rest of a transaction take as long as it has to look at everything, and in the order in
/// which it lies.
fn at_leisure(tx: &mut Transaction<'_>) -> Result<(), Fault> {
    tx.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on")?;
    tx.bound(Instant::now() + COUNTING);
    Ok(())
}

/// How many records there are, and what the counters have wrong.
fn count(tx: &mut Transaction<'_>, names: &Names) -> Result<(u64, Vec<String>), Fault> {
    at_leisure(tx)?;
    let row = tx.query_one(
        &format!(
            "SELECT coalesce(max(lsn), 0)::int8,
             count(*) FILTER (WHERE state = 0),
             coalesce(sum(weight) FILTER (WHERE state = 0), 0)::int8,
             count(*) FILTER (WHERE state = 0 AND held),
             count(*) FILTER (WHERE state = 0 AND sent),
             count(*) FILTER (WHERE aside), 0::int8, count(*) FROM {}",
            names.record
        ),
        &[],
    )?;
    let counted = counters_of(&row)?;
    let all = row.try_get::<_, i64>(7)?.cast_unsigned();
    Ok((all, counters(tx, names)?.faults(&counted)))
}
