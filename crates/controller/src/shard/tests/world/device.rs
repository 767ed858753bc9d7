//! A device as its programmer would have it: it registers, shakes hands, and turns elsewhere when
//! nobody answers.

use std::time::Duration;

use super::super::Dice;
use crate::model::DeviceId;
use crate::shard::Millis;
use crate::wire::client::{ClientMessage, HandOffAnswer, Register, Request};

const MISSES: u32 = 3;
const TRIES: u32 = 3;

/// An attempt to register.
#[derive(Debug, Clone)]
struct Attempt {
    at: usize,
    seq: u64,
    nonce: u64,
    tries: u32,
    /// It is a hand-over: if nothing comes of it the device stays.
    token: u64,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) is_on: bool,
    /// Its counter has gone back, once at least.
    pub(super) is_unreliable: bool,
    /// Whom it believes to be served by, and under which counter.
    pub(super) registered: Option<(usize, u64)>,
    /// No more refusals or delays of hand-overs, and each request is answered.
    pub(super) is_calm: bool,
    seq: u64,
    /// It has lost its counter and does not know.
    is_blank: bool,
    attempt: Option<Attempt>,
    misses: u32,
    controllers: usize,
    lease: Duration,
    is_patient: bool,
}

/// What it says, and to whom.
pub(super) type Said = Vec<(usize, ClientMessage)>;

impl Device {
    pub(super) fn new(n: u64, controllers: usize, lease: Duration, is_patient: bool) -> Self {
        Self {
            id: format!("dev{n}").parse().unwrap(),
            is_on: true,
            is_unreliable: false,
            registered: None,
            is_calm: false,
            seq: 0,
            is_blank: false,
            attempt: None,
            misses: 0,
            controllers,
            lease,
            is_patient,
        }
    }

    /// Its time has come; gives when it comes next.
    pub(super) fn time(&mut self, home: usize, dice: &mut Dice, said: &mut Said) -> Millis {
        if !self.is_on {
            return 1000;
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.tries += 1;
            let (at, token) = (attempt.at, attempt.token);
            if attempt.tries < TRIES {
                self.send(said);
            } else if token != 0 && self.registered.is_some() {
                self.attempt = None;
            } else {
                self.begin((at + 1) % self.controllers, 0, dice, said);
            }
            return dice.between(400, 800);
        }
        match self.registered {
            Some((at, _)) if self.misses >= MISSES && !self.is_patient => {
                self.registered = None;
                self.begin((at + 1) % self.controllers, 0, dice, said);
            }
            Some((at, seq)) => {
                self.misses += 1;
                said.push((at, ClientMessage::Handshake { device: self.id.clone(), seq }));
            }
            None => self.begin(home, 0, dice, said),
        }
        dice.between(700, 1500)
    }

    fn begin(&mut self, at: usize, token: u64, dice: &mut Dice, said: &mut Said) {
        if !self.is_blank {
            self.seq += 1;
        }
        let seq = if self.is_blank { 0 } else { self.seq };
        self.misses = 0;
        self.attempt = Some(Attempt { at, seq, nonce: dice.next(), tries: 0, token });
        self.send(said);
    }

    fn send(&self, said: &mut Said) {
        let Some(attempt) = &self.attempt else { return };
        let register = Register {
            device: self.id.clone(),
            seq: attempt.seq,
            nonce: attempt.nonce,
            lease: self.lease,
            generation: 0,
            token: attempt.token,
            address: Vec::new(),
        };
        said.push((attempt.at, ClientMessage::Register(register)));
    }

    /// A controller says something.
    pub(super) fn hear(
        &mut self,
        from: usize,
        message: ClientMessage,
        dice: &mut Dice,
        said: &mut Said,
    ) {
        if !self.is_on {
            return;
        }
        let attempt = self.attempt.clone().filter(|attempt| attempt.at == from);
        match (message, attempt) {
            (ClientMessage::Registered { seq, .. }, Some(attempt)) if attempt.seq == seq => {
                self.attempt = None;
                self.registered = Some((from, seq));
                self.misses = 0;
            }
            (ClientMessage::Jump { seq, .. }, Some(attempt)) if seq >= attempt.seq => {
                self.is_blank = false;
                self.seq = self.seq.max(seq);
                self.begin(from, attempt.token, dice, said);
            }
            (ClientMessage::Retry { .. }, Some(attempt)) => {
                if attempt.token != 0 && self.registered.is_some() {
                    self.attempt = None;
                } else {
                    // The next time that it comes it goes elsewhere.
                    self.attempt = Some(Attempt { tries: TRIES, ..attempt });
                }
            }
            (ClientMessage::HandshakeOk { seq, .. }, _) if self.registered == Some((from, seq)) => {
                self.misses = 0;
            }
            (ClientMessage::Reregister { above, .. }, _) => {
                let is_here = self.registered.is_some_and(|(at, _)| at == from);
                if is_here && self.attempt.as_ref().is_none_or(|attempt| attempt.token != 0) {
                    self.seq = self.seq.max(above);
                    self.registered = None;
                    self.begin(from, 0, dice, said);
                }
            }
            (ClientMessage::Refused { text, .. }, _) => panic!("refused: {text}"),
            _ => {}
        }
    }

    /// It is told to go elsewhere.
    pub(super) fn hand_off(
        &mut self,
        from: usize,
        token: u64,
        target: usize,
        dice: &mut Dice,
        said: &mut Said,
    ) {
        let is_here = self.registered.is_some_and(|(at, _)| at == from);
        let answer = if !self.is_on || !is_here || self.attempt.is_some() {
            HandOffAnswer::Stays
        } else if !self.is_calm && dice.one_in(5) {
            HandOffAnswer::Busy
        } else if !self.is_calm && dice.one_in(8) {
            HandOffAnswer::Stays
        } else {
            HandOffAnswer::Goes
        };
        let device = self.id.clone();
        said.push((from, ClientMessage::HandOffAnswer { device, token, answer }));
        if answer == HandOffAnswer::Goes {
            self.begin(target, token, dice, said);
        }
    }

    /// Whether it answers a request.
    pub(super) fn answers(&self, request: &Request, dice: &mut Dice) -> bool {
        self.is_on && request.device == self.id && (self.is_calm || !dice.one_in(6))
    }

    /// It leaves.
    pub(super) fn leave(&mut self, says_so: bool, said: &mut Said) {
        if says_so && let Some((at, seq)) = self.registered {
            said.push((at, ClientMessage::Deregister { device: self.id.clone(), seq }));
        }
        (self.is_on, self.registered, self.attempt) = (false, None, None);
    }

    /// Its storage is empty, or as it was some time ago; it starts anew.
    pub(super) fn forget(&mut self, all: bool, dice: &mut Dice) {
        self.is_unreliable = true;
        self.is_blank = all;
        self.seq = if all { 0 } else { self.seq.saturating_sub(1 + dice.below(4)) };
        (self.registered, self.attempt) = (None, None);
    }

    /// Whether it is where it wants to be.
    pub(super) fn is_at_rest(&self) -> bool {
        self.attempt.is_none() && (self.registered.is_some() || !self.is_on)
    }
}
