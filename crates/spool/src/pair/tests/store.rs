//! A store that keeps what was committed, and nothing else, when the front dies.

use std::collections::HashMap;

use crate::record::Lane;
use crate::request::RequestId;
use crate::store::{Appended, Batch, Finish, Found, Known, NewRecord, PairState, Totals};

#[derive(Debug, Clone)]
struct Row {
    new: NewRecord,
    end: Option<Finish>,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    rows: Vec<Row>,
    ids: HashMap<RequestId, usize>,
    pub(super) state: PairState,
}

impl Disk {
    pub(super) fn append(&mut self, mut new: NewRecord) -> Appended {
        if let Some(&index) = self.ids.get(&new.record.id) {
            let row = &self.rows[index];
            return Appended::Duplicate { lsn: row.new.record.lsn, end: row.end.clone() };
        }
        let lsn = self.rows.len() as u64 + 1;
        new.record.lsn = lsn;
        self.ids.insert(new.record.id, self.rows.len());
        self.rows.push(Row { new, end: None });
        Appended::New { lsn }
    }

    pub(super) fn write(&mut self, batch: &Batch) {
        for (lsn, end) in &batch.finish {
            let row = self.row(*lsn);
            if row.end.is_none() {
                row.end = Some(end.clone());
            }
        }
        batch.sent.iter().for_each(|lsn| self.row(*lsn).new.sent = true);
        batch.unsent.iter().for_each(|lsn| self.row(*lsn).new.sent = false);
        batch.hold.iter().for_each(|lsn| self.row(*lsn).new.held = true);
        batch.release.iter().for_each(|lsn| self.row(*lsn).new.held = false);
        if let Some(state) = &batch.state {
            self.state = state.clone();
        }
    }

    fn row(&mut self, lsn: u64) -> &mut Row {
        &mut self.rows[usize::try_from(lsn - 1).unwrap()]
    }

    fn found(row: &Row) -> Found {
        let NewRecord { record, sent, held } = row.new.clone();
        Found::Whole { record, sent, held }
    }

    pub(super) fn pending(&self, after: u64, limit: usize) -> Vec<Found> {
        let waiting = self.rows.iter().filter(|row| row.end.is_none());
        waiting.filter(|row| row.new.record.lsn > after).take(limit).map(Self::found).collect()
    }

    pub(super) fn newest(&self, lane: Lane) -> Option<Found> {
        let mut waiting = self.rows.iter().rev().filter(|row| row.end.is_none());
        waiting.find(|row| row.new.record.lane() == lane).map(Self::found)
    }

    pub(super) fn find(&self, id: RequestId) -> Option<Known> {
        let row = &self.rows[*self.ids.get(&id)?];
        let (lsn, fingerprint) = (row.new.record.lsn, row.new.record.fingerprint());
        Some(match &row.end {
            None => Known::Pending { lsn, fingerprint },
            Some(end) => Known::Ended { lsn, end: end.clone(), fingerprint },
        })
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals { last_lsn: self.rows.len() as u64, ..Totals::default() };
        for row in self.rows.iter().filter(|row| row.end.is_none()) {
            totals.pending += 1;
            totals.bytes += row.new.record.weight();
            totals.held += u64::from(row.new.held);
        }
        totals
    }

    pub(super) fn held(&self) -> Vec<u64> {
        let waiting = self.rows.iter().filter(|row| row.end.is_none() && row.new.held);
        waiting.map(|row| row.new.record.lsn).collect()
    }
}
