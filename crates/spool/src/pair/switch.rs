//! Which server may work: suspicion, diversion, promotion.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Pair, Side, StoreFault, WriteFor};
use crate::store::Batch;
use crate::target::{Class, Grant, Report};

/// A main that is found well so many times within the flap guard, and yet is suspected again, is
/// given up: it answers probes and fails requests.
const RELAPSES: usize = 3;
/// A server that does not take the lock is asked so many times.
const GRANTS: u32 = 3;
/// After a freeze that did not suffice, the next one comes so many microseconds later.
const FREEZE_AGAIN: u64 = 1_000_000;

/// What a pair is at.
#[derive(Debug)]
pub(super) enum State {
    /// The main is asked directly.
    Normal,
    /// The main fails: requests are spooled while it is looked at.
    Suspect {
        /// When that began.
        since: u64,
    },
    /// There is no main.
    Diverting(Diverting),
    /// A server is being given a new lock.
    Promoting { to: Side, since: u64, step: Step, tries: u32 },
    /// There is a main, which is given what waits in the spool.
    Draining(Draining),
    /// Told to switch: what runs is finished first.
    Planned { to: Side, since: u64, is_releasing: bool },
}

impl State {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Suspect { .. } => "suspect",
            Self::Diverting(_) => "diverting",
            Self::Promoting { .. } => "promoting",
            Self::Draining(_) => "draining",
            Self::Planned { .. } => "planned",
        }
    }
}

#[derive(Debug)]
pub(super) struct Diverting {
    since: u64,
    /// The front was just started: the one that held the lock is given time to show itself.
    is_start: bool,
    /// The main answers, and yet does not work: it is not taken back at once.
    distrust: bool,
    /// An operator wants the other one, whatever the flap guard says.
    is_forced: bool,
    /// The main has been asked to be cut off.
    has_fenced: bool,
}

impl Diverting {
    pub(super) fn starting(now: u64) -> Self {
        Self { is_start: true, ..Self::new(now) }
    }

    fn new(now: u64) -> Self {
        Self { since: now, is_start: false, distrust: false, is_forced: false, has_fenced: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The new epoch is being written.
    Save,
    /// A fresh stamp is asked for.
    Ask,
    /// The lock is on its way.
    Grant,
}

#[derive(Debug)]
pub(super) struct Draining {
    frozen_until: Option<u64>,
    freeze_from: u64,
}

impl Draining {
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen_until.is_some()
    }

    /// Lets new writes wait so that the last records can get through.
    pub(super) fn freeze(&mut self, now: u64, span: u64) {
        if span > 0 && self.frozen_until.is_none() && now >= self.freeze_from {
            self.frozen_until = Some(now + span);
        }
    }

    /// `true`: that took too long, and what waits is to be let go.
    pub(super) fn thaw(&mut self, now: u64) -> bool {
        let is_over = self.frozen_until.is_some_and(|until| now >= until);
        if is_over {
            self.frozen_until = None;
            self.freeze_from = now + FREEZE_AGAIN;
        }
        is_over
    }
}

/// A server, as it was heard of last.
#[derive(Debug, Default)]
pub(super) struct Server {
    report: Option<(u64, Report)>,
    is_asked: bool,
    ask_at: u64,
    is_granting: bool,
}

/// Errors of late.
#[derive(Debug, Default)]
pub(super) struct Errors(VecDeque<u64>);

impl Errors {
    pub(super) fn note(&mut self, now: u64) {
        // More than any limit that makes sense.
        if self.0.len() == 1024 {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    fn count(&mut self, since: u64) -> usize {
        while self.0.front().is_some_and(|at| *at < since) {
            self.0.pop_front();
        }
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Pair {
    /// Does what the time has come for, and what the last event has made possible.
    pub(super) fn step(&mut self) {
        self.ask_servers();
        match &self.state {
            State::Normal => self.watch(),
            State::Draining(_) => {
                self.step_draining();
                self.watch();
            }
            State::Suspect { since } => {
                if self.now >= since + self.config.confirm {
                    self.divert("the main says nothing good", false, false);
                }
            }
            State::Diverting(_) => self.choose(),
            State::Planned { .. } => self.step_planned(),
            State::Promoting { since, .. } => {
                if self.now >= since + 2 * self.promote_limit() {
                    self.promotion_failed("does not take the lock in time");
                }
            }
        }
    }

    pub(super) fn switch_wakes_at(&self) -> u64 {
        let asks =
            self.servers.iter().filter(|server| !server.is_asked).map(|server| server.ask_at);
        let own = match &self.state {
            State::Normal => None,
            State::Suspect { since } => Some(since + self.config.confirm),
            State::Diverting(_) => {
                let free = self.lock.free_at();
                (free > self.now).then_some(free)
            }
            State::Promoting { since, .. } => Some(since + 2 * self.promote_limit()),
            State::Draining(draining) => draining
                .frozen_until
                .or_else(|| (draining.freeze_from > self.now).then_some(draining.freeze_from)),
            State::Planned { since, .. } => Some(since + self.config.release_timeout),
        };
        asks.chain(own).min().unwrap_or(u64::MAX)
    }

    fn promote_limit(&self) -> u64 {
        (self.config.probe_timeout + self.config.probe_every).max(1_000_000) * 2
    }

    // -----------------------------------------------------------------------------------------
    // What servers say of themselves

    fn ask_servers(&mut self) {
        for side in 0..2 {
            if !self.servers[side].is_asked && self.now >= self.servers[side].ask_at {
                self.ask(side);
            }
        }
    }

    fn ask(&mut self, side: Side) {
        // A lease must outlive a few lost probes.
        let every = self.config.probe_every.min(self.config.lease / 4).max(1_000);
        let server = &mut self.servers[side];
        server.is_asked = true;
        server.ask_at = self.now + every;
        let timeout = self.config.probe_timeout;
        self.out.push(Action::Probe { side, timeout });
    }

    pub(super) fn is_ready(&self, side: Side) -> bool {
        let fresh = 2 * self.config.probe_every + 2 * self.config.probe_timeout;
        matches!(self.servers[side].report, Some((at, report))
            if report.ready && self.now <= at + fresh)
    }

    pub(super) fn reported(&mut self, side: Side, report: Option<Report>) {
        self.servers[side].is_asked = false;
        self.servers[side].report = report.map(|report| (self.now, report));
        if let Some(report) = report {
            self.saw_epoch(report.seen);
        }
        let is_main = side == self.main();
        let good = report.is_some_and(|report| report.ready);
        match &mut self.state {
            State::Promoting { to, step: step @ Step::Ask, .. } if *to == side => match report {
                Some(report) if good => {
                    *step = Step::Grant;
                    self.grant(side, report);
                }
                _ => self.promotion_failed("is not ready any more"),
            },
            State::Promoting { .. } | State::Diverting(_) => {}
            State::Normal | State::Draining(_) | State::Suspect { .. } | State::Planned { .. }
                if is_main =>
            {
                match report {
                    Some(report) if good => self.main_is_well(report),
                    _ => self.errors.note(self.now),
                }
            }
            State::Normal | State::Draining(_) => {
                // The standby watches the main as well, over a way of its own.
                if report.is_some_and(|report| report.ready && report.wants_switch) {
                    self.suspect("the standby says that the main is dead");
                }
            }
            State::Suspect { .. } | State::Planned { .. } => {}
        }
    }

    fn main_is_well(&mut self, report: Report) {
        // A lock that is being given back is not renewed.
        let is_releasing = matches!(self.state, State::Planned { is_releasing: true, .. });
        if !is_releasing && !self.servers[self.main()].is_granting {
            self.grant(self.main(), report);
        }
        if let State::Suspect { .. } = self.state {
            self.relapses.push_back(self.now);
            while self.relapses.front().is_some_and(|at| *at + self.config.flap_guard < self.now) {
                self.relapses.pop_front();
            }
            if self.relapses.len() > RELAPSES {
                self.relapses.clear();
                self.divert("the main answers probes and fails requests", true, false);
            } else {
                self.log("the main is well: a false alarm");
                self.errors.clear();
                if self.has_late {
                    self.divert("what was in doubt gets a new epoch behind it", false, false);
                } else {
                    self.begin_draining();
                }
            }
        } else if report.wants_switch && self.config.automatic && self.is_main_in_office() {
            let to = 1 - self.main();
            if self.is_ready(to) && !self.is_flap_guarded() {
                self.plan(to, "the main asks for it");
            }
        }
    }

    /// Some server has seen this epoch.
    pub(super) fn saw_epoch(&mut self, seen: u64) {
        if seen <= self.lock.epoch || self.split == Some(seen) {
            return;
        }
        if matches!(self.state, State::Promoting { step: Step::Save, .. }) {
            return;
        }
        if self.lock.epoch == 0 {
            // A spool that is new, for servers that are not: another front may be gone since just
            // now, with a lease still running.
            let span = self.config.lease + self.config.lease_margin();
            self.lock.adopt(seen, self.now, span);
            self.is_spent = true;
            self.log(format!("the servers know epoch {seen}: the spool goes on from there"));
            return;
        }
        let own = self.lock.epoch;
        self.split = Some(seen);
        self.alarm(format!(
            "a server knows epoch {seen}, and this front has granted {own} at most: another front \
             serves this pair. Stop one of them, then `evs spool release`"
        ));
        if !self.on_hold {
            self.on_hold = true;
            self.write_state();
        }
        self.divert("another front serves this pair", true, false);
    }

    pub(super) fn write_state(&mut self) {
        let batch = self.state_batch();
        self.write(WriteFor::Held, batch);
    }

    /// Writes what is to be kept as it is now. It may be written while the write of a new epoch is
    /// still under way, and must not take that back.
    pub(super) fn state_batch(&mut self) -> Batch {
        self.kept.on_hold = self.on_hold;
        self.kept.epoch = self.kept.epoch.max(self.lock.epoch);
        Batch { state: Some(self.kept.clone()), ..Batch::default() }
    }

    // -----------------------------------------------------------------------------------------
    // The lock

    fn grant(&mut self, side: Side, report: Report) {
        let lease = self.config.lease;
        let grant = Grant {
            epoch: self.lock.epoch,
            lease: Duration::from_micros(lease),
            stamp: report.stamp,
        };
        self.lock.sent(self.now, lease + self.config.lease_margin());
        self.servers[side].is_granting = true;
        self.out.push(Action::Grant { side, grant });
    }

    pub(super) fn granted(&mut self, side: Side, epoch: u64, ok: bool) {
        self.servers[side].is_granting = false;
        if epoch != self.lock.epoch || side != self.main() {
            return;
        }
        match &mut self.state {
            State::Promoting { to, step, tries, .. } if *to == side && *step == Step::Grant => {
                if ok {
                    self.became_main(side);
                } else if *tries >= GRANTS {
                    self.promotion_failed("does not take the lock");
                } else {
                    *tries += 1;
                    *step = Step::Ask;
                    if !self.servers[side].is_asked {
                        self.ask(side);
                    }
                }
            }
            State::Normal | State::Draining(_) | State::Suspect { .. } if !ok => {
                self.errors.note(self.now);
            }
            _ => {}
        }
    }

    pub(super) fn released(&mut self, side: Side, epoch: u64, ok: bool) {
        if ok {
            self.lock.freed(side, epoch);
        }
        let State::Planned { to, is_releasing: true, .. } = self.state else { return };
        if epoch != self.lock.epoch {
            return;
        }
        if ok {
            self.promote(to);
        } else {
            self.divert("the main does not give the lock back", true, true);
        }
    }

    pub(super) fn fenced(&mut self, side: Side, epoch: u64, ok: bool) {
        if ok {
            self.log(format!("server {side} is cut off"));
            self.lock.freed(side, epoch);
        }
    }

    // -----------------------------------------------------------------------------------------
    // From state to state

    /// A server without a ledger may do a request late whose answer did not come: a new epoch keeps
    /// it from undoing what follows.
    pub(super) fn bar_what_is_late(&mut self) {
        self.has_late |= self.config.classes[self.main()] != Class::Ledger;
        if self.has_late && self.is_main_in_office() {
            self.divert("a request is in doubt, and gets a new epoch behind it", false, false);
        }
    }

    fn is_main_in_office(&self) -> bool {
        matches!(self.state, State::Normal | State::Draining(_))
    }

    /// Looks whether the main is still one.
    fn watch(&mut self) {
        let since = self.now.saturating_sub(self.config.suspect_window);
        if self.errors.count(since) >= self.config.suspect_errors.max(1) {
            self.suspect("requests or probes fail");
        }
    }

    pub(super) fn suspect(&mut self, why: &str) {
        if !matches!(self.state, State::Normal | State::Draining(_)) {
            return;
        }
        self.errors.clear();
        if self.config.dry_run {
            self.counters.would_divert += 1;
            self.log(format!("dry run: would suspect the main: {why}"));
            return;
        }
        self.counters.suspected += 1;
        self.log(format!("the main is suspect: {why}"));
        self.diverted_at.get_or_insert(self.now);
        self.state = State::Suspect { since: self.now };
        let main = self.main();
        if !self.servers[main].is_asked {
            self.ask(main);
        }
        self.run_lanes();
    }

    pub(super) fn divert(&mut self, why: &str, distrust: bool, is_forced: bool) {
        let is_bound = self.split.is_some() || matches!(self.state, State::Promoting { .. });
        if self.config.dry_run && !is_bound {
            return;
        }
        self.log(format!("no main: {why}"));
        self.diverted_at.get_or_insert(self.now);
        let mut diverting = Diverting::new(self.now);
        diverting.distrust = distrust;
        diverting.is_forced = is_forced;
        self.state = State::Diverting(diverting);
        self.run_lanes();
    }

    /// Begins a planned switch.
    pub(super) fn plan(&mut self, to: Side, why: &str) {
        if self.config.dry_run {
            self.counters.would_divert += 1;
            return self.log(format!("dry run: would switch: {why}"));
        }
        self.log(format!("a planned switch: {why}"));
        self.diverted_at.get_or_insert(self.now);
        self.state = State::Planned { to, since: self.now, is_releasing: false };
        self.run_lanes();
    }

    fn step_planned(&mut self) {
        let State::Planned { to: _, since, is_releasing } = self.state else { return };
        if self.now >= since + self.config.release_timeout {
            return self.divert("the main does not finish", true, true);
        }
        let is_granting = self.servers[self.main()].is_granting;
        if is_releasing || is_granting || self.direct_calls > 0 || self.drain.calls() > 0 {
            return;
        }
        if let State::Planned { is_releasing, .. } = &mut self.state {
            *is_releasing = true;
        }
        let (side, epoch) = (self.main(), self.lock.epoch);
        let timeout = self.config.release_timeout;
        self.out.push(Action::Release { side, epoch, timeout });
    }

    /// Which server could be main.
    fn choose(&mut self) {
        if self.split.is_some() {
            return;
        }
        // A spool that cannot be written takes no epoch.
        if self.store_trouble.is_some_and(|until| self.now < until) {
            return;
        }
        let State::Diverting(diverting) = &self.state else { return };
        let (main, other) = (self.main(), 1 - self.main());
        let waited = self.now - diverting.since;
        let span = self.config.lease + self.config.lease_margin();
        let all_heard = self.servers.iter().all(|server| server.report.is_some());
        // To a new spool only its servers can say which epochs there were.
        if self.lock.epoch == 0 && !all_heard && waited < span {
            return;
        }
        let may_main = self.lock.may_pass_to(main, self.now);
        // One that fails requests is tried again when the other has had its time.
        let trusted = !diverting.distrust || waited > 2 * self.config.lease;
        if trusted && !diverting.is_forced && may_main && self.is_ready(main) {
            return self.promote(main);
        }
        if !self.is_ready(other) {
            if trusted && may_main && self.is_ready(main) {
                self.promote(main);
            }
            return;
        }
        let is_start = diverting.is_start && waited < self.config.confirm;
        let by_itself = self.config.automatic && !self.is_flap_guarded() && !is_start;
        if !by_itself && !diverting.is_forced {
            return;
        }
        if self.lock.is_free(self.now) {
            return self.promote(other);
        }
        if !diverting.has_fenced {
            if let State::Diverting(diverting) = &mut self.state {
                diverting.has_fenced = true;
            }
            let epoch = self.lock.epoch;
            self.out.push(Action::Fence { side: main, epoch });
        }
    }

    pub(super) fn is_flap_guarded(&self) -> bool {
        self.switched_at.is_some_and(|at| self.now < at + self.config.flap_guard)
    }

    /// Begins to give a server a new lock: the one that holds it, or any if it is free.
    fn promote(&mut self, to: Side) {
        debug_assert!(self.lock.may_pass_to(to, self.now), "two holders");
        let holder = u8::try_from(to).unwrap_or(0);
        // An epoch under which nothing was done yet is this server's still: those that are used up
        // in vain look to servers as if another had been main.
        let is_unused =
            !self.is_spent && self.kept.holder == holder && self.kept.epoch >= self.lock.epoch;
        let epoch =
            if is_unused { self.kept.epoch } else { self.lock.epoch.max(self.kept.epoch) + 1 };
        self.state = State::Promoting { to, since: self.now, step: Step::Save, tries: 0 };
        self.is_spent = false;
        self.kept.epoch = epoch;
        self.kept.holder = holder;
        let batch = self.state_batch();
        self.write(WriteFor::Epoch { epoch, to }, batch);
    }

    pub(super) fn epoch_written(&mut self, epoch: u64, to: Side, result: Result<(), StoreFault>) {
        let State::Promoting { to: side, step, .. } = &mut self.state else {
            // Given up meanwhile. The number is on disk and must not be used for another.
            if result.is_ok() {
                self.skip_epoch(epoch);
            }
            return;
        };
        if *side != to || *step != Step::Save || epoch != self.kept.epoch {
            return;
        }
        if result.is_err() {
            // Perhaps it is on disk and perhaps not: the next try takes the next number.
            self.skip_epoch(epoch);
            // Whom the operator wanted is wanted still.
            let is_switch = to != self.last_main;
            return self.divert("the new epoch cannot be written", is_switch, is_switch);
        }
        *step = Step::Ask;
        self.lock.pass(epoch, to);
        self.has_late = false;
        if !self.servers[to].is_asked {
            self.ask(to);
        }
    }

    /// The number is used up; who holds the lock holds it under the number before.
    fn skip_epoch(&mut self, epoch: u64) {
        self.lock.skip(epoch);
    }

    /// The lock goes to the other if that can have it: it may be well, and have given the lock up
    /// for this one.
    fn promotion_failed(&mut self, why: &str) {
        let State::Promoting { to, .. } = self.state else { return };
        let is_switch = to != self.last_main;
        if is_switch {
            self.alarm(format!("server {to} was to take over, and {why}: the other one may again"));
        }
        self.divert(&format!("server {to} {why}"), true, is_switch);
    }

    fn became_main(&mut self, side: Side) {
        if std::mem::replace(&mut self.last_main, side) != side {
            self.switched_at = Some(self.now);
            self.counters.switched += 1;
        }
        self.is_spent = true;
        self.counters.promoted += 1;
        self.errors.clear();
        let epoch = self.lock.epoch;
        self.log(format!("server {side} is main, with epoch {epoch}"));
        self.begin_draining();
    }

    fn begin_draining(&mut self) {
        self.state = State::Draining(Draining { frozen_until: None, freeze_from: 0 });
        if let Some(since) = self.diverted_at {
            self.counters.last_gap = self.now.saturating_sub(since);
        }
        self.drain.restart();
        self.wake_all();
    }

    /// Lanes decide anew what becomes of requests that wait in them.
    fn run_lanes(&mut self) {
        let lanes: Vec<_> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.run_lane(lane);
        }
    }
}
