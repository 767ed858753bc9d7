//! Which session a logical connection goes over, sans-io: requests, dials that are under way
//! ([flights](State::request)), sessions with their references, late merges, linger, draining.
//!
//! Every call takes the time in microseconds of a clock that never goes back, and gives what is to
//! be done in order. Only a server that is VERIFIED (by its handshake, or by a proof under the
//! secret of a session that stands) puts a connection on a session ([`State::stands`],
//! [`State::proven`]); nothing weaker comes in here.
//!
//! Bounds: [`Rules::sessions_max`] sessions and flights together; the addresses that are remembered
//! of a session, and what is remembered of addresses and of refused services, by constants.

mod rows;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use core::net::SocketAddr;

use crate::key::{PreKey, ServerId};
pub use rows::{Metrics, Row, Why};

/// Most addresses that are remembered of one session.
const VERIFIED_MAX: usize = 64;
/// Most addresses of which it is remembered that their server shares nothing.
const ALONE_MAX: usize = 1024;
/// Most pairs of a service and a server that does not have it.
const MISDIRECTED_MAX: usize = 1024;

/// What is configured.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a session is kept behind its last connection, in microseconds.
    pub linger: u64,
    /// Sessions and dials at a time, at most.
    pub sessions_max: usize,
    /// Connections of one session, at most.
    pub streams_max: u32,
    /// How long an address counts as its server's after it was verified, in microseconds.
    pub verified_for: u64,
    /// How long it is remembered that an address does not share, or that a server does not have a
    /// service, in microseconds.
    pub refused_for: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            linger: 10_000_000,
            sessions_max: 256,
            streams_max: 1024,
            verified_for: 600_000_000,
            refused_for: 60_000_000,
        }
    }
}

/// A server process that has proven who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Who it is.
    pub id: ServerId,
    /// Which of its lives this is.
    pub boot: u64,
}

/// What somebody wants to connect to.
#[derive(Clone, Debug)]
pub struct Want {
    /// All that must be alike for sharing but the server.
    pub key: PreKey,
    /// Where, best first.
    pub addrs: Vec<SocketAddr>,
    /// Whose connection it is, for the table.
    pub application: String,
    /// What was asked for, as it was said, for the table.
    pub requested: String,
}

/// What a handshake has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A server that shares.
    Shared(Server),
    /// One that does not, or cannot say who it is.
    Alone(Why),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Dial for this flight.
    Dial {
        /// The flight.
        flight: u64,
    },
    /// The dial is not needed any more: end it, and what it has reached.
    Cancel {
        /// The flight.
        flight: u64,
    },
    /// What the flight has reached is this session from now on.
    Keep {
        /// The flight, which is over.
        flight: u64,
        /// The session.
        session: u64,
    },
    /// Open a stream for the connection on the session.
    Open {
        /// The connection's management number.
        connection: u64,
        /// The session.
        session: u64,
    },
    /// The connection has what the flight has reached for itself alone.
    Alone {
        /// The connection's management number.
        connection: u64,
        /// The flight, which is over.
        flight: u64,
    },
    /// The connection cannot be made.
    Fail {
        /// Its management number, which is free again.
        connection: u64,
        /// The errno.
        error: i32,
    },
    /// End the session in order: it has no connections.
    Close {
        /// The session, which is forgotten.
        session: u64,
    },
    /// Reset the session and all that is on it: its server process is gone.
    Kill {
        /// The session. Its connections are closed one by one.
        session: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    /// Without connections, until then.
    Lingering(u64),
    /// No new connections; closed when the last goes.
    Draining,
    /// Its connections are being reset.
    Dead,
}

#[derive(Clone, Debug)]
struct Session {
    key: PreKey,
    server: Option<Server>,
    phase: Phase,
    /// Why it was made, and not shared.
    why: Why,
    /// Nobody else goes on it.
    is_exclusive: bool,
    attached: bool,
    /// Its server has said that it is full: until then nobody is sent there.
    full_until: u64,
    addr: SocketAddr,
    verified: BTreeMap<SocketAddr, u64>,
    references: u32,
}

#[derive(Clone, Debug)]
struct Flight {
    key: PreKey,
    addrs: Vec<SocketAddr>,
    /// Connections that wait for it, the first of which began it. None: only to see who is there.
    waiting: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    On(u64),
}

#[derive(Clone, Debug)]
struct Connection {
    want: Want,
    place: Place,
    why: Why,
    /// A server has said that it does not have the service.
    was_misdirected: bool,
    /// How often it was sent back by a session that took no more.
    sent_back: u8,
    since: u64,
}

/// The pool's books.
#[derive(Debug, Default)]
pub struct State {
    rules: Rules,
    sessions: BTreeMap<u64, Session>,
    flights: BTreeMap<u64, Flight>,
    connections: BTreeMap<u64, Connection>,
    alone: BTreeMap<SocketAddr, (u64, Why)>,
    misdirected: BTreeMap<(PreKey, ServerId), u64>,
    last: u64,
    metrics: Metrics,
    #[cfg(test)]
    bug: Option<tests::Bug>,
}

impl State {
    /// A pool without sessions.
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    // ---------------------------------------------------------------------------------------------
    // Connections

    /// Somebody wants a connection. Gives its management number.
    pub fn request(&mut self, want: Want, now: u64) -> (u64, Vec<Todo>) {
        let number = self.number();
        let (place, why) = (Place::Waiting, Why::First);
        let connection =
            Connection { want, place, why, was_misdirected: false, sent_back: 0, since: now };
        self.connections.insert(number, connection);
        self.metrics.opens += 1;
        let mut todo = Vec::new();
        self.place(number, now, &mut todo);
        (number, todo)
    }

    /// Finds a session, a flight, or begins one.
    fn place(&mut self, number: u64, now: u64, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.get(&number) else { return };
        let want = &connection.want.clone();
        if let Some(session) = self.known(want, now) {
            return self.open(number, session, Why::Shared, todo);
        }
        let fly_alone = connection.was_misdirected
            || want.addrs.iter().any(|addr| self.alone.get(addr).is_some_and(|(at, _)| *at > now));
        if !fly_alone && let Some(flight) = self.joinable(want) {
            flight.waiting.push(number);
            return;
        }
        if self.sessions.len() + self.flights.len() >= self.rules.sessions_max {
            self.connections.remove(&number);
            return todo.push(Todo::Fail { connection: number, error: EAGAIN });
        }
        let (key, addrs) = (want.key, want.addrs.clone());
        let flight = self.number();
        self.flights.insert(flight, Flight { key, addrs, waiting: vec![number] });
        todo.push(Todo::Dial { flight });
    }

    /// A session whose server one of the addresses is known to belong to.
    fn known(&self, want: &Want, now: u64) -> Option<u64> {
        let has_address = |session: &Session| {
            let verified = |addr| session.verified.get(addr).copied();
            let is_fresh = |at: u64| now.saturating_sub(at) < self.rules.verified_for;
            want.addrs.iter().filter_map(verified).any(is_fresh)
        };
        let mut fit = self.sessions.iter().filter(|(_, session)| {
            session.key == want.key && session.attached && has_address(session)
        });
        fit.find(|(number, _)| self.takes_more(**number, now)).map(|(number, _)| *number)
    }

    fn takes_more(&self, number: u64, now: u64) -> bool {
        let Some(session) = self.sessions.get(&number) else { return false };
        let is_open = matches!(session.phase, Phase::Active | Phase::Lingering(_));
        #[cfg(test)]
        let is_open = is_open || self.bug == Some(tests::Bug::ReusesTheDraining);
        let Some(server) = session.server else { return false };
        let refused = self.misdirected.get(&(session.key, server.id));
        is_open
            && !session.is_exclusive
            && session.references < self.rules.streams_max
            && session.full_until <= now
            && refused.is_none_or(|until| *until <= now)
    }

    fn joinable(&mut self, want: &Want) -> Option<&mut Flight> {
        self.flights.values_mut().find(|flight| {
            // One that only looks who is there belongs to nobody.
            !flight.waiting.is_empty()
                && flight.key == want.key
                && flight.addrs.iter().any(|addr| want.addrs.contains(addr))
        })
    }

    fn open(&mut self, number: u64, session: u64, why: Why, todo: &mut Vec<Todo>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(on) = self.sessions.get_mut(&session) else { return };
        (connection.place, connection.why) = (Place::On(session), why);
        on.references += 1;
        if on.phase != Phase::Draining {
            on.phase = Phase::Active;
        }
        match why {
            Why::Shared | Why::LateMerge => self.metrics.sessions_saved += 1,
            Why::First => {}
            _ => *self.metrics.refused.entry(why).or_default() += 1,
        }
        todo.push(Todo::Open { connection: number, session });
    }

    /// The connection is over, both ways, or was given up while it waited.
    pub fn closed(&mut self, connection: u64, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(gone) = self.connections.remove(&connection) else { return todo };
        match gone.place {
            Place::On(session) => self.release(session, now, &mut todo),
            Place::Waiting => {
                let of = |(_, flight): &(&u64, &mut Flight)| flight.waiting.contains(&connection);
                if let Some((&number, flight)) = self.flights.iter_mut().find(of) {
                    flight.waiting.retain(|&waiting| waiting != connection);
                    if flight.waiting.is_empty() {
                        self.flights.remove(&number);
                        todo.push(Todo::Cancel { flight: number });
                    }
                }
            }
        }
        todo
    }

    fn release(&mut self, number: u64, now: u64, todo: &mut Vec<Todo>) {
        let linger = self.rules.linger;
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.references = session.references.saturating_sub(1);
        #[cfg(test)]
        if self.bug == Some(tests::Bug::ClosesWhatIsUsed) && session.references == 1 {
            session.references = 0;
        }
        #[cfg(test)]
        if self.bug == Some(tests::Bug::ClosesWithTheFirst) {
            session.references = 0;
        }
        if session.references > 0 {
            return;
        }
        match session.phase {
            Phase::Active if linger > 0 && session.server.is_some() && !session.is_exclusive => {
                session.phase = Phase::Lingering(now.saturating_add(linger));
            }
            Phase::Dead => drop(self.sessions.remove(&number)),
            Phase::Lingering(_) => {}
            Phase::Active | Phase::Draining => {
                self.sessions.remove(&number);
                todo.push(Todo::Close { session: number });
            }
        }
    }

    // ---------------------------------------------------------------------------------------------
    // Dials

    /// The flight's dial stands at this address: who is there. Its connections go to the session
    /// that there is to the same server already (a late merge), or to this one.
    pub fn stands(&mut self, flight: u64, addr: SocketAddr, found: Found, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(Flight { key, waiting, .. }) = self.flights.remove(&flight) else {
            todo.push(Todo::Cancel { flight });
            return todo;
        };
        let server = match found {
            Found::Alone(why) => {
                self.stands_alone((flight, key), addr, why, waiting, now, &mut todo);
                return todo;
            }
            Found::Shared(server) => server,
        };
        self.alone.remove(&addr);
        self.bury(server, addr, &mut todo);
        let same = self.of_server(key, server, now);
        if let Some(session) = same {
            todo.push(Todo::Cancel { flight });
            self.verify(session, addr, now);
            for number in waiting {
                if self.is_for(number, addr) && self.takes_more(session, now) {
                    self.metrics.late_merges += 1;
                    self.open(number, session, Why::LateMerge, &mut todo);
                } else {
                    self.place(number, now, &mut todo);
                }
            }
            return todo;
        }
        let why = self.why_not(key, server, now);
        let session = self.number();
        let is_exclusive = why == Why::Misdirected;
        let phase = Phase::Lingering(now.saturating_add(self.rules.linger));
        let (verified, server) = (BTreeMap::from([(addr, now)]), Some(server));
        let (attached, full_until, references) = (true, 0, 0);
        self.sessions.insert(
            session,
            Session {
                key,
                server,
                phase,
                why,
                is_exclusive,
                attached,
                full_until,
                addr,
                verified,
                references,
            },
        );
        self.metrics.sessions_opened += 1;
        todo.push(Todo::Keep { flight, session });
        let mut why = why;
        for number in waiting {
            let takes = why != Why::Shared || self.takes_more(session, now);
            if takes && self.is_for(number, addr) {
                self.open(number, session, why, &mut todo);
                why = Why::Shared;
            } else {
                self.place(number, now, &mut todo);
            }
        }
        todo
    }

    /// A session of the same server, and of the same life of it, that takes more.
    fn of_server(&self, key: PreKey, server: Server, now: u64) -> Option<u64> {
        #[cfg(test)]
        if self.bug == Some(tests::Bug::NeverMerges) {
            return None;
        }
        let same = |session: &Session| {
            #[cfg(test)]
            if self.bug == Some(tests::Bug::IgnoresTheServer) {
                return session.key == key;
            }
            #[cfg(test)]
            if self.bug == Some(tests::Bug::IgnoresTheKey) {
                return session.server == Some(server);
            }
            session.key == key && session.server == Some(server)
        };
        let mut sessions = self.sessions.iter().filter(|(_, session)| same(session));
        sessions.find(|(number, _)| self.takes_more(**number, now)).map(|(number, _)| *number)
    }

    /// The server lives at this address now: sessions to another life of it, which were lost here,
    /// are over. Those of a second process with the same key elsewhere are not.
    fn bury(&mut self, server: Server, addr: SocketAddr, todo: &mut Vec<Todo>) {
        #[cfg(test)]
        if self.bug == Some(tests::Bug::KeepsTheOldBoot) {
            return;
        }
        let mut dead = Vec::new();
        for (number, session) in &mut self.sessions {
            let is_old = session
                .server
                .is_some_and(|known| known.id == server.id && known.boot != server.boot)
                && !session.attached
                && session.addr == addr;
            if is_old && session.phase != Phase::Dead {
                dead.push((*number, session.references));
                session.phase = Phase::Dead;
            }
        }
        for (number, references) in dead {
            self.metrics.resets_by_boot += u64::from(references);
            if references == 0 {
                self.sessions.remove(&number);
            }
            todo.push(Todo::Kill { session: number });
        }
    }

    /// Why a session to this server is one of its own.
    fn why_not(&self, key: PreKey, server: Server, now: u64) -> Why {
        let refused = self.misdirected.get(&(key, server.id));
        if refused.is_some_and(|until| *until > now) {
            return Why::Misdirected;
        }
        let same = |session: &&Session| session.server.is_some_and(|known| known.id == server.id);
        let mut why = Why::First;
        for session in self.sessions.values().filter(same) {
            let found = match session {
                _ if session.key != key => Why::KeyDiffers,
                _ if session.server != Some(server) => Why::OtherBoot,
                _ if matches!(session.phase, Phase::Draining) => Why::GoAway,
                _ if session.references >= self.rules.streams_max || session.full_until > now => {
                    Why::StreamLimit
                }
                _ => continue,
            };
            // What stands nearest to sharing says most.
            why = if why == Why::First { found } else { why.max(found) };
        }
        let fits = |session: &&Session| session.key == key && session.server.is_some();
        if why == Why::First && self.sessions.values().any(|session| fits(&session)) {
            return Why::OtherServer;
        }
        why
    }

    fn stands_alone(
        &mut self,
        (flight, key): (u64, PreKey),
        addr: SocketAddr,
        why: Why,
        waiting: Vec<u64>,
        now: u64,
        todo: &mut Vec<Todo>,
    ) {
        if self.alone.len() >= ALONE_MAX {
            let oldest = self.alone.iter().min_by_key(|(_, (until, _))| *until);
            let oldest = oldest.map(|(addr, _)| *addr);
            oldest.and_then(|oldest| self.alone.remove(&oldest));
        }
        self.alone.insert(addr, (now.saturating_add(self.rules.refused_for), why));
        let mut waiting = waiting;
        let fits = waiting.iter().position(|number| self.is_for(*number, addr));
        let Some(first) = fits.map(|place| waiting.remove(place)) else {
            todo.push(Todo::Cancel { flight });
            return waiting.into_iter().for_each(|number| self.place(number, now, todo));
        };
        let session = self.number();
        let one = Session {
            key,
            server: None,
            phase: Phase::Active,
            why,
            is_exclusive: true,
            attached: true,
            full_until: 0,
            addr,
            verified: BTreeMap::new(),
            references: 1,
        };
        self.sessions.insert(session, one);
        self.metrics.sessions_opened += 1;
        *self.metrics.refused.entry(why).or_default() += 1;
        if let Some(connection) = self.connections.get_mut(&first) {
            (connection.place, connection.why) = (Place::On(session), why);
        }
        todo.push(Todo::Keep { flight, session });
        todo.push(Todo::Alone { connection: first, flight });
        for number in waiting {
            self.place(number, now, todo);
        }
    }

    /// The flight's dial has failed. Who waited for exactly these addresses fails with it, others
    /// dial for themselves.
    pub fn dial_failed(&mut self, flight: u64, error: i32, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(Flight { addrs, waiting, .. }) = self.flights.remove(&flight) else {
            return todo;
        };
        for (place, number) in waiting.into_iter().enumerate() {
            let Some(connection) = self.connections.get(&number) else { continue };
            #[cfg(test)]
            if self.bug == Some(tests::Bug::ForgetsWhoWaits) && place > 0 {
                continue;
            }
            if place == 0 || connection.want.addrs == addrs {
                self.connections.remove(&number);
                todo.push(Todo::Fail { connection: number, error });
            } else {
                self.place(number, now, &mut todo);
            }
        }
        todo
    }

    /// An address has proven, under the secret of a session that stands, to be this server's, while
    /// the flight was still dialling.
    pub fn proven(&mut self, flight: u64, addr: SocketAddr, server: Server, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(key) = self.flights.get(&flight).map(|flight| flight.key) else { return todo };
        let Some(session) = self.of_server(key, server, now) else { return todo };
        self.verify(session, addr, now);
        let Some(flight_gone) = self.flights.remove(&flight) else { return todo };
        todo.push(Todo::Cancel { flight });
        self.metrics.query_hits += 1;
        for number in flight_gone.waiting {
            if self.is_for(number, addr) && self.takes_more(session, now) {
                self.open(number, session, Why::Shared, &mut todo);
            } else {
                self.place(number, now, &mut todo);
            }
        }
        todo
    }

    /// Who waits for a flight may know some of its addresses only, and the others may be another
    /// server's.
    fn is_for(&self, connection: u64, addr: SocketAddr) -> bool {
        self.connections.get(&connection).is_some_and(|found| found.want.addrs.contains(&addr))
    }

    /// A dial that only sees who is there now, at the address of a session that is lost.
    pub fn check(&mut self, session: u64) -> Option<u64> {
        let of = self.sessions.get(&session).filter(|session| session.server.is_some())?;
        let (key, addr) = (of.key, of.addr);
        let is_same = |flight: &Flight| flight.waiting.is_empty() && flight.addrs == [addr];
        if self.flights.values().any(is_same) {
            return None;
        }
        let flight = self.number();
        self.flights.insert(flight, Flight { key, addrs: vec![addr], waiting: Vec::new() });
        Some(flight)
    }
}

/// How often a connection is tried elsewhere as its session takes no more.
const SENT_BACK_MAX: u8 = 3;
/// How long nobody is sent to a session whose server has said that it is full, in microseconds.
const FULL_FOR: u64 = 1_000_000;
/// No room for another session.
const EAGAIN: i32 = 11;
/// The service is on none of the servers that answer.
const ECONNREFUSED: i32 = 111;
