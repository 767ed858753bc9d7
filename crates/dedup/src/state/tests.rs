//! A model of what the pool lives in (servers with addresses and lives, dials that succeed in any
//! order, sessions that are lost and come back), and what must hold after every step: I1, I2, I3,
//! I7 and I8 of the design. I4 is held by tests over real sockets, I5 by those of `race`, I6 by
//! those of `score`. Planted bugs show that the model can fail.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::*;

/// What may be wrong with the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    ClosesWithTheFirst,
    ClosesWhatIsUsed,
    NeverMerges,
    IgnoresTheServer,
    IgnoresTheKey,
    KeepsTheOldBoot,
    ReusesTheDraining,
    ForgetsWhoWaits,
    LingersForEver,
}

const BUGS: [Bug; 9] = [
    Bug::ClosesWithTheFirst,
    Bug::ClosesWhatIsUsed,
    Bug::NeverMerges,
    Bug::IgnoresTheServer,
    Bug::IgnoresTheKey,
    Bug::KeepsTheOldBoot,
    Bug::ReusesTheDraining,
    Bug::ForgetsWhoWaits,
    Bug::LingersForEver,
];

#[derive(Clone, Debug)]
enum Op {
    Connect {
        key: u8,
        addrs: Vec<u8>,
    },
    Stand {
        flight: usize,
        addr: usize,
    },
    Break {
        flight: usize,
    },
    Prove {
        flight: usize,
        addr: usize,
        lies: bool,
    },
    Close {
        connection: usize,
    },
    Lose {
        session: usize,
    },
    Resume {
        session: usize,
        addr: usize,
    },
    Check {
        session: usize,
    },
    GoAway {
        session: usize,
    },
    Misdirect {
        connection: usize,
    },
    Restart {
        server: usize,
    },
    /// The address is another server's from now on.
    Move {
        addr: u8,
        server: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let some = 0_usize..64;
    let op = prop_oneof![
        6 => (0_u8..2, prop::collection::vec(0_u8..8, 1..4))
            .prop_map(|(key, addrs)| Op::Connect { key, addrs }),
        8 => (some.clone(), some.clone()).prop_map(|(flight, addr)| Op::Stand { flight, addr }),
        1 => some.clone().prop_map(|flight| Op::Break { flight }),
        2 => (some.clone(), some.clone(), any::<bool>())
            .prop_map(|(flight, addr, lies)| Op::Prove { flight, addr, lies }),
        4 => some.clone().prop_map(|connection| Op::Close { connection }),
        2 => some.clone().prop_map(|session| Op::Lose { session }),
        2 => (some.clone(), some.clone()).prop_map(|(session, addr)| Op::Resume { session, addr }),
        2 => some.clone().prop_map(|session| Op::Check { session }),
        1 => some.clone().prop_map(|session| Op::GoAway { session }),
        1 => some.clone().prop_map(|connection| Op::Misdirect { connection }),
        1 => some.clone().prop_map(|server| Op::Restart { server }),
        1 => (0_u8..8, some).prop_map(|(addr, server)| Op::Move { addr, server }),
        2 => (0_u64..20).prop_map(|seconds| Op::Wait { seconds }),
    ];
    prop::collection::vec(op, 1..120)
}

fn addr(number: u8) -> SocketAddr {
    match number % 2 {
        0 => SocketAddr::from(([10, 0, 0, number], 5000)),
        _ => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)], 5000)),
    }
}

fn key(number: u8) -> PreKey {
    PreKey([number; 32])
}

const SERVERS: usize = 3;
const STREAMS_MAX: u32 = 4;

/// One session as the world sees it.
#[derive(Debug)]
struct Seen {
    server: Option<Server>,
    key: PreKey,
    connections: BTreeSet<u64>,
    is_attached: bool,
    is_draining: bool,
    /// It was full once: a second one beside it is right.
    was_full: bool,
    is_exclusive: bool,
}

#[derive(Debug)]
struct World {
    state: State,
    now: u64,
    /// The life of each server; the last of them shares nothing.
    boots: [u64; SERVERS],
    owners: BTreeMap<u8, usize>,
    flights: BTreeMap<u64, (PreKey, Vec<SocketAddr>)>,
    sessions: BTreeMap<u64, Seen>,
    over: BTreeSet<u64>,
    wants: BTreeMap<u64, Want>,
    waiting: BTreeSet<u64>,
    failed: u64,
    given_up: u64,
    placed: u64,
    /// Which server was at which address, ever: a connection may go to those alone.
    ever: BTreeSet<(SocketAddr, usize)>,
}

fn id(server: usize) -> ServerId {
    ServerId([server as u8 + 1; 16])
}

impl World {
    fn new(bug: Option<Bug>) -> Self {
        let rules = Rules { streams_max: STREAMS_MAX, sessions_max: 32, ..Rules::default() };
        let mut state = State::new(rules);
        state.bug = bug;
        let owners: BTreeMap<u8, usize> =
            (0..8).map(|number| (number, usize::from(number) % SERVERS)).collect();
        let ever = owners.iter().map(|(number, owner)| (addr(*number), *owner)).collect();
        Self {
            state,
            now: 1,
            boots: [1; SERVERS],
            owners,
            flights: BTreeMap::new(),
            sessions: BTreeMap::new(),
            over: BTreeSet::new(),
            wants: BTreeMap::new(),
            waiting: BTreeSet::new(),
            failed: 0,
            given_up: 0,
            placed: 0,
            ever,
        }
    }

    fn at(&self, at: SocketAddr) -> usize {
        let found = self.owners.iter().find(|(number, _)| addr(**number) == at);
        *found.expect("an address of the world").1
    }

    fn server(&self, number: usize) -> Server {
        Server { id: id(number), boot: self.boots[number] }
    }

    fn pick<T: Copy>(from: impl Iterator<Item = T>, which: usize) -> Option<T> {
        let all: Vec<T> = from.collect();
        (!all.is_empty()).then(|| all[which % all.len()])
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Connect { key: number, addrs } => {
                let want = Want {
                    key: key(*number),
                    addrs: addrs.iter().map(|number| addr(*number)).collect(),
                    application: "test".to_owned(),
                    requested: String::new(),
                };
                let (connection, todo) = self.state.request(want.clone(), self.now);
                self.wants.insert(connection, want);
                self.waiting.insert(connection);
                self.take(todo, None)?;
            }
            Op::Stand { flight, addr } => self.stand(*flight, *addr)?,
            Op::Break { flight } => {
                let Some(flight) = Self::pick(self.flights.keys().copied(), *flight) else {
                    return Ok(());
                };
                self.flights.remove(&flight);
                let todo = self.state.dial_failed(flight, 110, self.now);
                self.take(todo, None)?;
            }
            Op::Prove { flight, addr, lies } => {
                let Some(flight) = Self::pick(self.flights.keys().copied(), *flight) else {
                    return Ok(());
                };
                let addrs = &self.flights[&flight].1;
                let addr = addrs[addr % addrs.len()];
                let mut server = self.server(self.at(addr));
                if server.id == id(SERVERS - 1) {
                    return Ok(());
                }
                if *lies {
                    // The MAC does not let this through; if it did, nobody would be merged with a
                    // server to which no session stands.
                    server.boot += 1000;
                }
                let todo = self.state.proven(flight, addr, server, self.now);
                if *lies && !todo.is_empty() {
                    return Err(format!("I7: a lie about {addr} had an effect: {todo:?}"));
                }
                self.take(todo, None)?;
            }
            Op::Close { connection } => {
                let all = self.wants.keys().copied();
                let Some(connection) = Self::pick(all, *connection) else { return Ok(()) };
                self.close(connection)?;
            }
            Op::Lose { session } => {
                if let Some(session) = Self::pick(self.sessions.keys().copied(), *session) {
                    self.state.lost(session);
                    self.sessions.get_mut(&session).expect("picked").is_attached = false;
                }
            }
            Op::Resume { session, addr: which } => {
                let Some(session) = Self::pick(self.sessions.keys().copied(), *session) else {
                    return Ok(());
                };
                let Some(server) = self.sessions[&session].server else { return Ok(()) };
                // It resumes where its very server is.
                let is_there = |number: &u8| self.server(self.owners[number]) == server;
                if let Some(number) =
                    Self::pick(self.owners.keys().copied().filter(is_there), *which)
                {
                    self.state.resumed(session, addr(number), self.now);
                    self.sessions.get_mut(&session).expect("picked").is_attached = true;
                }
            }
            Op::Check { session } => {
                let lost = self.sessions.iter().filter(|(_, seen)| !seen.is_attached);
                if let Some(session) = Self::pick(lost.map(|(number, _)| *number), *session)
                    && let Some(flight) = self.state.check(session)
                {
                    let addrs = self.state.flight_addrs(flight);
                    self.flights.insert(flight, (self.sessions[&session].key, addrs));
                }
            }
            Op::GoAway { session } => {
                if let Some(session) = Self::pick(self.sessions.keys().copied(), *session) {
                    self.sessions.get_mut(&session).expect("picked").is_draining = true;
                    let todo = self.state.went_away(session);
                    self.take(todo, None)?;
                }
            }
            Op::Misdirect { connection } => {
                let on = self.sessions.values().filter(|seen| seen.server.is_some());
                let on = on.flat_map(|seen| seen.connections.iter().copied());
                let Some(connection) = Self::pick(on, *connection) else { return Ok(()) };
                for seen in self.sessions.values_mut() {
                    seen.connections.remove(&connection);
                }
                self.placed -= 1;
                self.waiting.insert(connection);
                let todo = self.state.misdirected(connection, self.now);
                self.take(todo, None)?;
            }
            Op::Restart { server } => self.boots[server % SERVERS] += 1,
            Op::Move { addr: number, server } => {
                self.owners.insert(*number, server % SERVERS);
                self.ever.insert((addr(*number), server % SERVERS));
            }
            Op::Wait { seconds } => {
                self.now += seconds * 1_000_000;
                let todo = self.state.tick(self.now);
                self.take(todo, None)?;
                if let Some(at) = self.state.deadline().filter(|at| *at <= self.now) {
                    return Err(format!("I3: what was due at {at} was not done at {}", self.now));
                }
            }
        }
        self.check()
    }

    fn stand(&mut self, flight: usize, which: usize) -> Result<(), String> {
        let Some(flight) = Self::pick(self.flights.keys().copied(), flight) else { return Ok(()) };
        let addrs = self.flights[&flight].1.clone();
        let at = addrs[which % addrs.len()];
        let owner = self.at(at);
        let found = match owner == SERVERS - 1 {
            true => Found::Alone(Why::PeerDoesNotShare),
            false => Found::Shared(self.server(owner)),
        };
        let dead: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(number, seen)| {
                let is_old = |s: Server| s.id == id(owner) && s.boot != self.boots[owner];
                !seen.is_attached
                    && seen.server.is_some_and(is_old)
                    && self.state.addr(**number) == Some(at)
            })
            .map(|(number, _)| *number)
            .collect();
        let server = match found {
            Found::Shared(server) => Some(server),
            Found::Alone(_) => None,
        };
        let todo = self.state.stands(flight, at, found, self.now);
        for session in dead {
            if server.is_some() && !todo.contains(&Todo::Kill { session }) {
                return Err(format!("session {session} of a server's former life goes on"));
            }
        }
        self.take(todo, Some(server))?;
        if self.flights.contains_key(&flight) {
            return Err(format!("flight {flight} stands and is not over"));
        }
        Ok(())
    }

    fn close(&mut self, connection: u64) -> Result<(), String> {
        self.wants.remove(&connection);
        self.given_up += u64::from(self.waiting.remove(&connection));
        for seen in self.sessions.values_mut() {
            if seen.connections.remove(&connection) {
                self.placed -= 1;
                self.given_up += 1;
            }
        }
        let todo = self.state.closed(connection, self.now);
        self.take(todo, None)
    }

    /// Does what the pool says; `reached` is the server of the dial that just stood.
    fn take(&mut self, todo: Vec<Todo>, reached: Option<Option<Server>>) -> Result<(), String> {
        let mut killed = Vec::new();
        for todo in todo {
            match todo {
                Todo::Dial { flight } => {
                    let addrs = self.state.flight_addrs(flight);
                    let key = self.state.flights[&flight].key;
                    self.flights.insert(flight, (key, addrs));
                }
                Todo::Cancel { flight } => drop(self.flights.remove(&flight)),
                Todo::Keep { flight, session } => {
                    let (key, _) = self.flights.remove(&flight).ok_or("a flight unknown")?;
                    let seen = Seen {
                        server: reached.ok_or("a session without a dial")?,
                        key,
                        connections: BTreeSet::new(),
                        is_attached: true,
                        is_draining: false,
                        was_full: false,
                        is_exclusive: self.state.sessions[&session].is_exclusive,
                    };
                    self.sessions.insert(session, seen);
                }
                Todo::Open { connection, session } => self.open(connection, session)?,
                Todo::Alone { connection, .. } => {
                    let on = self.state.connections[&connection].place;
                    let Place::On(session) = on else { return Err("alone on nothing".into()) };
                    self.open(connection, session)?;
                }
                Todo::Fail { connection, .. } => {
                    if !self.waiting.remove(&connection) {
                        return Err(format!("connection {connection} fails, and did not wait"));
                    }
                    self.wants.remove(&connection);
                    self.failed += 1;
                }
                Todo::Close { session } => {
                    let seen = self.sessions.remove(&session);
                    let seen = seen.ok_or(format!("I3: session {session} closed twice"))?;
                    if !seen.connections.is_empty() {
                        return Err(format!("I3: session {session} closed in use: {seen:?}"));
                    }
                    self.over.insert(session);
                }
                Todo::Kill { session } => killed.push(session),
            }
        }
        for session in killed {
            let seen = self.sessions.remove(&session).ok_or("a session killed twice")?;
            self.over.insert(session);
            for connection in seen.connections {
                self.placed -= 1;
                self.given_up += 1;
                self.wants.remove(&connection);
                let more = self.state.closed(connection, self.now);
                if !more.is_empty() {
                    return Err(format!("I3: a dead session's close does something: {more:?}"));
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, connection: u64, session: u64) -> Result<(), String> {
        if !self.waiting.remove(&connection) {
            return Err(format!("connection {connection} opened, and did not wait"));
        }
        let want = &self.wants[&connection];
        let seen = self.sessions.get_mut(&session).ok_or("opened on a session that is over")?;
        if seen.key != want.key {
            return Err("I2: a session is shared although the keys differ".into());
        }
        if seen.is_draining {
            return Err("a draining session takes one more".into());
        }
        let owner = seen.server.map(|server| usize::from(server.id.0[0]) - 1);
        let may = |at: &SocketAddr| self.ever.contains(&(*at, owner.unwrap_or(SERVERS - 1)));
        if !want.addrs.iter().any(may) {
            return Err(format!("I2: connection to {:?} is put on {seen:?}", want.addrs));
        }
        if seen.server.is_none() && !seen.connections.is_empty() {
            return Err("I2: what does not share is shared".into());
        }
        seen.connections.insert(connection);
        self.placed += 1;
        seen.was_full |= seen.connections.len() >= STREAMS_MAX as usize;
        if seen.connections.len() > STREAMS_MAX as usize {
            return Err("more connections than a session takes".into());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut active: BTreeMap<(PreKey, Server), Vec<u64>> = BTreeMap::new();
        for (number, seen) in &self.sessions {
            let references = self.state.references(*number) as usize;
            if references != seen.connections.len() {
                return Err(format!("I3: {references} references of {number}: {seen:?}"));
            }
            if let Some(server) = seen.server
                && !seen.is_draining
                && !seen.was_full
                && !seen.is_exclusive
            {
                active.entry((seen.key, server)).or_default().push(*number);
            }
        }
        for (key, sessions) in active {
            let refused = self.state.misdirected.contains_key(&(key.0, key.1.id));
            if sessions.len() > 1 && !refused {
                return Err(format!("I1: sessions {sessions:?} have one key"));
            }
        }
        for waiting in &self.waiting {
            let in_flight = |flight: &Flight| flight.waiting.contains(waiting);
            if !self.state.flights.values().any(in_flight) {
                return Err(format!("connection {waiting} waits for nothing"));
            }
        }
        for flight in self.state.flights.keys() {
            if !self.flights.contains_key(flight) {
                return Err(format!("flight {flight} is not dialled"));
            }
        }
        // Each connection is somewhere, and told as it is (I8).
        let rows = self.state.rows();
        let somewhere = self.waiting.len() as u64 + self.placed;
        if rows.len() as u64 != somewhere {
            return Err(format!("I8: {} rows of {somewhere} connections", rows.len()));
        }
        let metrics = self.state.metrics();
        if metrics.opens != somewhere + self.failed + self.given_up {
            return Err(format!("I8: {metrics:?} and {somewhere} connections"));
        }
        let counted: u64 = metrics.refused.values().sum();
        let first = metrics.sessions_opened;
        if counted > first + metrics.misdirected {
            return Err(format!("I8: {counted} refused, {first} sessions opened"));
        }
        Ok(())
    }
}

fn run(bug: Option<Bug>, cases: u32) -> Result<(), TestError<Vec<Op>>> {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    runner.run(&ops(), |ops| {
        let mut world = World::new(bug);
        for op in &ops {
            world.step(op).map_err(TestCaseError::fail)?;
        }
        Ok(())
    })
}

#[test]
fn the_pool_keeps_its_promises_whatever_happens() {
    if let Err(error) = run(None, 3000) {
        panic!("{error}");
    }
}

#[test]
fn the_model_finds_every_planted_bug() {
    for bug in BUGS {
        assert!(run(Some(bug), 3000).is_err(), "{bug:?} was not found");
    }
}

#[test]
fn the_last_close_closes_once_and_the_others_keep_the_session() {
    let mut state = State::new(Rules::default());
    let server = Server { id: id(0), boot: 1 };
    let want = |number: u8| Want {
        key: key(0),
        addrs: vec![addr(number)],
        application: String::new(),
        requested: String::new(),
    };
    let (first, todo) = state.request(want(0), 0);
    let [Todo::Dial { flight }] = todo[..] else { panic!("{todo:?}") };
    let todo = state.stands(flight, addr(0), Found::Shared(server), 0);
    let [Todo::Keep { session, .. }, Todo::Open { .. }] = todo[..] else { panic!("{todo:?}") };
    // Another address of the same server: dialled, and merged.
    let (second, todo) = state.request(want(2), 0);
    let [Todo::Dial { flight }] = todo[..] else { panic!("{todo:?}") };
    let todo = state.stands(flight, addr(2), Found::Shared(server), 0);
    let merged = [Todo::Cancel { flight }, Todo::Open { connection: second, session }];
    assert_eq!(todo, merged);
    // Known now: nothing is dialled.
    let (third, todo) = state.request(want(2), 0);
    assert_eq!(todo, [Todo::Open { connection: third, session }]);
    for connection in [first, second] {
        assert_eq!(state.closed(connection, 5), []);
    }
    assert_eq!(state.closed(third, 10), []);
    assert_eq!(state.tick(10_000_009), []);
    assert_eq!(state.tick(10_000_010), [Todo::Close { session }]);
    assert_eq!((state.tick(u64::MAX), state.metrics().late_merges), (vec![], 1));
}
