//! A snapshot that is here whole goes into the table.
//!
//! Its records come in the order of kind and key, and so does the table: what the table has in
//! between and the snapshot has not is found in one pass, with memory for one batch.

use super::{Merge, Step, check};
use crate::limits::BATCH_MAX;
use crate::model::{ControllerId, Location, Record, kind};
use crate::shard::Output;
use crate::store;

/// Looks into the table at once; then others have their turn.
const LOOKS_MAX: usize = 4;

/// A part of the table that is compared with the snapshot.
#[derive(Debug)]
struct Part {
    /// The devices that the snapshot has there, in order.
    keys: Vec<Vec<u8>>,
    /// The last device of the part; `None`: to the end.
    upto: Option<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Load {
    /// How many records there will be.
    expected: u64,
    seen: u64,
    /// The last one.
    last: Option<(u16, Vec<u8>)>,
    /// The table is compared up to this device.
    compared: Vec<u8>,
    part: Option<Part>,
    is_reading: bool,
    is_at_end: bool,
}

impl Load {
    pub(super) fn new(expected: u64) -> Self {
        Self {
            expected,
            seen: 0,
            last: None,
            compared: Vec::new(),
            part: None,
            is_reading: false,
            is_at_end: false,
        }
    }

    /// The next records; none: those were all. `Err`: why the snapshot is of no use.
    pub(super) fn records(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        partner: &ControllerId,
        confirmed: u64,
        records: &[Record],
    ) -> store::Result<Result<(), String>> {
        if !self.is_reading {
            return Ok(Ok(()));
        }
        self.is_reading = false;
        if let Err(what) = self.check(records) {
            return Ok(Err(what));
        }
        for record in records {
            let before = step.store.get(record.kind, &record.key)?;
            take_over(step, merge, partner, confirmed, record)?;
            // The partner may have purged what its snapshot has, and may have heard of what was
            // here since: it is told which of them stands.
            let was_other = |row: &store::Row| row.from.as_ref() != Some(partner);
            if before.filter(was_other).is_some_and(|row| record.beats(&row.record))
                // Unless it was left out, or has become something else on its way in.
                && step
                    .store
                    .get(record.kind, &record.key)?
                    .is_some_and(|row| row.record == *record)
            {
                step.store.put(record, None)?;
            }
        }
        let Some(last) = records.last() else {
            self.is_at_end = true;
            self.part = Some(Part { keys: Vec::new(), upto: None });
            return Ok(Ok(()));
        };
        self.last = Some((last.kind, last.key.clone()));
        let locations = records.iter().filter(|record| record.kind == kind::LOCATION);
        let keys: Vec<_> = locations.map(|record| record.key.clone()).collect();
        if let Some(upto) = keys.last().cloned() {
            self.part = Some(Part { keys, upto: Some(upto) });
        }
        Ok(Ok(()))
    }

    fn check(&mut self, records: &[Record]) -> Result<(), String> {
        check::batch(records)?;
        self.seen += records.len() as u64;
        if self.seen > self.expected || (records.is_empty() && self.seen != self.expected) {
            return Err(format!("{} records, not {}", self.seen, self.expected));
        }
        let before = self.last.as_ref().map(|(kind, key)| (*kind, key.as_slice()));
        let keys = records.iter().map(|record| (record.kind, record.key.as_slice()));
        if before.into_iter().chain(keys).is_sorted_by(|a, b| a < b) {
            Ok(())
        } else {
            Err("its records are out of order".into())
        }
    }

    /// Goes on; `true`: all is in the table.
    pub(super) fn pump(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        confirmed: u64,
        snapshot: u128,
    ) -> store::Result<bool> {
        self.compare(step, partner, confirmed)?;
        if self.part.is_some() || self.is_reading {
            return Ok(false);
        }
        if self.is_at_end {
            return Ok(true);
        }
        self.is_reading = true;
        step.out.push(Output::ReadSnapshot { partner: partner.clone(), snapshot });
        Ok(false)
    }

    /// Tells the partner of the devices that it should have and that its snapshot lacks: they ended
    /// there, or were lost, while one side was not what it was before. As what the table has is
    /// told as a change of its own, the partner hears of them, and their owner sees to them.
    fn compare(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        confirmed: u64,
    ) -> store::Result<()> {
        for _ in 0..LOOKS_MAX {
            let Some(part) = &self.part else { return Ok(()) };
            let rows = step.store.scan(Some((kind::LOCATION, &self.compared)), BATCH_MAX)?;
            let mut is_over = rows.len() < BATCH_MAX;
            for row in rows {
                let key = &row.record.key;
                let is_behind = part.upto.as_ref().is_some_and(|upto| key > upto);
                if row.record.kind != kind::LOCATION || is_behind {
                    is_over = true;
                    break;
                }
                if part.keys.binary_search(key).is_err() && is_ghost(&row, partner, confirmed) {
                    step.store.put(&row.record, None)?;
                }
                self.compared.clone_from(key);
            }
            if is_over && let Some(upto) = self.part.take().and_then(|part| part.upto) {
                self.compared = upto;
            }
        }
        Ok(())
    }

    /// Whether [`Load::pump`] has work to do at once.
    pub(super) fn has_more(&self) -> bool {
        self.part.is_some()
    }
}

/// Whether the partner should have this row: it owns the device, has told of it, or has confirmed
/// that it has it.
fn is_ghost(row: &store::Row, partner: &ControllerId, confirmed: u64) -> bool {
    let is_told = row.lsn <= confirmed || row.from.as_ref() == Some(partner);
    Location::from_record(&row.record)
        .is_ok_and(|location| location.stands() && (is_told || location.owner == *partner))
}

/// Takes over a record of a partner. If the partner has told or confirmed the better one that is
/// here, it must have purged it since: it is told again.
pub(super) fn take_over(
    step: &mut Step<'_>,
    merge: &mut Merge<'_>,
    partner: &ControllerId,
    confirmed: u64,
    record: &Record,
) -> store::Result<()> {
    merge(step.store, record, partner)?;
    let row = step.store.get(record.kind, &record.key)?;
    let is_told = |row: &store::Row| row.lsn <= confirmed || row.from.as_ref() == Some(partner);
    if let Some(row) = row.filter(|row| is_told(row) && row.record.beats(record)) {
        step.store.put(&row.record, None)?;
    }
    Ok(())
}
