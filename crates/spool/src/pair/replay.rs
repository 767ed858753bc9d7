//! The drain at work: reads records, sends them to the main, notes their ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::drain::{FETCH_RECORDS, FETCH_WEIGHT};
use super::{
    Action, CallFor, Count, DrainMode, InDoubt, Pair, Reads, Side, State, StoreFault, WriteFor,
};
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
/// A server may ask for no longer wait than this, in microseconds.
const AFTER_MAX: u64 = 60_000_000;
/// A record that leaves the main in doubt so often, alone in its call, waits for an operator: it is
/// the record, not the main.
const ATTEMPTS_MAX: u32 = 10;
/// Between such attempts: from here on twice as long each time, up to [`ATTEMPT_MAX`].
const ATTEMPT_AFTER: u64 = 100_000;
/// See [`ATTEMPT_AFTER`].
const ATTEMPT_MAX: u64 = 10_000_000;
/// Nothing more is sent while so many bytes of answers wait to be written.
const ENDS_WEIGHT: usize = 16 << 20;

/// What a drain has to remember besides the records themselves.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Nothing is sent before.
    rests_until: Option<u64>,
    /// Ends that are to be written. One write of them is under way at a time: were a later one to
    /// succeed where an earlier failed, a crash would bring the older record of a key back after
    /// the newer.
    ends: Vec<(u64, Finish)>,
    ends_weight: usize,
    is_writing: bool,
    /// The store did not take them; when they are tried again.
    writes_at: Option<u64>,
    /// Damaged records and records for an operator that the store did not take.
    unread: Option<u64>,
    /// Damaged records that are being set aside.
    aside: BTreeSet<u64>,
    /// How often a record left the main in doubt.
    attempts: HashMap<u64, u32>,
    /// Marks that are being set or taken back: what is read meanwhile may show them wrongly.
    marks: usize,
    /// Marks that could not be taken back, and when that is tried again.
    unmark: Vec<u64>,
    unmark_at: u64,
}

impl Replay {
    /// When ends are written again.
    pub(super) fn writes_at(&self) -> Option<u64> {
        let unmark = (!self.unmark.is_empty()).then_some(self.unmark_at);
        self.writes_at.into_iter().chain(unmark).min()
    }

    /// An operator wants these tried again as if nothing had been.
    pub(super) fn forgive(&mut self, lsns: &[u64]) {
        for lsn in lsns {
            self.attempts.remove(lsn);
        }
    }

    fn end(&mut self, lsn: u64, end: Finish) {
        if let Finish::Done { answer } = &end {
            self.ends_weight += answer.len();
        }
        self.ends.push((lsn, end));
    }
}

impl Pair {
    /// Moves the drain on, as far as it may go.
    pub(super) fn pump(&mut self) {
        self.write_ends();
        if !self.replay.unmark.is_empty() && self.now >= self.replay.unmark_at {
            // One that is on its way again is marked anew, and stays so.
            let mut lsns = std::mem::take(&mut self.replay.unmark);
            lsns.retain(|lsn| !self.drain.is_away(*lsn));
            if !lsns.is_empty() {
                self.unmark(lsns);
            }
        }
        if !self.is_serving() {
            return;
        }
        if self.replay.unread.is_some_and(|until| until > self.now) {
            return;
        }
        self.replay.unread = None;
        let may_read = self.replay.marks == 0 && self.replay.unmark.is_empty();
        if let Some(after) = may_read.then(|| self.drain.wants_records()).flatten() {
            self.out.push(Action::Fetch { after, limit: FETCH_RECORDS, weight_max: FETCH_WEIGHT });
        }
        if self.replay.rests_until.is_some_and(|until| until > self.now) {
            return;
        }
        self.replay.rests_until = None;
        // What could not be noted is not to grow.
        if self.replay.writes_at.is_some() || self.replay.ends_weight > ENDS_WEIGHT {
            return;
        }
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
        if self.replay.writes_at.is_some() || self.replay.ends_weight > ENDS_WEIGHT {
            return rest.filter(|at| *at > self.now);
        }
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
        self.calls.insert(tag, (side, CallFor::Drain(records)));
        self.out.push(Action::Call { tag, side, call });
    }

    /// A server that keeps no ledger: that a record is on its way must outlive the front, and one
    /// that was on its way when the front died is in doubt.
    fn mark_or_judge(&mut self, records: Vec<Record>) {
        for record in records {
            let lsn = record.lsn;
            if !self.drain.was_sent(lsn) || self.config.in_doubt == InDoubt::Retry {
                let batch = Batch { sent: vec![lsn], ..Batch::default() };
                self.replay.marks += 1;
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
                self.replay.end(lsn, Finish::SkippedInDoubt);
            }
            InDoubt::Hold => self.hold_record(record, "is in doubt"),
        }
    }

    /// A record, and the later ones of its lane, wait for an operator.
    fn hold_record(&mut self, record: &Record, why: &str) {
        let lsn = record.lsn;
        if self.drain.is_dropped(lsn) {
            return self.drain.again(lsn, 0, self.now);
        }
        self.counters.in_doubt += 1;
        self.alarm(format!(
            "record {lsn} {why}, and waits for an operator: `evs spool retry` or `purge`"
        ));
        self.drain.stick(record.lane());
        self.drain.again(lsn, 0, self.now);
        let batch = Batch { hold: vec![lsn], ..Batch::default() };
        self.write(WriteFor::Held, batch);
    }

    /// A record surely was not done: a crash is not to leave it in doubt.
    fn unmark(&mut self, lsns: Vec<u64>) {
        self.replay.marks += 1;
        let batch = Batch { unsent: lsns.clone(), ..Batch::default() };
        self.write(WriteFor::Unmark(lsns), batch);
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
                Found::Whole { record, sent, held: false } => {
                    self.drain.add(record, sent, self.now)
                }
                // Set aside already, when an earlier read found it.
                Found::Damaged { lsn, .. } if !self.replay.aside.insert(lsn) => {}
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
            Some((side, CallFor::Direct { token, in_haste })) => {
                let result = self.of_this_main(side, result);
                self.called_directly(side, token, in_haste, result);
            }
            Some((side, CallFor::Drain(records))) => {
                let result = self.of_this_main(side, result);
                self.drained(side, &records, result);
            }
            None => {}
        }
    }

    /// What a server says that is main no more may be missing in the storage of the one that is.
    fn of_this_main(&self, side: Side, result: CallResult) -> CallResult {
        match result {
            Ok(_) if side != self.main() => {
                Err(CallFailed::Lost("the server is main no more".to_owned()))
            }
            result => result,
        }
    }

    fn drained(&mut self, side: Side, records: &[Record], result: CallResult) {
        self.note_call(side, &result, false, false);
        let is_opaque = self.config.classes[side] == Class::Opaque;
        match result {
            Ok(results) => {
                let good = results.len() == records.len()
                    && !results.iter().any(|result| matches!(result, ItemResult::Later { .. }));
                self.drain.call_ended(good);
                let mut results = results.into_iter();
                for record in records {
                    let later = ItemResult::Later { after: Duration::ZERO };
                    let result = results.next().unwrap_or(later);
                    if let Some((lsn, end)) = self.drained_one(record, result, is_opaque) {
                        self.replay.end(lsn, end);
                    }
                }
            }
            Err(failed) => {
                self.drain.call_ended(false);
                self.replay.rests_until = Some(self.now + REST);
                let is_alone = records.len() == 1;
                for record in records {
                    self.failed_in_drain(record, &failed, is_opaque, is_alone);
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
                let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                let after = after.clamp(AGAIN_AFTER, AFTER_MAX);
                self.drain.again(lsn, self.now.saturating_add(after), self.now);
                if is_opaque {
                    self.unmark(vec![lsn]);
                }
                None
            }
        }
    }

    fn failed_in_drain(
        &mut self,
        record: &Record,
        failed: &CallFailed,
        is_opaque: bool,
        is_alone: bool,
    ) {
        let lsn = record.lsn;
        if is_opaque && failed.in_doubt() && self.config.in_doubt != InDoubt::Retry {
            return self.doubtful(record);
        }
        let mut until = 0;
        if is_alone && failed.in_doubt() {
            if self.replay.attempts.len() >= 4096 {
                self.replay.attempts.clear();
            }
            let attempts = self.replay.attempts.entry(lsn).or_insert(0);
            *attempts += 1;
            if *attempts >= ATTEMPTS_MAX {
                return self.hold_record(record, "leaves the main in doubt each time");
            }
            let after = (ATTEMPT_AFTER << *attempts).min(ATTEMPT_MAX);
            until = self.now + after;
            self.drain.delay(lsn, until, self.now);
        }
        self.drain.again(lsn, until, self.now);
        if is_opaque && !failed.in_doubt() {
            self.unmark(vec![lsn]);
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
        self.replay.ends_weight = 0;
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
                self.replay.ends_weight = 0;
                for (lsn, end) in ends {
                    self.replay.end(lsn, end);
                }
                self.replay.is_writing = false;
                self.replay.writes_at = Some(self.now + WRITE_AGAIN);
            }
            (WriteFor::Mark(record), result) => {
                self.replay.marks -= 1;
                if result.is_ok() && self.is_serving() {
                    return self.send(vec![record]);
                }
                // The main is another by now, or the mark is not on disk: nothing was sent.
                self.drain.call_ended(false);
                self.replay.rests_until = Some(self.now + REST);
                self.drain.again(record.lsn, 0, self.now);
                self.unmark(vec![record.lsn]);
            }
            (WriteFor::Unmark(lsns), result) => {
                self.replay.marks -= 1;
                if result.is_err() {
                    self.replay.unmark.extend(lsns);
                    self.replay.unmark_at = self.now + WRITE_AGAIN;
                }
            }
            (WriteFor::Epoch { epoch, to }, result) => self.epoch_written(epoch, to, result),
            (WriteFor::Command { token, lsns, text, was_on_hold }, result) => {
                self.command_written(token, &lsns, text, was_on_hold, result);
            }
            (WriteFor::Quarantine(lsn), result) => {
                self.replay.aside.remove(&lsn);
                // How much waits is the store's to tell: it may have been set aside before.
                self.count = Count::AtMost;
                if result.is_err() {
                    // Found again by the next read.
                    self.drain.restart();
                    self.replay.unread = Some(self.now + WRITE_AGAIN);
                } else {
                    self.wake_all();
                }
            }
            (WriteFor::Held, _) => {}
        }
    }

    fn noted(&mut self, lsn: u64) {
        self.replay.attempts.remove(&lsn);
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
            if matches!(self.state, State::Normal)
                && let Some(since) = self.diverted_at.take()
            {
                self.counters.last_diversion = self.now.saturating_sub(since);
                self.log("the spool is drained");
            }
            self.wake_all();
        }
    }
}
