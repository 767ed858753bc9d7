//! A controller: a shard on a disk, and what drives it.

use super::folder::Folder;
use super::{CONTROLLERS, Event, FAULTS, World, ends, name, number};
use crate::model::ControllerId;
use crate::shard::{Input, Order, Output, Shard, ShardConfig};
use crate::store::memory::{MemDisk, MemTable};
use crate::store::{Position, Snapshot, Store};
use crate::wire::peer::{Manifest, Mode};

/// What is done beside the shard.
#[derive(Debug)]
pub(super) enum Job {
    Build(ControllerId),
    ReadChunk(ControllerId, u128, u32),
    Receive(ControllerId, Manifest),
    WriteChunk(ControllerId, u128, u32, Vec<u8>),
    Read(ControllerId, u128),
}

pub(super) struct Node {
    pub(super) n: usize,
    pub(super) disk: MemDisk,
    pub(super) backup: Option<MemTable>,
    pub(super) shard: Option<Shard>,
    snapshots: Option<Box<dyn Snapshot>>,
    pub(super) folder: Folder,
    /// Counts the openings of the store.
    pub(super) boot: u64,
    /// Counts the processes: connections of devices belong to one.
    pub(super) process: u64,
    /// What operators have set.
    pub(super) mode: Mode,
    pub(super) paused: [bool; CONTROLLERS],
    /// What waits for the commit.
    pending: Vec<Output>,
    is_commit_due: bool,
}

impl Node {
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self {
            n,
            disk: MemDisk::new(super::NAMES[n], seed),
            backup: None,
            shard: None,
            snapshots: None,
            folder: Folder::default(),
            boot: 0,
            process: 0,
            mode: Mode::default(),
            paused: [false; CONTROLLERS],
            pending: Vec::new(),
            is_commit_due: false,
        }
    }

    pub(super) fn standpoint(&mut self, partner: &ControllerId) -> (Position, Option<Position>) {
        assert!(self.pending.is_empty(), "it was committed before");
        self.shard.as_mut().unwrap().standpoint(partner).unwrap()
    }
}

impl World {
    /// Opens the store of a controller and begins.
    pub(super) fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.shard.is_some() {
            return;
        }
        node.boot += 1;
        node.is_commit_due = false;
        let store = node.disk.open().unwrap();
        node.snapshots = Some(store.snapshots().unwrap());
        let config = ShardConfig {
            me: name(n),
            partition: name(self.plan.home),
            partners: (0..CONTROLLERS)
                .filter(|other| self.plan.are_partners(n, *other))
                .map(name)
                .collect(),
            seed: self.dice.next(),
        };
        let settings = self.plan.settings().into();
        node.shard = Some(Shard::open(config, settings, Box::new(store), self.now).unwrap());
        for order in self.standing_orders(n) {
            self.input(n, Input::Order(order));
        }
        self.input(n, Input::Tick);
        for pair in 0..CONTROLLERS {
            if ends(pair).contains(&n) {
                self.dial_later(pair);
            }
        }
    }

    fn standing_orders(&self, n: usize) -> Vec<Order> {
        let node = &self.nodes[n];
        let mut orders = Vec::new();
        if node.mode.maintenance {
            orders.push(Order::Maintenance(true));
        }
        if node.mode.paused {
            orders.push(Order::Pause { partner: None, paused: true });
        }
        for (other, _) in node.paused.iter().enumerate().filter(|(_, paused)| **paused) {
            orders.push(Order::Pause { partner: Some(name(other)), paused: true });
        }
        orders
    }

    /// The shard is thrown away, with what it has not committed. Its links are made anew.
    pub(super) fn stop(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.shard = None;
        node.snapshots = None;
        node.boot += 1;
        node.pending.clear();
        node.folder.restart();
        for pair in 0..CONTROLLERS {
            if ends(pair).contains(&n) {
                self.break_link(pair);
            }
        }
    }

    /// The whole process ends, and with it the connections of devices.
    pub(super) fn crash(&mut self, n: usize) {
        self.stop(n);
        self.nodes[n].process += 1;
        self.watch.crashed(n);
        self.by_ends.retain(|(_, node), _| *node != n);
    }

    pub(super) fn input(&mut self, n: usize, input: Input) {
        self.note(|| format!(" {} {input:?}", super::NAMES[n]));
        let (now, wall_s) = (self.now, self.wall_s());
        let node = &mut self.nodes[n];
        let Some(shard) = &mut node.shard else { return };
        shard.handle(now, wall_s, input, &mut node.pending).unwrap();
        if !node.is_commit_due {
            node.is_commit_due = true;
            let boot = node.boot;
            let at = now + self.dice.below(6);
            self.at(at, Event::Commit { node: n, boot });
        }
    }

    /// Commits until nothing waits for it.
    pub(super) fn commit_all(&mut self, n: usize) {
        self.commit(n);
        while self.nodes[n].is_commit_due {
            self.commit(n);
        }
    }

    pub(super) fn commit(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.is_commit_due = false;
        let Some(shard) = &mut node.shard else { return };
        if shard.commit().is_err() {
            self.note(|| format!(" {} begins anew: its disk failed", super::NAMES[n]));
            self.stop(n);
            self.watch.crashed(n);
            self.start(n);
            return;
        }
        self.watch.bounds(&self.nodes[n], &self.plan);
        self.watch.tables(&self.nodes[n], &self.devices);
        for output in std::mem::take(&mut self.nodes[n].pending) {
            self.perform(n, output);
        }
        if self.plan.has_ticks && self.now < FAULTS && self.dice.one_in(20) {
            let boot = self.nodes[n].boot;
            let at = self.now + self.dice.below(1000);
            self.at(at, Event::Tick { node: n, boot });
        }
    }

    pub(super) fn job_later(&mut self, n: usize, job: Job) {
        let boot = self.nodes[n].boot;
        let at = self.now + self.dice.below(if self.is_calm { 20 } else { 300 });
        self.at(at, Event::Job { node: n, boot, job });
    }

    pub(super) fn job(&mut self, n: usize, job: Job) {
        let fails = !self.is_calm && self.dice.one_in(10);
        let rots = self.plan.is_dirty && !self.is_calm && self.dice.one_in(10);
        let chance = self.dice.next();
        let node = &mut self.nodes[n];
        let input = match job {
            Job::Build(partner) => {
                let table = node.snapshots.as_mut().filter(|_| !fails);
                let number = u128::from(chance);
                let manifest =
                    table.and_then(|table| node.folder.build(number, table.as_mut(), rots));
                Input::SnapshotBuilt { partner, manifest }
            }
            Job::ReadChunk(partner, snapshot, index) => {
                let data = node.folder.chunk(snapshot, index).filter(|_| !fails);
                Input::ChunkRead { partner, snapshot, index, data }
            }
            Job::Receive(partner, manifest) => {
                let next = node.folder.receive(number(&partner), &manifest);
                let next = (!fails).then_some(next);
                Input::SnapshotOpened { partner, snapshot: manifest.snapshot, next }
            }
            Job::WriteChunk(partner, snapshot, index, data) => {
                let kept = !fails && node.folder.write(number(&partner), snapshot, index, data);
                Input::ChunkWritten { partner, snapshot, index, kept }
            }
            Job::Read(partner, snapshot) => {
                let records = node.folder.read(number(&partner), snapshot);
                Input::SnapshotRecords { partner, snapshot, records }
            }
        };
        self.input(n, input);
    }
}
