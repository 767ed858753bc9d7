//! Random calls against a store and against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use eversock_controller::model::{ControllerId, Record, Standing, kind};
use eversock_controller::store::{Position, Quota, Row, Store, StoreError, Totals};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cluster::{Cluster, PostgresMaker};
use crate::common::{KIND, Maker, ROOMY, home, location, named, records, snapshot};

const TIGHT: Quota = Quota { records: 6, bytes: 900 };

#[derive(Debug, Clone)]
enum Step {
    Put {
        record: Record,
        from: Option<u8>,
    },
    /// Of the record that stands in this place of all; whether it was changed since.
    Purge(Vec<(u8, bool)>),
    Taken {
        partner: u8,
        lsn: Option<u64>,
    },
    Commit,
    /// Without what was not committed.
    Reopen,
}

fn partner(n: u8) -> ControllerId {
    named(["a", "partner-b", "C.3"][usize::from(n % 3)])
}

fn any_record() -> impl Strategy<Value = Record> {
    let device = (0..4_u8, 1..9_u64, 0..3_u8, 0..90_usize).prop_map(|(device, seq, is, len)| {
        let standing = [Standing::Registered, Standing::Deregistered, Standing::Expired];
        location(&format!("d{device}"), seq, standing[usize::from(is)], len)
    });
    let other = (0..2_u16, vec(0..3_u8, 0..3), vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..200))
        .prop_map(|(kind, key, rank, body)| Record { kind: KIND + kind, key, rank, body });
    prop_oneof![device, other]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any_record(), proptest::option::of(0..3_u8))
            .prop_map(|(record, from)| Step::Put { record, from }),
        2 => vec((any::<u8>(), any::<bool>()), 0..4).prop_map(Step::Purge),
        2 => (0..3_u8, proptest::option::of(0..99_u64))
            .prop_map(|(partner, lsn)| Step::Taken { partner, lsn }),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Table {
    rows: BTreeMap<(u16, Vec<u8>), Row>,
    head: u64,
    floor: u64,
    taken: BTreeMap<u8, Position>,
}

impl Table {
    fn totals(&self) -> Totals {
        let bytes = self.rows.values().map(|row| row.record.weight() as u64).sum();
        Totals { records: self.rows.len() as u64, bytes }
    }

    fn admits(&self, record: &Record, quota: Quota) -> bool {
        let totals = self.totals();
        let ends = record.kind == kind::LOCATION && record.body[0] != 0;
        let weight = record.weight();
        match self.rows.get(&(record.kind, record.key.clone())) {
            Some(row) => {
                let old = row.record.weight();
                let sum = totals.bytes + weight as u64 - old as u64;
                weight <= old || sum <= quota.bytes || ends
            }
            None => totals.records < quota.records && totals.bytes + weight as u64 <= quota.bytes,
        }
    }

    fn put(&mut self, record: &Record, from: Option<u8>) -> u64 {
        self.head += 1;
        let row = Row { lsn: self.head, from: from.map(partner), record: record.clone() };
        self.rows.insert((record.kind, record.key.clone()), row);
        self.head
    }

    fn changes(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.rows.values().cloned().collect();
        rows.sort_by_key(|row| row.lsn);
        rows
    }
}

struct World<'a> {
    maker: &'a dyn Maker,
    quota: Quota,
    store: Option<Box<dyn Store>>,
    /// Each run, and how many changes were committed before it.
    runs: Vec<(u128, u64)>,
    committed: Table,
    now: Table,
}

impl<'a> World<'a> {
    fn new(maker: &'a dyn Maker, quota: Quota) -> Self {
        let (committed, now) = <(Table, Table)>::default();
        let mut world = Self { maker, quota, store: None, runs: Vec::new(), committed, now };
        world.reopen();
        world
    }

    fn reopen(&mut self) {
        self.store = None;
        let store = self.maker.opens(self.quota).open(&home()).unwrap();
        assert!(self.runs.iter().all(|(run, _)| *run != store.run()));
        self.runs.push((store.run(), self.committed.head));
        self.store = Some(store);
        self.now = self.committed.clone();
    }

    fn step(&mut self, step: &Step) {
        let store = self.store.as_mut().unwrap();
        let now = &mut self.now;
        match step {
            Step::Put { record, from } => {
                let result = store.put(record, from.map(partner).as_ref());
                if now.admits(record, self.quota) {
                    assert_eq!(result.unwrap(), now.put(record, *from));
                } else {
                    assert!(matches!(result, Err(StoreError::Full { .. })), "{result:?}");
                }
            }
            Step::Purge(which) => {
                let mut purged = Vec::new();
                for (n, stale) in which {
                    let Some(row) = now.rows.values().nth(usize::from(*n) % 8) else { continue };
                    let lsn = row.lsn + u64::from(*stale);
                    purged.push((row.record.kind, row.record.key.clone(), lsn));
                }
                store.purge(&purged).unwrap();
                for (kind, key, lsn) in purged {
                    if now.rows.get(&(kind, key.clone())).is_some_and(|row| row.lsn == lsn) {
                        now.rows.remove(&(kind, key));
                        now.floor = now.floor.max(lsn);
                    }
                }
            }
            Step::Taken { partner: n, lsn } => {
                let position = lsn.map(|lsn| Position { run: u128::from(lsn) << 100 | 7, lsn });
                store.set_taken(&partner(*n), position).unwrap();
                match position {
                    Some(position) => now.taken.insert(*n, position),
                    None => now.taken.remove(n),
                };
            }
            Step::Commit => {
                store.commit().unwrap();
                self.committed = now.clone();
            }
            Step::Reopen => self.reopen(),
        }
    }

    fn check(&mut self, seed: u64) {
        let store = self.store.as_mut().unwrap();
        let now = &self.now;
        let counted = (store.head(), store.floor(), store.totals().unwrap());
        assert_eq!(counted, (now.head, now.floor, now.totals()));
        for n in 0..3 {
            assert_eq!(store.taken(&partner(n)).unwrap(), now.taken.get(&n).copied());
        }
        for ((kind, key), row) in &now.rows {
            assert_eq!(store.get(*kind, key).unwrap().as_ref(), Some(row));
        }
        assert_eq!(store.get(KIND + 2, b"").unwrap(), None);
        self.check_ranges(seed);
        self.check_positions();
        let store = self.store.as_ref().unwrap();
        let (at, read) = snapshot(&**store).unwrap();
        assert_eq!(at, Position { run: store.run(), lsn: self.committed.head });
        assert_eq!(read, records(self.committed.rows.values().cloned().collect()));
    }

    fn check_ranges(&mut self, seed: u64) {
        let store = self.store.as_mut().unwrap();
        let now = &self.now;
        let after = seed % (now.head + 2);
        let (count, bytes) = ((seed >> 8) as usize % 5, (seed >> 16) as usize % 400);
        let mut sum = 0;
        let mut behind: Vec<Row> = now.changes();
        behind.retain(|row| row.lsn > after);
        let few: Vec<Row> = behind
            .iter()
            .take(count)
            .enumerate()
            .take_while(|(n, row)| {
                sum += row.record.weight();
                *n == 0 || sum <= bytes
            })
            .map(|(_, row)| row.clone())
            .collect();
        assert_eq!(store.changes(after, count, bytes).unwrap(), few);
        assert_eq!(store.changes(after, usize::MAX, usize::MAX).unwrap(), behind);
        assert_eq!(store.count_after(after, u64::MAX).unwrap(), behind.len() as u64);
        assert_eq!(store.count_after(after, 2).unwrap(), behind.len().min(2) as u64);
        assert_eq!(store.changes(u64::MAX, 9, 9).unwrap(), []);

        let all: Vec<Row> = now.rows.values().cloned().collect();
        assert_eq!(store.scan(None, usize::MAX).unwrap(), all);
        // From a key that is there, and from one that is not.
        let keys = all.iter().map(|row| (row.record.kind, row.record.key.clone()));
        for (kind, key) in keys.chain([(KIND, vec![1, 0]), (kind::LOCATION, b"d11".to_vec())]) {
            let behind: Vec<Row> = now
                .rows
                .iter()
                .filter(|(at, _)| **at > (kind, key.clone()))
                .map(|(_, row)| row.clone())
                .take(count)
                .collect();
            assert_eq!(store.scan(Some((kind, &key)), count).unwrap(), behind);
        }
    }

    fn check_positions(&self) {
        let store = self.store.as_ref().unwrap();
        let kept = self.runs.len().saturating_sub(64);
        for (n, (run, _)) in self.runs.iter().enumerate() {
            let end = self.runs.get(n + 1).map_or(self.now.head, |(_, began)| *began);
            for lsn in 0..=self.now.head + 2 {
                let reached = n >= kept && lsn >= self.now.floor && lsn <= end;
                let position = Position { run: *run, lsn };
                assert_eq!(store.reaches(position).unwrap(), reached, "{position:?}");
            }
        }
    }
}

fn random_calls(maker: &dyn Fn() -> Box<dyn Maker>, quota: Quota, cases: u32) {
    let config = Config { cases, max_shrink_iters: 300, ..Config::default() };
    let steps = vec((any_step(), any::<u64>()), 1..40);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let maker = maker();
            let mut world = World::new(&*maker, quota);
            for (step, seed) in &steps {
                world.step(step);
                world.check(*seed);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn memory() {
    random_calls(&|| Box::new(crate::common::MemMaker::new()), ROOMY, 60);
}

#[test]
fn sqlite() {
    random_calls(&|| Box::new(crate::common::SqliteMaker::new()), ROOMY, 60);
}

#[test]
fn sqlite_with_little_room() {
    random_calls(&|| Box::new(crate::common::SqliteMaker::new()), TIGHT, 60);
}

#[test]
fn postgres() {
    let Some(cluster) = Cluster::shared() else { return };
    let maker = || PostgresMaker::on(cluster.clone());
    random_calls(&|| Box::new(maker()), ROOMY, 12);
    random_calls(&|| Box::new(maker()), TIGHT, 12);
}
