//! Controllers whose tables, folders and links are in memory, driven by chance.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::{Merge, Step, Sync};
use crate::limits::{BATCH_MAX, CHUNK_BYTES, CHUNKS_IN_FLIGHT, UPDATE_WINDOW};
use crate::model::{ControllerId, Location, Record, Standing};
use crate::shard::input::{FailBackPolicy, Pace, Settings};
use crate::shard::output::SyncState;
use crate::shard::{Event, Millis, Output};
use crate::snapshot::format;
use crate::store::memory::{MemDisk, MemStore, MemTable};
use crate::store::{self, Position, Store};
use crate::wire::client::Terms;
use crate::wire::peer::{Manifest, SyncMessage};

/// The same numbers for the same seed.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// Once in so many.
    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        bound > 0 && self.below(bound) == 0
    }

    fn pick(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

/// What goes wrong, once in so many; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) worker: u64,
    pub(super) flip: u64,
    pub(super) twice: u64,
    pub(super) commit: u64,
}

/// What a worker has done.
#[derive(Debug)]
enum Done {
    Built(ControllerId, Option<Manifest>),
    Read(ControllerId, u128, u32, Option<Vec<u8>>),
    Opened(ControllerId, u128, Option<u32>),
    Written(ControllerId, u128, u32, bool),
    Records(ControllerId, u128, Result<Vec<Record>, String>),
}

/// The part of a snapshot that came.
#[derive(Debug)]
struct Part {
    manifest: Manifest,
    chunks: BTreeMap<u32, Vec<u8>>,
    /// Where the reading stands.
    at: usize,
}

/// Stands for a folder and the thread that works in it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    made: Vec<(Manifest, Vec<u8>)>,
    /// The last one that nobody gets anew.
    retired: Option<u128>,
    parts: BTreeMap<ControllerId, Part>,
    done: VecDeque<Done>,
    ids: u128,
    pub(super) builds: u64,
    pub(super) chunks_read: u64,
}

/// One direction of a link.
#[derive(Debug, Default)]
struct Way {
    updates: VecDeque<Item>,
    bulk: VecDeque<(u64, SyncMessage)>,
    /// Bytes of updates that were sent and not confirmed, and up to where each was.
    unconfirmed: VecDeque<(u64, usize)>,
    /// Chunks asked for by the receiver of this way.
    asked: u32,
}

#[derive(Debug, Clone)]
enum Item {
    Introduction { epoch: u64, head: Position, taken: Option<Position> },
    Message { epoch: u64, message: SyncMessage },
    Down { epoch: u64 },
}

pub(super) struct Node {
    pub(super) name: ControllerId,
    pub(super) disk: MemDisk,
    store: Option<MemStore>,
    pub(super) sync: Sync,
    pub(super) folder: Folder,
    partners: Vec<usize>,
    linked: BTreeMap<usize, u64>,
    pub(super) odd: Vec<String>,
    pub(super) backup: Option<MemTable>,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    ways: BTreeMap<(usize, usize), Way>,
    up: BTreeMap<(usize, usize), u64>,
    pub(super) pairs: Vec<(usize, usize)>,
    epoch: u64,
    pub(super) now: Millis,
    pub(super) settings: Settings,
    pub(super) chance: Chance,
    pub(super) faults: Faults,
    /// Rows are looked at after each step: only without purges.
    pub(super) is_strict: bool,
    nonce: u64,
    pub(super) restarts: u64,
}

pub(super) fn settings(snapshot_from: u64) -> Settings {
    Settings {
        terms: Terms {
            lease: Duration::from_secs(60),
            handshake_every: Duration::from_secs(10),
            misses: 3,
            generation: 0,
            alternates: Vec::new(),
        },
        places: Vec::new(),
        fail_back: FailBackPolicy::Manual,
        pace: Pace { per_second: 1, in_flight_max: 1, deadline: 1, failures_max_percent: 5 },
        keep_ends: 0,
        snapshot_from,
        devices_max: usize::MAX,
        requests_max: 1,
    }
}

/// As a shard does it, but for devices.
pub(super) fn merge(
    store: &mut dyn Store,
    record: &Record,
    from: &ControllerId,
) -> store::Result<()> {
    let row = store.get(record.kind, &record.key)?;
    if row.is_none_or(|row| record.beats(&row.record)) {
        store.put(record, Some(from))?;
    }
    Ok(())
}

impl World {
    /// `pairs`: who is whose partner.
    pub(super) fn new(seed: u64, pairs: &[(usize, usize)], snapshot_from: u64) -> Self {
        let count = pairs.iter().map(|pair| pair.0.max(pair.1)).max().unwrap() + 1;
        let mut world = Self {
            nodes: Vec::new(),
            ways: BTreeMap::new(),
            up: BTreeMap::new(),
            pairs: pairs.to_vec(),
            epoch: 0,
            now: 1,
            settings: settings(snapshot_from),
            chance: Chance::new(seed),
            faults: Faults::default(),
            is_strict: true,
            nonce: 0,
            restarts: 0,
        };
        for n in 0..count {
            let partners: Vec<_> = pairs
                .iter()
                .filter_map(|&(a, b)| (a == n).then_some(b).or_else(|| (b == n).then_some(a)))
                .collect();
            let disk = MemDisk::new(format!("disk {n}"), seed * 16 + n as u64);
            world.nodes.push(Node {
                name: name(n),
                store: Some(disk.open().unwrap()),
                disk,
                sync: new_sync(&partners),
                folder: Folder { ids: (n as u128 + 1) << 64, ..Folder::default() },
                partners,
                linked: BTreeMap::new(),
                odd: Vec::new(),
                backup: None,
            });
        }
        world
    }

    /// Handles something at a node, as its thread does: commits, and only then lets out what was
    /// put out.
    pub(super) fn step(
        &mut self,
        n: usize,
        what: impl FnOnce(&mut Sync, &mut Step<'_>, &mut Merge<'_>) -> store::Result<()>,
    ) {
        let fails = self.chance.one_in(self.faults.commit);
        let node = &mut self.nodes[n];
        let mut out = Vec::new();
        let store = node.store.as_mut().unwrap();
        let mut step = Step { now: self.now, store, settings: &self.settings, out: &mut out };
        what(&mut node.sync, &mut step, &mut merge).unwrap();
        node.sync.pump(&mut step).unwrap();
        if fails {
            node.disk.fail_next_commit();
        }
        if node.store.as_mut().unwrap().commit().is_err() {
            self.restart(n, |_| {});
            return;
        }
        for output in out {
            self.output(n, output);
        }
        if self.is_strict {
            self.check_taken(n);
        }
    }

    /// What a node says to have taken over is there.
    fn check_taken(&mut self, n: usize) {
        for &other in &self.nodes[n].partners.clone() {
            let partner = self.nodes[other].name.clone();
            let Some(taken) = self.nodes[n].store.as_mut().unwrap().taken(&partner).unwrap() else {
                continue;
            };
            let there = self.nodes[other].store.as_mut().unwrap();
            if !there.reaches(taken).unwrap() {
                continue;
            }
            let rows = there.changes(0, usize::MAX, usize::MAX).unwrap();
            let here = self.nodes[n].store.as_mut().unwrap();
            for row in rows.iter().filter(|row| row.lsn <= taken.lsn) {
                let mine = here.get(row.record.kind, &row.record.key).unwrap();
                let has = mine.is_some_and(|mine| !row.record.beats(&mine.record));
                assert!(has, "{n} says to have {} of {partner}", row.lsn);
            }
        }
    }

    fn output(&mut self, n: usize, output: Output) {
        match output {
            Output::Sync { partner, message } => self.send(n, index(&partner), message),
            Output::Event(Event::Odd { text, .. }) => self.nodes[n].odd.push(text),
            Output::Event(_) => {}
            order => self.work(n, order),
        }
    }

    fn send(&mut self, from: usize, to: usize, message: SyncMessage) {
        let node = &self.nodes[from];
        let Some(&epoch) = node.linked.get(&to) else {
            panic!("{from} says {message:?} to {to} without a link");
        };
        if self.up.get(&pair(from, to)) != Some(&epoch) {
            return;
        }
        match &message {
            SyncMessage::Update { upto, records } => {
                assert!(records.len() <= BATCH_MAX);
                let bytes = records.iter().map(Record::weight).sum();
                let way = self.ways.entry((from, to)).or_default();
                way.unconfirmed.push_back((upto.lsn, bytes));
                let sum: usize = way.unconfirmed.iter().map(|sent| sent.1).sum();
                assert!(sum <= UPDATE_WINDOW, "{sum} bytes are not confirmed");
            }
            SyncMessage::Need { count, .. } => {
                let way = self.ways.entry((to, from)).or_default();
                way.asked += count;
                assert!(way.asked <= CHUNKS_IN_FLIGHT, "{} chunks in flight", way.asked);
            }
            _ => {}
        }
        let twice = self.chance.one_in(self.faults.twice);
        let flip = self.chance.one_in(self.faults.flip);
        let way = self.ways.entry((from, to)).or_default();
        if let SyncMessage::Chunk { snapshot, index, crc, mut data } = message {
            if flip && let Some(byte) = data.last_mut() {
                *byte ^= 1;
            }
            way.bulk.push_back((epoch, SyncMessage::Chunk { snapshot, index, crc, data }));
            return;
        }
        let again = matches!(message, SyncMessage::Update { .. } | SyncMessage::Taken { .. });
        if twice && again {
            way.updates.push_back(Item::Message { epoch, message: message.clone() });
        }
        way.updates.push_back(Item::Message { epoch, message });
    }

    fn work(&mut self, n: usize, order: Output) {
        let fails = self.chance.one_in(self.faults.worker);
        let node = &mut self.nodes[n];
        let folder = &mut node.folder;
        let done = match order {
            Output::BuildSnapshot { partner } => {
                let manifest = (!fails).then(|| folder.build(node.store.as_ref().unwrap()));
                Done::Built(partner, manifest)
            }
            Output::ReadChunk { partner, snapshot, index } => {
                folder.chunks_read += 1;
                if fails {
                    folder.made.retain(|(made, _)| made.snapshot != snapshot);
                }
                let made = folder.made.iter().find(|(made, _)| made.snapshot == snapshot);
                let data = made.map(|(_, data)| {
                    let begin = index as usize * CHUNK_BYTES;
                    data[begin..data.len().min(begin + CHUNK_BYTES)].to_vec()
                });
                Done::Read(partner, snapshot, index, data)
            }
            Output::DropSnapshot { snapshot } => {
                folder.made.retain(|(made, _)| made.snapshot != snapshot);
                return;
            }
            Output::RetireSnapshot { snapshot } => {
                folder.retired = Some(snapshot);
                return;
            }
            Output::ReceiveSnapshot { partner, manifest } => {
                let snapshot = manifest.snapshot;
                if folder.parts.get(&partner).is_none_or(|part| part.manifest != manifest) {
                    let part = Part { manifest, chunks: BTreeMap::new(), at: 0 };
                    folder.parts.insert(partner.clone(), part);
                }
                let part = folder.parts.get_mut(&partner).unwrap();
                part.at = 0;
                let next = (0..).find(|index| !part.chunks.contains_key(index));
                Done::Opened(partner, snapshot, next.filter(|_| !fails))
            }
            Output::WriteChunk { partner, snapshot, index, data } => {
                let part = folder.parts.get_mut(&partner).unwrap();
                assert_eq!(part.manifest.snapshot, snapshot);
                if !fails {
                    part.chunks.insert(index, data);
                }
                Done::Written(partner, snapshot, index, !fails)
            }
            Output::ReadSnapshot { partner, snapshot } => {
                let part = folder.parts.get_mut(&partner).unwrap();
                assert_eq!(part.manifest.snapshot, snapshot);
                assert_eq!(part.chunks.len(), part.manifest.chunks as usize);
                let records = if fails { Err("rot".to_owned()) } else { part.read() };
                Done::Records(partner, snapshot, records)
            }
            Output::ForgetSnapshot { partner, snapshot } => {
                if folder.parts.get(&partner).is_some_and(|p| p.manifest.snapshot == snapshot) {
                    folder.parts.remove(&partner);
                }
                return;
            }
            other => panic!("{other:?}"),
        };
        folder.done.push_back(done);
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        if self.up.contains_key(&pair(a, b)) {
            return;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        self.up.insert(pair(a, b), epoch);
        for (from, to) in [(a, b), (b, a)] {
            let other = self.nodes[to].name.clone();
            let store = self.nodes[from].store.as_mut().unwrap();
            let head = Position { run: store.run(), lsn: store.head() };
            let taken = store.taken(&other).unwrap();
            let way = self.ways.entry((from, to)).or_default();
            way.updates.push_back(Item::Introduction { epoch, head, taken });
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        let Some(epoch) = self.up.remove(&pair(a, b)) else { return };
        for (from, to) in [(a, b), (b, a)] {
            let way = self.ways.entry((from, to)).or_default();
            let keep = self.chance.pick(way.updates.len() + 1);
            // The introduction and the end of an older link come to its input in any case.
            let mut n = 0;
            way.updates.retain(|item| {
                n += 1;
                n <= keep || matches!(item, Item::Down { .. })
            });
            way.updates.push_back(Item::Down { epoch });
            way.bulk.clear();
        }
    }

    /// The process ends and starts anew; `meanwhile` something happens to its disk.
    pub(super) fn restart(&mut self, n: usize, meanwhile: impl FnOnce(&mut Node)) {
        self.restarts += 1;
        for other in self.nodes[n].partners.clone() {
            self.cut(n, other);
            let way = self.ways.entry((other, n)).or_default();
            way.updates.clear();
            way.bulk.clear();
        }
        let node = &mut self.nodes[n];
        node.store = None;
        let ids = node.folder.ids;
        meanwhile(node);
        node.folder.ids = ids;
        node.store = Some(node.disk.open().unwrap());
        node.sync = new_sync(&node.partners);
        node.linked.clear();
        node.folder.done.clear();
        for part in node.folder.parts.values_mut() {
            part.at = 0;
        }
    }

    /// Whether something is on its way.
    fn is_busy(&self) -> bool {
        self.ways.values().any(|way| !way.updates.is_empty() || !way.bulk.is_empty())
            || self.nodes.iter().any(|node| !node.folder.done.is_empty())
    }

    /// Delivers one of the things that are on their way; `false`: there is none.
    pub(super) fn deliver(&mut self) -> bool {
        if !self.is_busy() {
            return false;
        }
        loop {
            let n = self.chance.pick(self.nodes.len());
            let other = self.chance.pick(self.nodes.len());
            match self.chance.below(3) {
                0 => {
                    if let Some(done) = self.nodes[n].folder.done.pop_front() {
                        self.done(n, done);
                        return true;
                    }
                }
                1 => {
                    let Some(way) = self.ways.get_mut(&(other, n)) else { continue };
                    if let Some(item) = way.updates.pop_front() {
                        self.item(other, n, item);
                        return true;
                    }
                }
                _ => {
                    let Some(way) = self.ways.get_mut(&(other, n)) else { continue };
                    if let Some((epoch, message)) = way.bulk.pop_front() {
                        self.message(other, n, epoch, message);
                        return true;
                    }
                }
            }
        }
    }

    fn item(&mut self, from: usize, to: usize, item: Item) {
        let partner = self.nodes[from].name.clone();
        match item {
            Item::Introduction { epoch, head, taken } => {
                self.nodes[to].linked.insert(from, epoch);
                // Of the link before nothing counts any more.
                self.ways.entry((to, from)).or_default().unconfirmed.clear();
                self.ways.entry((from, to)).or_default().asked = 0;
                self.step(to, |sync, step, _| sync.link_up(step, &partner, Some(head), taken));
            }
            Item::Message { epoch, message } => self.message(from, to, epoch, message),
            Item::Down { epoch } => {
                if self.nodes[to].linked.get(&from) == Some(&epoch) {
                    self.nodes[to].linked.remove(&from);
                    self.step(to, |sync, _, _| {
                        sync.link_down(&partner);
                        Ok(())
                    });
                }
            }
        }
    }

    fn message(&mut self, from: usize, to: usize, epoch: u64, message: SyncMessage) {
        if self.nodes[to].linked.get(&from) != Some(&epoch) {
            return;
        }
        match &message {
            SyncMessage::Taken { upto } => {
                let way = self.ways.entry((to, from)).or_default();
                way.unconfirmed.retain(|sent| sent.0 > upto.lsn);
            }
            SyncMessage::Resync | SyncMessage::Loaded { .. } => {
                self.ways.entry((to, from)).or_default().unconfirmed.clear();
            }
            SyncMessage::Chunk { .. } => {
                let way = self.ways.entry((from, to)).or_default();
                way.asked = way.asked.saturating_sub(1);
            }
            SyncMessage::Gone { .. } | SyncMessage::Snapshot(_) => {
                self.ways.entry((from, to)).or_default().asked = 0;
            }
            _ => {}
        }
        let partner = self.nodes[from].name.clone();
        self.step(to, |sync, step, merge| sync.message(step, merge, &partner, message));
    }

    fn done(&mut self, n: usize, done: Done) {
        let now = self.now;
        self.step(n, |sync, step, merge| {
            match done {
                Done::Built(partner, manifest) => sync.snapshot_built(&partner, manifest),
                Done::Read(partner, snapshot, index, data) => {
                    sync.chunk_read(step, &partner, snapshot, index, data);
                }
                Done::Opened(partner, snapshot, next) => {
                    sync.snapshot_opened(now, &partner, snapshot, next);
                }
                Done::Written(partner, snapshot, index, kept) => {
                    sync.chunk_written(now, &partner, snapshot, index, kept);
                }
                Done::Records(partner, snapshot, records) => {
                    sync.snapshot_records(step, merge, &partner, snapshot, records)?;
                }
            }
            Ok(())
        });
    }

    /// Time goes on, and who waits for it is told.
    pub(super) fn wait(&mut self, by: Millis) {
        self.now += by;
        for n in 0..self.nodes.len() {
            self.step(n, |_, _, _| Ok(()));
        }
    }

    /// All links stand and nothing fails any more, until nothing more happens.
    pub(super) fn settle(&mut self) {
        self.faults = Faults::default();
        for (a, b) in self.pairs.clone() {
            self.connect(a, b);
        }
        let until = self.now + 3_600_000;
        loop {
            let mut delivered = 0;
            while self.deliver() {
                delivered += 1;
                assert!(delivered < 100_000, "they never stop");
            }
            if self.is_in_sync() {
                return;
            }
            if self.now >= until {
                for node in &self.nodes {
                    println!("{:#?}", node.sync);
                }
                panic!("they never agree: {:?}", self.states());
            }
            let due = self.nodes.iter().filter_map(|node| node.sync.due()).min();
            let due = due.unwrap_or(self.now + 1000).max(self.now + 1);
            self.wait(due - self.now);
        }
    }

    fn states(&self) -> Vec<(usize, usize, Option<SyncState>)> {
        let each = |(n, node): (usize, &Node)| {
            let state = |other: &usize| (n, *other, node.sync.state(&name(*other)));
            node.partners.iter().map(state).collect::<Vec<_>>()
        };
        self.nodes.iter().enumerate().flat_map(each).collect()
    }

    fn is_in_sync(&mut self) -> bool {
        self.states().iter().all(|(_, _, state)| *state == Some(SyncState::InSync))
            && (0..self.nodes.len()).all(|n| {
                let node = &self.nodes[n];
                let store = node.store.as_ref().unwrap();
                node.sync.taken_by_all(store) == store.head()
            })
    }

    /// The devices that are registered according to a node, and how.
    pub(super) fn standing(&self, n: usize) -> Vec<Record> {
        self.nodes[n].disk.look(|table| {
            let stands = |record: &&Record| {
                record.kind != 1 || Location::from_record(record).is_ok_and(|l| l.stands())
            };
            table.records().filter(stands).cloned().collect()
        })
    }

    pub(super) fn all(&self, n: usize) -> Vec<Record> {
        self.nodes[n].disk.look(|table| table.records().cloned().collect())
    }

    /// A device registers at a node, or leaves it.
    pub(super) fn change(&mut self, n: usize, device: u64, address: usize) {
        let leaves = self.chance.one_in(3);
        self.put_device(n, device, address, leaves);
    }

    /// A device registers at a node.
    pub(super) fn register(&mut self, n: usize, device: u64) {
        self.put_device(n, device, 0, false);
    }

    /// A device leaves the node where it is.
    pub(super) fn leave(&mut self, n: usize, device: u64) {
        self.put_device(n, device, 0, true);
    }

    fn put_device(&mut self, n: usize, device: u64, address: usize, leaves: bool) {
        self.nonce += 1;
        let nonce = self.nonce;
        let me = self.nodes[n].name.clone();
        let key = format!("d{device:03}");
        self.step(n, |_, step, _| {
            let row = step.store.get(1, key.as_bytes())?;
            let known = row.map(|row| Location::from_record(&row.record).unwrap());
            let record = match known {
                Some(known) if leaves && known.owner == me && known.stands() => {
                    let standing = Standing::Deregistered;
                    Location { version: known.version + 1, standing, ..known }
                }
                known => Location {
                    device: key.parse().unwrap(),
                    owner: me,
                    seq: known.map_or(0, |known| known.seq) + 1,
                    version: 1,
                    standing: Standing::Registered,
                    nonce,
                    lease: Duration::from_secs(60),
                    generation: 0,
                    address: vec![7; address],
                },
            };
            step.store.put(&record.to_record(), None).map(|_| ())
        });
    }

    /// A record of a kind that nobody knows.
    pub(super) fn put(&mut self, n: usize, key: &str, bytes: usize) {
        self.nonce += 1;
        let rank = self.nonce.to_be_bytes().to_vec();
        let record = Record { kind: 9, key: key.into(), rank, body: vec![1; bytes] };
        self.step(n, |_, step, _| step.store.put(&record, None).map(|_| ()));
    }

    /// Ends that all partners have are removed.
    pub(super) fn purge(&mut self, n: usize) {
        self.step(n, |sync, step, _| {
            let taken = sync.taken_by_all(step.store);
            let rows = step.store.changes(0, usize::MAX, usize::MAX)?;
            let is_over = |row: &&store::Row| {
                row.lsn <= taken && Location::from_record(&row.record).is_ok_and(|l| !l.stands())
            };
            let ends: Vec<_> = rows
                .iter()
                .filter(is_over)
                .map(|row| (row.record.kind, row.record.key.clone(), row.lsn))
                .collect();
            step.store.purge(&ends)
        });
    }
}

impl Folder {
    /// Chunks that came and are not in the table yet.
    pub(super) fn chunks_here(&self) -> usize {
        self.parts.values().map(|part| part.chunks.len()).sum()
    }

    /// What was made is gone.
    pub(super) fn lose_made(&mut self) {
        self.made.clear();
    }

    fn build(&mut self, store: &MemStore) -> Manifest {
        let is_retired = |manifest: &Manifest| self.retired == Some(manifest.snapshot);
        if let Some((manifest, _)) = self.made.last().filter(|made| !is_retired(&made.0)) {
            return manifest.clone();
        }
        self.builds += 1;
        self.ids += 1;
        let mut data = format::MAGIC.to_vec();
        let mut records = 0;
        let mut each = |record: &Record| {
            records += 1;
            format::write_record(&mut data, record)
        };
        let at = store.snapshots().unwrap().read(&mut each).unwrap();
        let manifest = Manifest {
            snapshot: self.ids,
            at,
            bytes: data.len() as u64,
            chunks: u32::try_from(data.len().div_ceil(CHUNK_BYTES)).unwrap(),
            records,
            digest: [0; 32],
        };
        self.made.push((manifest.clone(), data));
        manifest
    }
}

impl Part {
    fn read(&mut self) -> Result<Vec<Record>, String> {
        let data: Vec<u8> = self.chunks.values().flatten().copied().collect();
        let mut from = &data[format::MAGIC.len() + self.at..];
        let before = from.len();
        let mut records = Vec::new();
        while records.len() < 7
            && let Some(record) = format::read_record(&mut from).map_err(|err| err.to_string())?
        {
            records.push(record);
        }
        self.at += before - from.len();
        Ok(records)
    }
}

pub(super) fn name(n: usize) -> ControllerId {
    format!("c{n}").parse().unwrap()
}

fn index(name: &ControllerId) -> usize {
    name.as_str()[1..].parse().unwrap()
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn new_sync(partners: &[usize]) -> Sync {
    Sync::new(partners.iter().map(|n| name(*n)))
}
