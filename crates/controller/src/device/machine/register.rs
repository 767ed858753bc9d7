//! An attempt to register with one controller.

use std::borrow::Cow;
use std::time::Duration;

use super::seek::Seek;
use super::serve::Serving;
use super::{Event, Machine, Output, Stage, Up, millis};
use crate::limits::{SEQ_JUMP_MAX, SEQ_MAX};
use crate::model::ControllerId;
use crate::shard::Millis;
use crate::wire::client::{ClientMessage, Register, Terms};

/// How often one registration is sent at most.
const SENDS_MAX: u8 = 3;
/// How often a connection is made for one attempt, at most.
const OPENS_MAX: u8 = 3;
/// How often a controller may want a larger counter before that is a failure.
const JUMPS_MAX: u8 = 3;

/// An attempt.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) controller: ControllerId,
    /// Since when the device is without a registration, or was told to come here.
    began: Millis,
    /// When it has failed.
    pub(super) deadline: Millis,
    /// When to send it again, or to connect again.
    again: Millis,
    /// Its counter and nonce, once it was sent.
    sent: Option<(u64, u64)>,
    /// When it was sent first.
    sent_at: Millis,
    sends: u8,
    opens: u8,
    jumps: u8,
    /// The number of the hand-over that it is for, or was; 0 for none.
    pub(super) token: u64,
    /// Another controller serves the device meanwhile.
    pub(super) hand_over: bool,
}

impl Attempt {
    pub(super) fn due(&self) -> Millis {
        self.deadline.min(self.again)
    }

    /// The controller and the counter, if that controller may have registered it.
    pub(super) fn sent_to(&self) -> Option<(ControllerId, u64)> {
        self.sent.filter(|(seq, _)| *seq > 0).map(|(seq, _)| (self.controller.clone(), seq))
    }
}

impl Machine {
    pub(super) fn begin_attempt(&mut self, controller: ControllerId, out: &mut Vec<Output>) {
        let began = self.seek.as_ref().map_or(self.now, |seek| seek.began);
        self.begin(controller, began, self.policy.answer_within, 0, out);
    }

    pub(super) fn begin(
        &mut self,
        controller: ControllerId,
        began: Millis,
        within: Millis,
        token: u64,
        out: &mut Vec<Output>,
    ) {
        let hand_over = self.serving.is_some();
        self.attempt = Some(Attempt {
            controller,
            began,
            deadline: self.now + within.max(1),
            again: Millis::MAX,
            sent: None,
            sent_at: self.now,
            sends: 0,
            opens: 0,
            jumps: 0,
            token,
            hand_over,
        });
        self.pursue(out);
    }

    /// Connects, or sends, whatever comes next for the attempt.
    fn pursue(&mut self, out: &mut Vec<Output>) {
        let Some(attempt) = &self.attempt else { return };
        let controller = attempt.controller.clone();
        match self.line(&controller) {
            Some(Up::Yes) => self.send_register(out),
            Some(Up::Soon) => {}
            None => {
                let Some(place) = self.place(&controller) else {
                    return self.fail_attempt("nobody knows where it is".into(), out);
                };
                if let Some(attempt) = &mut self.attempt {
                    attempt.opens += 1;
                    attempt.again = Millis::MAX;
                }
                self.open(place, out);
            }
        }
    }

    fn send_register(&mut self, out: &mut Vec<Output>) {
        let Some(attempt) = &self.attempt else { return };
        let (seq, nonce) = match attempt.sent {
            Some(sent) => sent,
            None if self.asks => (0, self.rng.next()),
            None if self.seq >= SEQ_MAX => {
                return self.fail_attempt("the device's counter has come to its end".into(), out);
            }
            None => {
                self.seq += 1;
                out.push(Output::Save(self.seq));
                (self.seq, self.rng.next())
            }
        };
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.sent.replace((seq, nonce)).is_none() {
            attempt.sent_at = self.now;
        }
        attempt.sends += 1;
        attempt.again = if attempt.sends < SENDS_MAX {
            self.now + (self.policy.answer_within / u64::from(SENDS_MAX)).max(1)
        } else {
            Millis::MAX
        };
        let register = Register {
            device: self.device.clone(),
            seq,
            nonce,
            lease: self.policy.lease,
            generation: self.generation,
            token: attempt.token,
            address: self.address.to_vec(),
        };
        let message = ClientMessage::Register(register);
        out.push(Output::Say { to: attempt.controller.clone(), message });
    }

    pub(super) fn tick_attempt(&mut self, out: &mut Vec<Output>) {
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.deadline <= self.now {
            return self.fail_attempt("no answer in time".into(), out);
        }
        if attempt.again <= self.now {
            attempt.again = Millis::MAX;
            self.pursue(out);
        }
    }

    pub(super) fn opened(&mut self, controller: &ControllerId, out: &mut Vec<Output>) {
        if !self.set_up(controller) {
            return;
        }
        if self.attempt.as_ref().is_some_and(|attempt| attempt.controller == *controller) {
            self.send_register(out);
        }
        self.serving_opened(controller, out);
    }

    pub(super) fn lost(
        &mut self,
        controller: &ControllerId,
        after: Duration,
        why: Cow<'static, str>,
        out: &mut Vec<Output>,
    ) {
        if !self.drop_line(controller) {
            return;
        }
        let after = millis(after, self.policy.cap);
        if after > 0 {
            self.stay_away(controller, after);
        }
        if let Stage::Leaving(_) = self.stage {
            return self.end(false, out);
        }
        self.serving_lost(controller, after);
        let base = self.policy.base.min(self.policy.answer_within / 4);
        let Some(attempt) = &mut self.attempt else { return };
        if attempt.controller != *controller {
            return;
        }
        if attempt.sent.is_none() || attempt.opens >= OPENS_MAX || after > 0 {
            return self.fail_attempt(why, out);
        }
        // It may be registered there: the same attempt is sent again.
        attempt.again = self.now + self.rng.half_to_all(base).max(1);
    }

    pub(super) fn registered_by(
        &mut self,
        from: &ControllerId,
        seq: u64,
        terms: Terms,
        out: &mut Vec<Output>,
    ) {
        let is_it = |attempt: &mut Attempt| {
            attempt.controller == *from && seq > 0 && attempt.sent.is_some_and(|(s, _)| s == seq)
        };
        let Some(attempt) = self.attempt.take_if(is_it) else { return };
        self.anchor = seq;
        self.asks = false;
        let generation = terms.generation;
        let (lease, every) = (terms.lease, terms.handshake_every);
        let next = Serving::new(from.clone(), seq, terms.misses, lease, every, &self.policy);
        let before = self.serving.replace(next);
        self.seek = None;
        self.put_off_handshake();
        self.learn(terms.alternates, from);
        let took = self.now - attempt.began;
        let answer = self.now - attempt.sent_at;
        out.push(Output::Event(Event::Registered { controller: from.clone(), seq, took, answer }));
        if let Some(before) = before {
            let event = Event::HandedOver { from: before.controller, to: from.clone() };
            out.push(Output::Event(event));
        }
        self.tell_generation(generation, out);
    }

    pub(super) fn told_to_retry(
        &mut self,
        from: &ControllerId,
        after: Duration,
        out: &mut Vec<Output>,
    ) {
        let is_it = |attempt: &mut Attempt| {
            attempt.controller == *from && attempt.sent.is_some() && !attempt.hand_over
        };
        let after = millis(after, self.policy.cap);
        if self.attempt.take_if(is_it).is_some() {
            self.wait_for(from.clone(), after, out);
        } else if self.attempts_at(from) {
            self.stay_away(from, after);
            self.fail_attempt("it says to come again later".into(), out);
        }
    }

    pub(super) fn refused(&mut self, from: &ControllerId, text: String, out: &mut Vec<Output>) {
        if self.attempts_at(from) {
            // "Never" may be about the counter, or be a mistake that somebody sets right.
            self.stay_away(from, self.policy.base_all);
            self.fail_attempt(format!("it refuses: {text}").into(), out);
        }
    }

    pub(super) fn told_to_jump(&mut self, from: &ControllerId, to: u64, out: &mut Vec<Output>) {
        let Some(attempt) = &mut self.attempt else { return };
        let Some((seq, _)) = attempt.sent.filter(|_| attempt.controller == *from) else { return };
        if to < seq {
            // Of an attempt before.
            return;
        }
        if !believable(to, self.anchor) {
            out.push(self.odd(from, format!("it wants a counter above {to}")));
            return self.fail_attempt("it wants a counter that makes no sense".into(), out);
        }
        attempt.jumps += 1;
        let is_too_often = attempt.jumps > JUMPS_MAX;
        attempt.sent = None;
        attempt.sends = 0;
        self.asks = false;
        self.seq = self.seq.max(to);
        if is_too_often || self.pace().is_err() {
            return self.fail_attempt("it wants larger counters again and again".into(), out);
        }
        self.send_register(out);
    }

    pub(super) fn told_to_reregister(
        &mut self,
        from: &ControllerId,
        above: u64,
        out: &mut Vec<Output>,
    ) {
        if self.stage != Stage::Running {
            return;
        }
        if self.serving.as_ref().is_none_or(|serving| serving.controller != *from) {
            // It is not registered there, as it sees it.
            return;
        }
        if believable(above, self.anchor) {
            self.seq = self.seq.max(above);
        } else {
            out.push(self.odd(from, format!("it knows of a counter of {above}")));
        }
        if self.attempt.is_some() {
            // It is on its way to another controller, and that one may have it already.
            return;
        }
        self.serving = None;
        self.seek = Some(Seek::at_first(self.now, from.clone()));
        let why = "it wants the device to register again".into();
        out.push(Output::Event(Event::Lost { controller: from.clone(), why }));
    }

    /// The attempt has failed: on to the next, or back to where the device was.
    pub(super) fn fail_attempt(&mut self, why: Cow<'static, str>, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempt.take() else { return };
        if attempt.hand_over {
            let may_be_there = attempt.sent_to().is_some() || attempt.jumps > 0;
            self.hand_over_failed(attempt.controller, attempt.token, may_be_there, why, out);
        } else {
            self.next_after(attempt.controller, why, out);
        }
    }

    fn attempts_at(&self, controller: &ControllerId) -> bool {
        let attempt = self.attempt.as_ref();
        attempt.is_some_and(|a| a.controller == *controller && a.sent.is_some())
    }
}

/// Whether a counter that a controller speaks of can be, as far as this device knows: others would
/// refuse it if it went beyond.
fn believable(seq: u64, anchor: u64) -> bool {
    seq < anchor.saturating_add(SEQ_JUMP_MAX).min(SEQ_MAX)
}
