//! A pair whose store answers at once, and whose servers answer when the test says so.

use std::collections::VecDeque;
use std::time::Duration;

use super::store::Disk;
use crate::pair::{Action, Command, Event, Pair, PairConfig, StoreFault, Token};
use crate::request::{Kind, Outcome, Request, RequestId};
use crate::store::{Batch, Found};
use crate::target::{Call, CallResult, ItemResult, Report, Stamp};

pub(super) const SECOND: u64 = 1_000_000;

/// A pair whose store answers at once, and whose servers answer when the test says so.
pub(super) struct Desk {
    pub(super) pair: Pair,
    pub(super) disk: Disk,
    pub(super) now: u64,
    pub(super) ready: [bool; 2],
    pub(super) seen: u64,
    pub(super) calls: VecDeque<(u64, usize, Call)>,
    pub(super) replies: Vec<(Token, Outcome)>,
    pub(super) answers: Vec<Result<String, String>>,
    pub(super) fences: Vec<usize>,
    pub(super) releases: Vec<u64>,
    pub(super) batches: Vec<Batch>,
    pub(super) quarantined: Vec<u64>,
    /// The next read finds these records instead of what is on disk.
    pub(super) found: Option<Vec<Found>>,
    pub(super) store_fault: Option<StoreFault>,
    /// Writes whose answers are the test's to give.
    pub(super) keeps: fn(&Batch) -> bool,
    pub(super) kept: VecDeque<(u64, Batch)>,
    pub(super) count_fault: Option<StoreFault>,
    /// How often the store was asked what waits.
    pub(super) counts: u64,
    pub(super) keeps_fetch: bool,
    pub(super) fetches: VecDeque<(u64, usize)>,
    pub(super) takes_lock: bool,
    pub(super) next: u64,
}

impl Desk {
    pub(super) fn new(config: PairConfig) -> Self {
        Self::over(config, Disk::default(), 0)
    }

    pub(super) fn over(config: PairConfig, disk: Disk, seen: u64) -> Self {
        let pair = Pair::new(config, &disk.state, disk.totals(), 0);
        let mut desk = Self {
            pair,
            disk,
            now: 0,
            ready: [true, true],
            seen,
            calls: VecDeque::new(),
            replies: Vec::new(),
            answers: Vec::new(),
            fences: Vec::new(),
            releases: Vec::new(),
            batches: Vec::new(),
            quarantined: Vec::new(),
            found: None,
            store_fault: None,
            keeps: |_| false,
            kept: VecDeque::new(),
            count_fault: None,
            counts: 0,
            keeps_fetch: false,
            fetches: VecDeque::new(),
            takes_lock: true,
            next: 0,
        };
        desk.event(Event::Tick);
        desk
    }

    /// A desk whose pair works.
    pub(super) fn working(config: PairConfig) -> Self {
        let mut desk = Self::new(config);
        desk.pass(SECOND);
        assert_eq!(desk.state(), "normal");
        desk
    }

    pub(super) fn state(&self) -> &'static str {
        self.pair.status().state
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.pair.handle(self.now, event) {
                events.extend(self.act(action));
            }
        }
    }

    pub(super) fn act(&mut self, action: Action) -> Option<Event> {
        Some(match action {
            Action::Reply { token, outcome } => {
                self.replies.push((token, outcome));
                return None;
            }
            Action::Answer { result, .. } => {
                self.answers.push(result);
                return None;
            }
            Action::Log { .. } => return None,
            Action::Append { token, record } => {
                let result = match self.store_fault {
                    None => Ok(self.disk.append(record)),
                    Some(fault) => Err(fault),
                };
                Event::Appended { token, result }
            }
            Action::Newest { token, lane } => {
                Event::Newest { token, result: Ok(self.disk.newest(lane)) }
            }
            Action::Find { token, id } => Event::FoundId { token, result: Ok(self.disk.find(id)) },
            Action::Fetch { after, limit, .. } if self.keeps_fetch => {
                self.fetches.push_back((after, limit));
                return None;
            }
            Action::Fetch { after, limit, .. } => {
                let found = self.found.take().unwrap_or_else(|| self.disk.pending(after, limit));
                Event::Fetched { result: Ok(found) }
            }
            Action::Count => {
                self.counts += 1;
                let result = self.count_fault.map_or_else(|| Ok(self.disk.totals()), Err);
                Event::Counted { result }
            }
            Action::Write { tag, batch } if (self.keeps)(&batch) => {
                self.kept.push_back((tag, batch));
                return None;
            }
            Action::Write { tag, batch } => {
                let result = self.store_fault.map_or(Ok(()), Err);
                if result.is_ok() {
                    self.disk.write(&batch);
                }
                self.batches.push(batch);
                Event::Written { tag, result }
            }
            Action::Quarantine { tag, lsn, .. } => {
                self.quarantined.push(lsn);
                Event::Written { tag, result: Ok(()) }
            }
            Action::Call { tag, side, call } => {
                self.calls.push_back((tag, side, call));
                return None;
            }
            Action::Probe { side, .. } => {
                let stamp = Stamp { run: 1, at_us: self.now };
                let report = Report {
                    ready: true,
                    holds: None,
                    seen: self.seen,
                    wants_switch: false,
                    stamp,
                };
                Event::Reported { side, report: self.ready[side].then_some(report) }
            }
            Action::Grant { side, grant } => {
                self.seen = self.seen.max(grant.epoch);
                let ok = self.ready[side] && self.takes_lock;
                Event::Granted { side, epoch: grant.epoch, ok }
            }
            Action::Release { side, epoch, .. } => {
                self.releases.push(epoch);
                Event::Released { side, epoch, ok: self.ready[side] }
            }
            Action::Fence { side, epoch } => {
                self.fences.push(side);
                Event::Fenced { side, epoch, ok: false }
            }
        })
    }

    /// Time goes by.
    pub(super) fn pass(&mut self, span: u64) {
        let end = self.now + span;
        while self.pair.wake_at() <= end {
            self.now = self.pair.wake_at().max(self.now);
            self.event(Event::Tick);
        }
        self.now = end;
        self.event(Event::Tick);
    }

    pub(super) fn ask(&mut self, kind: Kind, key: &[u8], id: u128) -> Token {
        self.next += 1;
        let token = self.next;
        let request = Request {
            id: RequestId(id),
            kind,
            key: key.to_vec(),
            payload: format!("of {id}").into_bytes(),
            deadline: Duration::from_secs(60),
        };
        self.event(Event::Submit { token, request, wall_ms: 7 });
        token
    }

    pub(super) fn outcome(&self, token: Token) -> Option<&Outcome> {
        self.replies.iter().find(|(other, _)| *other == token).map(|(_, outcome)| outcome)
    }

    pub(super) fn answer(&mut self, result: CallResult) {
        let (tag, ..) = self.calls.pop_front().expect("a call is under way");
        self.event(Event::Called { tag, result });
    }

    /// Does every call that is under way, and those that follow.
    pub(super) fn serve(&mut self) {
        while let Some((_, _, call)) = self.calls.front() {
            let results = call.items.iter().map(|item| done(item.id.0)).collect();
            self.answer(Ok(results));
        }
    }

    pub(super) fn command(&mut self, command: Command) -> Result<String, String> {
        self.event(Event::Command { token: 0, command });
        self.answers.pop().expect("an answer")
    }

    /// The main is gone for good and the other has not taken over.
    pub(super) fn divert(&mut self) {
        self.ready = [false, false];
        self.pass(8 * SECOND);
        assert_eq!(self.state(), "diverting");
    }
}

pub(super) fn done(id: u128) -> ItemResult {
    ItemResult::Done { answer: id.to_be_bytes().to_vec(), again: false }
}

pub(super) fn applied(id: u128) -> Outcome {
    Outcome::Applied { answer: id.to_be_bytes().to_vec() }
}

pub(super) fn config() -> PairConfig {
    PairConfig { flap_guard: 20 * SECOND, ..PairConfig::default() }
}
