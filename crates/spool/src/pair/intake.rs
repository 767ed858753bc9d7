//! What becomes of requests that come in: to the main, into the spool, or kept waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::plain;
use super::{
    Action, CallFor, Count, DrainMode, InDoubt, Pair, Reads, Side, State, StoreFault, Token,
};
use crate::limits::{DEADLINE_MAX, KEY_MAX, PAYLOAD_MAX};
use crate::record::{Lane, Record};
use crate::request::{Kind, Outcome, Reason, Request};
use crate::store::{Appended, Finish, Found, Known, NewRecord};
use crate::target::{Call, CallFailed, CallResult, Class, ItemResult};

/// A held request that failed with the main looks again after so many microseconds.
const LOOK_AGAIN: u64 = 200_000;
/// The store is tried again after so many microseconds.
pub(super) const STORE_AGAIN: u64 = 1_000_000;

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// In its lane, behind others.
    Queued,
    /// The store is asked about it.
    Looking,
    /// A server has it.
    Calling,
    /// The store has it.
    Appending,
    /// It waits for a server.
    Held,
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) record: Record,
    pub(super) lane: Lane,
    pub(super) deadline: u64,
    pub(super) stage: Stage,
    /// The sender has its answer; what is under way ends by itself.
    pub(super) is_answered: bool,
    /// Nothing of its lane waits in the spool, as the store said.
    pub(super) has_looked: bool,
    /// The store does not know its id.
    pub(super) is_new: bool,
    /// The sender was told nothing, and nobody can say whether a server did it.
    pub(super) in_doubt: bool,
    /// A search waits until the spool is drained up to here.
    pub(super) barrier: Option<u64>,
}

/// Requests of one lane that change data: one goes at a time, unless it goes into the spool.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Token>,
    /// One of them is with a server, or the store is asked about it.
    is_busy: bool,
    appending: usize,
}

/// What is to be done with the first request of a lane.
enum Way {
    Direct,
    Spool,
    Look,
    Find,
    Hold,
    Wait,
    Full,
}

impl Pair {
    // -----------------------------------------------------------------------------------------
    // In

    pub(super) fn submit(&mut self, token: Token, request: Request, wall_ms: u64) {
        self.counters.requests += 1;
        if let Some(outcome) = self.refuse_at_once(&request) {
            self.count(&outcome);
            self.out.push(Action::Reply { token, outcome });
            return;
        }
        let span = u64::try_from(request.deadline.min(DEADLINE_MAX).as_micros()).unwrap_or(0);
        let deadline = self.now + span;
        let record = Record::new(request, self.lock.epoch, wall_ms);
        let lane = record.lane();
        self.bytes += record.weight();
        self.deadlines.insert((deadline, token));
        let asked = Asked {
            record,
            lane,
            deadline,
            stage: Stage::Queued,
            is_answered: false,
            has_looked: false,
            is_new: false,
            in_doubt: false,
            barrier: None,
        };
        self.requests.insert(token, asked);
        self.route(token);
    }

    fn refuse_at_once(&self, request: &Request) -> Option<Outcome> {
        let malformed = |text: &str| {
            let reason = Reason::Malformed(text.to_owned());
            Some(Outcome::Rejected { reason, retry_after: Duration::ZERO })
        };
        if request.key.len() > KEY_MAX {
            return malformed("the key is longer than 4 KiB");
        }
        if request.payload.len() > PAYLOAD_MAX {
            return malformed("the payload is longer than 32 MiB");
        }
        let many = self.requests.len() >= self.config.in_flight_max;
        if many || self.bytes >= self.config.in_flight_bytes_max {
            let retry_after = self.retry_after();
            return Some(Outcome::Rejected { reason: Reason::HoldFull, retry_after });
        }
        None
    }

    pub(super) fn route(&mut self, token: Token) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if asked.is_answered {
            return self.remove(token);
        }
        match asked.record.kind {
            Kind::Read => self.route_read(token),
            Kind::Search => self.route_search(token),
            Kind::Write | Kind::Delete | Kind::Custom(_) => {
                asked.stage = Stage::Queued;
                let lane = asked.lane;
                self.lanes.entry(lane).or_default().waiting.push_back(token);
                self.run_lane(lane);
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // What changes data

    /// Takes requests of a lane on, as far as it goes.
    pub(super) fn run_lane(&mut self, lane: Lane) {
        while let Some(queue) = self.lanes.get(&lane) {
            if queue.is_busy {
                return;
            }
            let Some(&token) = queue.waiting.front() else {
                if queue.appending == 0 {
                    self.lanes.remove(&lane);
                }
                return;
            };
            if self.requests.get(&token).is_none_or(|asked| asked.is_answered) {
                self.pop(lane);
                self.remove(token);
                continue;
            }
            match self.way(lane, token) {
                Way::Wait => return,
                Way::Direct => {
                    self.pop(lane);
                    self.set_busy(lane, true);
                    self.call(token);
                }
                Way::Spool => {
                    self.pop(lane);
                    self.append(token, false, false);
                }
                Way::Look => {
                    self.set_busy(lane, true);
                    self.set_stage(token, Stage::Looking);
                    self.out.push(Action::Newest { token, lane });
                }
                Way::Find => {
                    self.set_busy(lane, true);
                    self.find(token);
                }
                Way::Hold => {
                    self.pop(lane);
                    self.hold(token, None, None);
                }
                Way::Full => {
                    self.pop(lane);
                    self.reject(token, Reason::SpoolFull);
                }
            }
        }
    }

    fn way(&self, lane: Lane, token: Token) -> Way {
        let (Some(queue), Some(asked)) = (self.lanes.get(&lane), self.requests.get(&token)) else {
            return Way::Wait;
        };
        if self.config.dry_run {
            return Way::Direct;
        }
        let may_spool = asked.record.kind != Kind::Delete || self.config.delete_as_write;
        let spool = || match (may_spool, self.is_full(), asked.is_new) {
            (false, ..) => Way::Hold,
            (true, false, _) => Way::Spool,
            // A retry of what is in the spool already must not be told that it is not.
            (true, true, false) => Way::Find,
            (true, true, true) => Way::Full,
        };
        if !self.is_serving() {
            return spool();
        }
        if let State::Draining(draining) = &self.state
            && self.config.drain == DrainMode::Before
        {
            return if draining.is_frozen() { Way::Wait } else { spool() };
        }
        if queue.appending > 0 {
            return spool();
        }
        if self.totals.pending > 0 && !asked.has_looked {
            return Way::Look;
        }
        // Without a ledger, a retry of what was drained would undo what came after it.
        let has_ledger = self.config.classes[self.main()] == Class::Ledger;
        if !has_ledger && self.totals.last_lsn > 0 && !asked.is_new {
            return Way::Find;
        }
        Way::Direct
    }

    fn pop(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.waiting.pop_front();
        }
    }

    fn set_busy(&mut self, lane: Lane, busy: bool) {
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.is_busy = busy;
        }
    }

    fn set_stage(&mut self, token: Token, stage: Stage) {
        if let Some(asked) = self.requests.get_mut(&token) {
            asked.stage = stage;
        }
    }

    // -----------------------------------------------------------------------------------------
    // What only looks

    fn route_read(&mut self, token: Token) {
        let Some(asked) = self.requests.get(&token) else { return };
        let (lane, has_looked) = (asked.lane, asked.has_looked);
        let serving = self.is_serving() || self.config.dry_run;
        let backlog = self.totals.pending > 0 && !self.config.dry_run;
        match self.config.reads {
            _ if serving && (!backlog || has_looked) => self.call(token),
            Reads::Job if !serving => self.append(token, false, false),
            Reads::Wait if !serving => self.hold(token, None, None),
            Reads::Overlay | Reads::Stale if !serving && (!backlog || has_looked) => {
                self.hold(token, None, None);
            }
            Reads::Wait | Reads::Overlay | Reads::Stale | Reads::Job => {
                self.set_stage(token, Stage::Looking);
                self.out.push(Action::Newest { token, lane });
            }
        }
    }

    fn route_search(&mut self, token: Token) {
        let serving = self.is_serving() || self.config.dry_run;
        let backlog = self.totals.pending > 0 && !self.config.dry_run;
        if serving && !backlog {
            return self.call(token);
        }
        match self.config.reads {
            Reads::Job => self.append(token, false, false),
            Reads::Stale if backlog => self.finish(token, Outcome::Stale),
            Reads::Wait | Reads::Overlay | Reads::Stale => {
                // One that has waited already waits for no more than at first.
                let first = self.requests.get(&token).and_then(|asked| asked.barrier);
                let barrier = first.unwrap_or(self.totals.last_lsn);
                if serving && self.drain.low() > barrier {
                    return self.call(token);
                }
                self.hold(token, None, None);
                self.set_barrier(token, barrier);
            }
        }
    }

    fn set_barrier(&mut self, token: Token, barrier: u64) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if let Some(before) = asked.barrier.replace(barrier) {
            self.barriers.remove(&(before, token));
        }
        self.barriers.insert((barrier, token));
    }

    /// What the store has newest in the lane of a request.
    pub(super) fn newest(&mut self, token: Token, result: Result<Option<Found>, StoreFault>) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        let (lane, is_read) = (asked.lane, asked.record.kind == Kind::Read);
        if !is_read {
            self.set_busy(lane, false);
        }
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if asked.is_answered {
            self.remove_read(token, is_read);
            return self.run_lane(lane);
        }
        let Ok(found) = result else {
            // Where the store cannot be read nothing may be said about the order.
            if !is_read {
                self.pop(lane);
            }
            self.reject(token, Reason::Unavailable);
            return self.run_lane(lane);
        };
        match (found, is_read) {
            (None, true) => {
                asked.has_looked = true;
                self.route_read(token);
            }
            (None, false) => {
                asked.has_looked = true;
                self.run_lane(lane);
            }
            (Some(found), true) => self.read_behind(token, lane, &found),
            (Some(_), false) => {
                self.pop(lane);
                self.join_tail(token);
                self.run_lane(lane);
            }
        }
    }

    /// A write whose lane has records in the spool goes behind them.
    fn join_tail(&mut self, token: Token) {
        let Some(asked) = self.requests.get(&token) else { return };
        let (lane, is_new) = (asked.lane, asked.is_new);
        if asked.record.kind == Kind::Delete && !self.config.delete_as_write {
            return self.hold(token, Some(lane), None);
        }
        match (self.is_full(), is_new) {
            (false, _) => self.append(token, false, false),
            (true, true) => self.reject(token, Reason::SpoolFull),
            (true, false) => {
                if let Some(queue) = self.lanes.get_mut(&lane) {
                    queue.waiting.push_front(token);
                    queue.is_busy = true;
                }
                self.find(token);
            }
        }
    }

    /// A read of a key of which writes wait in the spool.
    fn read_behind(&mut self, token: Token, lane: Lane, found: &Found) {
        let Some(asked) = self.requests.get(&token) else { return };
        match self.config.reads {
            Reads::Job => self.append(token, false, false),
            Reads::Stale => self.finish(token, Outcome::Stale),
            Reads::Wait => self.hold(token, Some(lane), None),
            Reads::Overlay => {
                let answer = match found {
                    // Lanes are hashes: another key's write is no answer.
                    Found::Whole { record, .. } if record.key == asked.record.key => {
                        (self.config.overlay)(record, &asked.record)
                    }
                    Found::Whole { .. } | Found::Damaged { .. } => None,
                };
                match answer {
                    Some(answer) => {
                        self.counters.overlaid += 1;
                        self.finish(token, Outcome::Applied { answer });
                    }
                    None => self.hold(token, Some(lane), None),
                }
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // With a server

    fn call(&mut self, token: Token) {
        let side = self.main();
        let epoch = self.lock.epoch;
        let Some(asked) = self.requests.get_mut(&token) else { return };
        asked.stage = Stage::Calling;
        let left = asked.deadline.saturating_sub(self.now);
        // What fails is still to be spooled within the deadline.
        let timeout = self.config.call_timeout.min(left / 2).max(1_000);
        let call = Call {
            epoch,
            items: Arc::from([asked.record.clone()]),
            job: None,
            timeout: Duration::from_micros(timeout),
        };
        let tag = self.tag();
        let in_haste = timeout < self.config.call_timeout;
        self.calls.insert(tag, (side, CallFor::Direct { token, in_haste }));
        self.direct_calls += 1;
        self.out.push(Action::Call { tag, side, call });
    }

    /// A call that a request made is over.
    pub(super) fn called_directly(
        &mut self,
        side: Side,
        token: Token,
        in_haste: bool,
        result: CallResult,
    ) {
        self.direct_calls -= 1;
        let only_looks =
            self.requests.get(&token).is_some_and(|asked| asked.record.kind.only_looks());
        self.note_call(side, &result, in_haste, only_looks);
        let Some(asked) = self.requests.get_mut(&token) else { return };
        let lane = asked.lane;
        let is_read = asked.record.kind.only_looks();
        if !is_read {
            self.set_busy(lane, false);
        }
        match result {
            Ok(results) => match results.into_iter().next() {
                Some(ItemResult::Done { answer, again }) => {
                    self.counters.repeated += u64::from(again);
                    self.finish(token, Outcome::Applied { answer });
                }
                Some(ItemResult::Refused { code, text }) => {
                    let reason = Reason::Refused { code, text };
                    let retry_after = Duration::ZERO;
                    self.finish(token, Outcome::Rejected { reason, retry_after });
                }
                Some(ItemResult::Later { after }) => {
                    self.failed_directly(side, token, false, after)
                }
                None => self.failed_directly(side, token, true, Duration::ZERO),
            },
            Err(failed) => self.failed_directly(side, token, failed.in_doubt(), Duration::ZERO),
        }
        if !is_read {
            self.run_lane(lane);
        }
    }

    /// The main did not do it, or nobody knows.
    fn failed_directly(&mut self, side: Side, token: Token, in_doubt: bool, after: Duration) {
        let class = self.config.classes[side];
        let now = self.now;
        let dry_run = self.config.dry_run;
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if asked.is_answered {
            return self.remove(token);
        }
        let kind = asked.record.kind;
        let may_spool = !kind.only_looks() && (kind != Kind::Delete || self.config.delete_as_write);
        if dry_run {
            let in_doubt = in_doubt && !kind.only_looks();
            return if in_doubt {
                self.finish(token, Outcome::InDoubt)
            } else {
                self.reject(token, Reason::Unavailable)
            };
        }
        if !may_spool {
            // Looking twice is no harm; a delete that may have been done is done again only where
            // that is none either.
            if in_doubt && !kind.only_looks() && class == Class::Opaque {
                return self.finish(token, Outcome::InDoubt);
            }
            let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(LOOK_AGAIN);
            return self.hold(token, None, Some(now.saturating_add(after)));
        }
        asked.in_doubt |= in_doubt;
        match (in_doubt && class == Class::Opaque, self.config.in_doubt) {
            (false, _) | (true, InDoubt::Retry) => self.append(token, false, false),
            (true, InDoubt::Skip) => self.finish(token, Outcome::InDoubt),
            (true, InDoubt::Hold) => self.append(token, true, true),
        }
    }

    // -----------------------------------------------------------------------------------------
    // With the store

    fn append(&mut self, token: Token, sent: bool, held: bool) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        asked.stage = Stage::Appending;
        let record = NewRecord { sent, held, ..plain(asked.record.clone()) };
        let (lane, weight) = (asked.lane, asked.record.weight());
        self.appending += 1;
        self.appending_bytes += weight;
        self.lanes.entry(lane).or_default().appending += 1;
        self.spoil_count();
        self.out.push(Action::Append { token, record });
    }

    pub(super) fn appended(&mut self, token: Token, result: Result<Appended, StoreFault>) {
        let Some(asked) = self.requests.get(&token) else { return };
        let (lane, weight) = (asked.lane, asked.record.weight());
        let (only_looks, in_doubt) = (asked.record.kind.only_looks(), asked.in_doubt);
        self.appending -= 1;
        self.appending_bytes -= weight;
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.appending -= 1;
        }
        let retry_after = self.retry_after();
        // What a server may have done is not rejected as if it had not.
        let not_kept = |reason| {
            if in_doubt { Outcome::InDoubt } else { Outcome::Rejected { reason, retry_after } }
        };
        let outcome = match result {
            Ok(Appended::New { lsn }) => {
                self.totals.pending += 1;
                self.totals.bytes += weight;
                self.totals.last_lsn = self.totals.last_lsn.max(lsn);
                self.drain.appended(lsn);
                match (only_looks, in_doubt && self.is_held_in_doubt()) {
                    (true, _) => Outcome::Held { lsn },
                    (false, false) => Outcome::Spooled { lsn },
                    (false, true) => {
                        self.alarm(format!("record {lsn} is in doubt, and waits for an operator"));
                        Outcome::InDoubt
                    }
                }
            }
            Ok(Appended::Duplicate { lsn, end }) => {
                self.counters.repeated += 1;
                if end.is_none() {
                    self.drain.appended(lsn);
                }
                known_outcome(lsn, end, only_looks)
            }
            Ok(Appended::IdReused) => {
                Outcome::Rejected { reason: Reason::IdReused, retry_after: Duration::ZERO }
            }
            Ok(Appended::OverQuota) => {
                self.is_over_quota = true;
                not_kept(Reason::SpoolFull)
            }
            Err(StoreFault::Full | StoreFault::Failed) => {
                self.store_failed();
                not_kept(Reason::SpoolFull)
            }
            Err(StoreFault::Unknown) => {
                // It may wait there.
                self.totals.pending += 1;
                self.totals.bytes += weight;
                self.count = Count::AtMost;
                self.drain.look_again();
                self.store_failed();
                if only_looks { not_kept(Reason::SpoolFull) } else { Outcome::InDoubt }
            }
        };
        self.finish(token, outcome);
        self.run_lane(lane);
    }

    /// Whether the main is one of whose doubtful requests an operator decides.
    fn is_held_in_doubt(&self) -> bool {
        self.config.in_doubt == InDoubt::Hold && self.config.classes[self.main()] == Class::Opaque
    }

    fn find(&mut self, token: Token) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        asked.stage = Stage::Looking;
        self.out.push(Action::Find { token, id: asked.record.id });
    }

    /// What the store knows of the id of a request at the head of its lane.
    pub(super) fn found_id(&mut self, token: Token, result: Result<Option<Known>, StoreFault>) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        let lane = asked.lane;
        self.set_busy(lane, false);
        match result {
            Ok(Some(known)) => {
                self.pop(lane);
                self.counters.repeated += 1;
                let (Known::Pending { fingerprint, .. }
                | Known::Ended { fingerprint, .. }
                | Known::Quarantined { fingerprint, .. }) = known;
                // 0: the store cannot tell.
                let is_other = fingerprint != 0
                    && self
                        .requests
                        .get(&token)
                        .is_some_and(|asked| asked.record.fingerprint() != fingerprint);
                let outcome = match known {
                    _ if is_other => {
                        let (reason, retry_after) = (Reason::IdReused, Duration::ZERO);
                        Outcome::Rejected { reason, retry_after }
                    }
                    Known::Pending { lsn, .. } => Outcome::Spooled { lsn },
                    Known::Ended { lsn, end, .. } => known_outcome(lsn, Some(end), false),
                    Known::Quarantined { .. } => Outcome::InDoubt,
                };
                self.finish(token, outcome);
            }
            Ok(None) => {
                if let Some(asked) = self.requests.get_mut(&token) {
                    asked.is_new = true;
                }
            }
            Err(_) => {
                self.pop(lane);
                self.reject(token, Reason::Unavailable);
            }
        }
        self.run_lane(lane);
    }

    pub(super) fn store_failed(&mut self) {
        if self.store_trouble.is_none() {
            self.alarm("the spool cannot be written: requests are rejected until it can");
        }
        self.store_trouble = Some(self.now + STORE_AGAIN);
    }

    fn is_full(&self) -> bool {
        self.is_over_quota || self.store_trouble.is_some_and(|until| self.now < until)
    }

    /// What is free again is used again only when a twentieth of the quota is free: senders that
    /// are told to come back should not find one place for all of them.
    pub(super) fn measure_quota(&mut self) {
        let records = self.totals.pending + self.appending;
        let bytes = self.totals.bytes + self.appending_bytes;
        let (most, most_bytes) = (self.config.quota_records, self.config.quota_bytes);
        if records >= most || bytes >= most_bytes {
            if !self.is_over_quota {
                self.is_over_quota = true;
                self.alarm(format!("the spool is full: {records} records, {bytes} bytes"));
            }
        } else if self.is_over_quota
            && records <= most - most.div_ceil(20)
            && bytes <= most_bytes - most_bytes.div_ceil(20)
        {
            self.is_over_quota = false;
            self.log("the spool has room again");
        }
        if self.store_trouble.is_some_and(|until| self.now >= until) {
            self.store_trouble = None;
        }
    }

    // -----------------------------------------------------------------------------------------
    // Out

    /// Whose deadline has come is told so; a server or the store may still have it.
    pub(super) fn expire(&mut self) {
        while let Some(&(at, token)) = self.deadlines.first() {
            if at > self.now {
                break;
            }
            self.deadlines.pop_first();
            let reason = Reason::Deadline;
            let rejected = Outcome::Rejected { reason, retry_after: Duration::ZERO };
            self.give_up(token, rejected);
        }
    }

    /// Answers at once, whatever is under way: with `rejected` only if it surely has no effect.
    pub(super) fn give_up(&mut self, token: Token, rejected: Outcome) {
        let Some(asked) = self.requests.get(&token) else { return };
        if asked.is_answered {
            return;
        }
        let may_have_effect = asked.in_doubt
            || matches!(asked.stage, Stage::Calling | Stage::Appending)
                && !asked.record.kind.only_looks();
        let outcome = if may_have_effect { Outcome::InDoubt } else { rejected };
        self.held.remove(&token);
        let ends_now = asked.stage == Stage::Held;
        self.answer(token, outcome);
        if ends_now {
            self.remove(token);
        }
    }

    pub(super) fn reject(&mut self, token: Token, reason: Reason) {
        let retry_after = self.retry_after();
        let in_doubt = self.requests.get(&token).is_some_and(|asked| asked.in_doubt);
        let outcome =
            if in_doubt { Outcome::InDoubt } else { Outcome::Rejected { reason, retry_after } };
        self.finish(token, outcome);
    }

    /// Answers, and forgets the request.
    fn finish(&mut self, token: Token, outcome: Outcome) {
        self.answer(token, outcome);
        self.remove(token);
    }

    fn answer(&mut self, token: Token, outcome: Outcome) {
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if std::mem::replace(&mut asked.is_answered, true) {
            return;
        }
        let deadline = asked.deadline;
        self.deadlines.remove(&(deadline, token));
        self.count(&outcome);
        self.out.push(Action::Reply { token, outcome });
    }

    pub(super) fn remove(&mut self, token: Token) {
        if let Some(asked) = self.requests.remove(&token) {
            self.bytes -= asked.record.weight();
            self.deadlines.remove(&(asked.deadline, token));
            self.held.remove(&token);
            if let Some(barrier) = asked.barrier {
                self.barriers.remove(&(barrier, token));
            }
            if let Some(tokens) = self.held_by_lane.get_mut(&asked.lane) {
                tokens.retain(|other| *other != token);
                if tokens.is_empty() {
                    self.held_by_lane.remove(&asked.lane);
                }
            }
        }
    }

    fn remove_read(&mut self, token: Token, is_read: bool) {
        // One that changes data is still in its lane, which removes it.
        if is_read {
            self.remove(token);
        }
    }

    fn count(&mut self, outcome: &Outcome) {
        let counters = &mut self.counters;
        match outcome {
            Outcome::Applied { .. } => counters.applied += 1,
            Outcome::Spooled { .. } | Outcome::Held { .. } => counters.spooled += 1,
            Outcome::Stale => counters.stale += 1,
            Outcome::InDoubt => counters.in_doubt += 1,
            Outcome::Rejected { reason, .. } => {
                counters.rejected += 1;
                counters.spool_full += u64::from(*reason == Reason::SpoolFull);
                counters.late += u64::from(*reason == Reason::Deadline);
            }
        }
    }

    /// What a call says about the health of the main.
    pub(super) fn note_call(
        &mut self,
        side: Side,
        result: &CallResult,
        in_haste: bool,
        only_looks: bool,
    ) {
        match result {
            Ok(_) => {}
            Err(failed) => {
                self.counters.call_errors += 1;
                // A sender in haste says nothing about the server, and neither does a request that
                // makes a server fail which is well otherwise: its health is what probes ask for.
                let is_over = matches!(failed, CallFailed::Failed(_));
                if !in_haste && !is_over && side == self.main() {
                    self.errors.note(self.now);
                }
                if let CallFailed::Fenced { seen, .. } = failed {
                    self.saw_epoch(*seen);
                }
                if failed.goes_on() && !only_looks && side == self.main() {
                    self.bar_what_is_late();
                }
            }
        }
    }
}

/// What a sender is told about a request that the spool knows.
pub(crate) fn known_outcome(lsn: u64, end: Option<Finish>, only_looks: bool) -> Outcome {
    match end {
        None if only_looks => Outcome::Held { lsn },
        None => Outcome::Spooled { lsn },
        Some(Finish::Done { answer }) => Outcome::Applied { answer },
        Some(Finish::Refused { code, text }) => Outcome::Rejected {
            reason: Reason::Refused { code, text },
            retry_after: Duration::ZERO,
        },
        Some(Finish::SkippedInDoubt) => Outcome::InDoubt,
        Some(Finish::Purged) => Outcome::Rejected {
            reason: Reason::Refused { code: 0, text: "purged by an operator".to_owned() },
            retry_after: Duration::ZERO,
        },
    }
}
