//! The pool's thread: dials, merges, opens streams, watches sessions and their lines.

mod events;
mod flight;
mod lines;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use core::net::{IpAddr, SocketAddr};
use crossbeam_channel::{Receiver, Sender};
use eversock_engine::host::Kept;
use eversock_engine::{Config, Event, EventKind, posix};

use super::carrier::{Carrier, Happening};
use super::lone::Lone;
use super::{BELL, BUF_BYTES, Clock, Inbox, Line, OTHERS, Readiness, Watch, untoken};
use crate::config::PoolConfig;
use crate::mux::{Limits, OpenError, Role, reason};
use crate::preface::Preface;
use crate::state::{Server, State, Todo, Want, Why};
use flight::Flying;
use lines::Lines;

/// How long the end of a process waits for what is queued.
const END_MAX: Duration = Duration::from_secs(2);

/// What a pool's thread is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// A connection.
    Connect(Box<Connect>),
    /// Who asked for it has gone.
    Forsake { ticket: u64 },
    /// Move a connection's session to this address of its server.
    Migrate { management: u64, addr: SocketAddr, tell: Sender<io::Result<()>> },
    /// What names say of a session's server.
    Hinted { session: u64, addrs: Vec<SocketAddr> },
    /// Nothing that was learned of addresses holds any more: the network has changed.
    Forget,
    /// Send what is queued, end everything, go.
    Stop { tell: Sender<()> },
}

/// A connection that somebody wants.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) ticket: u64,
    pub(crate) want: Want,
    pub(crate) how: How,
    pub(crate) preface: Preface,
    pub(crate) far: Kept,
    /// Of a pair that is filled so that it does not look connected: how many bytes come out of the
    /// far end first and are nobody's, and a copy of the near one.
    pub(crate) filled: Option<(usize, Kept)>,
    pub(crate) tell: Tell,
}

/// What a dial needs to know beside the addresses.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) config: Arc<Config>,
    /// For a server that turns out to have no key, where none is wanted: without asking for one.
    pub(crate) keyless: Option<Arc<Config>>,
    pub(crate) host: Option<(String, u16)>,
    pub(crate) device: Option<String>,
    pub(crate) source: Option<IpAddr>,
    /// The only key that the server may have, by what was asked for.
    pub(crate) pin: Option<[u8; 32]>,
}

/// Who hears how it went.
pub(crate) struct Tell(Option<Told>);

type Told = Box<dyn FnOnce(Result<u64, Failed>) + Send>;

/// Why there is no connection.
#[derive(Debug)]
pub struct Failed {
    /// As connect(2) has it.
    pub error: io::Error,
    /// What the session says beyond that: who was refused by whom, and what helps.
    pub why: Option<String>,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, why: None }
    }
}

impl Tell {
    pub(crate) fn new(tell: impl FnOnce(Result<u64, Failed>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Whatever who is told does, the thread goes on.
    fn say(mut self, result: Result<u64, Failed>) {
        let Some(tell) = self.0.take() else { return };
        let told = std::panic::AssertUnwindSafe(|| tell(result));
        if std::panic::catch_unwind(told).is_err() {
            log::error!("who was told of a connection has panicked");
        }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            // The thread has ended, however.
            tell(Err(io::Error::from_raw_os_error(libc::ESHUTDOWN).into()));
        }
    }
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tell(..)")
    }
}

/// The books, which others may look into.
pub(crate) type Books = Arc<Mutex<Shown>>;

/// What the thread shows.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) state: State,
    pub(crate) lines: BTreeMap<u64, crate::score::Line>,
    /// The session's id and epoch, by session.
    pub(crate) links: BTreeMap<u64, ([u8; 16], u64)>,
    /// Addresses that names have added, by session.
    pub(crate) hints: BTreeMap<u64, usize>,
}

pub(crate) fn look(books: &Books) -> MutexGuard<'_, Shown> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that has no stream yet.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    how: How,
    preface: Preface,
    far: Kept,
    /// Bytes that come out of it first and are nobody's.
    skip: usize,
    /// A copy of the program's end, whose buffers are to grow.
    near: Option<Kept>,
    /// What it has said on a stream that was refused.
    said: Vec<u8>,
    tell: Option<Tell>,
}

/// What a session is to this thread.
#[derive(Debug)]
enum Load {
    Shared(Box<Carrier>),
    Lone(Box<Lone>),
}

#[derive(Debug)]
struct Held {
    session: u64,
    number: RawFd,
    load: Load,
    events: Option<Receiver<Event>>,
    /// The session's id.
    id: [u8; 16],
    /// Addresses that its server may have, by its names.
    hints: Vec<SocketAddr>,
    /// Those of which nothing else is known.
    only_hinted: Vec<SocketAddr>,
    /// Where it was told to go, until it is known what came of it.
    moving: Option<SocketAddr>,
    /// How it was dialled.
    how: How,
}

/// The thread's own.
#[derive(Debug)]
pub(crate) struct Client {
    config: PoolConfig,
    clock: Clock,
    inbox: Inbox<Command>,
    /// For the threads that look names up.
    line: Line<Command>,
    books: Books,
    held: BTreeMap<u32, Held>,
    by_session: BTreeMap<u64, u32>,
    flights: BTreeMap<u64, Flying>,
    pending: BTreeMap<u64, Pending>,
    /// How to try a connection elsewhere, as long as its server has not accepted it.
    unaccepted: BTreeMap<u64, (How, Preface)>,
    lines: Lines,
    resolvers: Arc<std::sync::atomic::AtomicUsize>,
    next_id: u32,
    buf: Vec<u8>,
    /// What the session of the dial that has just failed had to say.
    why: Option<String>,
    tell_end: Option<(Sender<()>, Instant)>,
}

impl Client {
    /// Starts the thread. It ends when it is told to.
    pub(crate) fn start(config: PoolConfig) -> io::Result<(Line<Command>, Books)> {
        let (line, inbox) = Line::new()?;
        let rules = crate::state::Rules {
            linger: micros(config.linger),
            sessions_max: config.sessions_max,
            streams_max: config.streams_max,
            ..crate::state::Rules::default()
        };
        let state = State::new(rules);
        let shown =
            Shown { state, lines: BTreeMap::new(), links: BTreeMap::new(), hints: BTreeMap::new() };
        let books: Books = Arc::new(Mutex::new(shown));
        let lines = Lines::new(&config);
        let client = Self {
            clock: Clock::new(),
            inbox,
            line: line.clone(),
            resolvers: Arc::default(),
            books: Arc::clone(&books),
            held: BTreeMap::new(),
            by_session: BTreeMap::new(),
            flights: BTreeMap::new(),
            pending: BTreeMap::new(),
            unaccepted: BTreeMap::new(),
            lines,
            next_id: 0,
            buf: vec![0; BUF_BYTES],
            why: None,
            tell_end: None,
            config,
        };
        super::spawn(c"eversock-pool", move || client.run())?;
        Ok((line, books))
    }

    fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let timeout = self.timeout();
            let n = match self.inbox.watch.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(error) => {
                    log::error!("the pool cannot wait for its sockets, and ends: {error}");
                    return;
                }
            };
            let mut is_called = false;
            for &libc::epoll_event { events, u64: data } in &events[..n] {
                let ready = Readiness::from(events);
                match data {
                    BELL => is_called = true,
                    data if data >= OTHERS => self.other(data - OTHERS),
                    data => self.note(data, ready),
                }
            }
            if is_called {
                self.inbox.watch.silence_bell();
                self.obey();
                self.hear_sessions();
            }
            self.work();
            self.keep_time();
            if self.is_done() {
                return;
            }
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        if self.held.values().any(|held| held.load.has_work()) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let linger = look(&self.books).state.deadline();
        let end = self
            .tell_end
            .as_ref()
            .map(|(_, until)| now + micros(until.saturating_duration_since(Instant::now())));
        let carriers = self.held.values().filter_map(|held| match &held.load {
            Load::Shared(carrier) => carrier.deadline(),
            Load::Lone(_) => None,
        });
        let all = [linger, self.lines.deadline(), end, carriers.min()];
        let due = all.into_iter().flatten().min()?;
        Some(Duration::from_micros(due.saturating_sub(now)))
    }

    fn note(&mut self, data: u64, ready: Readiness) {
        let (id, stream) = untoken(data);
        let is_far = data & 1 != 0;
        match self.held.get_mut(&id).map(|held| &mut held.load) {
            Some(Load::Shared(carrier)) => {
                carrier.note(if is_far { stream } else { 0 }, ready);
            }
            Some(Load::Lone(lone)) => lone.note(is_far, ready),
            // Of one that this very round has ended.
            None => {}
        }
    }

    /// Events of a flight's socket, or of the queries'.
    fn other(&mut self, which: u64) {
        if self.lines.is_mine(which) {
            return self.hear_replies();
        }
        self.landed(which);
    }

    // ---------------------------------------------------------------------------------------------
    // Commands

    fn obey(&mut self) {
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Connect(connect) => self.connect(*connect),
                Command::Forsake { ticket } => {
                    let of = self.pending.iter().find(|(_, pending)| pending.ticket == ticket);
                    if let Some(connection) = of.map(|(connection, _)| *connection) {
                        self.pending.remove(&connection);
                        self.close_connection(connection);
                    }
                }
                Command::Migrate { management, addr, tell } => {
                    let result = self.migrate(management, addr);
                    let _gone = tell.send(result);
                }
                Command::Hinted { session, addrs } => self.hinted(session, &addrs),
                Command::Forget => {
                    look(&self.books).state.forget_addresses();
                    self.lines.forget();
                }
                Command::Stop { tell } => {
                    self.stop();
                    self.tell_end = Some((tell, Instant::now() + END_MAX));
                }
            }
        }
    }

    fn connect(&mut self, connect: Connect) {
        let Connect { ticket, want, how, preface, far, filled, tell } = connect;
        if self.tell_end.is_some() {
            return tell.say(Err(io::Error::from_raw_os_error(libc::ESHUTDOWN).into()));
        }
        let (connection, todo) = look(&self.books).state.request(want, self.clock.now());
        let (said, tell) = (Vec::new(), Some(tell));
        let (skip, near) = filled.map_or((0, None), |(skip, near)| (skip, Some(near)));
        let pending = Pending { ticket, how, preface, far, skip, near, said, tell };
        self.pending.insert(connection, pending);
        self.perform(todo);
    }

    fn migrate(&mut self, management: u64, addr: SocketAddr) -> io::Result<()> {
        let session = {
            let shown = look(&self.books);
            shown.state.session_of(management)
        };
        let none = || io::Error::from_raw_os_error(libc::ENOENT);
        let id = session.and_then(|session| self.by_session.get(&session)).ok_or_else(none)?;
        let held = self.held.get_mut(id).ok_or_else(none)?;
        posix::redial_at(held.number, addr)?;
        held.moving = Some(addr);
        Ok(())
    }

    /// Sends what is queued and ends all sessions.
    fn stop(&mut self) {
        let todo = look(&self.books).state.clear();
        for (_, flying) in std::mem::take(&mut self.flights) {
            flying.cancel();
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            match pending.tell {
                Some(tell) => tell.say(Err(io::Error::from_raw_os_error(libc::ESHUTDOWN).into())),
                None => super::pipe::reset(&pending.far),
            }
        }
        self.perform(todo);
        let now = self.clock.now();
        for held in self.held.values_mut() {
            match &mut held.load {
                Load::Shared(carrier) => carrier.stop(now),
                Load::Lone(lone) => lone.stop(),
            }
        }
    }

    fn is_done(&mut self) -> bool {
        let Some((_, until)) = &self.tell_end else { return false };
        if !self.held.is_empty() && Instant::now() < *until {
            return false;
        }
        self.held.clear();
        if let Some((tell, _)) = self.tell_end.take() {
            let _gone = tell.send(());
        }
        true
    }

    // ---------------------------------------------------------------------------------------------
    // What the books say

    fn perform(&mut self, todo: Vec<Todo>) {
        let mut todo: std::collections::VecDeque<Todo> = todo.into();
        while let Some(next) = todo.pop_front() {
            let more = match next {
                Todo::Dial { flight } => self.take_off(flight),
                Todo::Cancel { flight } => {
                    if let Some(flying) = self.flights.remove(&flight) {
                        flying.cancel();
                    }
                    Vec::new()
                }
                // Its number is in the flight; the load comes with what is to be done with it.
                Todo::Keep { flight, session } => self.keep(flight, session),
                Todo::Open { connection, session } => self.open(connection, session),
                Todo::Alone { connection, flight } => self.alone(connection, flight),
                Todo::Fail { connection, error } => {
                    self.fail(connection, io::Error::from_raw_os_error(error));
                    Vec::new()
                }
                Todo::Close { session } => {
                    let now = self.clock.now();
                    self.with(session, |held, _| match &mut held.load {
                        Load::Shared(carrier) => carrier.finish(now),
                        Load::Lone(_) => {}
                    });
                    Vec::new()
                }
                Todo::Kill { session } => {
                    let mut tell = Vec::new();
                    self.with(session, |held, tell| {
                        if let Load::Shared(carrier) = &mut held.load {
                            carrier.kill(tell);
                        }
                    });
                    self.with_news(session, &mut tell);
                    Vec::new()
                }
            };
            more.into_iter().rev().for_each(|more| todo.push_front(more));
        }
    }

    fn with(&mut self, session: u64, run: impl FnOnce(&mut Held, &mut Vec<Happening>)) {
        let Some(&id) = self.by_session.get(&session) else { return };
        let Some(held) = self.held.get_mut(&id) else { return };
        let mut tell = Vec::new();
        run(held, &mut tell);
        self.happened(id, tell);
    }

    fn with_news(&mut self, session: u64, tell: &mut Vec<Happening>) {
        if let Some(&id) = self.by_session.get(&session) {
            self.happened(id, std::mem::take(tell));
        }
    }

    /// The flight's socket becomes a session. One that is to be a connection's alone waits for it.
    fn keep(&mut self, flight: u64, session: u64) -> Vec<Todo> {
        let Some(flying) = self.flights.get(&flight) else { return Vec::new() };
        if look(&self.books).state.server(session).is_none() {
            // Its connection comes next, and takes it.
            return Vec::new();
        }
        let number = flying.number;
        let id = self.id();
        let limits = Limits {
            streams_max: 2 * self.config.streams_max as usize,
            unacked_max: 2 * self.config.streams_max as usize,
            ..Limits::default()
        };
        self.inbox.watch.remove_virtual(number);
        let Some(flying) = self.flights.remove(&flight) else { return Vec::new() };
        let how = flying.landed();
        let now = self.clock.now();
        match Carrier::new(number, id, Role::Client, limits, &self.inbox.watch, now) {
            Ok(carrier) => {
                self.look_up(session, &how, number);
                self.hold(session, id, number, Load::Shared(Box::new(carrier)), how);
            }
            Err(error) => {
                log::warn!("a session cannot be carried: {error}");
                let _closed = posix::close(number);
                look(&self.books).state.died(session);
            }
        }
        Vec::new()
    }

    fn hold(&mut self, session: u64, id: u32, number: RawFd, load: Load, how: How) {
        let bell = Arc::clone(&self.inbox.watch.bell);
        let events = match posix::subscribe_with(number, bell) {
            Ok(events) => Some(events),
            Err(error) => {
                log::warn!("what happens to a session will not be noticed: {error}");
                None
            }
        };
        let link = posix::link(number).ok();
        let name = link.as_ref().map_or([0; 16], |link| link.id);
        if let Some(link) = &link {
            look(&self.books).links.insert(session, (link.id, link.epoch));
        }
        self.by_session.insert(session, id);
        self.held.insert(
            id,
            Held {
                session,
                number,
                load,
                events,
                id: name,
                hints: Vec::new(),
                only_hinted: Vec::new(),
                moving: None,
                how,
            },
        );
        self.lines.begins(session);
        self.measure(session);
    }

    fn id(&mut self) -> u32 {
        loop {
            self.next_id = (self.next_id + 1) % (1 << 30);
            if !self.held.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    fn open(&mut self, connection: u64, session: u64) -> Vec<Todo> {
        let Some(pending) = self.pending.remove(&connection) else { return Vec::new() };
        let now = self.clock.now();
        let Pending { ticket, how, preface, far, skip, near, said, tell } = pending;
        let held = self.by_session.get(&session).and_then(|id| self.held.get_mut(id));
        let Some(Held { load: Load::Shared(carrier), number, .. }) = held else {
            self.pending
                .insert(connection, Pending { ticket, how, preface, far, skip, near, said, tell });
            self.fail(connection, io::Error::from_raw_os_error(libc::ECONNRESET));
            return self.close_later(connection);
        };
        let (verified, freshest) = {
            let shown = look(&self.books);
            (shown.state.verified(session), shown.state.freshest(session))
        };
        if let Err(error) = posix::add_candidates(*number, &verified) {
            log::debug!("session {session}: {error}");
        }
        if !posix::link(*number).is_ok_and(|link| link.attached) {
            // Its server is there, by what a handshake has just shown.
            let dialled = match freshest {
                Some(addr) => posix::redial_at(*number, addr),
                None => posix::redial(*number),
            };
            if let Err(error) = dialled {
                log::debug!("session {session} is not dialled: {error}");
            }
        }
        let encoded = preface.encode();
        let ends = (far, skip);
        match carrier.open(connection, ends, &encoded, said, now, &self.inbox.watch) {
            Ok(stream) => {
                self.unaccepted.insert(connection, (how, preface));
                if let Some(tell) = tell {
                    tell.say(Ok(connection));
                }
                // Only now: wider buffers alone may make the program's end writable.
                if let (Some(near), Some(far)) = (&near, carrier.far(stream)) {
                    eversock_engine::host::widen(near.as_fd(), far);
                }
                Vec::new()
            }
            Err((error, far, said)) => {
                log::debug!("no stream for connection {connection} on session {session}: {error}");
                let pending = Pending { ticket, how, preface, far, skip, near, said, tell };
                self.pending.insert(connection, pending);
                let state = &mut look(&self.books).state;
                let is_full = error != OpenError::GoneAway;
                let mut todo = if is_full { Vec::new() } else { state.went_away(session) };
                todo.extend(state.sent_back(connection, is_full, now));
                todo
            }
        }
    }

    fn alone(&mut self, connection: u64, flight: u64) -> Vec<Todo> {
        let Some(flying) = self.flights.remove(&flight) else { return Vec::new() };
        let Some(pending) = self.pending.remove(&connection) else {
            flying.cancel();
            return self.close_later(connection);
        };
        let number = flying.number;
        self.inbox.watch.remove_virtual(number);
        let how = flying.landed();
        let session = look(&self.books).state.session_of(connection).unwrap_or(0);
        let id = self.id();
        let Pending { far, skip, near, said, tell, .. } = pending;
        match Lone::new(number, far, skip, said, connection, id, &self.inbox.watch) {
            Ok(lone) => {
                if let Some(tell) = tell {
                    tell.say(Ok(connection));
                }
                if let Some(near) = &near {
                    eversock_engine::host::widen(near.as_fd(), lone.far.as_fd());
                }
                self.hold(session, id, number, Load::Lone(Box::new(lone)), how);
                Vec::new()
            }
            Err(error) => {
                let _closed = posix::close(number);
                if let Some(tell) = tell {
                    tell.say(Err(error.into()));
                }
                self.close_later(connection)
            }
        }
    }

    fn fail(&mut self, connection: u64, error: io::Error) {
        let Some(pending) = self.pending.remove(&connection) else { return };
        // None: it was connected once, to a server that did not have its service.
        if let Some(tell) = pending.tell {
            tell.say(Err(Failed { error, why: self.why.clone() }));
        }
        super::pipe::reset(&pending.far);
    }

    fn close_later(&mut self, connection: u64) -> Vec<Todo> {
        look(&self.books).state.closed(connection, self.clock.now())
    }

    fn close_connection(&mut self, connection: u64) {
        let todo = self.close_later(connection);
        self.perform(todo);
    }
}

impl Load {
    fn has_work(&self) -> bool {
        match self {
            Self::Shared(carrier) => carrier.has_work(),
            Self::Lone(lone) => lone.has_work(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
