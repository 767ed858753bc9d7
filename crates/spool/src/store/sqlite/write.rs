//! What a transaction writes.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::{Fault, is_local};
use crate::record::Record;
use crate::store::counters::{Counters, Quota, Share};
use crate::store::row::{self, End, id_bytes, state};
use crate::store::{Appended, Batch, Finish, NewRecord, PairState};

/// Records on damaged pages that one transaction puts up with.
const DAMAGED_MAX: usize = 512;

/// Why a transaction cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The row of this record cannot be changed: begin anew, with the record set aside.
    Row { lsn: u64, cause: String },
    /// The bytes of this record cannot be dropped: begin anew, and let them lie.
    Body { lsn: u64, cause: String },
    /// Anything else.
    Fault(Fault),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// An error while the row of one record was changed.
fn at(lsn: u64) -> impl Fn(rusqlite::Error) -> Stop {
    move |error| {
        if is_local(&error) { Stop::Row { lsn, cause: error.to_string() } } else { error.into() }
    }
}

/// What earlier attempts at a transaction have met.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Records whose rows cannot be changed, and why.
    pub(super) broken: Vec<(u64, String)>,
    /// Records whose bytes cannot be dropped. They take up room and are seen by nobody.
    pub(super) stuck: Vec<u64>,
}

impl Met {
    /// Whether the transaction may be tried again with one more.
    pub(super) fn has_room_for(&self, lsn: u64) -> bool {
        self.broken.len() + self.stuck.len() < DAMAGED_MAX
            && self.broken.iter().all(|(broken, _)| *broken != lsn)
            && !self.stuck.contains(&lsn)
    }
}

/// An open transaction.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    conn: &'a Connection,
    met: &'a Met,
    pub(super) counters: Counters,
    now_ms: u64,
}

impl<'a> Writing<'a> {
    /// In a transaction that has just begun.
    pub(super) fn new(conn: &'a Connection, met: &'a Met) -> Result<Self, rusqlite::Error> {
        Ok(Self { conn, met, counters: counters(conn)?, now_ms: row::now_ms() })
    }

    /// Writes the counters: the last thing before the commit.
    pub(super) fn end(&mut self) -> Result<(), rusqlite::Error> {
        self.counters.serial += 1;
        let Counters { last_lsn, pending, bytes, held, in_doubt, quarantined, serial } =
            self.counters;
        self.run(
            "UPDATE meta SET last_lsn = ?1, pending = ?2, bytes = ?3, held = ?4, in_doubt = ?5, \
             quarantined = ?6, serial = ?7",
            params![
                int(last_lsn),
                int(pending),
                int(bytes),
                int(held),
                int(in_doubt),
                int(quarantined),
                int(serial)
            ],
        )?;
        Ok(())
    }

    /// Changes the row of one record, which is there by an index. That no row is changed is damage
    /// as well: without it the counters and the index would part.
    fn change(&self, lsn: u64, sql: &str, params: impl rusqlite::Params) -> Result<(), Stop> {
        match self.run(sql, params).map_err(at(lsn))? {
            0 => {
                Err(Stop::Row { lsn, cause: "an index knows it, its row is not there".to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, rusqlite::Error> {
        self.conn.prepare_cached(sql)?.execute(params)
    }

    /// All of a batch.
    pub(super) fn batch(&mut self, batch: &Batch, quota: Quota) -> Result<Vec<Appended>, Stop> {
        let mut results = Vec::with_capacity(batch.append.len());
        for new in &batch.append {
            results.push(self.append(new, quota)?);
        }
        for (lsn, finish) in &batch.finish {
            self.finish(*lsn, finish)?;
        }
        for &lsn in &batch.sent {
            self.mark_sent(lsn, true)?;
        }
        for &lsn in &batch.unsent {
            self.mark_sent(lsn, false)?;
        }
        for &lsn in &batch.hold {
            self.mark_held(lsn, true)?;
        }
        for &lsn in &batch.release {
            self.mark_held(lsn, false)?;
        }
        if let Some(PairState { epoch, holder, on_hold }) = batch.state {
            self.run(
                "UPDATE meta SET epoch = ?1, holder = ?2, on_hold = ?3",
                params![int(epoch), holder, on_hold],
            )?;
        }
        Ok(results)
    }

    fn append(&mut self, new: &NewRecord, quota: Quota) -> Result<Appended, Stop> {
        let share = Share::of(new);
        // Most ids are new ones: the index on them is asked once, by the insertion.
        let admitted = self.counters.admits(share.weight, quota);
        if admitted && self.insert(new, share)? {
            return Ok(Appended::New { lsn: self.counters.append(share) });
        }
        match self.known(&new.record)? {
            Some(again) => Ok(again),
            None => Ok(Appended::OverQuota),
        }
    }

    /// `false`: the id is known.
    fn insert(&self, new: &NewRecord, share: Share) -> Result<bool, Stop> {
        let record = &new.record;
        let inserted = self.run(
            "INSERT INTO record (lsn, id, lane, kind, epoch, accepted_ms, crc, fingerprint, \
             state, aside, weight, sent, held) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10, ?11) \
             ON CONFLICT (id) DO NOTHING",
            params![
                int(self.counters.last_lsn + 1),
                id_bytes(record.id),
                record.lane().0.cast_signed(),
                record.kind.code(),
                int(record.epoch),
                int(record.accepted_ms),
                record.checksum(),
                record.fingerprint().cast_signed(),
                int(share.weight),
                new.sent,
                new.held,
            ],
        )?;
        if inserted == 0 {
            return Ok(false);
        }
        self.run(
            "INSERT INTO body (lsn, key, payload) VALUES (?1, ?2, ?3)",
            params![int(self.counters.last_lsn + 1), record.key, record.payload],
        )?;
        Ok(true)
    }

    /// What a record is told whose id is known.
    fn known(&self, record: &Record) -> Result<Option<Appended>, Stop> {
        let lsn = self
            .conn
            .prepare_cached("SELECT lsn FROM record INDEXED BY record_id WHERE id = ?1")?
            .query_row(params![id_bytes(record.id)], |row| row.get(0).map(uint))
            .optional()?;
        let Some(lsn) = lsn else { return Ok(None) };
        let broken = self
            .conn
            .prepare_cached("SELECT 1 FROM broken WHERE lsn = ?1")?
            .exists(params![int(lsn)])?;
        if broken {
            // It was appended, and nobody can say what it was.
            return Ok(Some(Appended::Duplicate { lsn, end: None }));
        }
        let (fingerprint, end) = self
            .conn
            .prepare_cached(
                "SELECT fingerprint, state, answer, code, note FROM record WHERE lsn = ?1",
            )?
            .query_row(params![int(lsn)], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), end_of(row, 1)?))
            })
            .map_err(at(lsn))?;
        Ok(Some(row::again(lsn, fingerprint, record.fingerprint(), end)))
    }

    /// What counts of a record, if it is pending. Does not look at its row.
    fn pending(&self, lsn: u64) -> Result<Option<Share>, rusqlite::Error> {
        self.conn
            .prepare_cached(
                "SELECT weight, sent, held FROM record INDEXED BY record_pending \
                 WHERE state = 0 AND lsn = ?1 \
                 AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = ?1)",
            )?
            .query_row(params![int(lsn)], |row| {
                Ok(Share { weight: uint(row.get(0)?), sent: row.get(1)?, held: row.get(2)? })
            })
            .optional()
    }

    fn finish(&mut self, lsn: u64, finish: &Finish) -> Result<(), Stop> {
        let Some(share) = self.pending(lsn)? else {
            return match finish {
                Finish::Purged => self.purge_aside(lsn),
                _ => Ok(()),
            };
        };
        let End { state, answer, code, note } = End::of(finish);
        // What the backend refuses waits for an operator, who wants to see it.
        let aside = state == state::REFUSED;
        self.change(
            lsn,
            "UPDATE record SET state = ?2, answer = ?3, code = ?4, note = ?5, ended_ms = ?6, \
             aside = ?7 WHERE lsn = ?1",
            params![int(lsn), state, answer, code, note, int(self.now_ms), aside],
        )?;
        if !aside {
            self.drop_body(lsn)?;
        }
        self.counters.leave(share);
        self.counters.quarantined += u64::from(aside);
        Ok(())
    }

    fn drop_body(&self, lsn: u64) -> Result<(), Stop> {
        if self.met.stuck.contains(&lsn) {
            return Ok(());
        }
        match self.run("DELETE FROM body WHERE lsn = ?1", params![int(lsn)]) {
            Err(e) if is_local(&e) => Err(Stop::Body { lsn, cause: e.to_string() }),
            done => Ok(done.map(|_| ())?),
        }
    }

    /// Drops the bytes of a record that was set aside.
    fn purge_aside(&mut self, lsn: u64) -> Result<(), Stop> {
        let broken = self
            .conn
            .prepare_cached("SELECT purged FROM broken WHERE lsn = ?1")?
            .query_row(params![int(lsn)], |row| row.get::<_, bool>(0))
            .optional()?;
        let gone = match broken {
            Some(true) => 0,
            Some(false) => {
                self.run("UPDATE broken SET purged = 1 WHERE lsn = ?1", params![int(lsn)])?
            }
            None => {
                let gone = self
                    .run(
                        "UPDATE record SET aside = 0, ended_ms = ?2, \
                         state = CASE state WHEN 5 THEN 4 ELSE state END \
                         WHERE lsn = ?1 AND aside = 1",
                        params![int(lsn), int(self.now_ms)],
                    )
                    .map_err(at(lsn))?;
                if gone > 0 {
                    self.drop_body(lsn)?;
                }
                gone
            }
        };
        self.counters.quarantined = self.counters.quarantined.saturating_sub(gone as u64);
        Ok(())
    }

    fn mark_sent(&mut self, lsn: u64, sent: bool) -> Result<(), Stop> {
        if self.pending(lsn)?.is_some_and(|share| share.sent != sent) {
            self.change(
                lsn,
                "UPDATE record SET sent = ?2 WHERE lsn = ?1",
                params![int(lsn), sent],
            )?;
            let count = &mut self.counters.in_doubt;
            *count = if sent { *count + 1 } else { count.saturating_sub(1) };
        }
        Ok(())
    }

    fn mark_held(&mut self, lsn: u64, held: bool) -> Result<(), Stop> {
        if self.pending(lsn)?.is_some_and(|share| share.held != held) {
            self.change(
                lsn,
                "UPDATE record SET held = ?2 WHERE lsn = ?1",
                params![int(lsn), held],
            )?;
            let count = &mut self.counters.held;
            *count = if held { *count + 1 } else { count.saturating_sub(1) };
        }
        Ok(())
    }

    /// Sets a pending record aside.
    pub(super) fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), Stop> {
        let Some(share) = self.pending(lsn)? else { return Ok(()) };
        self.change(
            lsn,
            "UPDATE record SET state = 5, aside = 1, note = ?2 WHERE lsn = ?1",
            params![int(lsn), what],
        )?;
        self.counters.leave(share);
        self.counters.quarantined += 1;
        Ok(())
    }

    /// Writes the counters anew from what is there.
    pub(super) fn recount(&mut self) -> Result<(), Stop> {
        let counted = counted(self.conn)?;
        let Counters { last_lsn, serial, .. } = self.counters;
        self.counters = Counters { last_lsn: last_lsn.max(counted.last_lsn), serial, ..counted };
        Ok(())
    }

    /// Sets a record aside whose row cannot be changed, beside the table.
    pub(super) fn set_broken(&mut self, lsn: u64, note: &str) -> Result<(), Stop> {
        let pending = self
            .conn
            .prepare_cached(
                "SELECT lane, weight, sent, held FROM record INDEXED BY record_pending \
                 WHERE state = 0 AND lsn = ?1",
            )?
            .query_row(params![int(lsn)], |row| {
                let share =
                    Share { weight: uint(row.get(1)?), sent: row.get(2)?, held: row.get(3)? };
                Ok((row.get::<_, i64>(0)?, share))
            })
            .optional()?;
        let aside = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM record INDEXED BY record_aside WHERE aside = 1 AND lsn = ?1",
            )?
            .exists(params![int(lsn)])?;
        let (lane, weight) = pending.map_or((0, 0), |(lane, share)| (lane, share.weight));
        let added = self.run(
            "INSERT INTO broken (lsn, lane, weight, purged, note) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (lsn) DO NOTHING",
            params![int(lsn), lane, int(weight), pending.is_none(), note],
        )?;
        if added == 0 {
            return Ok(());
        }
        if let Some((_, share)) = pending {
            self.counters.leave(share);
            self.counters.quarantined += 1;
        } else if aside {
            self.counters.quarantined = self.counters.quarantined.saturating_sub(1);
        }
        Ok(())
    }

    /// Forgets what ended long ago. What was set aside has ended for nobody until it is purged.
    pub(super) fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, Stop> {
        let ended: Vec<u64> = self
            .conn
            .prepare_cached(
                "SELECT lsn FROM record INDEXED BY record_ended \
                 WHERE ended_ms IS NOT NULL AND ended_ms < ?1 AND aside = 0 \
                 AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) \
                 ORDER BY ended_ms LIMIT ?2",
            )?
            .query_map(params![bound(before_ms), size(limit)], |row| row.get(0).map(uint))?
            .collect::<Result<_, _>>()?;
        for &lsn in &ended {
            self.change(lsn, "DELETE FROM record WHERE lsn = ?1", params![int(lsn)])?;
        }
        Ok(ended.len() as u64)
    }
}

/// Whether there is something to be forgotten.
pub(super) fn has_ended(conn: &Connection, before_ms: u64) -> Result<bool, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT 1 FROM record INDEXED BY record_ended \
         WHERE ended_ms IS NOT NULL AND ended_ms < ?1 AND aside = 0 \
         AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) LIMIT 1",
    )?
    .exists(params![bound(before_ms)])
}

/// The counters as they stand.
pub(super) fn counters(conn: &Connection) -> Result<Counters, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT last_lsn, pending, bytes, held, in_doubt, quarantined, serial FROM meta",
    )?
    .query_row([], |row| {
        Ok(Counters {
            last_lsn: uint(row.get(0)?),
            pending: uint(row.get(1)?),
            bytes: uint(row.get(2)?),
            held: uint(row.get(3)?),
            in_doubt: uint(row.get(4)?),
            quarantined: uint(row.get(5)?),
            serial: uint(row.get(6)?),
        })
    })
}

/// What the counters should be, but for the serial number. Takes as long as what waits is long.
pub(super) fn counted(conn: &Connection) -> Result<Counters, rusqlite::Error> {
    const ALIVE: &str = "NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn)";
    let mut counted = conn.query_row(
        &format!(
            "SELECT count(*), coalesce(sum(weight), 0), coalesce(sum(held), 0), \
             coalesce(sum(sent), 0) FROM record INDEXED BY record_pending \
             WHERE state = 0 AND {ALIVE}"
        ),
        [],
        |row| {
            Ok(Counters {
                pending: uint(row.get(0)?),
                bytes: uint(row.get(1)?),
                held: uint(row.get(2)?),
                in_doubt: uint(row.get(3)?),
                ..Counters::default()
            })
        },
    )?;
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0).map(uint));
    counted.quarantined = number(&format!(
        "SELECT count(*) FROM record INDEXED BY record_aside WHERE aside = 1 AND {ALIVE}"
    ))? + number("SELECT count(*) FROM broken WHERE purged = 0")?;
    counted.last_lsn = number("SELECT coalesce(max(lsn), 0) FROM record")?;
    Ok(counted)
}

/// Whether the counters and the index agree on whether anything waits.
pub(super) fn adds_up(conn: &Connection) -> Result<bool, rusqlite::Error> {
    let waits = conn
        .prepare(
            "SELECT 1 FROM record INDEXED BY record_pending WHERE state = 0 \
             AND NOT EXISTS (SELECT 1 FROM broken WHERE broken.lsn = record.lsn) LIMIT 1",
        )?
        .exists([])?;
    Ok(waits == (counters(conn)?.pending > 0))
}

/// State, answer, code and note, from this column on.
pub(super) fn end_of(row: &rusqlite::Row<'_>, from: usize) -> Result<End, rusqlite::Error> {
    Ok(End {
        state: row.get(from)?,
        answer: row.get(from + 1)?,
        code: row.get(from + 2)?,
        note: row.get(from + 3)?,
    })
}

/// SQLite's integers have a sign: the same 64 bits.
pub(super) fn int(number: u64) -> i64 {
    number.cast_signed()
}

/// Back from [`int`].
pub(super) fn uint(number: i64) -> u64 {
    number.cast_unsigned()
}

/// A moment to compare others with.
pub(super) fn bound(moment: u64) -> i64 {
    i64::try_from(moment).unwrap_or(i64::MAX)
}

/// A number of rows.
pub(super) fn size(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
