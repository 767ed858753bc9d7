//! One device, some controllers that play by the rules or do not, and a network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use super::*;

/// How a controller behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// It cannot be connected to.
    Away,
    /// It takes connections and says nothing.
    Silent,
    /// "Come again", always.
    Retries(u64),
    /// Never.
    Refuses,
    /// Wants counters that cannot be.
    JumpsTo(u64),
    /// Wants a larger counter, always.
    JumpsOn,
    /// Registers, and wants another registration at once.
    Storms,
    /// Registers, and hands over to any other at once.
    HandsOn,
    /// Takes connections and ends them, with a time to stay away.
    Hangs(u64),
    /// Anything that comes to its mind.
    Lies,
}

/// A row of a table: owner, counter, nonce.
type Row = (usize, u64, u64);

pub(super) struct World {
    pub(super) now: Millis,
    pub(super) machine: Machine,
    pub(super) manners: Vec<Manner>,
    /// Messages of 100 that are lost: their connection is lost with them.
    pub(super) losses: u64,
    /// Milliseconds that a message takes, at most.
    pub(super) delay: u64,
    /// The tables of the partners are exchanged.
    pub(super) linked: bool,
    policy: Arc<Policy>,
    names: Vec<ControllerId>,
    rng: Rng,
    queue: BinaryHeap<Reverse<(Millis, u64, usize)>>,
    events: HashMap<usize, What>,
    count: usize,
    /// The connection to each, by number; a new one for each.
    conns: Vec<Option<u64>>,
    last_conn: u64,
    tables: Vec<Option<Row>>,
    /// Counters that are on the device's disk, and that were used.
    saved: u64,
    used: BTreeMap<u64, u64>,
    asked: Option<u64>,
    /// When each registration was begun, and each was sent.
    pub(super) begun: Vec<Millis>,
    pub(super) sent: Vec<Millis>,
    pub(super) opens: Vec<Millis>,
    pub(super) events_seen: Vec<Event>,
}

#[derive(Debug)]
enum What {
    Opened(usize, u64),
    Lost(usize, u64, Duration),
    ToDevice(usize, u64, ClientMessage),
    ToController(usize, u64, ClientMessage),
    /// What one controller knows, told to another.
    Told(usize, Row),
}

impl World {
    pub(super) fn new(policy: Policy, counter: Option<u64>, seed: u64) -> Self {
        let policy = Arc::new(policy);
        let names: Vec<_> = policy.controllers.iter().map(|p| p.controller.clone()).collect();
        let machine = Machine::new(Arc::clone(&policy), device(), b"", counter, seed).unwrap();
        let mut world = Self {
            now: 0,
            machine,
            manners: vec![Manner::Honest; names.len()],
            losses: 0,
            delay: 50,
            linked: true,
            conns: vec![None; names.len()],
            tables: vec![None; names.len()],
            policy,
            names,
            rng: Rng::new(!seed),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            count: 0,
            last_conn: 0,
            saved: counter.unwrap_or(0),
            used: BTreeMap::new(),
            asked: None,
            begun: Vec::new(),
            sent: Vec::new(),
            opens: Vec::new(),
            events_seen: Vec::new(),
        };
        world.give(Input::Start);
        world
    }

    /// The device is started anew; what it had on disk is there, or not.
    pub(super) fn restart(&mut self, keeps: bool, seed: u64) {
        let counter = keeps.then_some(self.saved);
        let policy = Arc::clone(&self.policy);
        self.machine = Machine::new(policy, device(), b"", counter, seed).unwrap();
        self.conns.fill(None);
        if !keeps {
            // It knows of no counter that it must not use again: controllers do.
            self.used.clear();
            self.saved = 0;
        }
        self.give(Input::Start);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Millis) {
        let end = self.now + time;
        loop {
            let due = self.machine.due().unwrap_or(Millis::MAX);
            let next = self.queue.peek().map_or(Millis::MAX, |Reverse((at, ..))| *at);
            if due.min(next) > end {
                break;
            }
            if next <= due {
                let Some(Reverse((at, _, index))) = self.queue.pop() else { break };
                self.now = self.now.max(at);
                let what = self.events.remove(&index).unwrap();
                self.happen(what);
            } else {
                assert!(due >= self.now || due == 0);
                self.now = self.now.max(due);
                self.give(Input::Tick);
                let again = self.machine.due();
                assert!(again.is_none_or(|at| at > self.now), "it is due again and again");
            }
        }
        self.now = end;
    }

    fn give(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.handle(self.now, input, &mut out);
        for output in out {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Save(seq) => {
                assert!(seq > self.saved, "{seq} after {}", self.saved);
                self.saved = seq;
            }
            Output::Open(place) => {
                self.opens.push(self.now);
                let c = self.index(&place.controller);
                assert!(self.conns[c].is_none(), "one connection to each");
                self.last_conn += 1;
                self.conns[c] = Some(self.last_conn);
                let what = match self.manners[c] {
                    Manner::Away => What::Lost(c, self.last_conn, Duration::ZERO),
                    Manner::Hangs(after) => {
                        What::Lost(c, self.last_conn, Duration::from_millis(after))
                    }
                    _ => What::Opened(c, self.last_conn),
                };
                self.send(what);
            }
            Output::Leave(controller) => {
                let c = self.index(&controller);
                assert!(self.conns[c].take().is_some(), "only what was opened is left");
            }
            Output::Say { to, message } => {
                let c = self.index(&to);
                if let ClientMessage::Register(register) = &message {
                    self.check(register);
                }
                let conn = self.conns[c].expect("only an open connection is used");
                self.send(What::ToController(c, conn, message));
            }
            Output::Serve { from, request } => {
                let outcome = Outcome::Done(request.payload);
                self.give(Input::Answer { from, id: request.id, outcome });
            }
            Output::Event(event) => self.events_seen.push(event),
        }
    }

    /// Counters only grow, and one is used twice only by one attempt.
    fn check(&mut self, register: &Register) {
        self.sent.push(self.now);
        let Register { seq, nonce, .. } = register;
        if *seq == 0 {
            // The same question may be sent again.
            if self.asked.replace(*nonce) != Some(*nonce) {
                self.begun.push(self.now);
            }
            return;
        }
        assert!(*seq <= self.saved, "{seq} is not on disk, {} is", self.saved);
        let largest = self.used.last_key_value().map_or(0, |(seq, _)| *seq);
        if *seq > largest {
            self.used.insert(*seq, *nonce);
            self.begun.push(self.now);
        } else {
            assert_eq!(self.used.get(seq), Some(nonce), "{seq} is used for two attempts");
        }
    }

    fn send(&mut self, what: What) {
        let mut at = self.now + self.rng.upto(self.delay);
        // What is said by one connection stays in its order.
        let conn = match &what {
            What::Opened(_, conn) | What::Lost(_, conn, _) => *conn,
            What::ToDevice(_, conn, _) | What::ToController(_, conn, _) => *conn,
            What::Told(..) => 0,
        };
        if conn != 0 {
            let of_conn = self.events.iter().filter(|(_, other)| match other {
                What::ToDevice(_, c, _) | What::ToController(_, c, _) | What::Opened(_, c) => {
                    *c == conn
                }
                _ => false,
            });
            let indices: HashSet<usize> = of_conn.map(|(index, _)| *index).collect();
            let latest = self.queue.iter().filter(|Reverse((_, _, i))| indices.contains(i));
            at = at.max(latest.map(|Reverse((at, ..))| *at).max().unwrap_or(0));
        }
        self.count += 1;
        self.events.insert(self.count, what);
        self.queue.push(Reverse((at, self.count as u64, self.count)));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Opened(c, conn) if self.conns[c] == Some(conn) => {
                self.give(Input::Opened { controller: self.names[c].clone() });
            }
            What::Lost(c, conn, after) if self.conns[c] == Some(conn) => {
                self.conns[c] = None;
                let why = "lost".into();
                self.give(Input::Lost { controller: self.names[c].clone(), after, why });
            }
            What::ToDevice(c, conn, message) if self.conns[c] == Some(conn) => {
                if self.is_lost() {
                    return self.happen(What::Lost(c, conn, Duration::ZERO));
                }
                self.give(Input::Message { from: self.names[c].clone(), message });
            }
            What::ToController(c, conn, message) => {
                if self.is_lost() {
                    return self.happen(What::Lost(c, conn, Duration::ZERO));
                }
                for answer in self.hear(c, message) {
                    self.send(What::ToDevice(c, conn, answer));
                }
            }
            What::Told(c, row) => self.merge(c, row),
            _ => {}
        }
    }

    fn is_lost(&mut self) -> bool {
        self.rng.upto(99) < self.losses
    }

    /// What a controller answers.
    fn hear(&mut self, c: usize, message: ClientMessage) -> Vec<ClientMessage> {
        let device = device();
        let register = match &message {
            ClientMessage::Register(register) => Some(register.clone()),
            _ => None,
        };
        let manner = match (self.manners[c], self.rng.upto(6)) {
            (Manner::Lies, 0) => Manner::JumpsTo(u64::MAX),
            (Manner::Lies, 1) => Manner::Storms,
            (Manner::Lies, 2) => Manner::HandsOn,
            (Manner::Lies, 3) => Manner::Retries(u64::MAX),
            (Manner::Lies, 4) => Manner::Silent,
            (Manner::Lies, _) => Manner::Honest,
            (manner, _) => manner,
        };
        match (manner, register) {
            (Manner::Silent | Manner::Away | Manner::Hangs(_), _) => Vec::new(),
            (Manner::Retries(after), Some(_)) => {
                vec![ClientMessage::Retry { device, after: Duration::from_millis(after) }]
            }
            (Manner::Refuses, Some(_)) => {
                vec![ClientMessage::Refused { device, text: "no".to_owned() }]
            }
            (Manner::JumpsTo(seq), Some(_)) => vec![ClientMessage::Jump { device, seq }],
            (Manner::JumpsOn, Some(register)) => {
                vec![ClientMessage::Jump { device, seq: register.seq }]
            }
            (Manner::Storms, Some(register)) => {
                let above = register.seq;
                let mut said = self.honest(c, message);
                said.push(ClientMessage::Reregister { device, above });
                said
            }
            (Manner::HandsOn, Some(register)) => {
                let mut said = self.honest(c, message);
                let others = self.names.len() as u64 - 1;
                let other =
                    (c + 1 + self.rng.upto(others.saturating_sub(1)) as usize) % self.names.len();
                said.push(ClientMessage::HandOff {
                    device,
                    token: register.nonce,
                    target: place(self.names[other].as_str()),
                    within: Duration::from_millis(u64::MAX),
                });
                said
            }
            _ => self.honest(c, message),
        }
    }

    fn honest(&mut self, c: usize, message: ClientMessage) -> Vec<ClientMessage> {
        let device = device();
        let row = self.tables[c];
        match message {
            ClientMessage::Register(Register { seq, nonce, .. }) => {
                let known = row.map_or(0, |(_, seq, _)| seq);
                if seq > known {
                    let row = (c, seq, nonce);
                    self.tables[c] = Some(row);
                    for other in (0..self.names.len()).filter(|other| *other != c) {
                        if self.linked {
                            self.send(What::Told(other, row));
                        }
                    }
                } else if row != Some((c, seq, nonce)) {
                    return vec![ClientMessage::Jump { device, seq: known }];
                }
                let quick = Duration::from_secs(2);
                let terms = Terms { handshake_every: quick, ..terms() };
                vec![ClientMessage::Registered { device, seq, terms }]
            }
            ClientMessage::Handshake { seq, .. } => match row {
                Some((owner, known, _)) if owner == c && known == seq => {
                    vec![ClientMessage::HandshakeOk { device, seq, generation: 0 }]
                }
                _ => {
                    let above = row.map_or(0, |(_, seq, _)| seq);
                    vec![ClientMessage::Reregister { device, above }]
                }
            },
            _ => Vec::new(),
        }
    }

    fn merge(&mut self, c: usize, row: Row) {
        let before = self.tables[c];
        let rank = |(owner, seq, _): Row| (seq, self.names[owner].clone());
        if before.is_none_or(|before| rank(row) > rank(before)) {
            self.tables[c] = Some(row);
            if before.is_some_and(|(owner, ..)| owner == c)
                && let Some(conn) = self.conns[c]
                && self.manners[c] == Manner::Honest
            {
                let message = ClientMessage::Reregister { device: device(), above: row.1 };
                self.send(What::ToDevice(c, conn, message));
            }
        }
    }

    /// All partners know what all know.
    pub(super) fn exchange(&mut self) {
        for (c, row) in self.tables.clone().into_iter().enumerate() {
            for other in (0..self.names.len()).filter(|other| *other != c) {
                if let Some(row) = row {
                    self.send(What::Told(other, row));
                }
            }
        }
    }

    /// Every table says that the device is where it thinks that it is.
    pub(super) fn assert_agreed(&self) {
        let (owner, seq) = self.machine.registered().expect("it is registered");
        for table in &self.tables {
            let (by_table, known, _) = table.expect("there is a row");
            assert_eq!((&self.names[by_table], known), (owner, seq));
        }
    }

    fn index(&self, controller: &ControllerId) -> usize {
        self.names.iter().position(|name| name == controller).expect("only who is known")
    }
}
