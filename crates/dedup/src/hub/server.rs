//! A shared listener's thread: takes sessions, hands out their streams, answers queries.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use core::net::SocketAddr;
use crossbeam_channel::{Sender, TrySendError};
use eversock_engine::host::Kept;
use eversock_engine::udp::Udp;
use eversock_engine::{host, posix};

use super::carrier::{Carrier, Happening};
use super::lone::Lone;
use super::{BELL, BUF_BYTES, Clock, Inbox, Line, OTHERS, Readiness, ring, untoken, would_block};
use crate::ident::{self, Answerer, Reply};
use crate::listener::Accepted;
use crate::mux::{Limits, Role, reason};

/// How long the end waits for what is queued.
const END_MAX: Duration = Duration::from_secs(2);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sessions that are taken at a time.
const ACCEPTS_MAX: usize = 64;
/// Queries that are answered at a time.
const ANSWERS_MAX: usize = 64;

/// What a shared listener's thread is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Tell everybody these addresses, in place of those before.
    Announce { addrs: Vec<SocketAddr>, tell: Sender<io::Result<()>> },
    /// No more streams on the sessions that there are; each ends with its last.
    GoAway { code: u32 },
    /// Streams for this service are somewhere else from now on, or here again.
    Misdirect { service: String, on: bool },
    /// Listen no more, and no more streams; those that there are go on.
    Close { code: u32, tell: Sender<()> },
    /// Send what is queued, end everything, go.
    Stop { tell: Sender<()> },
}

/// What the listener has, to begin with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) listeners: Vec<RawFd>,
    pub(crate) udp: Vec<(Udp, SocketAddr)>,
    pub(crate) answerer: Option<Answerer>,
    pub(crate) services: Vec<String>,
    pub(crate) streams_max: u32,
    /// How long a session may have no connection, in microseconds.
    pub(crate) idle: u64,
    pub(crate) accepted: Sender<(Kept, Accepted)>,
    /// Readable as often as there is something to accept.
    pub(crate) ready: Arc<Kept>,
    /// Sessions that have carried a connection.
    pub(crate) carried: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Load {
    Shared(Box<Carrier>),
    Lone(Box<Lone>),
}

#[derive(Debug)]
struct Held {
    load: Load,
    number: RawFd,
    about: Accepted,
    /// It is counted among those that have carried a connection.
    has_carried: bool,
}

#[derive(Debug)]
pub(crate) struct Server {
    parts: Parts,
    clock: Clock,
    inbox: Inbox<Command>,
    held: BTreeMap<u32, Held>,
    /// Sessions by id, for proofs.
    by_id: BTreeMap<[u8; 16], u32>,
    misdirected: Vec<String>,
    /// Nobody accepts any more.
    is_closed: bool,
    address_set: u32,
    next_id: u32,
    next_connection: u64,
    buf: Vec<u8>,
    /// Nobody is accepted until then.
    listens_again: Option<Instant>,
    tell_end: Option<(Sender<()>, Instant)>,
}

/// Where the queries' sockets are counted from, behind [`OTHERS`].
const UDP: u64 = 1 << 32;

impl Server {
    pub(crate) fn start(parts: Parts) -> io::Result<Line<Command>> {
        let (line, inbox) = Line::new()?;
        for (place, number) in parts.listeners.iter().enumerate() {
            posix::set_nonblocking(*number, true)?;
            inbox.watch.add_listener(*number, OTHERS + place as u64)?;
        }
        for (place, (udp, _)) in parts.udp.iter().enumerate() {
            inbox.watch.add_level(udp, OTHERS + UDP + place as u64)?;
        }
        let server = Self {
            parts,
            clock: Clock::new(),
            inbox,
            held: BTreeMap::new(),
            by_id: BTreeMap::new(),
            misdirected: Vec::new(),
            is_closed: false,
            address_set: 1,
            next_id: 0,
            next_connection: 0,
            buf: vec![0; BUF_BYTES],
            listens_again: None,
            tell_end: None,
        };
        super::spawn(c"eversock-shared", move || server.run())?;
        Ok(line)
    }

    fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let timeout = self.timeout();
            let n = match self.inbox.watch.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(error) => {
                    log::error!("the shared listener cannot wait, and ends: {error}");
                    // Who waits to accept is to hear of it.
                    ring(&*self.parts.ready);
                    return;
                }
            };
            let mut is_called = false;
            for &libc::epoll_event { events, u64: data } in &events[..n] {
                let ready = Readiness::from(events);
                match data {
                    BELL => is_called = true,
                    data if data >= OTHERS + UDP => self.answer((data - OTHERS - UDP) as usize),
                    data if data >= OTHERS => self.accept((data - OTHERS) as usize),
                    data => self.note(data, ready),
                }
            }
            if is_called {
                self.inbox.watch.silence_bell();
                self.obey();
            }
            self.work();
            self.listen_again();
            if self.is_done() {
                return;
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let has_work = |held: &Held| match &held.load {
            Load::Shared(carrier) => carrier.has_work(),
            Load::Lone(lone) => lone.has_work(),
        };
        if self.held.values().any(has_work) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let end = self.tell_end.as_ref().map(|(_, until)| *until);
        let due = [end, self.listens_again].into_iter().flatten().min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let carriers = self.held.values().filter_map(|held| match &held.load {
            Load::Shared(carrier) => {
                let idle = carrier.idle_for(now).map(|idle| self.parts.idle.saturating_sub(idle));
                let deadline = carrier.deadline().map(|at| at.saturating_sub(now));
                [idle, deadline].into_iter().flatten().min()
            }
            Load::Lone(_) => None,
        });
        [due, carriers.min().map(Duration::from_micros)].into_iter().flatten().min()
    }

    fn note(&mut self, data: u64, ready: Readiness) {
        let (id, stream) = untoken(data);
        let is_far = data & 1 != 0;
        match self.held.get_mut(&id).map(|held| &mut held.load) {
            Some(Load::Shared(carrier)) => {
                carrier.note(if is_far { stream } else { 0 }, ready);
            }
            Some(Load::Lone(lone)) => lone.note(is_far, ready),
            None => {}
        }
    }

    // ---------------------------------------------------------------------------------------------
    // Sessions

    fn accept(&mut self, place: usize) {
        let Some(&listener) = self.parts.listeners.get(place) else { return };
        for _ in 0..ACCEPTS_MAX {
            match posix::accept4(listener, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
                Ok((number, peer)) => {
                    if let Err(error) = self.take(number, peer) {
                        log::warn!("a session from {peer} cannot be carried: {error}");
                        super::reset_virtual(number);
                        let _closed = posix::close(number);
                    }
                }
                Err(error) if would_block(&error) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                // For want of descriptors or memory: others wait meanwhile.
                Err(error) => {
                    log::warn!("no session is accepted: {error}");
                    for number in &self.parts.listeners {
                        self.inbox.watch.remove_virtual(*number);
                    }
                    self.listens_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn listen_again(&mut self) {
        if self.listens_again.is_some_and(|at| at <= Instant::now()) {
            self.listens_again = None;
            for (place, number) in self.parts.listeners.iter().enumerate() {
                if let Err(error) = self.inbox.watch.add_listener(*number, OTHERS + place as u64) {
                    log::error!("a listener is lost: {error}");
                }
            }
        }
    }

    fn take(&mut self, number: RawFd, peer: SocketAddr) -> io::Result<()> {
        let link = posix::link(number)?;
        let about = Accepted {
            peer,
            requested: None,
            service: String::new(),
            client_key: link.key,
            session: link.id,
            is_shared: link.shares,
        };
        let id = self.id();
        let load = if link.shares {
            // A client has done with one before its program here has read it to its end.
            let streams_max = 2 * self.parts.streams_max as usize;
            let limits = Limits { streams_max, ..Limits::default() };
            Load::Shared(Box::new(Carrier::new(
                number,
                id,
                Role::Server,
                limits,
                &self.inbox.watch,
                self.clock.now(),
            )?))
        } else {
            let (near, far) = host::pair()?;
            let connection = self.connection();
            let lone = Lone::new(number, far, 0, Vec::new(), connection, id, &self.inbox.watch)?;
            if !self.hand_out(near, about.clone()) {
                // The lone one's end resets the session.
                return Ok(());
            }
            self.parts.carried.fetch_add(1, Ordering::Relaxed);
            Load::Lone(Box::new(lone))
        };
        self.by_id.insert(link.id, id);
        self.held.insert(id, Held { load, number, about, has_carried: !link.shares });
        Ok(())
    }

    fn id(&mut self) -> u32 {
        loop {
            self.next_id = (self.next_id + 1) % (1 << 30);
            if !self.held.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    fn connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection
    }

    /// False when nobody takes more.
    fn hand_out(&self, near: OwnedFd, about: Accepted) -> bool {
        // Until somebody has it: no child's, as nobody would close it there.
        let near = match Kept::new(near) {
            Ok(near) => near,
            Err(error) => {
                log::warn!("a connection is refused: {error}");
                return false;
            }
        };
        match self.parts.accepted.try_send((near, about)) {
            Ok(()) => {
                // Afterwards: who has heard it finds what it tells of.
                ring(&*self.parts.ready);
                true
            }
            Err(TrySendError::Full(_)) => {
                log::warn!("a connection is refused: as many as may wait to be accepted do");
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    fn work(&mut self) {
        let now = self.clock.now();
        let ids: Vec<u32> = self.held.keys().copied().collect();
        for id in ids {
            let Some(held) = self.held.get_mut(&id) else { continue };
            let mut tell = Vec::new();
            match &mut held.load {
                Load::Shared(carrier) => {
                    if carrier.idle_for(now).is_some_and(|idle| idle >= self.parts.idle) {
                        carrier.go_away(0);
                        carrier.finish(now);
                    }
                    carrier.turn(&mut self.buf, now, &mut tell);
                }
                Load::Lone(lone) => {
                    if lone.turn(&mut self.buf) {
                        tell.push(Happening::Ended { error: None });
                    }
                }
            }
            let opened = !tell.is_empty();
            for happening in tell {
                self.happened(id, happening);
            }
            if opened && let Some(Held { load: Load::Shared(carrier), .. }) = self.held.get_mut(&id)
            {
                // What was accepted just now is told at once.
                let mut later = Vec::new();
                carrier.turn(&mut self.buf, now, &mut later);
                for happening in later {
                    self.happened(id, happening);
                }
            }
        }
    }

    fn happened(&mut self, id: u32, happening: Happening) {
        match happening {
            Happening::Opened { stream, preface } => {
                let service = preface.service.as_str().to_owned();
                let is_known =
                    self.parts.services.is_empty() || self.parts.services.contains(&service);
                if self.is_closed {
                    return self.refuse(id, stream, reason::GONE_AWAY);
                }
                if self.misdirected.contains(&service) {
                    return self.refuse(id, stream, reason::MISDIRECTED);
                }
                if !is_known {
                    return self.refuse(id, stream, reason::UNKNOWN_SERVICE);
                }
                let connection = self.connection();
                let Some(held) = self.held.get_mut(&id) else { return };
                let about =
                    Accepted { requested: preface.requested, service, ..held.about.clone() };
                let (near, far) = match host::pair() {
                    Ok(pair) => pair,
                    Err(error) => {
                        log::warn!("a connection is refused: {error}");
                        return self.refuse(id, stream, reason::FULL);
                    }
                };
                if !self.hand_out(near, about) {
                    return self.refuse(id, stream, reason::FULL);
                }
                let Some(held) = self.held.get_mut(&id) else { return };
                if !std::mem::replace(&mut held.has_carried, true) {
                    self.parts.carried.fetch_add(1, Ordering::Relaxed);
                }
                if let Load::Shared(carrier) = &mut held.load {
                    carrier.accept(stream, connection, far, &self.inbox.watch);
                }
            }
            Happening::Ended { error } => {
                if let Some(error) = error {
                    log::info!("a shared session has ended, and what was on it: {error}");
                }
                self.held.remove(&id);
                self.by_id.retain(|_, of| *of != id);
            }
            Happening::GoesAway { .. }
            | Happening::Over { .. }
            | Happening::Accepted { .. }
            | Happening::SentBack { .. } => {}
        }
    }

    fn refuse(&mut self, id: u32, stream: u32, reason: u32) {
        if let Some(Held { load: Load::Shared(carrier), .. }) = self.held.get_mut(&id) {
            carrier.refuse(stream, reason);
        }
    }

    // ---------------------------------------------------------------------------------------------
    // Commands

    fn obey(&mut self) {
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Announce { addrs, tell } => {
                    let _gone = tell.send(self.announce(addrs));
                }
                Command::GoAway { code } => self.go_away(code),
                Command::Close { code, tell } => {
                    self.is_closed = true;
                    self.close();
                    self.go_away(code);
                    let _gone = tell.send(());
                }
                Command::Misdirect { service, on } => {
                    self.misdirected.retain(|known| *known != service);
                    if on {
                        self.misdirected.push(service);
                    }
                }
                Command::Stop { tell } => self.stop(tell),
            }
        }
    }

    fn announce(&mut self, addrs: Vec<SocketAddr>) -> io::Result<()> {
        self.address_set = self.address_set.wrapping_add(1);
        if let Some(answerer) = &mut self.parts.answerer {
            let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
            answerer.set_addresses(addrs.clone(), self.address_set).map_err(bad)?;
        }
        let mut result = Ok(());
        for held in self.held.values() {
            if let Err(error) = posix::announce(held.number, &addrs) {
                log::debug!("a session's peer is not told of the addresses: {error}");
                if error.raw_os_error() == Some(libc::EINVAL) {
                    result = Err(error);
                }
            }
        }
        result
    }

    fn go_away(&mut self, code: u32) {
        for held in self.held.values_mut() {
            if let Load::Shared(carrier) = &mut held.load {
                carrier.go_away(code);
            }
        }
    }

    /// Who comes from here on is told that nobody listens; sessions that stand can be resumed.
    fn close(&mut self) {
        for number in std::mem::take(&mut self.parts.listeners) {
            self.inbox.watch.remove_virtual(number);
            if let Err(error) = posix::close(number) {
                log::debug!("a listener: {error}");
            }
        }
        self.parts.udp.clear();
    }

    fn stop(&mut self, tell: Sender<()>) {
        self.close();
        let now = self.clock.now();
        for held in self.held.values_mut() {
            match &mut held.load {
                Load::Shared(carrier) => carrier.stop(now),
                Load::Lone(lone) => lone.stop(),
            }
        }
        self.tell_end = Some((tell, Instant::now() + END_MAX));
    }

    fn is_done(&mut self) -> bool {
        let Some((_, until)) = &self.tell_end else { return false };
        let has_pipes = self.held.values().any(|held| match &held.load {
            Load::Shared(carrier) => !carrier.is_over(),
            Load::Lone(_) => true,
        });
        if has_pipes && Instant::now() < *until {
            return false;
        }
        self.held.clear();
        if let Some((tell, _)) = self.tell_end.take() {
            let _gone = tell.send(());
        }
        true
    }

    // ---------------------------------------------------------------------------------------------
    // Queries

    fn answer(&mut self, place: usize) {
        for _ in 0..ANSWERS_MAX {
            let Some((udp, local)) = self.parts.udp.get(place) else { return };
            let Some(answerer) = &mut self.parts.answerer else { return };
            // One byte more than a query, to see what is longer.
            let mut query = [0; ident::QUERY_BYTES + 1];
            let received = match udp.recv(&mut query) {
                Ok(received) => received,
                Err(error) if would_block(&error) => return,
                // What an earlier reply met with; the socket is well.
                Err(_) => continue,
            };
            let to = received.to.map(|ip| SocketAddr::new(ip, local.port()));
            let said = &query[..received.len];
            let now = self.clock.now();
            let Some((mut reply, session)) =
                answerer.answer(said, received.from, to, received.ttl, now)
            else {
                continue;
            };
            if let Some(session) = session {
                self.prove(said, &mut reply, &session);
            }
            let Some((udp, _)) = self.parts.udp.get(place) else { return };
            if let Err(error) = udp.send(&reply.encode(), received.from, received.to) {
                log::debug!("a query of {} is not answered: {error}", received.from);
            }
        }
    }

    /// Only this end of the session can say it so.
    fn prove(&self, query: &[u8], reply: &mut Reply, session: &[u8; 16]) {
        let Some(held) = self.by_id.get(session).and_then(|id| self.held.get(id)) else { return };
        let said = reply.encode();
        let Some(parts) = ident::mac_input(query, &said) else { return };
        match posix::identity_proof(held.number, &parts) {
            Ok(mac) => reply.mac = mac,
            Err(error) => log::debug!("no proof: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Who waits to accept is to hear that nobody will come, however this thread ends.
        ring(&*self.parts.ready);
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.watch.set.as_fd()
    }
}
