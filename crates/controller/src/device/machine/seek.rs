//! Whom to try next, and when.

use std::borrow::Cow;

use super::{Event, Machine, Output};
use crate::model::ControllerId;
use crate::shard::Millis;

/// How often a controller that says "come again" is waited for before the next one is tried.
const RETRIES_MAX: u8 = 3;
/// Controllers that want to be left alone, remembered at most: there are not more candidates.
const NOT_BEFORE_MAX: usize = 32;

/// A device without a registration looks for one.
#[derive(Debug, Clone)]
pub(super) struct Seek {
    /// Since when.
    pub(super) began: Millis,
    /// Nothing is tried before then.
    pub(super) until: Millis,
    /// Who is tried before all others.
    pub(super) first: Option<ControllerId>,
    /// Who is tried after all others.
    last: Option<ControllerId>,
    /// Those of the candidates that have failed in this round, a bit for each.
    tried: u32,
    /// How many have failed in this round.
    failures: u8,
    /// Rounds in which all failed.
    rounds: u8,
    /// How often the one that is tried has said "come again".
    retries: u8,
}

impl Seek {
    /// `last` was lost just now.
    pub(super) fn new(began: Millis, until: Millis, last: Option<ControllerId>) -> Self {
        Self { began, until, first: None, last, tried: 0, failures: 0, rounds: 0, retries: 0 }
    }

    /// Goes to this one at once.
    pub(super) fn at_first(began: Millis, first: ControllerId) -> Self {
        Self { first: Some(first.clone()), ..Self::new(began, began, Some(first)) }
    }
}

impl Machine {
    pub(super) fn tick_seek(&mut self, out: &mut Vec<Output>) {
        let Some(seek) = &self.seek else { return };
        if self.attempt.is_some() || seek.until > self.now {
            return;
        }
        let next = self.next_candidate().and_then(|next| self.pace().map(|()| next));
        let (now, cap) = (self.now, self.policy.cap);
        let Some(seek) = &mut self.seek else { return };
        match next {
            Ok(controller) => {
                seek.first = None;
                self.begin_attempt(controller, out);
            }
            Err(at) => seek.until = at.clamp(now + 1, now + cap),
        }
    }

    /// Who comes next; or when to look again, as all that are left want to be left alone.
    fn next_candidate(&self) -> Result<ControllerId, Millis> {
        let Some(seek) = &self.seek else { return Err(Millis::MAX) };
        if let Some(first) = seek.first.as_ref().filter(|first| self.place(first).is_some()) {
            return Ok(first.clone());
        }
        let untried = || {
            let all = self.candidates().enumerate();
            all.filter(|(i, _)| seek.tried & (1 << i) == 0).map(|(_, controller)| controller)
        };
        let is_last = |controller: &&ControllerId| seek.last.as_ref() == Some(*controller);
        let in_order = untried().filter(|c| !is_last(c)).chain(untried().filter(is_last));
        let mut soonest = Millis::MAX;
        for controller in in_order {
            let at = self.not_before(controller);
            if at <= self.now {
                return Ok(controller.clone());
            }
            soonest = soonest.min(at);
        }
        Err(soonest)
    }

    fn not_before(&self, controller: &ControllerId) -> Millis {
        let found = self.not_before.iter().find(|(c, _)| c == controller);
        found.map_or(0, |(_, at)| *at)
    }

    /// A controller wants to be left alone for a while.
    pub(super) fn stay_away(&mut self, controller: &ControllerId, after: Millis) {
        let (now, at) = (self.now, self.now + after.min(self.policy.cap));
        self.not_before.retain(|(c, until)| *until > now && c != controller);
        if self.not_before.len() < NOT_BEFORE_MAX {
            self.not_before.push((controller.clone(), at));
        }
    }

    /// The controller says "come again" to a device that seeks.
    pub(super) fn wait_for(
        &mut self,
        controller: ControllerId,
        after: Millis,
        out: &mut Vec<Output>,
    ) {
        // At least as long as it says; and those who were told the same do not come together.
        let after = after.clamp(self.policy.base.min(self.policy.cap), self.policy.cap);
        let after = after + self.rng.upto(after / 4);
        let until = self.now + after;
        let patience = self.policy.patience;
        match &mut self.seek {
            Some(seek) if seek.retries < RETRIES_MAX && after <= patience => {
                seek.retries += 1;
                seek.until = until;
                seek.first = Some(controller);
            }
            _ => {
                self.stay_away(&controller, after);
                self.next_after(controller, "it says to come again later".into(), out);
            }
        }
    }

    /// An attempt there has failed: the next one is chosen, and the time when it is tried.
    pub(super) fn next_after(
        &mut self,
        controller: ControllerId,
        why: Cow<'static, str>,
        out: &mut Vec<Output>,
    ) {
        let index = self.candidates().position(|c| *c == controller);
        let count = self.candidates().count().min(32);
        let all = u32::MAX >> (32 - count);
        let Some(seek) = &mut self.seek else { return };
        seek.tried |=
            index.map_or(0, |i| 1u32.checked_shl(u32::try_from(i).unwrap_or(32)).unwrap_or(0));
        seek.retries = 0;
        let (base, doublings) = if seek.tried & all == all {
            // All have failed.
            (seek.tried, seek.failures, seek.last) = (0, 0, None);
            seek.rounds = seek.rounds.saturating_add(1);
            (self.policy.base_all, seek.rounds - 1)
        } else {
            seek.failures = seek.failures.saturating_add(1);
            (self.policy.base, seek.failures - 1)
        };
        let whole = base.saturating_mul(1 << doublings.min(40)).min(self.policy.cap);
        seek.until = self.now + self.rng.half_to_all(whole);
        out.push(Output::Event(Event::Failed { controller, why }));
    }
}
