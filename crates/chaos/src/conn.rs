//! One forwarded connection: two sockets, a link each way, and the faults done to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::event::{CloseReason, EventKind};
use crate::fault::{Direction, Fault, Peer, Way};
use crate::ledger::{Ledger, ways};
use crate::link::{End, Link};
use crate::plan::{Scope, When};
use crate::schedule::{Counts, Schedule, later};
use crate::side::Side;
use crate::summary::ConnStats;

mod cut;

/// Turns that one connection gets before it is the next one's.
const TURNS: usize = 4;

#[derive(Debug)]
enum State {
    Connecting {
        deadline: Instant,
    },
    Open,
    /// A cut that waits until the bytes before it have reached their receivers.
    Flushing {
        cut: Cut,
        direction: Direction,
        deadline: Instant,
    },
    /// FINs were sent by a cut; what still comes in is swallowed, for to close a socket with
    /// unread bytes would send an RST after the FIN.
    Lingering {
        deadline: Instant,
    },
    /// One side was reset; the other hears nothing any more.
    HalfOpen {
        left_open: Peer,
    },
    Gone,
}

/// A fault that is ending the connection, with what was true when it struck.
#[derive(Clone, Debug)]
struct Cut {
    fault: Fault,
    flowing: bool,
}

/// What the event loop is to do with a connection after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Wait(Option<Instant>),
    Again,
    Remove,
}

/// Fixed properties of new connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) buffer: usize,
    pub(crate) history: usize,
    pub(crate) connect_timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Conn {
    id: u64,
    peer: SocketAddr,
    accepted: Instant,
    client: Side,
    server: Side,
    up: Link,
    down: Link,
    counts: Counts,
    schedule: Schedule,
    /// Faults that are to be done as soon as the upstream is reached.
    on_open: Vec<Fault>,
    state: State,
    closed: bool,
    /// The earliest time at which the event loop will come back by itself.
    wake: Option<Instant>,
}

impl Conn {
    pub(crate) fn new(
        id: u64,
        peer: SocketAddr,
        client: TcpStream,
        server: TcpStream,
        setup: &Setup,
        ledger: &mut Ledger,
    ) -> Self {
        let now = ledger.now;
        let (mut schedule, mut on_open) = (Schedule::default(), Vec::new());
        let plan = Arc::clone(&ledger.plan);
        for (index, step) in plan.iter().enumerate() {
            let mine = step.scope == Scope::Each || step.scope == Scope::Conn(id);
            if mine {
                schedule.arm(index, step, now);
            }
            // What `always` says of the listener is done when the proxy starts.
            let of_listener = step.scope == Scope::Total && matches!(step.fault, Fault::Refuse(_));
            if step.when == When::Always && (mine || step.scope == Scope::Total) && !of_listener {
                on_open.extend(ledger.take_step(index));
            }
        }
        let link = |way: u64| {
            let seed = setup.seed ^ id.wrapping_mul(2).wrapping_add(way).rotate_left(32);
            Link::new(setup.buffer, setup.history, seed, now)
        };
        Self {
            id,
            peer,
            accepted: now,
            client: Side::new(client),
            server: Side::new(server),
            up: link(0),
            down: link(1),
            counts: Counts::default(),
            schedule,
            on_open,
            state: State::Connecting { deadline: later(now, setup.connect_timeout) },
            closed: false,
            wake: None,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn side(&mut self, peer: Peer) -> &mut Side {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Server => &mut self.server,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Notes a time to wake up; whether it is news, so that one time is not noted twice.
    pub(crate) fn sleep_until(&mut self, at: Instant) -> bool {
        let news = self.wake.is_none_or(|known| at < known);
        if news {
            self.wake = Some(at);
        }
        news
    }

    /// Whether a fault can still find something to hit.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Open)
    }

    pub(crate) fn is_flowing(&self, now: Instant) -> bool {
        self.up.is_flowing(now) || self.down.is_flowing(now)
    }

    pub(crate) fn stats(&self, now: Instant) -> ConnStats {
        ConnStats {
            conn: self.id,
            peer: self.peer,
            age: now.saturating_duration_since(self.accepted),
            up: self.counts.up,
            down: self.counts.down,
            pending: (self.up.pending() + self.down.pending()) as u64,
            flowing: self.is_flowing(now),
        }
    }

    /// Bytes that were swallowed and damaged; also of connections that are not open any more.
    pub(crate) fn losses(&self) -> (u64, u64) {
        (self.up.swallowed + self.down.swallowed, self.up.flipped + self.down.flipped)
    }

    /// Does a fault as soon as the upstream is reached.
    pub(crate) fn apply_on_open(&mut self, fault: Fault) {
        self.on_open.push(fault);
    }

    fn link(&mut self, way: Way) -> &mut Link {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// A link with its source and its destination.
    fn parts(&mut self, way: Way) -> (&mut Link, &mut Side, &mut Side) {
        match way {
            Way::Up => (&mut self.up, &mut self.client, &mut self.server),
            Way::Down => (&mut self.down, &mut self.server, &mut self.client),
        }
    }

    /// Does a fault. `flush` names the direction of a byte count that brought it about: a cut
    /// then waits until the bytes before it have arrived, so that it is exact for the receiver.
    /// Whether there was something to hit.
    pub(crate) fn apply(
        &mut self,
        fault: Fault,
        flush: Option<Direction>,
        ledger: &mut Ledger,
    ) -> bool {
        if !self.is_alive() {
            return false;
        }
        let now = ledger.now;
        let cut = Cut { flowing: self.is_flowing(now), fault };
        match &cut.fault {
            Fault::Refuse(_) => ledger.refusals.push(cut.fault),
            Fault::Reset | Fault::Fin | Fault::HalfOpen { .. } => {
                self.up.discard();
                self.down.discard();
                match flush {
                    Some(direction) if cut.fault != Fault::Fin && !ledger.flush.is_zero() => {
                        let deadline = later(now, ledger.flush);
                        self.state = State::Flushing { cut, direction, deadline };
                        self.flush(ledger);
                    }
                    _ => self.cut(cut, ledger),
                }
            }
            Fault::Duplicate { direction, bytes } => {
                let (direction, bytes) = (*direction, *bytes);
                self.up.discard();
                self.down.discard();
                for way in ways(direction) {
                    ledger.summary.replayed += self.link(way).rewind(bytes) as u64;
                }
                let deadline = later(now, ledger.flush);
                self.state = State::Flushing { cut, direction, deadline };
                self.flush(ledger);
            }
            lasting => {
                for way in ways(lasting.direction().unwrap_or(Direction::Both)) {
                    self.link(way).apply(lasting, now);
                }
                ledger.count_fault(lasting);
                let kind = EventKind::Fault { fault: cut.fault };
                ledger.event(Some(self.id), self.counts, cut.flowing, kind);
            }
        }
        true
    }

    /// Reports the end of the connection, once.
    pub(crate) fn close(&mut self, reason: CloseReason, ledger: &mut Ledger) {
        if !std::mem::replace(&mut self.closed, true) {
            ledger.summary.open = ledger.summary.open.saturating_sub(1);
            let flowing = self.is_flowing(ledger.now);
            ledger.event(Some(self.id), self.counts, flowing, EventKind::Closed { reason });
        }
    }

    fn reset_for(&mut self, reason: CloseReason, ledger: &mut Ledger) {
        self.up.discard();
        self.down.discard();
        self.client.reset();
        self.server.reset();
        self.state = State::Gone;
        self.close(reason, ledger);
    }

    /// Gives the connection its turn: moves what can be moved and does what is due.
    pub(crate) fn turn(&mut self, ledger: &mut Ledger) -> Next {
        self.wake = self.wake.filter(|at| *at > ledger.now);
        self.do_due_times(ledger);
        if let State::Connecting { deadline } = self.state {
            self.connect(deadline, ledger);
        }
        for _ in 0..TURNS {
            match self.state {
                State::Connecting { deadline } => {
                    return Next::Wait(earlier(Some(deadline), self.schedule.next_time()));
                }
                State::Open => {}
                _ => return self.afterwards(ledger),
            }
            if !self.forward(ledger) && matches!(self.state, State::Open) {
                let now = ledger.now;
                let up = self.up.wake(&self.server, now);
                let down = self.down.wake(&self.client, now);
                return Next::Wait(earlier(earlier(up, down), self.schedule.next_time()));
            }
        }
        if matches!(self.state, State::Gone) { Next::Remove } else { Next::Again }
    }

    fn connect(&mut self, deadline: Instant, ledger: &mut Ledger) {
        let id = self.id;
        let failed = match self.server.stream() {
            None => true,
            Some(stream) => match stream.take_error() {
                Ok(None) => {
                    if stream.peer_addr().is_ok() {
                        self.state = State::Open;
                    }
                    false
                }
                Ok(Some(error)) | Err(error) => {
                    log::warn!("connection {id}: the upstream cannot be reached: {error}");
                    true
                }
            },
        };
        if matches!(self.state, State::Open) {
            for fault in std::mem::take(&mut self.on_open) {
                self.apply(fault, None, ledger);
            }
        } else if failed || deadline <= ledger.now {
            ledger.summary.upstream_failures += 1;
            self.reset_for(CloseReason::UpstreamUnreachable, ledger);
        }
    }

    fn do_due_times(&mut self, ledger: &mut Ledger) {
        while self.is_alive()
            && let Some(index) = self.schedule.due_time(ledger.now, &ledger.plan)
        {
            if let Some(fault) = ledger.take_step(index) {
                self.apply(fault, None, ledger);
            }
        }
    }

    /// Does the steps whose byte was the last one that was forwarded.
    fn do_due_bytes(&mut self, ledger: &mut Ledger) {
        for index in self.schedule.due_bytes(self.counts, &ledger.plan) {
            if self.is_alive() {
                self.do_step(index, ledger);
            }
        }
        for index in ledger.schedule.due_bytes(ledger.totals, &ledger.plan) {
            let for_listener = matches!(ledger.plan[index].fault, Fault::Refuse(_));
            if for_listener && !self.is_alive() {
                let fault = ledger.take_step(index);
                ledger.refusals.extend(fault);
            } else if self.is_alive() {
                self.do_step(index, ledger);
            } else {
                ledger.schedule.put_back(index, &ledger.plan);
            }
        }
    }

    fn do_step(&mut self, index: usize, ledger: &mut Ledger) {
        let direction = match ledger.plan[index].when {
            When::After { direction, .. } | When::EveryBytes { direction, .. } => direction,
            _ => Direction::Both,
        };
        if let Some(fault) = ledger.take_step(index) {
            self.apply(fault, Some(direction), ledger);
        }
    }

    /// One round of reading and writing both ways; whether anything happened.
    fn forward(&mut self, ledger: &mut Ledger) -> bool {
        let now = ledger.now;
        let reset = [Way::Up, Way::Down].map(|way| self.link(way).blackhole_over(now));
        if reset.contains(&true) {
            return self.apply(Fault::Reset, None, ledger);
        }
        let mut moved = false;
        for way in [Way::Up, Way::Down] {
            let (link, src, dst) = self.parts(way);
            moved |= link.fill(src, dst.is_dead(), now);
            loop {
                self.do_due_bytes(ledger);
                if !matches!(self.state, State::Open) {
                    return true;
                }
                let mine = self.schedule.allowance(way, self.counts);
                let limit = ledger.schedule.allowance(way, ledger.totals).min(mine);
                let (link, _, dst) = self.parts(way);
                let n = link.drain(dst, limit, now);
                self.counts.add(way, n);
                ledger.forwarded(way, n);
                moved |= n > 0;
                if n < limit || n == 0 {
                    break;
                }
            }
        }
        moved | self.deliver_ends(ledger)
    }

    fn deliver_ends(&mut self, ledger: &mut Ledger) -> bool {
        let mut news = false;
        for (way, reason) in
            [(Way::Up, CloseReason::ClientReset), (Way::Down, CloseReason::ServerReset)]
        {
            let (link, _, dst) = self.parts(way);
            match link.take_end(dst, ledger.now) {
                None => continue,
                Some(End::Fin) => dst.finish(),
                Some(End::Rst) => {
                    self.reset_for(reason, ledger);
                    return true;
                }
            }
            news = true;
        }
        let both_end = self.up.has_ended() && self.down.has_ended();
        let nothing_follows = (self.up.end_delivered() || self.up.is_dark_forever())
            && (self.down.end_delivered() || self.down.is_dark_forever());
        if both_end && nothing_follows {
            self.state = State::Gone;
            self.close(CloseReason::Finished, ledger);
            return true;
        }
        news
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
