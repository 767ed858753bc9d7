//! Senders, a front, its store and two servers, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use super::Dice;
use super::check::{Told, check};
use super::server::{Host, Storage};
use super::store::Disk;
use crate::pair::{Action, Command, Event, Pair, PairConfig, StoreFault, Token};
use crate::request::{Kind, Outcome, Reason, Request, RequestId};
use crate::store::Batch;
use crate::target::{Call, CallFailed, CallResult, Grant};

const SECOND: u64 = 1_000_000;
/// Faults stop here.
const CALM: u64 = 40 * SECOND;
/// By then all is drained.
const END: u64 = 400 * SECOND;

/// What goes wrong in a run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    senders: u64,
    keys: u64,
    requests: u64,
    front_dies: u64,
    server_dies: u64,
    server_stops: u64,
    loses: u64,
    commands: u64,
    store_fails: u64,
}

impl Plan {
    pub(super) fn of(dice: &mut Dice) -> Self {
        let mut some = |most: u64| if dice.one_in(2) { 0 } else { dice.below(most + 1) };
        let (front_dies, server_dies, server_stops) = (some(4), some(6), some(5));
        let (loses, commands, store_fails) = (some(10), some(6), some(10));
        Self {
            senders: 1 + dice.below(8),
            keys: 1 + dice.below(6),
            requests: 5 + dice.below(60),
            front_dies,
            server_dies,
            server_stops,
            loses,
            commands,
            store_fails,
        }
    }
}

#[derive(Debug)]
enum Read {
    Newest { token: Token, lane: crate::record::Lane },
    Find { token: Token, id: RequestId },
    Fetch { after: u64, limit: usize },
    Count,
}

#[derive(Debug)]
enum Write {
    Append { token: Token, record: crate::store::NewRecord },
    Batch { tag: u64, batch: Batch },
}

#[derive(Debug)]
enum Ask {
    Begin { tag: u64, call: Call },
    Commit { tag: u64, call: Call },
    Probe { ask: u64 },
    Grant { grant: Grant },
    Release { epoch: u64 },
}

#[derive(Debug)]
enum What {
    Front { born: u64, event: Event },
    Store { born: u64, write: Write },
    Look { born: u64, read: Read },
    Server { born: u64, side: usize, run: u64, ask: Ask },
    Probed { born: u64, ask: u64, side: usize, report: Option<crate::target::Report> },
    Sender { sender: u64 },
    FrontDies,
    FrontComes,
    ServerDies(usize),
    ServerComes(usize),
    ServerStops(usize),
    Operator,
}

#[derive(Debug)]
struct Sender {
    left: u64,
    now: Option<(RequestId, Request)>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) config: PairConfig,
    pub(super) storage: Storage,
    pub(super) told: BTreeMap<RequestId, Told>,
    plan: Plan,
    dice: Dice,
    now: u64,
    order: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    whats: HashMap<u64, What>,
    front: Option<Pair>,
    born: u64,
    disk: Disk,
    disk_free_at: u64,
    hosts: [Host; 2],
    runs: u64,
    senders: Vec<Sender>,
    /// Who waits under which token, and until when.
    waiting: BTreeMap<Token, (u64, u64)>,
    next_token: Token,
    next_id: u128,
    calls: HashSet<(u64, u64)>,
    probes: HashMap<u64, usize>,
    next_probe: u64,
    ticks_at: u64,
}

impl World {
    pub(super) fn new(seed: u64, config: PairConfig, plan: Plan, mut dice: Dice) -> Self {
        let margin = config.lease_margin();
        let mut host = |run| Host::new(run, 990 + dice.below(21), margin);
        let hosts = [host(1), host(2)];
        let senders =
            (0..plan.senders).map(|_| Sender { left: plan.requests, now: None }).collect();
        let mut world = Self {
            seed,
            config,
            storage: Storage::default(),
            told: BTreeMap::new(),
            plan,
            dice,
            now: 0,
            order: 0,
            heap: BinaryHeap::new(),
            whats: HashMap::new(),
            front: None,
            born: 0,
            disk: Disk::default(),
            disk_free_at: 0,
            hosts,
            runs: 2,
            senders,
            waiting: BTreeMap::new(),
            next_token: 1,
            next_id: 1,
            calls: HashSet::new(),
            probes: HashMap::new(),
            next_probe: 0,
            ticks_at: u64::MAX,
        };
        world.lay_out();
        world
    }

    fn lay_out(&mut self) {
        let plan = self.plan.clone();
        self.at(0, What::FrontComes);
        for sender in 0..plan.senders {
            let at = self.dice.below(2 * SECOND);
            self.at(at, What::Sender { sender });
        }
        for _ in 0..plan.front_dies {
            let at = self.dice.below(CALM);
            self.at(at, What::FrontDies);
        }
        for _ in 0..plan.server_dies {
            let (at, side) = (self.dice.below(CALM), self.side());
            self.at(at, What::ServerDies(side));
        }
        for _ in 0..plan.server_stops {
            let (at, side) = (self.dice.below(CALM), self.side());
            self.at(at, What::ServerStops(side));
        }
        for _ in 0..plan.commands {
            let at = self.dice.below(CALM);
            self.at(at, What::Operator);
        }
    }

    fn side(&mut self) -> usize {
        usize::from(self.dice.one_in(2))
    }

    fn at(&mut self, at: u64, what: What) {
        self.order += 1;
        self.heap.push(Reverse((at.max(self.now), self.order)));
        self.whats.insert(self.order, what);
    }

    fn soon(&mut self, most: u64, what: What) {
        let at = self.now + 1 + self.dice.below(most);
        self.at(at, what);
    }

    fn is_calm(&self) -> bool {
        self.now >= CALM
    }

    fn mishap(&mut self, rate: u64) -> bool {
        // A plan's figure of 10 is one in twenty.
        !self.is_calm() && self.dice.below(200) < rate
    }

    // -----------------------------------------------------------------------------------------
    // The run

    pub(super) fn run(&mut self) {
        let mut is_healed = false;
        while let Some(Reverse((at, order))) = self.heap.pop() {
            self.now = at;
            let what = self.whats.remove(&order).unwrap();
            self.happen(what);
            self.check_holders();
            if self.is_calm() && !is_healed {
                is_healed = true;
                self.heal();
            }
            if is_healed && self.is_over() {
                return check(self);
            }
            assert!(self.now < END, "seed {}: it does not end: {}", self.seed, self.shape());
        }
        panic!("seed {}: nothing happens any more: {}", self.seed, self.shape());
    }

    fn shape(&self) -> String {
        let left: u64 = self.senders.iter().map(|sender| sender.left).sum();
        let front = self.front.as_ref().map(Pair::status);
        format!("{left} requests left, disk {:?}, front {front:?}", self.disk.totals())
    }

    fn is_over(&self) -> bool {
        let all_sent = self.senders.iter().all(|sender| sender.left == 0 && sender.now.is_none());
        let drained = self.disk.totals().pending == 0;
        all_sent
            && drained
            && self.waiting.is_empty()
            && self.front.as_ref().is_some_and(|front| front.status().state == "normal")
    }

    fn heal(&mut self) {
        if self.front.is_none() {
            self.at(self.now, What::FrontComes);
        }
        for side in 0..2 {
            if !self.hosts[side].is_up {
                self.at(self.now, What::ServerComes(side));
            }
        }
        self.tell(Command::Release);
        self.at(self.now + SECOND, What::Operator);
    }

    /// Never two holders at one time (S4).
    fn check_holders(&self) {
        let both =
            [0, 1].map(|side| self.hosts[side].is_up && self.hosts[side].holds(self.now).is_some());
        assert!(both != [true; 2], "seed {}: two servers hold the lock at {}", self.seed, self.now);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Probed { born, ask, side, report } => {
                let is_first = self.probes.remove(&ask).is_some();
                if is_first && born == self.born && self.front.is_some() {
                    self.front(Event::Reported { side, report });
                }
            }
            What::Front { born, event: Event::Called { tag, result } } => {
                let is_first = self.calls.remove(&(born, tag));
                if is_first && born == self.born && self.front.is_some() {
                    self.front(Event::Called { tag, result });
                }
            }
            What::Front { born, event } => {
                if born == self.born && self.front.is_some() {
                    self.front(event);
                }
            }
            What::Store { born, write } => {
                if born == self.born && self.front.is_some() {
                    self.store(born, write);
                }
            }
            What::Look { born, read } => {
                if born == self.born {
                    self.look(born, &read);
                }
            }
            What::Server { born, side, run, ask } => self.server(born, side, run, ask),
            What::Sender { sender } => self.sender(sender),
            What::FrontDies => {
                if self.front.take().is_some() {
                    self.born += 1;
                    let senders: Vec<u64> = std::mem::take(&mut self.waiting)
                        .into_values()
                        .map(|(sender, _)| sender)
                        .collect();
                    for sender in senders {
                        if let Some((id, _)) = self.senders[usize::try_from(sender).unwrap()].now {
                            self.told.get_mut(&id).unwrap().was_in_doubt = true;
                        }
                        // At most once is kept only by those who do not ask again.
                        if self.config.in_doubt == crate::pair::InDoubt::Skip {
                            self.senders[usize::try_from(sender).unwrap()].now = None;
                        }
                        self.soon(SECOND, What::Sender { sender });
                    }
                    self.soon(3 * SECOND, What::FrontComes);
                }
            }
            What::FrontComes => {
                if self.front.is_none() {
                    self.born += 1;
                    self.calls.clear();
                    self.ticks_at = u64::MAX;
                    let (config, totals) = (self.config.clone(), self.disk.totals());
                    self.front = Some(Pair::new(config, &self.disk.state, totals, self.now));
                    self.front(Event::Tick);
                }
            }
            What::ServerDies(side) => {
                self.hosts[side].is_up = false;
                self.soon(8 * SECOND, What::ServerComes(side));
            }
            What::ServerComes(side) => {
                if !self.hosts[side].is_up {
                    self.runs += 1;
                    self.hosts[side].restart(self.runs);
                }
            }
            What::ServerStops(side) => {
                self.hosts[side].stopped_until = self.now + self.dice.below(12 * SECOND);
            }
            What::Operator => self.operator(),
        }
    }

    fn operator(&mut self) {
        let held = self.disk.held();
        if self.is_calm() {
            if !held.is_empty() {
                self.tell(Command::Retry(held));
            }
            self.tell(Command::Release);
            return self.at(self.now + SECOND, What::Operator);
        }
        let command = match self.dice.below(6) {
            0 => Command::Switch,
            1 => Command::SwitchNow,
            2 => Command::Hold,
            3 => Command::Suspect,
            4 => Command::Retry(held),
            _ => Command::Release,
        };
        self.tell(command);
    }

    fn tell(&mut self, command: Command) {
        if self.front.is_some() {
            let token = u64::MAX;
            self.front(Event::Command { token, command });
        }
    }

    // -----------------------------------------------------------------------------------------
    // Senders

    fn sender(&mut self, index: u64) {
        let at = usize::try_from(index).unwrap();
        if self.senders[at].now.is_none() {
            if self.senders[at].left == 0 {
                return;
            }
            self.senders[at].left -= 1;
            let fresh = self.fresh();
            self.senders[at].now = Some(fresh);
        }
        if self.front.is_none() {
            return self.soon(SECOND, What::Sender { sender: index });
        }
        let (_, request) = self.senders[at].now.clone().unwrap();
        let token = self.next_token;
        self.next_token += 1;
        let deadline = self.now + u64::try_from(request.deadline.as_micros()).unwrap();
        self.waiting.insert(token, (index, deadline));
        self.front(Event::Submit { token, request, wall_ms: self.now / 1000 });
    }

    fn fresh(&mut self) -> (RequestId, Request) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let key = vec![u8::try_from(self.dice.below(self.plan.keys)).unwrap()];
        let kind = match self.dice.below(10) {
            0 | 1 => Kind::Read,
            2 => Kind::Search,
            3 => Kind::Delete,
            4 => Kind::Custom(7),
            _ => Kind::Write,
        };
        let must_see = if kind == Kind::Read {
            let acked = self.told.iter().filter(|(_, told)| {
                told.key == key && told.acked_at.is_some() && !told.kind.only_looks()
            });
            acked.map(|(id, _)| *id).collect()
        } else {
            Vec::new()
        };
        let told = Told {
            key: key.clone(),
            kind,
            asked_at: self.now,
            acked_at: None,
            outcome: None,
            was_in_doubt: false,
            must_see,
        };
        self.told.insert(id, told);
        let payload = id.0.to_be_bytes().to_vec();
        let deadline = Duration::from_micros(SECOND + self.dice.below(20 * SECOND));
        (id, Request { id, kind, key, payload, deadline })
    }

    fn answered(&mut self, token: Token, outcome: Outcome) {
        let Some((sender, deadline)) = self.waiting.remove(&token) else {
            panic!("seed {}: an answer that nobody waits for: {outcome:?}", self.seed);
        };
        assert!(self.now <= deadline, "seed {}: answered after the deadline", self.seed);
        let at = usize::try_from(sender).unwrap();
        let (id, request) = self.senders[at].now.clone().unwrap();
        let looks = request.kind.only_looks();
        let told = self.told.get_mut(&id).unwrap();
        let is_done = match &outcome {
            Outcome::Applied { .. } | Outcome::Spooled { .. } => {
                told.acked_at.get_or_insert(self.now);
                true
            }
            Outcome::Held { .. } => {
                assert!(looks, "seed {}: a write was held: {request:?}", self.seed);
                true
            }
            Outcome::Stale => {
                assert!(looks, "seed {}: a write is stale: {request:?}", self.seed);
                true
            }
            Outcome::InDoubt => {
                assert!(!looks, "seed {}: a read is in doubt: {request:?}", self.seed);
                told.was_in_doubt = true;
                // At most once is kept only by those who do not ask again.
                self.config.in_doubt != crate::pair::InDoubt::Retry
            }
            Outcome::Rejected { reason, .. } => {
                let known = matches!(
                    reason,
                    Reason::SpoolFull | Reason::HoldFull | Reason::Deadline | Reason::Unavailable
                );
                assert!(known, "seed {}: {reason:?}", self.seed);
                // A sender that gives up is one as well.
                looks || self.dice.one_in(20)
            }
        };
        if is_done {
            told.outcome = Some(outcome);
            self.senders[at].now = None;
        }
        self.soon(SECOND / 2, What::Sender { sender });
    }

    // -----------------------------------------------------------------------------------------
    // The front

    fn front(&mut self, event: Event) {
        let front = self.front.as_mut().unwrap();
        let actions = front.handle(self.now, event);
        let status = front.status();
        assert!(status.buffered <= 2048, "seed {}: too much is read ahead", self.seed);
        assert!(status.held <= self.config.hold_max, "seed {}: too many are held", self.seed);
        let wake = front.wake_at();
        for action in actions {
            self.act(action);
        }
        if self.front.is_some()
            && wake < u64::MAX
            && (wake < self.ticks_at || self.ticks_at <= self.now)
        {
            assert!(
                wake > self.now || self.now == 0,
                "seed {}: wakes at {wake}, now is {}: {}",
                self.seed,
                self.now,
                self.shape()
            );
            self.ticks_at = wake;
            self.at(wake, What::Front { born: self.born, event: Event::Tick });
        }
    }

    fn act(&mut self, action: Action) {
        let born = self.born;
        match action {
            Action::Reply { token, outcome } => self.answered(token, outcome),
            Action::Answer { .. } | Action::Log { .. } => {}
            Action::Append { token, record } => self.queue(Write::Append { token, record }),
            Action::Write { tag, batch } => self.queue(Write::Batch { tag, batch }),
            Action::Quarantine { .. } => panic!("seed {}: nothing is damaged here", self.seed),
            Action::Newest { token, lane } => {
                self.soon(3_000, What::Look { born, read: Read::Newest { token, lane } });
            }
            Action::Find { token, id } => {
                self.soon(3_000, What::Look { born, read: Read::Find { token, id } });
            }
            Action::Fetch { after, limit, .. } => {
                // Small pages find more than large ones.
                let limit = limit.min(512);
                self.soon(20_000, What::Look { born, read: Read::Fetch { after, limit } });
            }
            Action::Count => self.soon(3_000, What::Look { born, read: Read::Count }),
            Action::Call { tag, side, call } => self.send_call(tag, side, call),
            Action::Probe { side, timeout } => {
                let ask = self.next_probe;
                self.next_probe += 1;
                self.probes.insert(ask, side);
                self.at(self.now + timeout, What::Probed { born, ask, side, report: None });
                self.send(side, 20_000, Ask::Probe { ask });
            }
            Action::Grant { side, grant } => {
                let epoch = grant.epoch;
                if self.mishap(self.plan.loses) || !self.hosts[side].is_up {
                    let event = Event::Granted { side, epoch, ok: false };
                    return self.soon(300_000, What::Front { born, event });
                }
                // Some are long on their way.
                let most = if self.mishap(10) { 4 * SECOND } else { 20_000 };
                self.send(side, most, Ask::Grant { grant });
            }
            Action::Release { side, epoch, timeout } => {
                if !self.hosts[side].is_up {
                    let event = Event::Released { side, epoch, ok: false };
                    return self.at(self.now + timeout, What::Front { born, event });
                }
                self.send(side, 20_000, Ask::Release { epoch });
            }
            Action::Fence { side, epoch } => {
                let event = Event::Fenced { side, epoch, ok: false };
                self.soon(20_000, What::Front { born, event });
            }
        }
    }

    fn send(&mut self, side: usize, most: u64, ask: Ask) {
        let (born, run) = (self.born, self.hosts[side].run);
        self.soon(most, What::Server { born, side, run, ask });
    }

    fn send_call(&mut self, tag: u64, side: usize, call: Call) {
        let born = self.born;
        let timeout = u64::try_from(call.timeout.as_micros()).unwrap();
        self.calls.insert((born, tag));
        if !self.hosts[side].is_up {
            let result = Err(CallFailed::Unreachable("down".to_owned()));
            return self.soon(5_000, What::Front { born, event: Event::Called { tag, result } });
        }
        let result = Err(CallFailed::TimedOut);
        self.at(self.now + timeout, What::Front { born, event: Event::Called { tag, result } });
        if self.mishap(self.plan.loses) {
            return;
        }
        let most = if self.mishap(20) { 3 * SECOND } else { 10_000 };
        self.send(side, most, Ask::Begin { tag, call });
    }

    // -----------------------------------------------------------------------------------------
    // The store

    fn queue(&mut self, write: Write) {
        let slow = if self.mishap(self.plan.store_fails) { SECOND } else { 2_000 };
        let at = self.disk_free_at.max(self.now + 1 + self.dice.below(slow));
        self.disk_free_at = at;
        self.at(at, What::Store { born: self.born, write });
    }

    fn store(&mut self, born: u64, write: Write) {
        let fault = self.mishap(self.plan.store_fails).then(|| match self.dice.below(3) {
            0 => StoreFault::Full,
            1 => StoreFault::Failed,
            _ => StoreFault::Unknown,
        });
        let is_done = fault.is_none() || fault == Some(StoreFault::Unknown) && self.dice.one_in(2);
        let event = match write {
            Write::Append { token, record } => {
                let appended = is_done.then(|| self.disk.append(record));
                let result = match fault {
                    None => Ok(appended.unwrap()),
                    Some(fault) => Err(fault),
                };
                Event::Appended { token, result }
            }
            Write::Batch { tag, batch } => {
                if is_done {
                    self.disk.write(&batch);
                }
                Event::Written { tag, result: fault.map_or(Ok(()), Err) }
            }
        };
        // Answers come in the order of the writes.
        self.at(self.now, What::Front { born, event });
    }

    fn look(&mut self, born: u64, read: &Read) {
        let fails = self.mishap(self.plan.store_fails / 4);
        let failed = StoreFault::Failed;
        let event = match *read {
            Read::Newest { token, lane } => {
                let result = if fails { Err(failed) } else { Ok(self.disk.newest(lane)) };
                Event::Newest { token, result }
            }
            Read::Find { token, id } => {
                let result = if fails { Err(failed) } else { Ok(self.disk.find(id)) };
                Event::FoundId { token, result }
            }
            Read::Count => {
                let result = if fails { Err(failed) } else { Ok(self.disk.totals()) };
                Event::Counted { result }
            }
            Read::Fetch { after, limit } => {
                let result = if fails { Err(failed) } else { Ok(self.disk.pending(after, limit)) };
                Event::Fetched { result }
            }
        };
        self.soon(3_000, What::Front { born, event });
    }

    // -----------------------------------------------------------------------------------------
    // Servers

    fn server(&mut self, born: u64, side: usize, run: u64, ask: Ask) {
        let host = &self.hosts[side];
        if !host.is_up || host.run != run {
            return self.lost(born, side, ask);
        }
        if host.stopped_until > self.now {
            let at = host.stopped_until;
            return self.at(at, What::Server { born, side, run, ask });
        }
        match ask {
            Ask::Begin { tag, call } => {
                if host.holds(self.now) != Some(call.epoch) {
                    let seen = self.storage.epoch;
                    let result = Err(CallFailed::Fenced { asked: call.epoch, seen });
                    return self.reply_call(born, tag, result);
                }
                let commit = Ask::Commit { tag, call };
                self.soon(5_000, What::Server { born, side, run, ask: commit });
            }
            Ask::Commit { tag, call } => {
                let class = self.config.classes[side];
                let calm = self.is_calm();
                let dice = &mut self.dice;
                let mut later = || !calm && dice.one_in(40);
                let result = self.storage.execute(class, call.epoch, &call.items, &mut later);
                if !self.mishap(self.plan.loses) {
                    self.reply_call(born, tag, result);
                }
            }
            Ask::Probe { ask } => {
                let report = Some(host.report(self.now, &self.storage));
                if !self.mishap(self.plan.loses) {
                    self.soon(20_000, What::Probed { born, ask, side, report });
                }
            }
            Ask::Grant { grant } => {
                let epoch = grant.epoch;
                let ok = self.hosts[side].grant(grant, &mut self.storage);
                let event = Event::Granted { side, epoch, ok };
                self.soon(20_000, What::Front { born, event });
            }
            Ask::Release { epoch } => {
                let ok = self.hosts[side].release(epoch);
                let event = Event::Released { side, epoch, ok };
                self.soon(20_000, What::Front { born, event });
            }
        }
    }

    fn lost(&mut self, born: u64, side: usize, ask: Ask) {
        let event = match ask {
            Ask::Begin { tag, .. } | Ask::Commit { tag, .. } => {
                return self.reply_call(born, tag, Err(CallFailed::Lost("died".to_owned())));
            }
            Ask::Probe { .. } => return,
            Ask::Grant { grant } => Event::Granted { side, epoch: grant.epoch, ok: false },
            Ask::Release { epoch } => Event::Released { side, epoch, ok: false },
        };
        self.soon(20_000, What::Front { born, event });
    }

    fn reply_call(&mut self, born: u64, tag: u64, result: CallResult) {
        self.soon(10_000, What::Front { born, event: Event::Called { tag, result } });
    }
}
