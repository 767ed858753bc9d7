//! Three controllers, their links, and devices, in virtual time. All that may go wrong does, from a
//! seed; then it stops, and the world has to come to rest.

mod check;
mod device;
mod faults;
mod folder;
mod link;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Dice;
use check::Watch;
use device::Device;
use link::Link;
use node::{Job, Node};

use crate::model::ControllerId;
use crate::shard::input::{ConnId, FailBackPolicy, Millis, Order, Origin, Pace, Settings};
use crate::shard::{Input, Output};
use crate::store::Position;
use crate::wire::Place;
use crate::wire::client::{ClientMessage, Outcome, Request, Terms};
use crate::wire::peer::{Forward, Lane, Mode, SyncMessage};

pub(super) const CONTROLLERS: usize = 3;
const NAMES: [&str; CONTROLLERS] = ["alba", "bern", "como"];
/// How long the faults go on.
const FAULTS: Millis = 60_000;
/// In this time the world has to come to rest.
const REST: Millis = 30 * 60_000;

/// More do not happen in a world in which shards sleep when there is nothing to do.
const EVENTS_MAX: u64 = 1_000_000;

/// What kind of world it is.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Each with each, or in a line.
    pub(super) is_line: bool,
    pub(super) devices: u64,
    pub(super) faults: u64,
    pub(super) home: usize,
    /// Disks are lost, or go back to a backup.
    pub(super) is_lossy: bool,
    /// Counters of devices go back.
    pub(super) is_unreliable: bool,
    /// Tables are large.
    pub(super) is_bulky: bool,
    /// Devices go elsewhere only when they are told to register again.
    pub(super) is_patient: bool,
    /// Messages come twice, and files rot.
    pub(super) is_dirty: bool,
    /// Shards hear of the time regularly, and not only when they want to.
    pub(super) has_ticks: bool,
    /// How much slower than others links may be.
    pub(super) slow: u64,
    pub(super) fail_back: FailBackPolicy,
    pub(super) pace: Pace,
    pub(super) keep_ends: Millis,
    pub(super) snapshot_from: u64,
    pub(super) devices_max: usize,
    pub(super) requests_max: usize,
}

impl Plan {
    pub(super) fn any(dice: &mut Dice) -> Self {
        let fail_back = match dice.below(4) {
            0 => FailBackPolicy::Auto { after: 1000 + dice.below(15_000) },
            1 => FailBackPolicy::Window { from: 20, until: 40 },
            _ => FailBackPolicy::Manual,
        };
        let is_roomy = fail_back != FailBackPolicy::Manual || !dice.one_in(4);
        let devices = 2 + dice.below(6);
        Self {
            is_line: dice.one_in(3),
            devices,
            faults: 5 + dice.below(35),
            home: dice.index(CONTROLLERS),
            is_lossy: false,
            is_unreliable: false,
            is_bulky: false,
            is_patient: dice.one_in(5),
            is_dirty: dice.one_in(2),
            has_ticks: dice.one_in(2),
            slow: if dice.one_in(3) { dice.below(2000) } else { 0 },
            fail_back,
            pace: Pace {
                per_second: 1 + u32::try_from(dice.below(5)).unwrap(),
                in_flight_max: 1 + u32::try_from(dice.below(3)).unwrap(),
                deadline: 1000 + dice.below(5000),
                failures_max_percent: 5,
            },
            keep_ends: dice.between(1000, 20_000),
            snapshot_from: dice.between(1, 40),
            devices_max: if is_roomy { 100 } else { 3 },
            requests_max: if dice.one_in(4) { 3 } else { 100 },
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            terms: Terms {
                lease: Duration::from_secs(10),
                handshake_every: Duration::from_secs(1),
                misses: 3,
                generation: 0,
                alternates: Vec::new(),
            },
            places: (0..CONTROLLERS).map(place).collect(),
            fail_back: self.fail_back,
            pace: self.pace,
            keep_ends: self.keep_ends,
            snapshot_from: self.snapshot_from,
            devices_max: self.devices_max,
            requests_max: self.requests_max,
        }
    }

    fn are_partners(&self, one: usize, other: usize) -> bool {
        one != other && (!self.is_line || one.abs_diff(other) == 1)
    }
}

fn name(n: usize) -> ControllerId {
    NAMES[n].parse().unwrap()
}

fn number(controller: &ControllerId) -> usize {
    NAMES.iter().position(|name| *name == controller.as_str()).unwrap()
}

fn place(n: usize) -> Place {
    Place {
        controller: name(n),
        addrs: vec![([127, 0, 0, 1], 1000 + u16::try_from(n).unwrap()).into()],
    }
}

/// What goes over a link.
#[derive(Debug, Clone)]
enum Message {
    Introduction { head: Position, taken: Option<Position> },
    Sync(SyncMessage),
    Forward(Forward),
    Result(u64, Outcome),
    Mode(Mode),
}

#[derive(Debug)]
enum Event {
    Tick { node: usize, boot: u64 },
    Commit { node: usize, boot: u64 },
    Job { node: usize, boot: u64, job: Job },
    Start { node: usize },
    Dial { pair: usize },
    Link { pair: usize, epoch: u64, from: usize, to: usize, message: Message },
    ToDevice { conn: ConnId, message: ClientMessage },
    ToNode { conn: ConnId, message: ClientMessage },
    ConnLost { conn: ConnId },
    Device { device: usize },
    Fault,
    Ask { node: usize },
    Heal { pair: usize },
    HealPath { device: usize, node: usize },
    Order { node: usize, order: Order },
    DeviceOn { device: usize },
    Look,
}

#[derive(Debug)]
struct Conn {
    device: usize,
    node: usize,
    boot: u64,
    /// When the last message of each direction arrives: to the device, to the controller.
    last: [Millis; 2],
}

pub(super) struct World {
    seed: u64,
    plan: Plan,
    dice: Dice,
    now: Millis,
    events: BTreeMap<(Millis, u64), Event>,
    count: u64,
    nodes: Vec<Node>,
    /// 0 with 1, 0 with 2, 1 with 2.
    links: Vec<Link>,
    devices: Vec<Device>,
    conns: BTreeMap<ConnId, Conn>,
    by_ends: BTreeMap<(usize, usize), ConnId>,
    next_conn: ConnId,
    cut_paths: BTreeSet<(usize, usize)>,
    is_calm: bool,
    watch: Watch,
    is_loud: bool,
    /// Of all that happened.
    hash: u64,
}

/// The number of the link between two controllers.
fn pair(one: usize, other: usize) -> usize {
    one + other - 1
}

/// The controllers of a link.
fn ends(pair: usize) -> [usize; 2] {
    [[0, 1], [0, 2], [1, 2]][pair]
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("EVERSOCK_SEED={} at {} ms of {:?}", self.seed, self.now, self.plan);
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, mut dice: Dice) -> Self {
        let nodes = (0..CONTROLLERS).map(|n| Node::new(n, dice.next())).collect();
        let lease = Duration::from_secs(5 + dice.below(10));
        let devices = (0..plan.devices)
            .map(|n| Device::new(n, CONTROLLERS, lease, plan.is_patient))
            .collect();
        Self {
            seed,
            dice,
            now: 0,
            events: BTreeMap::new(),
            count: 0,
            nodes,
            links: (0..CONTROLLERS).map(|_| Link::default()).collect(),
            devices,
            conns: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            next_conn: 1,
            cut_paths: BTreeSet::new(),
            is_calm: false,
            watch: Watch::new(&plan),
            is_loud: std::env::var_os("EVERSOCK_SEED").is_some(),
            hash: 0,
            plan,
        }
    }

    /// Runs it until it is at rest, and gives a hash of all that happened.
    pub(super) fn run(mut self) -> u64 {
        for node in 0..CONTROLLERS {
            self.at(self.now, Event::Start { node });
        }
        for device in 0..self.devices.len() {
            let at = self.dice.below(3000);
            self.at(at, Event::Device { device });
        }
        for _ in 0..self.plan.faults {
            let at = self.dice.below(FAULTS);
            self.at(at, Event::Fault);
        }
        self.at(FAULTS, Event::Look);
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            assert!(at < FAULTS + REST, "no rest: {}", self.unrest().unwrap_or_default());
            assert!(self.count < EVENTS_MAX, "a shard wakes again and again, for nothing");
            self.note(|| format!("{event:?}"));
            if self.happens(event) {
                return self.hash;
            }
        }
        panic!("nothing happens any more")
    }

    fn at(&mut self, at: Millis, event: Event) {
        self.count += 1;
        self.events.insert((at.max(self.now), self.count), event);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.hash = self.hash.rotate_left(5) ^ self.now.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if self.is_loud {
            let mut what = what();
            what.truncate(4000);
            eprintln!("{:>8} {what}", self.now);
        }
    }

    /// Whether that was the end.
    fn happens(&mut self, event: Event) -> bool {
        match event {
            Event::Tick { node, boot } => {
                if self.nodes[node].boot == boot {
                    self.input(node, Input::Tick);
                }
            }
            Event::Commit { node, boot } => {
                if self.nodes[node].boot == boot {
                    self.commit(node);
                }
            }
            Event::Job { node, boot, job } => {
                if self.nodes[node].boot == boot {
                    self.job(node, job);
                }
            }
            Event::Start { node } => self.start(node),
            Event::Dial { pair } => self.dial(pair),
            Event::Link { pair, epoch, from, to, message } => {
                if self.links[pair].epoch == epoch {
                    self.arrived(pair, from, to, message);
                }
            }
            Event::ToDevice { conn, message } => self.device_hears(conn, message),
            Event::ToNode { conn, message } => self.node_hears(conn, message),
            Event::ConnLost { conn } => self.conn_lost(conn),
            Event::Device { device } => self.device_time(device),
            Event::Fault => {
                if !self.is_calm {
                    self.fault();
                }
            }
            Event::Ask { node } => self.ask(node),
            Event::Heal { pair } => self.heal(pair),
            Event::HealPath { device, node } => {
                self.cut_paths.remove(&(device, node));
            }
            Event::Order { node, order } => self.order(node, order),
            Event::DeviceOn { device } => self.devices[device].is_on = true,
            Event::Look => return self.look(),
        }
        false
    }

    fn wall_s(&self) -> u32 {
        u32::try_from(self.now / 1000 % 86_400).unwrap()
    }

    // Links.

    fn are_partners(&self, pair: usize) -> bool {
        let [one, other] = ends(pair);
        self.plan.are_partners(one, other)
    }

    fn heal(&mut self, pair: usize) {
        self.links[pair].is_cut = false;
        self.dial_later(pair);
    }

    fn dial_later(&mut self, pair: usize) {
        if self.are_partners(pair) && !self.links[pair].is_dialling {
            self.links[pair].is_dialling = true;
            let at = self.now + self.dice.below(1000);
            self.at(at, Event::Dial { pair });
        }
    }

    /// Both ends say where they stand.
    fn dial(&mut self, pair: usize) {
        self.links[pair].is_dialling = false;
        let [one, other] = ends(pair);
        let can_stand = |world: &Self| {
            let is_awake = |n: usize| world.nodes[n].shard.is_some();
            !world.links[pair].is_cut && is_awake(one) && is_awake(other)
        };
        if self.links[pair].is_up() || !can_stand(self) {
            return;
        }
        self.break_link(pair);
        for node in [one, other] {
            self.commit_all(node);
        }
        if !can_stand(self) {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            let (head, taken) = self.nodes[from].standpoint(&name(to));
            self.send(from, to, Lane::Control, Message::Introduction { head, taken });
        }
    }

    /// The connection is gone, with all that was on its way.
    fn break_link(&mut self, pair: usize) {
        let [one, other] = ends(pair);
        let was_up = [0, 1].map(|end| self.links[pair].ends[end].is_up);
        self.links[pair].break_now();
        for ((node, partner), was_up) in [(one, other), (other, one)].into_iter().zip(was_up) {
            if was_up {
                self.input(node, Input::LinkDown { partner: name(partner) });
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, lane: Lane, message: Message) {
        let pair = pair(from, to);
        let (is_calm, slow) = (self.is_calm, self.plan.slow);
        let link = &mut self.links[pair];
        let end = &mut link.ends[usize::from(from > to)];
        if let Message::Sync(message) = &message {
            end.sent(message);
        }
        let arrives = end.arrives(self.now, lane, if is_calm { 0 } else { slow }, &mut self.dice);
        if let Message::Introduction { .. } = message {
            end.introduced(arrives);
        }
        let epoch = link.epoch;
        let may_come_twice = matches!(&message, Message::Sync(message)
            if !matches!(message, SyncMessage::Snapshot(_) | SyncMessage::Resync));
        if self.plan.is_dirty && !is_calm && may_come_twice && self.dice.one_in(10) {
            let again = arrives + if self.dice.one_in(2) { 0 } else { self.dice.below(3000) };
            let message = message.clone();
            self.at(again, Event::Link { pair, epoch, from, to, message });
        }
        self.at(arrives, Event::Link { pair, epoch, from, to, message });
    }

    fn arrived(&mut self, pair: usize, from: usize, to: usize, message: Message) {
        let partner = name(from);
        let end = &mut self.links[pair].ends[usize::from(to > from)];
        let input = match message {
            Message::Introduction { head, taken } => {
                end.is_up = true;
                let mode = self.nodes[to].mode;
                self.send(to, from, Lane::Control, Message::Mode(mode));
                Input::LinkUp { partner, place: place(from), head: Some(head), taken }
            }
            Message::Sync(mut message) => {
                end.got(&message);
                if let SyncMessage::Chunk { data, .. } = &mut message
                    && self.plan.is_dirty
                    && !self.is_calm
                    && self.dice.one_in(20)
                {
                    data[0] ^= 1;
                }
                Input::Sync { partner, message }
            }
            Message::Forward(forward) => Input::Forward { partner, forward },
            Message::Result(id, outcome) => Input::ForwardResult { partner, id, outcome },
            Message::Mode(mode) => Input::PartnerMode { partner, mode },
        };
        self.input(to, input);
    }

    /// What a controller wants to tell a partner; lost if there is no link.
    fn tell(&mut self, from: usize, to: usize, lane: Lane, message: Message) -> bool {
        let is_up = self.links[pair(from, to)].ends[usize::from(from > to)].is_up;
        if is_up {
            self.send(from, to, lane, message);
        }
        is_up
    }

    // Devices.

    fn device_time(&mut self, device: usize) {
        let mut said = Vec::new();
        let next = self.devices[device].time(self.plan.home, &mut self.dice, &mut said);
        self.at(self.now + next, Event::Device { device });
        self.say(device, said);
    }

    fn say(&mut self, device: usize, said: device::Said) {
        for (node, message) in said {
            let Some(conn) = self.connection(device, node) else { continue };
            let at = self.now + self.dice.below(60);
            let last = &mut self.conns.get_mut(&conn).unwrap().last[1];
            *last = at.max(*last);
            let at = *last;
            self.at(at, Event::ToNode { conn, message });
        }
    }

    /// The connection of a device, made if there is none.
    fn connection(&mut self, device: usize, node: usize) -> Option<ConnId> {
        if self.cut_paths.contains(&(device, node)) || self.nodes[node].shard.is_none() {
            return None;
        }
        if let Some(conn) = self.by_ends.get(&(device, node)) {
            return Some(*conn);
        }
        let conn = self.next_conn;
        self.next_conn += 1;
        let boot = self.nodes[node].process;
        self.conns.insert(conn, Conn { device, node, boot, last: [self.now; 2] });
        self.by_ends.insert((device, node), conn);
        Some(conn)
    }

    /// No word gets through any more; the controller notices later.
    fn break_path(&mut self, device: usize, node: usize) {
        if let Some(conn) = self.by_ends.remove(&(device, node)) {
            let at = self.now + self.dice.below(3000);
            self.at(at, Event::ConnLost { conn });
        }
    }

    fn is_open(&self, conn: ConnId) -> bool {
        let Some(state) = self.conns.get(&conn) else { return false };
        self.by_ends.get(&(state.device, state.node)) == Some(&conn)
            && self.nodes[state.node].process == state.boot
    }

    fn conn_lost(&mut self, conn: ConnId) {
        let Some(state) = self.conns.remove(&conn) else { return };
        if self.nodes[state.node].process == state.boot {
            self.input(state.node, Input::ConnLost { conn });
        }
    }

    fn device_hears(&mut self, conn: ConnId, message: ClientMessage) {
        if !self.is_open(conn) {
            return;
        }
        let (device, node) = (self.conns[&conn].device, self.conns[&conn].node);
        let mut said = Vec::new();
        match message {
            ClientMessage::HandOff { token, target, .. } => {
                let target = number(&target.controller);
                let dice = &mut self.dice;
                self.devices[device].hand_off(node, token, target, dice, &mut said);
            }
            ClientMessage::Request(request) => {
                let is_asked = self.devices[device].answers(&request, &mut self.dice);
                if is_asked {
                    self.watch.asked(&request.payload);
                    let outcome = Outcome::Done(request.payload);
                    said.push((node, ClientMessage::Response { id: request.id, outcome }));
                }
            }
            message => self.devices[device].hear(node, message, &mut self.dice, &mut said),
        }
        self.say(device, said);
    }

    fn node_hears(&mut self, conn: ConnId, message: ClientMessage) {
        if !self.is_open(conn) {
            return;
        }
        let input = match message {
            ClientMessage::Register(register) => Input::Register { conn, register },
            ClientMessage::Handshake { device, seq } => Input::Handshake { conn, device, seq },
            ClientMessage::Deregister { device, seq } => Input::Deregister { conn, device, seq },
            ClientMessage::HandOffAnswer { device, token, answer } => {
                Input::HandOffAnswer { conn, device, token, answer }
            }
            ClientMessage::Response { id, outcome } => Input::Answer { conn, id, outcome },
            other => panic!("a device says {other:?}"),
        };
        self.input(self.conns[&conn].node, input);
    }

    /// Somebody at a controller wants something of a device.
    fn ask(&mut self, node: usize) {
        if self.nodes[node].shard.is_none() {
            return;
        }
        let device = self.dice.index(self.devices.len());
        let deadline = 200 + self.dice.below(5000);
        let id = self.watch.ask(self.now, node, deadline);
        let request = Request {
            id: 0,
            device: self.devices[device].id.clone(),
            deadline: Duration::from_millis(deadline),
            payload: id.to_le_bytes().to_vec(),
        };
        self.input(node, Input::Request { origin: Origin::Local(id), request });
    }

    // What a shard wants done.

    fn perform(&mut self, node: usize, output: Output) {
        self.note(|| format!("  {} {output:?}", NAMES[node]));
        match output {
            Output::Say { conn, message } => {
                self.watch.said(self.now, node, &self.devices, &message, self.plan.pace);
                self.deliver(conn, message);
            }
            Output::Ask { conn, request } => self.deliver(conn, ClientMessage::Request(request)),
            Output::Answered { origin: Origin::Local(id), outcome } => {
                self.watch.answered(self.now, id, &outcome);
            }
            Output::Answered { origin: Origin::Partner(partner, id), outcome } => {
                self.tell(node, number(&partner), Lane::Control, Message::Result(id, outcome));
            }
            Output::Answered { origin: Origin::Conn(..), .. } => panic!("no such asker"),
            Output::Forward { partner, forward } => {
                self.watch.forwarded(node, number(&partner), &forward);
                let (to, id) = (number(&partner), forward.id);
                if !self.tell(node, to, Lane::Control, Message::Forward(forward)) {
                    let outcome = Outcome::Unreachable("there is no link".to_owned());
                    let input = Input::ForwardResult { partner, id, outcome };
                    self.input(node, input);
                }
            }
            Output::Sync { partner, message } => {
                let lane = match message {
                    SyncMessage::Chunk { .. } => Lane::Bulk,
                    _ => Lane::Updates,
                };
                self.tell(node, number(&partner), lane, Message::Sync(message));
            }
            Output::BuildSnapshot { partner } => self.job_later(node, Job::Build(partner)),
            Output::ReadChunk { partner, snapshot, index } => {
                self.job_later(node, Job::ReadChunk(partner, snapshot, index));
            }
            Output::DropSnapshot { snapshot } => self.nodes[node].folder.remove(snapshot),
            // Each one that is built here is a new one.
            Output::RetireSnapshot { .. } => {}
            Output::ReceiveSnapshot { partner, manifest } => {
                self.job_later(node, Job::Receive(partner, manifest));
            }
            Output::WriteChunk { partner, snapshot, index, data } => {
                self.job_later(node, Job::WriteChunk(partner, snapshot, index, data));
            }
            Output::ReadSnapshot { partner, snapshot } => {
                self.job_later(node, Job::Read(partner, snapshot));
            }
            Output::ForgetSnapshot { partner, snapshot } => {
                self.nodes[node].folder.forget(number(&partner), snapshot);
            }
            Output::Changed { .. } => {}
            Output::Event(event) => self.watch.event(&event),
            Output::Wake { at } => {
                let boot = self.nodes[node].boot;
                // Time goes on while a shard is busy.
                self.at(at.max(self.now + 1), Event::Tick { node, boot });
            }
        }
    }

    fn deliver(&mut self, conn: ConnId, message: ClientMessage) {
        let at = self.now + self.dice.below(60);
        if let Some(state) = self.conns.get_mut(&conn) {
            state.last[0] = at.max(state.last[0]);
            let at = state.last[0];
            self.at(at, Event::ToDevice { conn, message });
        }
    }
}
