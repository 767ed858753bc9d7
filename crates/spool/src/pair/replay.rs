//! The drain at work: reads records, sends them to the main, notes their ends.

use std::sync::Arc;
use std::time::Duration;

use super::drain::{FETCH_RECORDS, FETCH_WEIGHT};
use super::{Action, CallFor, Count, DrainMode, InDoubt, Pair, Reads, State, StoreFault, WriteFor};
use crate::record::Record;
use crate::store::{Batch, Finish, Found};
use crate::target::{Call, CallFailed, CallResult, Class, ItemResult};

/// Answers to writes of at most so many bytes are kept for those who ask again.
const ANSWER_KEPT: usize = 4096;
/// A record that the main wants later is sent again after so many microseconds at the least.
const AGAIN_AFTER: u64 = 20_000;
/// After a failed call the drain rests for so many microseconds.
const REST: u64 = 100_000;
/// What could not be written is written again after so many microseconds.
const WRITE_AGAIN: u64 = 500_000;

/// What a drain has to remember besides the records themselves.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Nothing is sent before.
    rests_until: Option<u64>,
    /// Ends that are to be written. One write of them is under way at a time: were a later one to
    /// succeed where an earlier failed, a crash would bring the older record of a key back after
    /// the newer.
    ends: Vec<(u64, Finish)>,
    is_writing: bool,
    /// The store did not take them; when they are tried again.
    writes_at: Option<u64>,
    /// Damaged records and records for an operator that the store did not take.
    unread: Option<u64>,
}

impl Replay {
    /// When ends are written again.
    pub(super) fn writes_at(&self) -> Option<u64> {
        self.writes_at
    }
}

impl Pair {
    /// Moves the drain on, as far as it may go.
    pub(super) fn pump(&mut self) {
        self.write_ends();
        if !self.is_serving() {
            return;
        }
        if self.replay.unread.is_some_and(|until| until > self.now) {
            return;
        }
        self.replay.unread = None;
        if let Some(after) = self.drain.wants_records() {
            self.out.push(Action::Fetch { after, limit: FETCH_RECORDS, weight_max: FETCH_WEIGHT });
        }
        if self.replay.rests_until.is_some_and(|until| until > self.now) {
            return;
        }
        self.replay.rests_until = None;
        let is_opaque = self.config.classes[self.main()] == Class::Opaque;
        while let Some(records) = self.drain.next_call(self.now, is_opaque) {
            if is_opaque {
                self.mark_or_judge(records);
            } else {
                self.send(records);
            }
        }
    }

    /// When the drain goes on, if it waits for a time and nothing else.
    pub(super) fn drain_wakes_at(&self) -> Option<u64> {
        let rest = [self.replay.rests_until, self.replay.unread].into_iter().flatten().max();
        rest.or_else(|| self.drain.wake_at())
    }

    fn send(&mut self, records: Vec<Record>) {
        let call = Call {
            epoch: self.lock.epoch,
            items: Arc::from(records.clone()),
            job: (self.config.reads == Reads::Job).then_some(self.lock.epoch),
            timeout: Duration::from_micros(self.config.call_timeout),
        };
        let (tag, side) = (self.tag(), self.main());
        self.calls.insert(tag, CallFor::Drain(records));
        self.out.push(Action::Call { tag, side, call });
    }

    /// A server that keeps no ledger: that a record is on its way must outlive the front, and one
    /// that was on its way when the front died is in doubt.
    fn mark_or_judge(&mut self, records: Vec<Record>) {
        for record in records {
            let lsn = record.lsn;
            if !self.drain.was_sent(lsn) || self.config.in_doubt == InDoubt::Retry {
                let batch = Batch { sent: vec![lsn], ..Batch::default() };
                self.write(WriteFor::Mark(record), batch);
            } else {
                self.drain.call_ended(true);
                self.doubtful(&record);
            }
        }
    }

    /// Nobody knows whether a record took effect, and doing it again is no choice.
    fn doubtful(&mut self, record: &Record) {
        let lsn = record.lsn;
        match self.config.in_doubt {
            InDoubt::Retry => {
                self.drain.again(lsn, 0, self.now);
            }
            InDoubt::Skip => {
                self.counters.in_doubt += 1;
                self.drain.ended(lsn);
                self.replay.ends.push((lsn, Finish::SkippedInDoubt));
            }
            InDoubt::Hold => {
                self.counters.in_doubt += 1;
                self.alarm(format!("record {lsn} is in doubt, and waits for an operator"));
                self.drain.stick(record.lane());
                self.drain.again(lsn, 0, self.now);
                let batch = Batch { hold: vec![lsn], ..Batch::default() };
                self.write(WriteFor::Held, batch);
            }
        }
    }

    /// Records that were read.
    pub(super) fn fetched(&mut self, result: Result<Vec<Found>, StoreFault>) {
        if !self.drain.fetched() {
            return;
        }
        let Ok(records) = result else {
            self.replay.unread = Some(self.now + WRITE_AGAIN);
            return;
        };
        let weight: u64 = records
            .iter()
            .map(|found| match found {
                Found::Whole { record, .. } => record.weight(),
                Found::Damaged { .. } => 0,
            })
            .sum();
        let more = records.len() >= FETCH_RECORDS || weight >= FETCH_WEIGHT;
        self.drain.advance(records.last().map_or(0, Found::lsn), more);
        for found in records {
            match found {
                Found::Whole { record, held: true, .. } => self.drain.stick(record.lane()),
                Found::Whole { record, sent, held: false } => self.drain.add(record, sent),
                Found::Damaged { lsn, lane: _, what } => {
                    self.counters.damaged += 1;
                    self.alarm(format!("record {lsn} of the spool is damaged: {what}"));
                    let tag = self.tag();
                    self.writes.insert(tag, WriteFor::Quarantine(lsn));
                    self.out.push(Action::Quarantine { tag, lsn, what });
                }
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // What the main says

    pub(super) fn called(&mut self, tag: u64, result: CallResult) {
        match self.calls.remove(&tag) {
            Some(CallFor::Direct(token)) => self.called_directly(token, result),
            Some(CallFor::Drain(records)) => self.drained(&records, result),
            None => {}
        }
    }

    fn drained(&mut self, records: &[Record], result: CallResult) {
        self.note_call(&result);
        let is_opaque = self.config.classes[self.main()] == Class::Opaque;
        match result {
            Ok(results) => {
                let good = results.len() == records.len()
                    && !results.iter().any(|result| matches!(result, ItemResult::Later { .. }));
                self.drain.call_ended(good);
                let mut results = results.into_iter();
                for record in records {
                    let later = ItemResult::Later { after: Duration::ZERO };
                    let result = results.next().unwrap_or(later);
                    let end = self.drained_one(record, result, is_opaque);
                    self.replay.ends.extend(end);
                }
            }
            Err(failed) => {
                self.drain.call_ended(false);
                self.replay.rests_until = Some(self.now + REST);
                for record in records {
                    self.failed_in_drain(record, &failed, is_opaque);
                }
            }
        }
    }

    fn drained_one(
        &mut self,
        record: &Record,
        result: ItemResult,
        is_opaque: bool,
    ) -> Option<(u64, Finish)> {
        let lsn = record.lsn;
        match result {
            ItemResult::Done { answer, again } => {
                self.counters.drained += 1;
                self.counters.drained_again += u64::from(again);
                self.drain.ended(lsn);
                let keep = record.kind.only_looks() || answer.len() <= ANSWER_KEPT;
                let answer = if keep { answer } else { Vec::new() };
                Some((lsn, Finish::Done { answer }))
            }
            ItemResult::Refused { code, text } => {
                self.counters.refused += 1;
                self.alarm(format!("record {lsn} is refused by the main: code {code}: {text}"));
                self.drain.ended(lsn);
                Some((lsn, Finish::Refused { code, text }))
            }
            ItemResult::Later { after } => {
                let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(AGAIN_AFTER);
                self.drain.again(lsn, self.now.saturating_add(after), self.now);
                if is_opaque {
                    self.write(WriteFor::Unmark, Batch { unsent: vec![lsn], ..Batch::default() });
                }
                None
            }
        }
    }

    fn failed_in_drain(&mut self, record: &Record, failed: &CallFailed, is_opaque: bool) {
        if is_opaque && failed.in_doubt() && self.config.in_doubt != InDoubt::Retry {
            return self.doubtful(record);
        }
        self.drain.again(record.lsn, 0, self.now);
        if is_opaque && !failed.in_doubt() {
            let batch = Batch { unsent: vec![record.lsn], ..Batch::default() };
            self.write(WriteFor::Unmark, batch);
        }
    }

    // -----------------------------------------------------------------------------------------
    // What the store says

    fn write_ends(&mut self) {
        let waits = self.replay.writes_at.is_some_and(|at| at > self.now);
        if self.replay.ends.is_empty() || self.replay.is_writing || waits {
            return;
        }
        self.replay.writes_at = None;
        self.replay.is_writing = true;
        let ends = std::mem::take(&mut self.replay.ends);
        let batch = Batch { finish: ends.clone(), ..Batch::default() };
        self.write(WriteFor::Ends(ends), batch);
    }

    pub(super) fn written(&mut self, tag: u64, result: Result<(), StoreFault>) {
        let Some(purpose) = self.writes.remove(&tag) else { return };
        if result.is_err() {
            self.store_failed();
        }
        match (purpose, result) {
            (WriteFor::Ends(ends), Ok(())) => {
                self.replay.is_writing = false;
                for (lsn, _) in ends {
                    self.noted(lsn);
                }
            }
            (WriteFor::Ends(mut ends), Err(_)) => {
                ends.append(&mut self.replay.ends);
                self.replay.ends = ends;
                self.replay.is_writing = false;
                self.replay.writes_at = Some(self.now + WRITE_AGAIN);
            }
            (WriteFor::Mark(record), Ok(())) if self.is_serving() => self.send(vec![record]),
            (WriteFor::Mark(record), result) => {
                // The main is another by now, or the mark is not on disk: nothing was sent.
                self.drain.call_ended(false);
                self.replay.rests_until = Some(self.now + REST);
                self.drain.again(record.lsn, 0, self.now);
                if result.is_ok() {
                    let batch = Batch { unsent: vec![record.lsn], ..Batch::default() };
                    self.write(WriteFor::Unmark, batch);
                }
            }
            (WriteFor::Epoch { epoch, to }, result) => self.epoch_written(epoch, to, result),
            (WriteFor::Command { token, lsns, text }, result) => {
                self.command_written(token, &lsns, text, result);
            }
            (WriteFor::Quarantine(lsn), Ok(())) => {
                self.count = Count::AtMost;
                self.noted(lsn);
            }
            (WriteFor::Quarantine(_), Err(_)) => {
                // Found again by the next read.
                self.drain.restart();
                self.replay.unread = Some(self.now + WRITE_AGAIN);
            }
            (WriteFor::Held | WriteFor::Unmark, _) => {}
        }
    }

    fn noted(&mut self, lsn: u64) {
        self.totals.pending = self.totals.pending.saturating_sub(1);
        if let Some((lane, weight)) = self.drain.noted(lsn) {
            self.totals.bytes = self.totals.bytes.saturating_sub(weight);
            self.wake_lane(lane);
        }
    }

    /// The drain in [`DrainMode::Before`] opens when nothing is left.
    pub(super) fn step_draining(&mut self) {
        let is_done = self.drain.is_done() && self.appending == 0;
        let before = self.config.drain == DrainMode::Before;
        let (now, freeze) = (self.now, self.config.freeze);
        let nearly = self.drain.is_nearly_done();
        let State::Draining(draining) = &mut self.state else { return };
        let mut opened = draining.thaw(now);
        if is_done {
            self.state = State::Normal;
            opened = true;
        } else if before && nearly {
            draining.freeze(now, freeze);
        }
        if opened {
            if let Some(since) = self.diverted_at.take()
                && matches!(self.state, State::Normal)
            {
                self.counters.last_diversion = self.now.saturating_sub(since);
                self.log("the spool is drained");
            }
            self.wake_all();
        }
    }
}
