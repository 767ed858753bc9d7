//! One device, as a state machine without I/O, threads or clock of its own, and with no randomness
//! but that of its seed.
//!
//! ```text
//!          registered at its home                 k handshakes without an answer
//! SEEKING ────────────────────────> HOME ──────────> PROBING ──────────────────> SEEKING
//!    │                               ^ hand-over, accepted  ^                       │
//!    └────────────────────────> BACKUP ─────────────────────┘ <────────────────────┘
//!      home did not take it                                     next of its list
//! ```
//!
//! It goes back home only when the controller that serves it hands it over, or is lost. It leaves a
//! controller only after the next one has it (make before break), and deregisters nowhere on the
//! way: the registration with the larger counter supersedes the other.
//!
//! Whoever drives it does what [`Output`]s say in their order, tells it what happens with
//! [`Input`]s, and comes back with [`Input::Tick`] at [`Machine::due`].

mod hand_over;
mod lines;
mod register;
mod seek;
mod serve;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use lines::{Line, Up};
use register::Attempt;
use seek::Seek;
use serve::{Serving, Underway};

use super::policy::{Policy, PolicyError};
use super::rng::Rng;
use crate::model::{ControllerId, DeviceId};
use crate::shard::Millis;
use crate::wire::Place;
use crate::wire::client::{ClientMessage, Outcome, Request};

/// What happens to a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// It is to be registered from now on.
    Start,
    /// The connection of [`Output::Open`] stands, and is greeted.
    Opened {
        /// To whom.
        controller: ControllerId,
    },
    /// The connection of [`Output::Open`] could not be made, or is lost for good. Nothing that came
    /// by it is told afterwards.
    Lost {
        /// To whom.
        controller: ControllerId,
        /// How long the controller wants it to stay away; zero: it said nothing.
        after: Duration,
        /// For people.
        why: Cow<'static, str>,
    },
    /// A controller says something to it. What is not about this device is not looked at.
    Message {
        /// Who.
        from: ControllerId,
        /// What.
        message: ClientMessage,
    },
    /// What came of [`Output::Serve`].
    Answer {
        /// The controller that it came from.
        from: ControllerId,
        /// The request's number.
        id: u64,
        /// What.
        outcome: Outcome,
    },
    /// The program has something to do that no hand-over may tear, or has done it.
    Busy(bool),
    /// The program has this generation of parameters.
    Generation(u64),
    /// It is to be deregistered: [`State::Ended`] follows, within the policy's `answer_within`.
    Deregister,
    /// Time has come.
    Tick,
}

/// What a device wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Make this counter durable, before anything that follows: one that was used must not be used
    /// again after a restart. If it cannot be done, go on all the same: a controller that knows
    /// better says so.
    Save(u64),
    /// Connect to this controller, or use a connection that there is, and say
    /// [`Input::Opened`] or [`Input::Lost`].
    Open(Place),
    /// The connection to that controller is of no use any more: nothing that comes by it is told.
    Leave(ControllerId),
    /// Say this to a controller, by a connection that was opened.
    Say {
        /// Whom.
        to: ControllerId,
        /// What.
        message: ClientMessage,
    },
    /// Do this, and say [`Input::Answer`].
    Serve {
        /// Who passes it on.
        from: ControllerId,
        /// What; its `id` is for the answer.
        request: Request,
    },
    /// Something that the program may want to know.
    Event(Event),
}

/// What the program may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is registered.
    Registered {
        /// With whom.
        controller: ControllerId,
        /// The counter.
        seq: u64,
        /// How long that took, since it was not registered or was told to go there.
        took: Millis,
        /// How long the controller took, since it was asked first.
        answer: Millis,
    },
    /// An attempt to register has failed; another follows.
    Failed {
        /// With whom.
        controller: ControllerId,
        /// Why.
        why: Cow<'static, str>,
    },
    /// The controller that serves it has left a handshake without an answer.
    Silent {
        /// Who.
        controller: ControllerId,
    },
    /// The controller that served it does not any more.
    Lost {
        /// Who.
        controller: ControllerId,
        /// Why.
        why: Cow<'static, str>,
    },
    /// A hand-over is done; [`Self::Registered`] came before.
    HandedOver {
        /// Who served it.
        from: ControllerId,
        /// Who does now.
        to: ControllerId,
    },
    /// A hand-over has failed: it goes back to where it was, or stays there.
    HandOverFailed {
        /// Who serves it.
        from: ControllerId,
        /// Who did not.
        to: ControllerId,
        /// Why.
        why: Cow<'static, str>,
    },
    /// The controller has another generation of parameters than the program.
    Generation(u64),
    /// A controller has said something that makes no sense, and that is not heeded.
    Odd {
        /// Who.
        controller: ControllerId,
        /// What.
        text: Cow<'static, str>,
    },
    /// It is deregistered, or no answer came.
    Ended {
        /// Whether a controller has confirmed it, or there was nothing to confirm.
        confirmed: bool,
    },
}

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not started.
    Idle,
    /// It is registered nowhere, and tries.
    Seeking,
    /// Its home serves it.
    Home,
    /// The controller that serves it does not answer for now.
    Probing,
    /// A backup serves it.
    Backup,
    /// A controller serves it, and it registers with another one that this has told it to go to.
    HandingOver,
    /// It deregisters.
    Leaving,
    /// It has deregistered.
    Ended,
}

impl State {
    /// For people and metrics: a lower-case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Seeking => "seeking",
            Self::Home => "home",
            Self::Probing => "probing",
            Self::Backup => "backup",
            Self::HandingOver => "handing-over",
            Self::Leaving => "leaving",
            Self::Ended => "ended",
        }
    }
}

/// One device. See the module.
#[derive(Debug, Clone)]
pub struct Machine {
    policy: Arc<Policy>,
    device: DeviceId,
    address: Box<[u8]>,
    rng: Rng,
    now: Millis,
    stage: Stage,

    /// The last counter that was used, or that is known to be used.
    seq: u64,
    /// The last that a controller has confirmed, or that was kept: others are measured by it.
    anchor: u64,
    /// Nothing is known of the counter: a controller is asked.
    asks: bool,
    /// When the next registration may begin if there were no burst.
    paced: Millis,

    lines: Vec<Line>,
    /// Controllers besides the policy's, or with addresses that are not the policy's.
    alternates: Vec<Place>,
    /// Controllers that want to be left alone until then.
    not_before: Vec<(ControllerId, Millis)>,

    serving: Option<Serving>,
    seek: Option<Seek>,
    attempt: Option<Attempt>,
    underway: Vec<Underway>,
    is_busy: bool,
    /// The generation of parameters that the program has, and the one that it was last told of.
    generation: u64,
    told_generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Running,
    /// Until then an answer is waited for.
    Leaving(Millis),
    Ended,
}

impl Machine {
    /// A device that does nothing yet. `counter` is the last one that it may have used; `None` if
    /// nothing is known: it asks. `address` is its own business, at most
    /// [`ADDRESS_MAX`](crate::limits::ADDRESS_MAX) bytes; what is longer is cut.
    ///
    /// # Errors
    ///
    /// The policy is none.
    pub fn new(
        policy: Arc<Policy>,
        device: DeviceId,
        address: &[u8],
        counter: Option<u64>,
        seed: u64,
    ) -> Result<Self, PolicyError> {
        policy.check()?;
        let address = &address[..address.len().min(crate::limits::ADDRESS_MAX)];
        let seq = counter.unwrap_or(0).min(crate::limits::SEQ_MAX);
        Ok(Self {
            policy,
            device,
            address: address.into(),
            rng: Rng::new(seed),
            now: 0,
            stage: Stage::Idle,
            seq,
            anchor: seq,
            asks: counter.is_none(),
            paced: 0,
            lines: Vec::new(),
            alternates: Vec::new(),
            not_before: Vec::new(),
            serving: None,
            seek: None,
            attempt: None,
            underway: Vec::new(),
            is_busy: false,
            generation: 0,
            told_generation: 0,
        })
    }

    /// Its name.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.stage, &self.serving) {
            (Stage::Idle, _) => State::Idle,
            (Stage::Leaving(_), _) => State::Leaving,
            (Stage::Ended, _) => State::Ended,
            (Stage::Running, None) => State::Seeking,
            (Stage::Running, Some(_)) if self.attempt.is_some() => State::HandingOver,
            (Stage::Running, Some(serving)) => {
                if serving.is_silent() || !self.is_up(&serving.controller) {
                    State::Probing
                } else if self.policy.controllers[0].controller == serving.controller {
                    State::Home
                } else {
                    State::Backup
                }
            }
        }
    }

    /// Who serves it, and the counter of that registration.
    #[must_use]
    pub fn registered(&self) -> Option<(&ControllerId, u64)> {
        self.serving.as_ref().map(|serving| (&serving.controller, serving.seq))
    }

    /// Who serves it, if there is a connection: by this one it may ask for others.
    #[must_use]
    pub fn reachable(&self) -> Option<&ControllerId> {
        let controller = &self.serving.as_ref()?.controller;
        self.is_up(controller).then_some(controller)
    }

    /// The last counter that it has used, or that it knows to be used.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.seq
    }

    /// When to come with [`Input::Tick`], at the latest; `None`: nothing is waited for.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        let leaving = match self.stage {
            Stage::Leaving(until) => Some(until),
            Stage::Running => None,
            Stage::Idle | Stage::Ended => return None,
        };
        let seek = self.seek.as_ref().filter(|_| self.attempt.is_none()).map(|seek| seek.until);
        let attempt = self.attempt.as_ref().map(Attempt::due);
        let serving = self.serving.as_ref().map(Serving::due);
        let underway = self.underway.iter().map(|underway| underway.until).min();
        [leaving, seek, attempt, serving, underway].into_iter().flatten().min()
    }

    /// Something has happened, at `now`. A clock that goes back stands still instead.
    pub fn handle(&mut self, now: Millis, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        match input {
            Input::Start => self.start(),
            Input::Opened { controller } => self.opened(&controller, out),
            Input::Lost { controller, after, why } => self.lost(&controller, after, why, out),
            Input::Message { from, message } => self.message(&from, message, out),
            Input::Answer { from, id, outcome } => self.answered(&from, id, outcome, out),
            Input::Busy(is_busy) => self.is_busy = is_busy,
            Input::Generation(generation) => self.generation = generation,
            Input::Deregister => self.deregister(out),
            Input::Tick => {}
        }
        self.tick(out);
        self.leave_unused(out);
    }

    fn start(&mut self) {
        if matches!(self.stage, Stage::Idle | Stage::Ended) {
            self.stage = Stage::Running;
            let until = self.now + self.rng.upto(self.policy.start_within);
            self.seek = Some(Seek::new(self.now, until, None));
        }
    }

    /// Does what is due. Each of these puts off what it does, so that none is due at once again.
    fn tick(&mut self, out: &mut Vec<Output>) {
        self.underway.retain(|underway| underway.until > self.now);
        match self.stage {
            Stage::Idle | Stage::Ended => {}
            Stage::Leaving(until) if until <= self.now => self.end(false, out),
            Stage::Leaving(_) => {}
            Stage::Running => {
                self.tick_serving(out);
                self.tick_attempt(out);
                self.tick_seek(out);
            }
        }
    }

    fn message(&mut self, from: &ControllerId, message: ClientMessage, out: &mut Vec<Output>) {
        if !self.is_up(from) {
            return;
        }
        match message {
            ClientMessage::Registered { device, seq, terms } if device == self.device => {
                self.registered_by(from, seq, terms, out);
            }
            ClientMessage::Retry { device, after } if device == self.device => {
                self.told_to_retry(from, after, out);
            }
            ClientMessage::Jump { device, seq } if device == self.device => {
                self.told_to_jump(from, seq, out);
            }
            ClientMessage::Refused { device, text } if device == self.device => {
                self.refused(from, text, out);
            }
            ClientMessage::HandshakeOk { device, seq, generation } if device == self.device => {
                self.hand_shaken(from, seq, generation, out);
            }
            ClientMessage::Reregister { device, above } if device == self.device => {
                self.told_to_reregister(from, above, out);
            }
            ClientMessage::HandOff { device, token, target, within } if device == self.device => {
                self.told_to_go(from, token, target, within, out);
            }
            ClientMessage::Deregistered { device, .. } if device == self.device => {
                let is_from = |serving: &Serving| serving.controller == *from;
                if matches!(self.stage, Stage::Leaving(_))
                    && self.serving.as_ref().is_some_and(is_from)
                {
                    self.end(true, out);
                }
            }
            ClientMessage::Request(request) if request.device == self.device => {
                self.asked(from, request, out);
            }
            _ => {}
        }
    }

    fn deregister(&mut self, out: &mut Vec<Output>) {
        match self.stage {
            Stage::Running => {}
            Stage::Idle => return self.end(true, out),
            Stage::Leaving(_) | Stage::Ended => return,
        }
        // The newest registration that a controller may have.
        let sent = self.attempt.as_ref().and_then(Attempt::sent_to);
        let newest = sent.or_else(|| {
            self.serving.as_ref().map(|serving| (serving.controller.clone(), serving.seq))
        });
        let Some((to, seq)) = newest else {
            return self.end(true, out);
        };
        if !self.is_up(&to) {
            return self.end(false, out);
        }
        let message = ClientMessage::Deregister { device: self.device.clone(), seq };
        self.stage = Stage::Leaving(self.now + self.policy.answer_within);
        self.attempt = None;
        self.seek = None;
        self.serving = Some(Serving::leaving(to.clone(), seq));
        out.push(Output::Say { to, message });
    }

    fn end(&mut self, confirmed: bool, out: &mut Vec<Output>) {
        self.stage = Stage::Ended;
        self.serving = None;
        self.attempt = None;
        self.seek = None;
        self.underway.clear();
        out.push(Output::Event(Event::Ended { confirmed }));
    }

    /// The controller served it, and does not any more.
    fn lose_serving(&mut self, why: Cow<'static, str>, out: &mut Vec<Output>) {
        let Some(serving) = self.serving.take() else { return };
        let until = self.now + self.rng.half_to_all(self.policy.base.min(self.policy.cap));
        let last = Some(serving.controller.clone());
        self.seek = Some(Seek::new(self.now, until, last));
        // A hand-over under way goes on as an attempt like others, and no longer than those.
        if let Some(attempt) = &mut self.attempt {
            attempt.hand_over = false;
            attempt.deadline = attempt.deadline.min(self.now + self.policy.answer_within);
        }
        out.push(Output::Event(Event::Lost { controller: serving.controller, why }));
    }

    /// Whether one more registration may begin now; if not, when.
    fn pace(&mut self) -> Result<(), Millis> {
        let ahead = self.policy.attempt_every * u64::from(self.policy.attempt_burst - 1);
        let paced = self.paced.max(self.now);
        if paced > self.now + ahead {
            return Err(paced - ahead);
        }
        self.paced = paced + self.policy.attempt_every;
        Ok(())
    }

    fn odd(&self, from: &ControllerId, text: impl Into<Cow<'static, str>>) -> Output {
        Output::Event(Event::Odd { controller: from.clone(), text: text.into() })
    }

    fn is_up(&self, controller: &ControllerId) -> bool {
        self.line(controller) == Some(Up::Yes)
    }
}

/// Milliseconds of what a peer or a user gives, at most `most`.
fn millis(duration: Duration, most: Millis) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(most)
}
