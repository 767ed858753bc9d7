//! What all connections of a proxy share: the clock, the plan, the counts and the event log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Event, EventKind, EventLog};
use crate::fault::{Direction, Fault, Way};
use crate::plan::{Scope, Step, When};
use crate::schedule::{Counts, Schedule};
use crate::summary::Summary;

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) start: Instant,
    /// The time of the current turn of the loop; read once, for many decisions.
    pub(crate) now: Instant,
    pub(crate) plan: Arc<[Step]>,
    /// Steps that go by the bytes and the clock of all connections.
    pub(crate) schedule: Schedule,
    pub(crate) totals: Counts,
    pub(crate) summary: Summary,
    pub(crate) log: Arc<EventLog>,
    /// Refusals that a connection's bytes brought about; the listener is not the connection's.
    pub(crate) refusals: Vec<Fault>,
    pub(crate) flush: Duration,
    pub(crate) scratch: Vec<u8>,
    done: Vec<bool>,
}

impl Ledger {
    pub(crate) fn new(plan: Vec<Step>, flush: Duration, log: Arc<EventLog>) -> Self {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for (index, step) in plan.iter().enumerate() {
            if step.scope == Scope::Total {
                schedule.arm(index, step, now);
            }
        }
        let summary = Summary { plan_steps: plan.len(), ..Summary::default() };
        Self {
            start: now,
            now,
            done: vec![false; plan.len()],
            plan: plan.into(),
            schedule,
            totals: Counts::default(),
            summary,
            log,
            refusals: Vec::new(),
            flush,
            scratch: vec![0; 64 << 10],
        }
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    /// One more step of the plan: a fault when so many more bytes have been forwarded.
    pub(crate) fn add_step(&mut self, bytes: u64, fault: Fault) {
        let bytes = (self.totals.up + self.totals.down).saturating_add(bytes);
        let when = When::After { bytes, direction: Direction::Both };
        let step = Step { scope: Scope::Total, when, fault };
        self.schedule.arm(self.plan.len(), &step, self.now);
        self.plan = self.plan.iter().cloned().chain([step]).collect();
        self.done.push(false);
        self.summary.plan_steps += 1;
    }

    /// The fault of a step, which counts as done by this.
    pub(crate) fn take_step(&mut self, index: usize) -> Option<Fault> {
        let fault = self.plan.get(index).map(|step| step.fault.clone())?;
        if !std::mem::replace(&mut self.done[index], true) {
            self.summary.plan_steps_done += 1;
        }
        Some(fault)
    }

    pub(crate) fn forwarded(&mut self, way: Way, bytes: usize) {
        self.totals.add(way, bytes);
    }

    pub(crate) fn count_fault(&mut self, fault: &Fault) {
        *self.summary.faults.entry(fault.kind()).or_default() += 1;
    }

    pub(crate) fn event(&self, conn: Option<u64>, counts: Counts, flowing: bool, kind: EventKind) {
        let at = self.since_start();
        self.log.push(Event { at, conn, up: counts.up, down: counts.down, flowing, kind });
    }

    /// The sums as of now, without what open connections have lost.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            elapsed: self.start.elapsed(),
            up: self.totals.up,
            down: self.totals.down,
            ..self.summary.clone()
        }
    }
}

/// The ways that a direction covers.
pub(crate) fn ways(direction: Direction) -> impl Iterator<Item = Way> {
    [Way::Up, Way::Down].into_iter().filter(move |way| direction.covers(*way))
}
