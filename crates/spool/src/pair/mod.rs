//! One pair of servers: who may work, and what becomes of each request. Without I/O, clock or
//! threads of its own: events go in, actions come out, and times are arguments, in microseconds of
//! any clock that never goes back.
//!
//! ```text
//!            errors, hint              no good word            lock free, standby ready
//! NORMAL ───────────────> SUSPECT ───────────────> DIVERTING ───────────────> PROMOTING
//!   ^  ^                     │ good word               ^  │ main is back: new epoch │
//!   │  │                     v                         │  └────────────────────────>│
//!   │  └───────────────── DRAINING <───────────────────┼────────────────────────────┘
//!   │      spool empty       │ the new main fails too  │
//!   │                        └─────────────────────────┘
//!   └── PLANNED: told to switch; running work ends, the lock is given back, PROMOTING
//! ```

mod command;
mod config;
mod drain;
mod event;
mod held;
mod intake;
mod lock;
mod replay;
mod status;
mod switch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

pub use config::{DrainMode, InDoubt, Overlay, PairConfig, Reads, payload_of_a_write};
use drain::Drain;
pub use event::{Action, Command, Event, Side, StoreFault, Token};
pub(crate) use intake::known_outcome;
use intake::{Asked, Queue};
use lock::Lock;
use replay::Replay;
pub use status::{Counters, Status};
use switch::{Errors, Server, State};

use crate::record::Lane;
use crate::request::{Outcome, Reason};
use crate::store::{PairState, Totals};

/// What a call that is under way is for.
#[derive(Debug)]
enum CallFor {
    /// A request that came in just now.
    Direct {
        token: Token,
        /// The request's own deadline was shorter than what a server may take.
        in_haste: bool,
    },
    /// Records of the spool.
    Drain(Vec<crate::record::Record>),
}

/// What a write that is under way is for.
#[derive(Debug)]
enum WriteFor {
    /// Ends of drained records.
    Ends(Vec<(u64, crate::store::Finish)>),
    /// The mark that a record is about to be sent.
    Mark(crate::record::Record),
    /// The epoch that is to be granted.
    Epoch { epoch: u64, to: Side },
    /// What an operator wants; with an answer for it.
    Command { token: Token, lsns: Vec<u64>, text: String, was_on_hold: bool },
    /// Records in doubt that an operator must see, or what is kept of the pair.
    Held,
    /// A damaged record.
    Quarantine(u64),
    /// Marks taken back.
    Unmark(Vec<u64>),
}

/// How well the pair knows what waits in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Exact,
    /// It may be less than [`Pair::totals`] says.
    AtMost,
    /// The store is asked, and nothing was written since.
    Asked,
    /// The store is asked, and something was written since.
    AskedTooEarly,
}

/// One pair of servers.
#[derive(Debug)]
pub struct Pair {
    config: PairConfig,
    now: u64,
    out: Vec<Action>,

    state: State,
    on_hold: bool,
    /// Another front has granted this epoch: nothing is done until an operator says so.
    split: Option<u64>,
    lock: Lock,
    /// What was written last, or is being written.
    kept: PairState,
    /// A server was main under the epoch that is kept: it is not given to anybody again.
    is_spent: bool,
    servers: [Server; 2],
    errors: Errors,
    /// When the main was suspected and found well, of late.
    relapses: VecDeque<u64>,
    /// A request to a main without a ledger is in doubt, and may be done late.
    has_late: bool,
    /// Which server was main last; another may hold the lock already.
    last_main: Side,
    switched_at: Option<u64>,
    diverted_at: Option<u64>,

    requests: BTreeMap<Token, Asked>,
    bytes: u64,
    lanes: BTreeMap<Lane, Queue>,
    held: BTreeSet<Token>,
    held_by_lane: HashMap<Lane, Vec<Token>>,
    /// Held until the spool is drained up to a place.
    barriers: BTreeSet<(u64, Token)>,
    /// Held, and to be looked at again at a time.
    wakes: BTreeSet<(u64, Token)>,
    deadlines: BTreeSet<(u64, Token)>,
    appending: u64,
    appending_bytes: u64,

    /// What waits, or more: never less, since what waits must not be passed by.
    totals: Totals,
    count: Count,
    /// The store could not say what waits; when it is asked again.
    count_at: Option<u64>,
    /// Over the quota, until some of it is free again.
    is_over_quota: bool,
    /// The store could not write; when it is tried again.
    store_trouble: Option<u64>,

    /// What calls are for, and which server has them.
    calls: HashMap<u64, (Side, CallFor)>,
    direct_calls: usize,
    writes: HashMap<u64, WriteFor>,
    next_tag: u64,
    drain: Drain,
    replay: Replay,

    counters: Counters,
    alarms: VecDeque<(u64, String)>,
}

impl Pair {
    /// A pair whose store says `state` and `totals`.
    #[must_use]
    pub fn new(config: PairConfig, state: &PairState, totals: Totals, now: u64) -> Self {
        let side = Side::from(state.holder.min(1));
        let span = config.lease + config.lease_margin();
        // A job is done in its order, reads among writes of other keys.
        let calls_max = if config.reads == Reads::Job { 1 } else { config.drain_calls_max };
        let drain =
            Drain::new(config.drain_window_max, calls_max, config.drain_rate, totals.pending > 0);
        Self {
            now,
            out: Vec::new(),
            state: State::Diverting(switch::Diverting::starting(now)),
            on_hold: state.on_hold,
            split: None,
            lock: Lock::load(state.epoch, side, now, span),
            kept: state.clone(),
            is_spent: true,
            servers: [Server::default(), Server::default()],
            errors: Errors::default(),
            relapses: VecDeque::new(),
            has_late: false,
            last_main: side,
            switched_at: None,
            diverted_at: Some(now),
            requests: BTreeMap::new(),
            bytes: 0,
            lanes: BTreeMap::new(),
            held: BTreeSet::new(),
            held_by_lane: HashMap::new(),
            barriers: BTreeSet::new(),
            wakes: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            appending: 0,
            appending_bytes: 0,
            totals,
            count: Count::Exact,
            count_at: None,
            is_over_quota: false,
            store_trouble: None,
            calls: HashMap::new(),
            direct_calls: 0,
            writes: HashMap::new(),
            next_tag: 1,
            drain,
            replay: Replay::default(),
            counters: Counters::default(),
            alarms: VecDeque::new(),
            config,
        }
    }

    /// Something happens at `now`. Gives what is to be done about it.
    pub fn handle(&mut self, now: u64, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::Submit { token, request, wall_ms } => self.submit(token, request, wall_ms),
            Event::Command { token, command } => self.command(token, command),
            Event::Appended { token, result } => self.appended(token, result),
            Event::Newest { token, result } => self.newest(token, result),
            Event::FoundId { token, result } => self.found_id(token, result),
            Event::Fetched { result } => self.fetched(result),
            Event::Written { tag, result } => self.written(tag, result),
            Event::Counted { result } => self.counted(result),
            Event::Called { tag, result } => self.called(tag, result),
            Event::Reported { side, report } => self.reported(side, report),
            Event::Granted { side, epoch, ok } => self.granted(side, epoch, ok),
            Event::Released { side, epoch, ok } => self.released(side, epoch, ok),
            Event::Fenced { side, epoch, ok } => self.fenced(side, epoch, ok),
            Event::Tick => {}
        }
        self.expire();
        self.step();
        self.wake_held();
        self.pump();
        self.ask_count();
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is to come at the latest.
    #[must_use]
    pub fn wake_at(&self) -> u64 {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let wake = self.wakes.first().map(|(at, _)| *at);
        let drain = self.is_serving().then(|| self.drain_wakes_at()).flatten();
        // Once it has come, what makes the pair quiet asks.
        let count = self.count_at.filter(|at| *at > self.now);
        [deadline, wake, drain, count, self.replay.writes_at(), self.store_trouble]
            .into_iter()
            .flatten()
            .chain([self.switch_wakes_at()])
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The front ends: everybody who waits is told. Nothing that was acknowledged depends on it.
    pub fn close(&mut self) -> Vec<Action> {
        let tokens: Vec<Token> = self.requests.keys().copied().collect();
        for token in tokens {
            let rejected =
                Outcome::Rejected { reason: Reason::Closing, retry_after: self.retry_after() };
            self.give_up(token, rejected);
        }
        std::mem::take(&mut self.out)
    }

    /// Whether the main may be asked directly.
    fn is_serving(&self) -> bool {
        matches!(self.state, State::Normal | State::Draining(_)) && !self.on_hold
    }

    fn main(&self) -> Side {
        self.lock.holder
    }

    fn tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }

    fn write(&mut self, purpose: WriteFor, batch: crate::store::Batch) {
        let tag = self.tag();
        self.writes.insert(tag, purpose);
        self.spoil_count();
        self.out.push(Action::Write { tag, batch });
    }

    /// What the store is being asked may be wrong by the time it answers.
    fn spoil_count(&mut self) {
        if self.count == Count::Asked {
            self.count = Count::AskedTooEarly;
        }
    }

    /// Asks the store what waits, when that is not known and nothing is under way that changes it.
    fn ask_count(&mut self) {
        let is_quiet = self.appending == 0 && self.writes.is_empty() && self.drain.is_done();
        if self.count == Count::AtMost && is_quiet && self.count_at.is_none_or(|at| at <= self.now)
        {
            self.count_at = None;
            self.count = Count::Asked;
            self.out.push(Action::Count);
        }
    }

    fn counted(&mut self, result: Result<Totals, StoreFault>) {
        let was = std::mem::replace(&mut self.count, Count::AtMost);
        if result.is_err() {
            self.count_at = Some(self.now + intake::STORE_AGAIN);
        }
        if let (Count::Asked, Ok(totals)) = (was, result) {
            self.totals = totals;
            self.count = Count::Exact;
        }
    }

    fn log(&mut self, text: impl Into<String>) {
        self.out.push(Action::Log { alarm: false, text: text.into() });
    }

    fn alarm(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.alarms.len() == status::ALARMS_KEPT {
            self.alarms.pop_front();
        }
        self.alarms.push_back((self.now, text.clone()));
        self.out.push(Action::Log { alarm: true, text });
    }

    fn retry_after(&self) -> std::time::Duration {
        std::time::Duration::from_micros(self.config.retry_after)
    }
}
