//! The event loop: accepts, connects, moves bytes, drains.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use eversock::wait::Epoll;
use eversock_dedup::SharedListener;
use serde::Serialize;

use super::conn::{Conn, PLAIN, Pool, SESSION, Turn};
use super::notes::Notes;
use super::share::Outwards;
use super::target::Target;
use crate::wire::{Listener, Wire};

const EVENTS_PER_WAIT: usize = 256;
const ACCEPTS_PER_TURN: usize = 64;
/// So many connects go on at one time; further clients wait to be accepted. The other end shakes
/// hands with 256 at a time, and other clients of its listener wait behind ours.
const DIALS_MAX: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

const WAKE: u64 = u64::MAX;
const LISTEN: u64 = u64::MAX - 1;
/// Generations stay below, so that no connection's events look like the two above.
const GENERATION_MAX: u32 = u32::MAX - 1;

/// What a gateway that is refused for its keys, and knows no server by a list, can do.
const KEYS_REMEDY: &str = "; both ends need the same --key, both or neither --sealed, both or \
                           neither --share, and a server with an --identity needs clients with \
                           --known-peers";

/// Which way the gateway works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Plain connections come in, sessions go out.
    Out,
    /// Sessions come in, plain connections go out.
    In,
}

impl Way {
    fn dialled(self) -> usize {
        match self {
            Self::Out => SESSION,
            Self::In => PLAIN,
        }
    }
}

/// What the gateway was asked to do.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) way: Way,
    pub(super) outwards: Outwards,
    /// Servers are known by a list.
    pub(super) is_listed: bool,
    pub(super) max_connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) drain: Duration,
    /// How often the status is told; `None` for never.
    pub(super) status: Option<Duration>,
}

/// What the gateway has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) connections: u64,
    /// Those that ended by an error, or could not be connected.
    pub(super) broken: u64,
    pub(super) unreachable: u64,
    /// Those that the drain's end cut off.
    pub(super) cut_off: u64,
    pub(super) bytes_to_session: u64,
    pub(super) bytes_to_plain: u64,
    /// Where sessions are shared, what they have carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shared: Option<Carried>,
}

/// Sessions that may carry several connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Carried {
    pub(super) sessions: u64,
    pub(super) connections: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
    /// In the queue of those that have something to do.
    queued: bool,
    /// Addresses that the dialled plain side has not tried yet.
    untried: VecDeque<SocketAddr>,
}

/// What is waited for while the gateway ends.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    Draining { until: Instant },
}

/// The gateway at work.
#[derive(Debug)]
pub(super) struct Relay {
    orders: Orders,
    epoll: Epoll,
    listener: Option<Listener>,
    /// That has closed, with the sessions of the connections that stand.
    closed: Option<SharedListener>,
    is_accepting: bool,
    accept_again_at: Option<Instant>,
    target: Target,
    slots: Vec<Slot>,
    free: Vec<usize>,
    count: usize,
    /// Those among them whose connect is under way.
    dialling: usize,
    work: VecDeque<usize>,
    /// Connects that may take too long, oldest first: all have the same time.
    dials: VecDeque<(Instant, usize, u32)>,
    pool: Pool,
    wake: UnixStream,
    phase: Phase,
    status_at: Option<Instant>,
    totals: Totals,
    /// Connections that stood on a session.
    carried: u64,
    notes: Notes,
}

fn token(index: usize, generation: u32, side: usize) -> u64 {
    u64::from(generation) << 32 | (index as u64) << 1 | side as u64
}

impl Relay {
    /// A byte on `wake` asks for a drain, a second one ends what is left.
    pub(super) fn new(
        orders: Orders,
        listener: Listener,
        target: Target,
        wake: UnixStream,
        notes: Notes,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        wake.set_nonblocking(true)?;
        epoll.add(&wake, libc::EPOLLIN, WAKE)?;
        epoll.add(&listener, libc::EPOLLIN, LISTEN)?;
        let status_at = orders.status.map(|_| Instant::now());
        Ok(Self {
            orders,
            epoll,
            listener: Some(listener),
            closed: None,
            is_accepting: true,
            accept_again_at: None,
            target,
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            dialling: 0,
            work: VecDeque::new(),
            dials: VecDeque::new(),
            pool: Pool::default(),
            wake,
            phase: Phase::Serving,
            status_at,
            totals: Totals::default(),
            carried: 0,
            notes,
        })
    }

    /// Works until it is drained.
    pub(super) fn run(mut self) -> io::Result<(Totals, Notes)> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT];
        loop {
            let timeout = match self.work.is_empty() {
                true => self.next_deadline().map(|at| at.saturating_duration_since(Instant::now())),
                false => Some(Duration::ZERO),
            };
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            let mut may_accept = false;
            let mut is_woken = false;
            for event in &events[..n] {
                match event.u64 {
                    WAKE => is_woken = true,
                    LISTEN => may_accept = true,
                    data => self.note(data, event.events.cast_signed()),
                }
            }
            for _ in 0..self.work.len() {
                let Some(index) = self.work.pop_front() else { break };
                self.slots[index].queued = false;
                self.turn(index);
            }
            if may_accept {
                self.accept(ACCEPTS_PER_TURN);
            }
            self.keep_time();
            if is_woken {
                self.end();
            }
            match self.phase {
                Phase::Draining { .. } if self.count == 0 => break,
                Phase::Draining { until } if Instant::now() >= until => {
                    self.cut_off();
                    break;
                }
                _ => {}
            }
        }
        self.notes.finish_status();
        Ok((self.totals(), self.notes))
    }

    fn totals(&self) -> Totals {
        let sessions = match self.orders.way {
            Way::Out => self.orders.outwards.sessions_carried(),
            Way::In => match (&self.listener, &self.closed) {
                (Some(listener), _) => listener.sessions_carried(),
                (None, closed) => closed.as_ref().map(SharedListener::sessions_carried),
            },
        };
        let connections = self.carried;
        let shared = sessions.map(|sessions| Carried { sessions, connections });
        Totals { shared, ..self.totals }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let drain = match self.phase {
            Phase::Serving => None,
            Phase::Draining { until } => Some(until),
        };
        let dial = self.dials.front().map(|(at, ..)| *at);
        [drain, dial, self.status_at, self.accept_again_at].into_iter().flatten().min()
    }

    fn note(&mut self, data: u64, events: i32) {
        let (index, side) = ((data as u32 >> 1) as usize, (data & 1) as usize);
        let Some(slot) = self.slots.get_mut(index) else { return };
        // An event of a connection that this very round has ended.
        if u64::from(slot.generation) != data >> 32 {
            return;
        }
        let Some(conn) = slot.conn.as_mut() else { return };
        conn.note(side, events);
        self.queue(index);
    }

    fn queue(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.queued {
            slot.queued = true;
            self.work.push_back(index);
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(conn) = self.slots[index].conn.as_mut() else { return };
        let (before, was_dialling) = (conn.moved(), conn.is_dialling());
        let turn = conn.turn(&mut self.pool);
        let (after, is_dialling) = (conn.moved(), conn.is_dialling());
        if was_dialling && !is_dialling {
            self.dialling -= 1;
            self.carried += u64::from(self.orders.way == Way::Out);
            self.watch_listener();
        }
        self.totals.bytes_to_session += after[PLAIN] - before[PLAIN];
        self.totals.bytes_to_plain += after[SESSION] - before[SESSION];
        match turn {
            Turn::Idle => {}
            Turn::More => self.queue(index),
            Turn::Finished => drop(self.remove(index)),
            Turn::Broken { side, error } => {
                let which = if side == PLAIN { "the plain connection" } else { "the session" };
                log::info!("{which} of a connection failed ({error}); the other end is reset");
                self.totals.broken += 1;
                self.reset(index);
            }
            Turn::Unreachable(error) => self.dial_failed(index, &error),
        }
    }

    fn remove(&mut self, index: usize) -> Option<Conn> {
        let slot = &mut self.slots[index];
        let conn = slot.conn.take()?;
        slot.generation = (slot.generation + 1) % GENERATION_MAX;
        slot.untried.clear();
        self.free.push(index);
        self.count -= 1;
        self.dialling -= usize::from(conn.is_dialling());
        self.watch_listener();
        Some(conn)
    }

    fn reset(&mut self, index: usize) {
        if let Some(conn) = self.remove(index) {
            conn.reset();
        }
    }

    // -----------------------------------------------------------------------------------------
    // New connections

    /// Accepts while there is room; a client that finds none waits in the kernel's queue.
    fn accept(&mut self, at_most: usize) {
        for _ in 0..at_most {
            if self.dialling >= DIALS_MAX {
                break;
            }
            if self.count >= self.orders.max_connections {
                let most = self.orders.max_connections;
                self.notes.say(&format!(
                    "{most} connections, as many as --max-connections allows; others wait"
                ));
                break;
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((wire, from)) => self.begin(wire, from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A connection that died in the queue: the next may be well (accept(2)).
                Err(error) if is_only_this_one(&error) => {}
                Err(error) => {
                    self.notes.say(&format!("cannot accept: {error}; others wait meanwhile"));
                    self.accept_again_at = Some(Instant::now() + ACCEPT_PAUSE);
                    break;
                }
            }
        }
        self.watch_listener();
    }

    /// Watches the listener, or does not while nobody could be accepted.
    fn watch_listener(&mut self) {
        let Some(listener) = &self.listener else { return };
        let has_room = self.count < self.orders.max_connections
            && self.dialling < DIALS_MAX
            && self.accept_again_at.is_none();
        if has_room != self.is_accepting {
            let events = if has_room { libc::EPOLLIN } else { 0 };
            match self.epoll.modify(listener, events, LISTEN) {
                Ok(()) => self.is_accepting = has_room,
                Err(error) => log::warn!("the listener cannot be watched: {error}"),
            }
        }
    }

    fn begin(&mut self, accepted: Wire, from: Option<SocketAddr>) {
        self.totals.connections += 1;
        self.carried += u64::from(self.orders.way == Way::In);
        let (wire, untried) = match self.dial(from) {
            Ok(dialled) => dialled,
            Err(error) => {
                self.unreachable(&error, None);
                return accepted.reset();
            }
        };
        let conn = Conn::new(accepted, wire, self.orders.way.dialled());
        let index = self.free.pop().unwrap_or_else(|| {
            let empty = Slot { generation: 0, conn: None, queued: false, untried: VecDeque::new() };
            self.slots.push(empty);
            self.slots.len() - 1
        });
        let generation = self.slots[index].generation;
        self.count += 1;
        self.dialling += 1;
        let watched = [PLAIN, SESSION].into_iter().try_for_each(|side| {
            self.epoll.add(conn.wire(side), INTEREST, token(index, generation, side))
        });
        self.slots[index].conn = Some(conn);
        self.slots[index].untried = untried;
        if let Err(error) = watched {
            self.notes.say(&format!("a connection cannot be watched: {error}"));
            self.totals.broken += 1;
            return self.reset(index);
        }
        self.await_dial(index);
        // What came before the registration may have no event of its own.
        self.queue(index);
    }

    fn await_dial(&mut self, index: usize) {
        let generation = self.slots[index].generation;
        let until = Instant::now() + self.orders.connect_timeout;
        self.dials.push_back((until, index, generation));
    }

    /// Begins to connect to the target, for a client from there; also gives the addresses that are
    /// left to try. A session tries all of them by itself.
    fn dial(&mut self, from: Option<SocketAddr>) -> io::Result<(Wire, VecDeque<SocketAddr>)> {
        let addrs = self.target.addrs();
        match self.orders.way {
            Way::Out => {
                let name = self.target.name();
                let wire = self.orders.outwards.dial(&addrs, name, from)?;
                Ok((wire, VecDeque::new()))
            }
            Way::In => {
                let mut untried = VecDeque::from(addrs);
                let wire = dial_next(&mut untried)?;
                Ok((wire, untried))
            }
        }
    }

    /// Tries the next address, or gives up and resets the accepted side at once.
    fn dial_failed(&mut self, index: usize, error: &io::Error) {
        let slot = &mut self.slots[index];
        let generation = slot.generation;
        if let (Some(conn), Ok(wire)) = (slot.conn.as_mut(), dial_next(&mut slot.untried)) {
            let data = token(index, generation, self.orders.way.dialled());
            let is_watched = self.epoll.add(&wire, INTEREST, data).is_ok();
            conn.replace_dialled(wire);
            if is_watched {
                self.await_dial(index);
                return self.queue(index);
            }
        }
        let dialled = self.orders.way.dialled();
        let why = self.slots[index].conn.as_ref().and_then(|conn| conn.wire(dialled).why());
        self.unreachable(error, why);
        self.reset(index);
    }

    /// Says why; `why` is what the session has to say beyond the error.
    fn unreachable(&mut self, error: &io::Error, why: Option<String>) {
        self.totals.unreachable += 1;
        self.target.look_again();
        let target = &self.target;
        let (what, remedy) = match (self.orders.way, error.raw_os_error()) {
            (Way::Out, Some(libc::EPROTO)) => (
                "it does not speak eversock".to_owned(),
                "; run `evs gateway --resilient-listen` or `evs run --listen` there",
            ),
            (Way::Out, Some(libc::EACCES)) => {
                let why = why.unwrap_or_else(|| error.to_string());
                // Who knows servers by a list says itself what can be done.
                (why, if self.orders.is_listed { "" } else { KEYS_REMEDY })
            }
            _ => (why.unwrap_or_else(|| error.to_string()), ""),
        };
        let note = format!("cannot connect to {target}: {what}{remedy}; the client is reset");
        self.notes.say(&note);
    }

    // -----------------------------------------------------------------------------------------
    // Time

    fn keep_time(&mut self) {
        let now = Instant::now();
        while let Some(&(at, index, generation)) = self.dials.front() {
            if at > now {
                break;
            }
            self.dials.pop_front();
            let slot = &self.slots[index];
            let is_same = slot.generation == generation;
            if is_same && slot.conn.as_ref().is_some_and(Conn::is_dialling) {
                let slow = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                self.dial_failed(index, &slow);
            }
        }
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.watch_listener();
        }
        if let (Some(every), Some(at)) = (self.orders.status, self.status_at)
            && at <= now
        {
            self.status_at = Some(now + every);
            let totals = self.totals();
            self.notes.status(self.count, &totals);
        }
    }

    /// The first time stops accepting and waits for the connections, the second time does not wait.
    fn end(&mut self) {
        let mut bytes = [0; 16];
        let asked = (&self.wake).read(&mut bytes).unwrap_or(0);
        let now = Instant::now();
        if let Phase::Draining { .. } = self.phase {
            self.phase = Phase::Draining { until: now };
            return;
        }
        if let Some(listener) = &self.listener {
            listener.refuse_more();
        }
        // Whose connect has succeeded already is served.
        while self.is_accepting && self.count < self.orders.max_connections {
            let before = self.totals.connections;
            self.accept(ACCEPTS_PER_TURN);
            if self.totals.connections == before {
                break;
            }
        }
        if let Some(listener) = self.listener.take() {
            if let Err(error) = self.epoll.delete(&listener) {
                log::debug!("the listener was not watched: {error}");
            }
            self.closed = listener.close();
        }
        let wait = if asked > 1 { Duration::ZERO } else { self.orders.drain };
        self.phase = Phase::Draining { until: now + wait };
        self.notes.draining(self.count, wait);
    }

    fn cut_off(&mut self) {
        for index in 0..self.slots.len() {
            if self.slots[index].conn.is_some() {
                self.totals.cut_off += 1;
                self.reset(index);
            }
        }
    }
}

fn dial_next(untried: &mut VecDeque<SocketAddr>) -> io::Result<Wire> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while let Some(addr) = untried.pop_front() {
        match Wire::dial_plain(addr) {
            Ok(wire) => return Ok(wire),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// True when accept failed for one connection only.
fn is_only_this_one(error: &io::Error) -> bool {
    let passing = [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EINTR,
        libc::ENETDOWN,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
    ];
    error.raw_os_error().is_some_and(|number| passing.contains(&number))
}
