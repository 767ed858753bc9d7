//! While a controller serves the device: handshakes, requests, and when it is taken for lost.

use std::time::Duration;

use super::{Event, Machine, Output, Stage, Up, millis};
use crate::device::policy::Policy;
use crate::limits::{DEADLINE_MAX, LEASE_MAX, LEASE_MIN};
use crate::model::ControllerId;
use crate::shard::Millis;
use crate::wire::client::{ClientMessage, Outcome, Request};

/// Handshakes are no rarer than this.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3_600);
/// More misses than this are not waited for.
const MISSES_MAX: u8 = 20;
/// How many handshakes fit into a lease, at least.
const HANDSHAKES_PER_LEASE: u32 = 3;
/// When to come again with a request for which there is no room.
const FULL_AFTER: Duration = Duration::from_millis(200);

/// A registration that stands, as far as the device knows.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) controller: ControllerId,
    pub(super) seq: u64,
    every: Millis,
    misses_max: u8,
    /// When the next handshake is due.
    next: Millis,
    /// The last one is not answered.
    is_asked: bool,
    misses: u8,
    /// When to connect again.
    reopen: Millis,
    reopens: u8,
}

/// A request that the program has.
#[derive(Debug, Clone)]
pub(super) struct Underway {
    pub(super) from: ControllerId,
    id: u64,
    /// Nobody waits for the answer any more.
    pub(super) until: Millis,
}

impl Serving {
    pub(super) fn new(
        controller: ControllerId,
        seq: u64,
        misses: u8,
        lease: Duration,
        every: Duration,
        policy: &Policy,
    ) -> Self {
        let lease = lease.clamp(LEASE_MIN, LEASE_MAX);
        let every = every.min(lease / HANDSHAKES_PER_LEASE).min(HANDSHAKE_MAX);
        Self {
            every: millis(every, Millis::MAX).max(policy.handshake_min),
            misses_max: misses.clamp(1, MISSES_MAX),
            ..Self::leaving(controller, seq)
        }
    }

    /// One that is about to end.
    pub(super) fn leaving(controller: ControllerId, seq: u64) -> Self {
        Self {
            controller,
            seq,
            every: Millis::MAX,
            misses_max: 1,
            next: Millis::MAX,
            is_asked: false,
            misses: 0,
            reopen: Millis::MAX,
            reopens: 0,
        }
    }

    pub(super) fn due(&self) -> Millis {
        self.next.min(self.reopen)
    }

    /// At least one handshake went without an answer.
    pub(super) fn is_silent(&self) -> bool {
        self.misses > 0
    }
}

impl Machine {
    /// The next handshake: somewhat earlier or later than those of others that began together.
    pub(super) fn put_off_handshake(&mut self) {
        if let Some(serving) = &mut self.serving {
            let part = serving.every / 4;
            serving.next = self.now + (serving.every - part + self.rng.upto(part)).max(1);
        }
    }

    pub(super) fn tick_serving(&mut self, out: &mut Vec<Output>) {
        let Some(serving) = &mut self.serving else { return };
        if serving.next <= self.now {
            serving.misses += u8::from(serving.is_asked);
            if serving.misses >= serving.misses_max {
                let why = format!("{} handshakes without an answer", serving.misses);
                return self.lose_serving(why.into(), out);
            }
            if serving.misses > 0 {
                let controller = serving.controller.clone();
                out.push(Output::Event(Event::Silent { controller }));
            }
            self.put_off_handshake();
            self.shake(out);
        }
        let Some(serving) = &mut self.serving else { return };
        if serving.reopen <= self.now {
            serving.reopen = Millis::MAX;
            serving.reopens = serving.reopens.saturating_add(1);
            let controller = serving.controller.clone();
            match self.place(&controller) {
                Some(place) => self.open(place, out),
                None => self.lose_serving("nobody knows where it is".into(), out),
            }
        }
    }

    fn shake(&mut self, out: &mut Vec<Output>) {
        let Some(serving) = &mut self.serving else { return };
        // Without a connection it is not answered either.
        serving.is_asked = true;
        let (to, seq) = (serving.controller.clone(), serving.seq);
        if self.is_up(&to) {
            let message = ClientMessage::Handshake { device: self.device.clone(), seq };
            out.push(Output::Say { to, message });
        }
    }

    pub(super) fn hand_shaken(
        &mut self,
        from: &ControllerId,
        seq: u64,
        generation: u64,
        out: &mut Vec<Output>,
    ) {
        let Some(serving) = &mut self.serving else { return };
        if serving.controller == *from && serving.seq == seq {
            (serving.is_asked, serving.misses) = (false, 0);
            // Not at once: it may answer each time, and cut the connection each time.
            serving.reopens /= 2;
            self.tell_generation(generation, out);
        }
    }

    pub(super) fn tell_generation(&mut self, generation: u64, out: &mut Vec<Output>) {
        if generation != self.generation && generation != self.told_generation {
            self.told_generation = generation;
            out.push(Output::Event(Event::Generation(generation)));
        }
    }

    /// A connection to whoever serves it stands again: whether the registration does too is asked
    /// at once.
    pub(super) fn serving_opened(&mut self, controller: &ControllerId, out: &mut Vec<Output>) {
        if self.stage == Stage::Running
            && self.serving.as_ref().is_some_and(|serving| serving.controller == *controller)
        {
            self.shake(out);
        }
    }

    /// The connection to whoever serves it is lost: it is made again, at a pace. Whether the
    /// controller is lost is a matter of handshakes.
    pub(super) fn serving_lost(&mut self, controller: &ControllerId, after: Millis) {
        let Some(serving) = &mut self.serving else { return };
        if serving.controller != *controller {
            return;
        }
        let whole = self.policy.base.saturating_mul(1 << serving.reopens.min(40));
        let whole = whole.min(serving.every).min(self.policy.cap);
        serving.reopen = self.now + after.max(self.rng.half_to_all(whole)).max(1);
    }

    /// A controller has a request for the device.
    pub(super) fn asked(&mut self, from: &ControllerId, request: Request, out: &mut Vec<Output>) {
        let serves = self.serving.as_ref().is_some_and(|serving| serving.controller == *from);
        let attempts = self.attempt.as_ref().is_some_and(|attempt| attempt.controller == *from);
        let is_twice = self.underway.iter().any(|u| u.from == *from && u.id == request.id);
        let refusal = if is_twice {
            return;
        } else if self.stage != Stage::Running || !(serves || attempts) {
            Some(Outcome::Unreachable("the device is not registered here".to_owned()))
        } else if self.underway.len() >= self.policy.requests_max {
            Some(Outcome::Busy { after: FULL_AFTER })
        } else {
            None
        };
        if let Some(outcome) = refusal {
            let message = ClientMessage::Response { id: request.id, outcome };
            return out.push(Output::Say { to: from.clone(), message });
        }
        let deadline = millis(request.deadline.min(DEADLINE_MAX), Millis::MAX).max(1);
        let until = self.now + deadline;
        self.underway.push(Underway { from: from.clone(), id: request.id, until });
        out.push(Output::Serve { from: from.clone(), request });
    }

    /// The program has answered; see [`super::Input::Answer`].
    pub(super) fn answered(
        &mut self,
        from: &ControllerId,
        id: u64,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let index = self.underway.iter().position(|u| u.from == *from && u.id == id);
        // Otherwise it is too late, or the connection is another one.
        if let Some(index) = index {
            self.underway.swap_remove(index);
            if self.line(from) == Some(Up::Yes) {
                let message = ClientMessage::Response { id, outcome };
                out.push(Output::Say { to: from.clone(), message });
            }
        }
    }
}
