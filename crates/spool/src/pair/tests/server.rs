//! Two servers over one storage, each with a clock of its own.

use std::collections::HashMap;

use crate::record::Record;
use crate::request::{Kind, RequestId};
use crate::target::{CallFailed, CallResult, Class, Grant, ItemResult, Report, Stamp};

/// What both servers see.
#[derive(Debug, Default)]
pub(super) struct Storage {
    /// The highest epoch that any of them was granted.
    pub(super) epoch: u64,
    ledger: HashMap<RequestId, Vec<u8>>,
    /// Each effect, in order.
    pub(super) effects: Vec<(Vec<u8>, RequestId)>,
}

impl Storage {
    /// One transaction: the fence holds to the end of it.
    pub(super) fn execute(
        &mut self,
        class: Class,
        epoch: u64,
        items: &[Record],
        later: &mut dyn FnMut() -> bool,
    ) -> CallResult {
        if epoch < self.epoch {
            return Err(CallFailed::Fenced { asked: epoch, seen: self.epoch });
        }
        let mut stopped = Vec::new();
        let mut results = Vec::new();
        for item in items {
            if stopped.contains(&item.lane()) || later() {
                stopped.push(item.lane());
                results.push(ItemResult::Later { after: std::time::Duration::ZERO });
                continue;
            }
            results.push(self.execute_one(class, item));
        }
        Ok(results)
    }

    fn execute_one(&mut self, class: Class, item: &Record) -> ItemResult {
        match item.kind {
            Kind::Read | Kind::Search => {
                let key = &item.key;
                let seen = self.effects.iter().filter(|(other, _)| other == key);
                let answer: Vec<u8> = seen.flat_map(|(_, id)| id.0.to_be_bytes()).collect();
                ItemResult::Done { answer, again: false }
            }
            Kind::Write | Kind::Delete | Kind::Custom(_) => {
                if class == Class::Ledger
                    && let Some(answer) = self.ledger.get(&item.id)
                {
                    return ItemResult::Done { answer: answer.clone(), again: true };
                }
                self.effects.push((item.key.clone(), item.id));
                let answer = item.id.0.to_be_bytes().to_vec();
                self.ledger.insert(item.id, answer.clone());
                ItemResult::Done { answer, again: false }
            }
        }
    }
}

/// One server.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) is_up: bool,
    /// Stopped in the middle of whatever it does, until then.
    pub(super) stopped_until: u64,
    pub(super) run: u64,
    /// Parts in a thousand of the right speed.
    pub(super) rate: u64,
    pub(super) lease: Option<(u64, u64)>,
    released: u64,
    pub(super) margin: u64,
}

impl Host {
    pub(super) fn new(run: u64, rate: u64, margin: u64) -> Self {
        Self { is_up: true, stopped_until: 0, run, rate, lease: None, released: 0, margin }
    }

    pub(super) fn restart(&mut self, run: u64) {
        *self =
            Self { stopped_until: self.stopped_until, ..Self::new(run, self.rate, self.margin) };
    }

    fn clock(&self, now: u64) -> u64 {
        7_000_000 + now * self.rate / 1000
    }

    pub(super) fn holds(&self, now: u64) -> Option<u64> {
        self.lease.and_then(|(epoch, until)| (self.clock(now) < until).then_some(epoch))
    }

    pub(super) fn report(&self, now: u64, storage: &Storage) -> Report {
        Report {
            ready: true,
            holds: self.holds(now),
            seen: storage.epoch,
            wants_switch: false,
            stamp: Stamp { run: self.run, at_us: self.clock(now) },
        }
    }

    pub(super) fn grant(&mut self, grant: Grant, storage: &mut Storage) -> bool {
        if grant.stamp.run != self.run
            || grant.epoch < storage.epoch
            || grant.epoch <= self.released
        {
            return false;
        }
        storage.epoch = grant.epoch;
        let lease = u64::try_from(grant.lease.as_micros()).unwrap();
        let until = grant.stamp.at_us + lease - self.margin;
        let until = match self.lease {
            Some((epoch, other)) if epoch == grant.epoch => other.max(until),
            _ => until,
        };
        self.lease = Some((grant.epoch, until));
        true
    }

    pub(super) fn release(&mut self, epoch: u64) -> bool {
        self.released = self.released.max(epoch);
        self.lease = None;
        true
    }
}
