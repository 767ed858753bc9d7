//! The life of a request, without I/O, clock or threads.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::breaker::{Admission, Breaker, BreakerConfig, below};
use super::routes::Routes;
use crate::limits::{BATCH_MAX, DEADLINE_MAX, HOPS_MAX, PAYLOAD_MAX};
use crate::model::{ControllerId, DeviceId};
use crate::shard::Millis;
use crate::wire::client::{Outcome, Request};

/// How a router works.
#[derive(Debug, Clone, Copy)]
pub struct RouterConfig {
    /// Requests under way, at most.
    pub requests_max: usize,
    /// Bytes of their payloads, at most, unless there is only one.
    pub bytes_max: usize,
    /// How long a connection may take to stand before the next controller is tried.
    pub connect_max: Millis,
    /// A request that was sent so long ago, and not a word of the controller since, is a failure of
    /// the controller. With a shorter deadline it says nothing of the controller.
    pub silence_max: Millis,
    /// When to leave a controller alone.
    pub breaker: BreakerConfig,
    /// For the jitter of pauses.
    pub seed: u64,
}

impl Default for RouterConfig {
    /// 1024 requests of 64 MiB altogether, 5 s to connect, 2 s of silence.
    fn default() -> Self {
        Self {
            requests_max: 1024,
            bytes_max: 64 << 20,
            connect_max: 5000,
            silence_max: 2000,
            breaker: BreakerConfig::default(),
            seed: 0,
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The asker's number, for the answer; unique while it is under way.
    pub number: u64,
    /// For whom.
    pub device: DeviceId,
    /// How long the asker waits; at most [`DEADLINE_MAX`].
    pub deadline: Duration,
    /// What; at most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
    /// It does no harm if the device does it twice: it is tried again when nobody knows whether it
    /// was done.
    pub is_idempotent: bool,
}

/// What a router wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect to a controller; say [`Router::connected`] or [`Router::lost`].
    Connect {
        /// To whom.
        controller: ControllerId,
        /// Where it is.
        addrs: Vec<SocketAddr>,
    },
    /// Send this to a controller, with which a connection stands; say [`Router::response`].
    Send {
        /// Whom.
        controller: ControllerId,
        /// What. Its number is the router's.
        request: Request,
    },
    /// Tell the asker. Each request is answered exactly once.
    Answer {
        /// Its number.
        number: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Connecting,
    Up,
}

#[derive(Debug)]
struct Peer {
    link: Link,
    breaker: Breaker,
    /// When it last said anything.
    heard: Option<Millis>,
}

/// A request that is not answered.
#[derive(Debug)]
struct Pending {
    number: u64,
    device: DeviceId,
    payload: Vec<u8>,
    is_idempotent: bool,
    until: Millis,
    /// Whom it has been given to, and the counter that was known of the device then.
    tries: Vec<(ControllerId, u64)>,
    /// It was sent to a controller, and nobody knows whether the device has done it.
    in_doubt: bool,
    /// What the last controller said, or why it said nothing.
    last: Option<Outcome>,
}

/// A request that is at a controller, or waits for a connection to it.
#[derive(Debug)]
struct Try {
    pending: Pending,
    controller: ControllerId,
    is_probe: bool,
    /// `None`: it waits for a connection.
    sent: Option<Millis>,
    timer: Millis,
}

/// Takes requests, says which controller to send them to, and what to do with what comes back.
///
/// * `NotHere`: the owner that is named is asked, if that is news.
/// * `Unreachable`: surely not done; the next controller of the route is asked.
/// * `TimedOut`, or the connection is lost behind the request: it may have been done, and is not
///   tried again unless it is marked as idempotent.
/// * At most [`HOPS_MAX`] controllers are asked, none twice unless there is newer knowledge that
///   the device is there.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    seed: u64,
    routes: Routes,
    peers: HashMap<ControllerId, Peer>,
    /// By the number of the try; the number of each try is new, so that the answer to an earlier
    /// one is not taken for one to a later.
    tries: HashMap<u64, Try>,
    by_controller: BTreeSet<(ControllerId, u64)>,
    timers: BTreeSet<(Millis, u64)>,
    bytes: usize,
    next: u64,
}

impl Router {
    /// One without connections.
    #[must_use]
    pub fn new(config: RouterConfig, routes: Routes) -> Self {
        Self {
            config,
            seed: config.seed,
            routes,
            peers: HashMap::new(),
            tries: HashMap::new(),
            by_controller: BTreeSet::new(),
            timers: BTreeSet::new(),
            bytes: 0,
            next: 1,
        }
    }

    /// Takes a request.
    pub fn ask(&mut self, now: Millis, ask: Ask, out: &mut Vec<Action>) {
        let Ask { number, device, deadline, payload, is_idempotent } = ask;
        let bytes = payload.len();
        let refused = if bytes > PAYLOAD_MAX {
            let text = format!("{bytes} bytes are more than a request may have: {PAYLOAD_MAX}");
            Some(Outcome::Refused(text))
        } else if self.tries.len() >= self.config.requests_max
            || (self.bytes > 0 && self.bytes + bytes > self.config.bytes_max)
        {
            Some(Outcome::Busy { after: Duration::from_millis(100) })
        } else {
            None
        };
        if let Some(outcome) = refused {
            out.push(Action::Answer { number, outcome });
            return;
        }
        // Rounded up: a short time is some.
        let left = deadline.min(DEADLINE_MAX).as_micros().div_ceil(1000);
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        let pending = Pending {
            number,
            device,
            payload,
            is_idempotent,
            until: now.saturating_add(left),
            tries: Vec::new(),
            in_doubt: false,
            last: None,
        };
        self.bytes += bytes;
        self.go_on(now, pending, out);
    }

    /// A connection stands, and the greetings are done.
    pub fn connected(&mut self, now: Millis, controller: &ControllerId, out: &mut Vec<Action>) {
        self.peer(controller).link = Link::Up;
        for id in self.of(controller) {
            let Some(mut at) = self.take_out(id) else { continue };
            if at.sent.is_none() {
                send(now, id, &mut at, out);
            }
            self.put_in(id, at);
        }
    }

    /// A connection is over, or did not come about.
    pub fn lost(
        &mut self,
        now: Millis,
        controller: &ControllerId,
        why: &str,
        out: &mut Vec<Action>,
    ) {
        let peer = self.peer(controller);
        peer.link = Link::Down;
        peer.breaker.failed(now);
        for id in self.of(controller) {
            let Some(at) = self.take_out(id) else { continue };
            let mut pending = at.pending;
            if at.sent.is_some() {
                self.doubt(now, pending, out);
            } else {
                pending.last = Some(Outcome::Unreachable(format!("{controller}: {why}")));
                self.go_on(now, pending, out);
            }
        }
    }

    /// A controller has answered. What comes too late is dropped.
    pub fn response(
        &mut self,
        now: Millis,
        controller: &ControllerId,
        id: u64,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        let peer = self.peer(controller);
        peer.heard = Some(now);
        peer.breaker.succeeded();
        if !self.by_controller.contains(&(controller.clone(), id)) {
            return;
        }
        let Some(at) = self.take_out(id) else { return };
        if at.sent.is_none() {
            // Nobody can answer what was never sent: it has guessed the number.
            self.put_in(id, at);
            return;
        }
        let mut pending = at.pending;
        match &outcome {
            Outcome::NotHere { owner, seq, place } => {
                self.routes.learn(&pending.device, owner, *seq, place);
            }
            Outcome::Unreachable(_) => {}
            Outcome::Unknown if self.routes.owner(&pending.device) == Some(controller) => {
                // What was learnt is old; those that were given may know more.
                self.routes.forget(&pending.device);
            }
            Outcome::TimedOut => {
                self.doubt(now, pending, out);
                return;
            }
            Outcome::Done(_) | Outcome::Unknown | Outcome::Busy { .. } | Outcome::Refused(_) => {
                self.answer(pending, outcome, out);
                return;
            }
        }
        pending.last = Some(outcome);
        self.go_on(now, pending, out);
    }

    /// Ends what is late, or waits for too long: some hundred at once at most, so that
    /// [`Self::due`] may be in the past afterwards.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<Action>) {
        for _ in 0..BATCH_MAX {
            let Some(&(timer, id)) = self.timers.first() else { break };
            if timer > now {
                break;
            }
            let Some(at) = self.take_out(id) else { continue };
            let mut pending = at.pending;
            let silence_max = self.config.silence_max;
            let peer = self.peer(&at.controller);
            let is_failure = match at.sent {
                None => at.is_probe || pending.until > now,
                Some(sent) => {
                    let is_silent = peer.heard.is_none_or(|heard| heard < sent);
                    is_silent && (at.is_probe || now.saturating_sub(sent) >= silence_max)
                }
            };
            if is_failure {
                peer.breaker.failed(now);
            }
            pending.in_doubt |= at.sent.is_some();
            let text = format!("no connection to {} in time", at.controller);
            pending.last = Some(Outcome::Unreachable(text));
            self.go_on(now, pending, out);
        }
    }

    /// When to call [`Self::tick`] next.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        self.timers.first().map(|&(timer, _)| timer)
    }

    /// Requests under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tries.len()
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tries.is_empty()
    }

    /// Takes other routes. What was learnt is learnt anew; requests that are under way go on.
    pub fn set_routes(&mut self, routes: Routes) {
        self.routes = routes;
    }

    /// Answers all there is, as everything ends.
    pub fn close(&mut self, out: &mut Vec<Action>) {
        let ids: Vec<u64> = self.tries.keys().copied().collect();
        for at in ids.into_iter().filter_map(|id| self.take_out(id)).collect::<Vec<_>>() {
            let mut pending = at.pending;
            pending.in_doubt |= at.sent.is_some();
            let text = "the asker's side has ended before it was sent".to_owned();
            self.answer(pending, Outcome::Unreachable(text), out);
        }
    }

    /// The routes, and what was learnt.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Nobody knows whether it was done.
    fn doubt(&mut self, now: Millis, mut pending: Pending, out: &mut Vec<Action>) {
        pending.in_doubt = true;
        if pending.is_idempotent {
            self.go_on(now, pending, out);
        } else {
            self.answer(pending, Outcome::TimedOut, out);
        }
    }

    /// Gives a request to the next controller, or answers it.
    fn go_on(&mut self, now: Millis, mut pending: Pending, out: &mut Vec<Action>) {
        let next = if pending.until <= now { None } else { self.choose(now, &pending) };
        let Some((controller, is_probe)) = next else {
            let outcome = pending.last.take().unwrap_or_else(|| {
                let text = format!("none of the controllers for {} answers now", pending.device);
                Outcome::Unreachable(text)
            });
            self.answer(pending, outcome, out);
            return;
        };
        let id = self.next;
        self.next += 1;
        pending.tries.push((controller.clone(), self.routes.seq(&pending.device)));
        let timer = pending.until.min(now.saturating_add(self.config.connect_max));
        let mut at = Try { pending, controller, is_probe, sent: None, timer };
        match self.peer(&at.controller).link {
            Link::Up => send(now, id, &mut at, out),
            Link::Connecting => {}
            Link::Down => {
                self.peer(&at.controller).link = Link::Connecting;
                let addrs = self.routes.addrs(&at.controller).to_vec();
                out.push(Action::Connect { controller: at.controller.clone(), addrs });
            }
        }
        self.put_in(id, at);
    }

    /// The next controller for a request, and whether it is a probe for that one.
    fn choose(&mut self, now: Millis, pending: &Pending) -> Option<(ControllerId, bool)> {
        if pending.tries.len() >= HOPS_MAX {
            return None;
        }
        let seq = self.routes.seq(&pending.device);
        for controller in self.routes.controllers(&pending.device) {
            let is_owner = self.routes.owner(&pending.device) == Some(&controller);
            let mut before = pending.tries.iter().filter(|(tried, _)| *tried == controller);
            if !before.all(|&(_, known)| is_owner && seq > known) {
                continue;
            }
            // Nothing is kept of controllers that cannot be reached anyway: anybody can name some.
            let is_up = self.peers.get(&controller).is_some_and(|peer| peer.link != Link::Down);
            if !is_up && self.routes.addrs(&controller).is_empty() {
                continue;
            }
            match self.peer(&controller).breaker.admit(now) {
                Admission::Free => return Some((controller, false)),
                Admission::Probe => return Some((controller, true)),
                Admission::Closed { .. } => {}
            }
        }
        None
    }

    /// The last of a request.
    fn answer(&mut self, pending: Pending, outcome: Outcome, out: &mut Vec<Action>) {
        self.bytes -= pending.payload.len();
        let is_of_device = matches!(outcome, Outcome::Done(_) | Outcome::Refused(_));
        let outcome = if pending.in_doubt && !is_of_device { Outcome::TimedOut } else { outcome };
        out.push(Action::Answer { number: pending.number, outcome });
    }

    fn put_in(&mut self, id: u64, at: Try) {
        self.timers.insert((at.timer, id));
        self.by_controller.insert((at.controller.clone(), id));
        self.tries.insert(id, at);
    }

    fn take_out(&mut self, id: u64) -> Option<Try> {
        let at = self.tries.remove(&id)?;
        self.timers.remove(&(at.timer, id));
        self.by_controller.remove(&(at.controller.clone(), id));
        Some(at)
    }

    /// The requests that are at a controller, or wait for its connection.
    fn of(&self, controller: &ControllerId) -> Vec<u64> {
        let range = (controller.clone(), 0)..=(controller.clone(), u64::MAX);
        self.by_controller.range(range).map(|&(_, id)| id).collect()
    }

    fn peer(&mut self, controller: &ControllerId) -> &mut Peer {
        let (config, seed) = (self.config.breaker, &mut self.seed);
        self.peers.entry(controller.clone()).or_insert_with(|| Peer {
            link: Link::Down,
            breaker: Breaker::new(config, below(seed, u64::MAX)),
            heard: None,
        })
    }
}

/// Sends a request to its controller.
fn send(now: Millis, id: u64, at: &mut Try, out: &mut Vec<Action>) {
    let pending = &at.pending;
    at.sent = Some(now);
    at.timer = pending.until;
    // Something is taken off for the way back, so that the controller's word that it took too long
    // comes in time, and is not taken for silence.
    let left = pending.until.saturating_sub(now);
    let deadline = Duration::from_millis((left - (left / 8).min(500)).max(1));
    let (device, payload) = (pending.device.clone(), pending.payload.clone());
    let request = Request { id, device, deadline, payload };
    out.push(Action::Send { controller: at.controller.clone(), request });
}
