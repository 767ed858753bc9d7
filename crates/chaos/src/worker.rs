//! The event loop: one thread, all sockets, no blocking call but the wait itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::conn::{Conn, Next, Setup};
use crate::event::{CloseReason, EventKind};
use crate::fault::{Fault, Peer, Target};
use crate::gate::{Arrival, Gate};
use crate::ledger::Ledger;
use crate::plan::When;
use crate::proxy::InjectError;
use crate::schedule::later;
use crate::summary::{Stats, Summary};

pub(crate) const WAKER: Token = Token(0);
pub(crate) const LISTENER: Token = Token(1);
const FIRST_CONN: usize = 2;
/// Connections accepted in one turn of the loop.
const ACCEPTS: usize = 64;

pub(crate) enum Command {
    Inject(Fault, Target, Sender<Result<usize, InjectError>>),
    InjectAfter(u64, Fault, Sender<()>),
    Upstream(SocketAddr, Sender<()>),
    Stats(Sender<Stats>),
    Stop,
}

/// A fault that holds for connections to come too.
struct Standing {
    fault: Fault,
    end: Option<Instant>,
}

pub(crate) struct Worker {
    poll: Poll,
    gate: Gate,
    ledger: Ledger,
    setup: Setup,
    max_connections: usize,
    upstream: SocketAddr,
    commands: Receiver<Command>,
    slots: Vec<Option<Conn>>,
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    last_id: u64,
    standing: Vec<Standing>,
    /// Connections with something to do now, in the order in which they get their turn.
    due: Vec<usize>,
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Worker {
    pub(crate) fn new(
        poll: Poll,
        gate: Gate,
        ledger: Ledger,
        setup: Setup,
        max_connections: usize,
        upstream: SocketAddr,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            poll,
            gate,
            ledger,
            setup,
            max_connections,
            upstream,
            commands,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            last_id: 0,
            standing: Vec::new(),
            due: Vec::new(),
            wakes: BinaryHeap::new(),
        }
    }

    /// Runs until it is stopped, or until the poll fails, which ends all connections too.
    pub(crate) fn run(mut self) -> Summary {
        if let Err(error) = self.turns() {
            log::error!("the proxy on {} has ended: {error}", self.gate.addr());
            self.ledger.summary.error = Some(format!("cannot wait for sockets: {error}"));
        }
        self.ledger.now = Instant::now();
        for conn in self.slots.iter_mut().flatten() {
            conn.close(CloseReason::Stopped, &mut self.ledger);
        }
        let summary = self.summary();
        // Who reads that it has stopped may rely on it: the sockets go first.
        drop((self.slots, self.gate));
        self.ledger.event(None, self.ledger.totals, false, EventKind::Stopped);
        summary
    }

    fn turns(&mut self) -> io::Result<()> {
        self.gate.register(self.poll.registry())?;
        let plan = Arc::clone(&self.ledger.plan);
        for (index, step) in plan.iter().enumerate() {
            if let (When::Always, Fault::Refuse(_)) = (step.when, &step.fault) {
                self.do_step(index);
            }
        }
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            self.ledger.now = Instant::now();
            let mut commands = false;
            for event in &events {
                match event.token() {
                    WAKER => commands = true,
                    LISTENER => self.gate.set_ready(),
                    Token(token) => {
                        let (slot, peer) = slot_of(token);
                        if let Some(conn) = self.slots.get_mut(slot).and_then(Option::as_mut) {
                            let side = conn.side(peer);
                            side.readable |= event.is_readable() || event.is_read_closed();
                            side.writable |= event.is_writable() || event.is_write_closed();
                            side.failed |= event.is_error();
                            self.due.push(slot);
                        }
                    }
                }
            }
            if commands && self.obey().is_break() {
                return Ok(());
            }
            self.do_due_times();
            self.tend_gate();
            self.accept();
            self.give_turns();
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        if !self.due.is_empty() || self.may_accept() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let conns = self.wakes.peek().map(|Reverse((at, _))| *at);
        let times = [conns, self.ledger.schedule.next_time(), self.gate.wake(now)];
        let next = times.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    fn obey(&mut self) -> ControlFlow<()> {
        loop {
            // A reply that nobody waits for any more is no error.
            match self.commands.try_recv() {
                Ok(Command::Inject(fault, target, reply)) => {
                    let _ = reply.send(self.inject(&fault, target));
                }
                Ok(Command::InjectAfter(bytes, fault, reply)) => {
                    self.ledger.add_step(bytes, fault);
                    let _ = reply.send(());
                }
                Ok(Command::Upstream(upstream, reply)) => {
                    self.upstream = upstream;
                    let _ = reply.send(());
                }
                Ok(Command::Stats(reply)) => {
                    let _ = reply.send(self.stats());
                }
                Ok(Command::Stop) => return ControlFlow::Break(()),
                Err(_) => return ControlFlow::Continue(()),
            }
        }
    }

    fn do_due_times(&mut self) {
        while let Some(index) = self.ledger.schedule.due_time(self.ledger.now, &self.ledger.plan) {
            self.do_step(index);
        }
    }

    fn do_step(&mut self, index: usize) {
        if let Some(fault) = self.ledger.take_step(index) {
            // Of all connections, so there is none that could be missing.
            let _ = self.inject(&fault, Target::All);
        }
    }

    fn inject(&mut self, fault: &Fault, target: Target) -> Result<usize, InjectError> {
        if let Fault::Refuse(_) = fault {
            self.refuse(fault.clone());
            return Ok(0);
        }
        if target == Target::All {
            self.stand(fault);
        }
        let slots: Vec<usize> = match target {
            Target::Conn(id) => {
                let gone = InjectError::NoSuchConnection { id };
                let slot = *self.by_id.get(&id).ok_or_else(|| gone.clone())?;
                if !self.slots[slot].as_ref().is_some_and(Conn::is_alive) {
                    return Err(gone);
                }
                vec![slot]
            }
            Target::All | Target::Open => (0..self.slots.len()).collect(),
        };
        let mut hit = 0;
        for slot in slots {
            if let Some(conn) = &mut self.slots[slot]
                && conn.apply(fault.clone(), None, &mut self.ledger)
            {
                hit += 1;
                self.due.push(slot);
            }
        }
        Ok(hit)
    }

    /// Keeps what is to hold for connections that are opened later.
    fn stand(&mut self, fault: &Fault) {
        if *fault == Fault::Heal {
            self.standing.clear();
            self.gate.heal();
            // Before the answer: who hears it may connect at once.
            self.tend_gate();
            return;
        }
        let Some(lasting) = fault.lasting() else { return };
        let now = self.ledger.now;
        let same =
            |other: &Fault| other.kind() == fault.kind() && other.direction() == fault.direction();
        self.standing.retain(|old| {
            let over = old.end.is_some_and(|end| end <= now);
            // What holds for ever replaces all before it; so the list cannot grow without end.
            !over && !(same(&old.fault) && (lasting.is_none() || old.end.is_some()))
        });
        let end = lasting.map(|time| later(now, time));
        self.standing.push(Standing { fault: fault.clone(), end });
    }

    fn refuse(&mut self, fault: Fault) {
        if let Fault::Refuse(refusal) = fault {
            self.gate.refuse(refusal, self.ledger.now);
            self.ledger.count_fault(&fault);
            self.event(EventKind::Fault { fault });
            self.tend_gate();
        }
    }

    fn event(&self, kind: EventKind) {
        let now = self.ledger.now;
        let flowing = self.slots.iter().flatten().any(|conn| conn.is_flowing(now));
        self.ledger.event(None, self.ledger.totals, flowing, kind);
    }

    fn tend_gate(&mut self) {
        if self.gate.tend(self.poll.registry(), self.ledger.now) {
            let open = self.gate.is_listening();
            self.event(if open { EventKind::ListenerOpen } else { EventKind::ListenerClosed });
        }
    }

    fn may_accept(&self) -> bool {
        self.gate.is_ready() && self.slots.len() - self.free.len() < self.max_connections
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            if !self.may_accept() {
                return;
            }
            match self.gate.accept(self.ledger.now) {
                Arrival::Accepted(stream, peer) => self.open(stream, peer),
                Arrival::Refused(peer) => {
                    self.ledger.summary.refused += 1;
                    self.event(EventKind::Refused { peer });
                }
                Arrival::Nobody => {}
            }
        }
    }

    fn open(&mut self, client: TcpStream, peer: SocketAddr) {
        self.last_id += 1;
        let id = self.last_id;
        self.ledger.summary.accepted += 1;
        let opened = EventKind::Opened { peer };
        self.ledger.event(Some(id), Default::default(), false, opened);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        match self.connect(client, peer, id, slot) {
            Ok(conn) => {
                self.ledger.summary.open += 1;
                self.by_id.insert(id, slot);
                self.slots[slot] = Some(conn);
                self.due.push(slot);
            }
            Err(error) => {
                log::warn!("connection {id}: no way to {}: {error}", self.upstream);
                self.free.push(slot);
                self.ledger.summary.upstream_failures += 1;
                let closed = EventKind::Closed { reason: CloseReason::UpstreamUnreachable };
                self.ledger.event(Some(id), Default::default(), false, closed);
            }
        }
    }

    fn connect(
        &mut self,
        mut client: TcpStream,
        peer: SocketAddr,
        id: u64,
        slot: usize,
    ) -> io::Result<Conn> {
        // Until the connection stands, to drop the client is to reset it.
        let linger = |time| socket2::SockRef::from(&client).set_linger(time);
        linger(Some(Duration::ZERO))?;
        let mut server = TcpStream::connect(self.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (registry, both) = (self.poll.registry(), Interest::READABLE | Interest::WRITABLE);
        registry.register(&mut client, token_of(slot, Peer::Client), both)?;
        registry.register(&mut server, token_of(slot, Peer::Server), both)?;
        socket2::SockRef::from(&client).set_linger(None)?;
        let mut conn = Conn::new(id, peer, client, server, &self.setup, &mut self.ledger);
        let now = self.ledger.now;
        self.standing.retain(|old| old.end.is_none_or(|end| now < end));
        for Standing { fault, end } in &self.standing {
            let rest = end.map(|end| end.saturating_duration_since(now));
            conn.apply_on_open(fault.clone().for_the_rest(rest));
        }
        Ok(conn)
    }

    fn give_turns(&mut self) {
        while let Some(Reverse((at, slot))) = self.wakes.peek().copied()
            && at <= self.ledger.now
        {
            self.wakes.pop();
            self.due.push(slot);
        }
        let mut due = std::mem::take(&mut self.due);
        due.sort_unstable();
        due.dedup();
        for &slot in &due {
            self.ledger.now = Instant::now();
            // A stale entry of a connection that is gone costs its successor an idle turn at most.
            let Some(conn) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            match conn.turn(&mut self.ledger) {
                Next::Again => self.due.push(slot),
                Next::Wait(wake) => {
                    if let Some(at) = wake
                        && conn.sleep_until(at)
                    {
                        self.wakes.push(Reverse((at, slot)));
                    }
                }
                Next::Remove => self.remove(slot),
            }
            for fault in std::mem::take(&mut self.ledger.refusals) {
                self.refuse(fault);
            }
        }
        // The allocation is kept for the next turn.
        due.clear();
        due.append(&mut self.due);
        self.due = due;
    }

    fn remove(&mut self, slot: usize) {
        if let Some(conn) = self.slots[slot].take() {
            let (swallowed, flipped) = conn.losses();
            self.ledger.summary.swallowed += swallowed;
            self.ledger.summary.flipped += flipped;
            self.by_id.remove(&conn.id());
            self.free.push(slot);
        }
    }

    fn summary(&self) -> Summary {
        let mut summary = self.ledger.summary();
        for conn in self.slots.iter().flatten() {
            let (swallowed, flipped) = conn.losses();
            summary.swallowed += swallowed;
            summary.flipped += flipped;
        }
        summary
    }

    fn stats(&self) -> Stats {
        let now = Instant::now();
        let conns = self.slots.iter().flatten().filter(|conn| !conn.is_closed());
        let mut connections: Vec<_> = conns.map(|conn| conn.stats(now)).collect();
        connections.sort_unstable_by_key(|conn| conn.conn);
        Stats { summary: self.summary(), connections }
    }
}

fn token_of(slot: usize, peer: Peer) -> Token {
    Token(FIRST_CONN + slot * 2 + usize::from(peer == Peer::Server))
}

fn slot_of(token: usize) -> (usize, Peer) {
    let index = token - FIRST_CONN;
    (index / 2, if index.is_multiple_of(2) { Peer::Client } else { Peer::Server })
}
