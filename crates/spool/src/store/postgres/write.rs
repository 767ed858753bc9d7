//! What a transaction writes.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Row, Statement};

use super::line::{Line, Transaction};
use super::schema::Names;
use super::session::Fault;
use crate::request::RequestId;
use crate::store::counters::{Counters, Quota, Share};
use crate::store::row::{self, End, id_bytes, id_of, state};
use crate::store::{Appended, Batch, Finish, NewRecord, PairState};

/// Bytes of records or answers in one message to the server, unless one has more: the server takes
/// 1 GiB.
const MESSAGE: u64 = 8 << 20;
/// Records in one message to the server.
const ROWS: usize = 1024;

/// What is asked in each transaction, prepared once for each session.
pub(super) struct Statements {
    counters: Statement,
    end: Statement,
    touch: Statement,
    state: Statement,
    known: Statement,
    insert: Statement,
    finish: Statement,
    purge: Statement,
    sent: Statement,
    held: Statement,
    quarantine: Statement,
    forget: Statement,
}

impl Statements {
    pub(super) fn prepare(client: &mut Line, names: &Names) -> Result<Self, Fault> {
        let Names { meta, record, .. } = names;
        let mut ask = |sql: String| client.prepare(&sql);
        Ok(Self {
            counters: ask(format!(
                "SELECT last_lsn, pending, bytes, held, in_doubt, quarantined, serial, writer
                 FROM {meta} WHERE pair = $1 FOR UPDATE"
            ))?,
            end: ask(format!(
                "UPDATE {meta} SET last_lsn = $2, pending = $3, bytes = $4, held = $5,
                 in_doubt = $6, quarantined = $7, serial = $8, writer = $9 WHERE pair = $1"
            ))?,
            touch: ask(format!("UPDATE {meta} SET serial = serial WHERE pair = $1"))?,
            state: ask(format!(
                "UPDATE {meta} SET epoch = $2, holder = $3, on_hold = $4 WHERE pair = $1"
            ))?,
            known: ask(format!(
                "SELECT id, lsn, fingerprint, state, answer, code, note
                 FROM {record} WHERE id = ANY($1)"
            ))?,
            insert: ask(format!(
                "INSERT INTO {record} (lsn, id, lane, kind, epoch, accepted_ms, crc, fingerprint,
                 weight, sent, held, key, payload, state, aside)
                 SELECT *, 0, false FROM unnest($1::int8[], $2::bytea[], $3::int8[], $4::int8[],
                 $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[], $10::bool[],
                 $11::bool[], $12::bytea[], $13::bytea[])"
            ))?,
            finish: ask(format!(
                "UPDATE {record} AS r SET state = u.state, answer = u.answer, code = u.code,
                 note = u.note, ended_ms = $6, aside = (u.state = 2),
                 key = CASE WHEN u.state = 2 THEN r.key END,
                 payload = CASE WHEN u.state = 2 THEN r.payload END
                 FROM unnest($1::int8[], $2::int2[], $3::bytea[], $4::int8[], $5::bytea[])
                 AS u (lsn, state, answer, code, note)
                 WHERE r.lsn = u.lsn AND r.state = 0
                 RETURNING r.weight, r.sent, r.held, r.aside"
            ))?,
            purge: ask(format!(
                "UPDATE {record} SET aside = false, key = NULL, payload = NULL,
                 ended_ms = $2,
                 state = CASE state WHEN 5 THEN 4 ELSE state END
                 WHERE lsn = ANY($1) AND aside"
            ))?,
            sent: ask(format!(
                "UPDATE {record} SET sent = $2 WHERE lsn = ANY($1) AND state = 0 AND sent <> $2"
            ))?,
            held: ask(format!(
                "UPDATE {record} SET held = $2 WHERE lsn = ANY($1) AND state = 0 AND held <> $2"
            ))?,
            quarantine: ask(format!(
                "UPDATE {record} SET state = 5, aside = true, note = $2
                 WHERE lsn = $1 AND state = 0 RETURNING weight, sent, held"
            ))?,
            forget: ask(format!(
                "DELETE FROM {record} WHERE lsn IN (
                     SELECT lsn FROM {record}
                     WHERE ended_ms IS NOT NULL AND NOT aside AND ended_ms < $1
                     ORDER BY ended_ms LIMIT $2
                 )"
            ))?,
        })
    }
}

/// An open transaction.
pub(super) struct Writing<'a> {
    tx: Transaction<'a>,
    statements: &'a Statements,
    pair: &'a str,
    pub(super) counters: Counters,
    /// Who wrote last.
    pub(super) writer: i64,
    now_ms: u64,
}

impl<'a> Writing<'a> {
    /// Begins, and takes the row of the pair: whatever another session has under way comes before.
    pub(super) fn begin(
        client: &'a mut Line,
        statements: &'a Statements,
        pair: &'a str,
    ) -> Result<Self, Fault> {
        let mut tx = client.transaction()?;
        let row = tx.query_one(&statements.counters, &[&pair])?;
        let (counters, writer) = (counters_of(&row)?, row.try_get(7)?);
        Ok(Self { tx, statements, pair, counters, writer, now_ms: row::now_ms() })
    }

    /// Writes the row of the pair as it is, and gives the transaction to be committed: what was
    /// written before is then where this is.
    pub(super) fn touch(mut self) -> Result<Transaction<'a>, Fault> {
        self.tx.execute(&self.statements.touch, &[&self.pair])?;
        Ok(self.tx)
    }

    /// Writes the counters, and gives the transaction to be committed.
    pub(super) fn end(mut self, writer: i64) -> Result<Transaction<'a>, Fault> {
        let counters = self.counters;
        self.tx.execute(
            &self.statements.end,
            &[
                &self.pair,
                &counters.last_lsn.cast_signed(),
                &counters.pending.cast_signed(),
                &counters.bytes.cast_signed(),
                &counters.held.cast_signed(),
                &counters.in_doubt.cast_signed(),
                &counters.quarantined.cast_signed(),
                &(counters.serial + 1).cast_signed(),
                &writer,
            ],
        )?;
        Ok(self.tx)
    }

    /// All of a batch.
    pub(super) fn batch(&mut self, batch: &Batch, quota: Quota) -> Result<Vec<Appended>, Fault> {
        let results = self.append(&batch.append, quota)?;
        self.finish(&batch.finish)?;
        let statements = self.statements;
        self.counters.in_doubt += self.mark(&statements.sent, &batch.sent, true)?;
        let undone = self.mark(&statements.sent, &batch.unsent, false)?;
        self.counters.in_doubt = self.counters.in_doubt.saturating_sub(undone);
        self.counters.held += self.mark(&statements.held, &batch.hold, true)?;
        let undone = self.mark(&statements.held, &batch.release, false)?;
        self.counters.held = self.counters.held.saturating_sub(undone);
        if let Some(PairState { epoch, holder, on_hold }) = batch.state {
            self.tx.execute(
                &statements.state,
                &[&self.pair, &epoch.cast_signed(), &i16::from(holder), &on_hold],
            )?;
        }
        Ok(results)
    }

    fn append(&mut self, append: &[NewRecord], quota: Quota) -> Result<Vec<Appended>, Fault> {
        if append.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = self.known(append)?;
        let mut results = Vec::with_capacity(append.len());
        let mut new = Vec::new();
        for one in append {
            let fingerprint = one.record.fingerprint();
            if let Some((lsn, kept, end)) = known.get(&one.record.id) {
                results.push(row::again(*lsn, *kept, fingerprint, end.clone()));
                continue;
            }
            let share = Share::of(one);
            if !self.counters.admits(share.weight, quota) {
                results.push(Appended::OverQuota);
                continue;
            }
            let lsn = self.counters.append(share);
            let end = End { state: state::PENDING, answer: None, code: None, note: None };
            known.insert(one.record.id, (lsn, fingerprint, end));
            new.push((lsn, one));
            results.push(Appended::New { lsn });
        }
        for part in parts(&new, |(_, one)| one.record.weight()) {
            self.insert(part)?;
        }
        Ok(results)
    }

    fn known(
        &mut self,
        append: &[NewRecord],
    ) -> Result<HashMap<RequestId, (u64, u64, End)>, Fault> {
        let ids: Vec<Vec<u8>> = append.iter().map(|new| id_bytes(new.record.id).to_vec()).collect();
        let mut known = HashMap::new();
        for row in self.tx.query(&self.statements.known, &[&ids])? {
            let id = id_of(row.try_get(0)?);
            let lsn: i64 = row.try_get(1)?;
            let fingerprint: i64 = row.try_get(2)?;
            if let Some(id) = id {
                let end = end_of(&row, 3)?;
                known.insert(id, (lsn.cast_unsigned(), fingerprint.cast_unsigned(), end));
            }
        }
        Ok(known)
    }

    fn insert(&mut self, new: &[(u64, &NewRecord)]) -> Result<(), Fault> {
        fn each<T>(new: &[(u64, &NewRecord)], of: impl Fn(&NewRecord) -> T) -> Vec<T> {
            new.iter().map(|(_, one)| of(one)).collect()
        }
        let places: Vec<i64> = new.iter().map(|(lsn, _)| lsn.cast_signed()).collect();
        let keys: Vec<&[u8]> = new.iter().map(|(_, one)| one.record.key.as_slice()).collect();
        let payloads: Vec<&[u8]> =
            new.iter().map(|(_, one)| one.record.payload.as_slice()).collect();
        self.tx.execute(
            &self.statements.insert,
            &[
                &places,
                &each(new, |one| id_bytes(one.record.id).to_vec()),
                &each(new, |one| one.record.lane().0.cast_signed()),
                &each(new, |one| i64::from(one.record.kind.code())),
                &each(new, |one| one.record.epoch.cast_signed()),
                &each(new, |one| one.record.accepted_ms.cast_signed()),
                &each(new, |one| i64::from(one.record.checksum())),
                &each(new, |one| one.record.fingerprint().cast_signed()),
                &each(new, |one| one.record.weight().cast_signed()),
                &each(new, |one| one.sent),
                &each(new, |one| one.held),
                &keys,
                &payloads,
            ],
        )?;
        Ok(())
    }

    fn finish(&mut self, finish: &[(u64, Finish)]) -> Result<(), Fault> {
        let mut seen = HashSet::new();
        let mut ends = Vec::new();
        // A second end of a record is passed over, unless it purges what the first set aside.
        let mut again = Vec::new();
        for (lsn, end) in finish {
            if seen.insert(*lsn) {
                ends.push((lsn.cast_signed(), End::of(end)));
            }
            if matches!(end, Finish::Purged) {
                again.push(lsn.cast_signed());
            }
        }
        let bytes = |end: &End| end.answer.as_ref().map_or(0, |answer| answer.len() as u64);
        for part in parts(&ends, |(_, end)| bytes(end) + 64) {
            self.finish_part(part)?;
        }
        if !again.is_empty() {
            let purged =
                self.tx.execute(&self.statements.purge, &[&again, &self.now_ms.cast_signed()])?;
            self.counters.quarantined = self.counters.quarantined.saturating_sub(purged);
        }
        Ok(())
    }

    fn finish_part(&mut self, ends: &[(i64, End)]) -> Result<(), Fault> {
        let places: Vec<i64> = ends.iter().map(|(lsn, _)| *lsn).collect();
        let states: Vec<i16> = ends.iter().map(|(_, end)| end.state).collect();
        let answers: Vec<Option<&[u8]>> =
            ends.iter().map(|(_, end)| end.answer.as_deref()).collect();
        let codes: Vec<Option<i64>> = ends.iter().map(|(_, end)| end.code.map(i64::from)).collect();
        let notes: Vec<Option<&[u8]>> =
            ends.iter().map(|(_, end)| end.note.as_deref().map(str::as_bytes)).collect();
        let ended = self.tx.query(
            &self.statements.finish,
            &[&places, &states, &answers, &codes, &notes, &self.now_ms.cast_signed()],
        )?;
        for row in ended {
            self.counters.leave(share_of(&row)?);
            self.counters.quarantined += u64::from(row.try_get::<_, bool>(3)?);
        }
        Ok(())
    }

    /// Says how many were not marked so before.
    fn mark(&mut self, mark: &Statement, places: &[u64], on: bool) -> Result<u64, Fault> {
        if places.is_empty() {
            return Ok(0);
        }
        let places: Vec<i64> = places.iter().map(|lsn| lsn.cast_signed()).collect();
        self.tx.execute(mark, &[&places, &on])
    }

    pub(super) fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), Fault> {
        let row = self
            .tx
            .query_opt(&self.statements.quarantine, &[&lsn.cast_signed(), &what.as_bytes()])?;
        if let Some(row) = row {
            self.counters.leave(share_of(&row)?);
            self.counters.quarantined += 1;
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, Fault> {
        let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.tx.execute(&self.statements.forget, &[&before, &limit])
    }
}

/// In pieces that fit into a message.
fn parts<T>(all: &[T], weight: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut from, mut sum) = (0, 0_u64);
    for (at, one) in all.iter().enumerate() {
        let more = weight(one);
        if at > from && (sum.saturating_add(more) > MESSAGE || at - from >= ROWS) {
            parts.push(&all[from..at]);
            (from, sum) = (at, 0);
        }
        sum = sum.saturating_add(more);
    }
    if from < all.len() {
        parts.push(&all[from..]);
    }
    parts
}

/// From the first seven columns.
pub(super) fn counters_of(row: &Row) -> Result<Counters, Fault> {
    let number = |column: usize| row.try_get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Counters {
        last_lsn: number(0)?,
        pending: number(1)?,
        bytes: number(2)?,
        held: number(3)?,
        in_doubt: number(4)?,
        quarantined: number(5)?,
        serial: number(6)?,
    })
}

fn share_of(row: &Row) -> Result<Share, Fault> {
    let weight: i64 = row.try_get(0)?;
    Ok(Share { weight: weight.cast_unsigned(), sent: row.try_get(1)?, held: row.try_get(2)? })
}

/// State, answer, code and note, from this column on.
pub(super) fn end_of(row: &Row, from: usize) -> Result<End, Fault> {
    let code: Option<i64> = row.try_get(from + 2)?;
    let note: Option<&[u8]> = row.try_get(from + 3)?;
    Ok(End {
        state: row.try_get(from)?,
        answer: row.try_get(from + 1)?,
        code: code.and_then(|code| u32::try_from(code).ok()),
        note: note.map(|note| String::from_utf8_lossy(note).into_owned()),
    })
}
