//! What a partner's snapshot brings into the table.

use super::super::load::Load;
use super::super::{Merge, Step, Sync};
use super::world::{merge, name, settings};
use crate::limits::CHUNK_BYTES;
use crate::model::{ControllerId, Record};
use crate::shard::output::SyncState;
use crate::shard::{Event, Millis, Output};
use crate::store::memory::{MemDisk, MemStore};
use crate::store::{self, Position, Store};
use crate::wire::peer::{Manifest, SyncMessage};

fn record(rank: u8) -> Record {
    Record { kind: 9, key: b"k".to_vec(), rank: vec![rank], body: Vec::new() }
}

/// The row of a table that has a record of rank 1 made here, once a snapshot has brought one of
/// rank 5.
fn after_snapshot(merge: &mut Merge<'_>) -> store::Row {
    let mut store = MemDisk::new("it", 1).open().unwrap();
    store.put(&record(1), None).unwrap();
    let (settings, mut out) = (settings(1000), Vec::new());
    let mut step = Step { now: 1, store: &mut store, settings: &settings, out: &mut out };
    let mut load = Load::new(1);
    assert!(!load.pump(&mut step, &name(1), 0, 7).unwrap());
    load.records(&mut step, merge, &name(1), 0, &[record(5)]).unwrap().unwrap();
    store.get(9, b"k").unwrap().unwrap()
}

#[test]
fn a_record_of_a_snapshot_that_is_left_out_does_not_come_in_by_another_way() {
    let row = after_snapshot(&mut |_: &mut dyn Store, _: &Record, _: &ControllerId| Ok(()));
    assert_eq!(row.record, record(1));
}

#[test]
fn what_a_record_of_a_snapshot_became_on_its_way_in_stays() {
    let mut merge = |store: &mut dyn Store, _: &Record, _: &ControllerId| {
        store.put(&record(6), None).map(|_| ())
    };
    assert_eq!(after_snapshot(&mut merge).record, record(6));
}

#[test]
fn what_a_snapshot_knows_better_is_told_to_its_donor_too() {
    let mut merge = |store: &mut dyn Store, record: &Record, from: &ControllerId| {
        store.put(record, Some(from)).map(|_| ())
    };
    let row = after_snapshot(&mut merge);
    assert_eq!((row.record, row.from), (record(5), None));
}

/// A side whose store has a quota, and a partner.
struct Rig {
    sync: Sync,
    disk: MemDisk,
    store: MemStore,
    now: Millis,
}

impl Rig {
    fn new() -> Self {
        let disk = MemDisk::new("it", 1);
        let store = disk.open().unwrap();
        let mut rig = Self { sync: Sync::new([name(1)]), disk, store, now: 1 };
        rig.run(|sync, step| sync.link_up(step, &name(1), Some(there(5)), None));
        rig
    }

    fn run(
        &mut self,
        what: impl FnOnce(&mut Sync, &mut Step<'_>) -> store::Result<()>,
    ) -> Vec<Output> {
        let (settings, mut out) = (settings(1000), Vec::new());
        let store = &mut self.store;
        let mut step = Step { now: self.now, store, settings: &settings, out: &mut out };
        what(&mut self.sync, &mut step).unwrap();
        self.sync.pump(&mut step).unwrap();
        out
    }

    fn say(&mut self, message: SyncMessage) -> Vec<Output> {
        self.run(|sync, step| sync.message(step, &mut merge, &name(1), message))
    }

    fn records(&mut self, records: Vec<Record>) -> Vec<Output> {
        self.run(|sync, step| sync.snapshot_records(step, &mut merge, &name(1), 7, Ok(records)))
    }

    /// Until something is put out, an hour at most.
    fn wait(&mut self) -> Vec<Output> {
        let until = self.now + 3_600_000;
        loop {
            self.now += 1000;
            let mut out = self.run(|_, _| Ok(()));
            out.retain(|out| !matches!(out, Output::Event(Event::Sync { .. })));
            if !out.is_empty() {
                return out;
            }
            assert!(self.now < until, "nothing happens");
        }
    }

    fn opened(&mut self) -> Vec<Output> {
        let now = self.now;
        self.run(|sync, _| {
            sync.snapshot_opened(now, &name(1), 7, Some(1));
            Ok(())
        })
    }
}

fn there(lsn: u64) -> Position {
    Position { run: 77, lsn }
}

fn odd(out: &[Output]) -> usize {
    out.iter().filter(|out| matches!(out, Output::Event(Event::Odd { .. }))).count()
}

fn says(out: &[Output], message: &SyncMessage) -> bool {
    out.iter().any(|out| matches!(out, Output::Sync { message: said, .. } if said == message))
}

#[test]
fn a_partner_that_tells_more_than_there_is_room_for_waits_and_nobody_else_does() {
    let mut rig = Rig::new();
    rig.disk.set_quota(1);
    for lsn in 6..50 {
        let out = rig.say(SyncMessage::Update { upto: there(lsn), records: vec![record(5)] });
        assert_eq!(odd(&out), usize::from(lsn == 6), "people are told once");
        assert!(!out.iter().any(|out| matches!(out, Output::Sync { .. })), "{out:?}");
    }
    assert_eq!(rig.store.taken(&name(1)).unwrap(), None);
    // What is lacking comes with a snapshot, for which there is no room either.
    let began = rig.now;
    assert!(says(&rig.wait(), &SyncMessage::Resync));
    assert!(rig.now - began >= 5000);
    let manifest = Manifest {
        snapshot: 7,
        at: there(49),
        bytes: CHUNK_BYTES as u64,
        chunks: 1,
        records: 1,
        digest: [0; 32],
    };
    rig.say(SyncMessage::Snapshot(manifest));
    for _ in 0..5 {
        let out = rig.opened();
        assert!(out.iter().any(|out| matches!(out, Output::ReadSnapshot { .. })), "{out:?}");
        assert!(rig.records(vec![record(5)]).is_empty());
        let began = rig.now;
        let out = rig.wait();
        assert!(matches!(&out[..], [Output::ReceiveSnapshot { .. }]), "{out:?}");
        assert!(rig.now - began >= 5000);
    }
    rig.disk.set_quota(u64::MAX);
    rig.opened();
    rig.records(vec![record(5)]);
    let out = rig.records(Vec::new());
    assert!(says(&out, &SyncMessage::Loaded { snapshot: 7, at: there(49) }), "{out:?}");
    assert_eq!(rig.store.taken(&name(1)).unwrap(), Some(there(49)));
}

#[test]
fn what_an_absent_partner_lacks_is_told_rightly_though_it_is_seldom_counted() {
    let mut rig = Rig::new();
    rig.run(|sync, _| {
        sync.link_down(&name(1));
        Ok(())
    });
    for n in 1..=2000_u64 {
        let record = Record { key: n.to_be_bytes().to_vec(), ..record(1) };
        rig.run(|_, step| step.store.put(&record, None).map(|_| ()));
        let status = rig.sync.status(rig.now, &mut rig.store).unwrap();
        assert_eq!(status[0].lag, n);
        assert_eq!(rig.sync.status(rig.now, &mut rig.store).unwrap()[0].lag, n);
        let state = rig.sync.state(&name(1)).unwrap();
        if !(1001..=1001 + 1000 / 16).contains(&n) {
            let is_overflowed = state == SyncState::Overflowed;
            assert_eq!(is_overflowed, n > 1000, "{n}: {state:?}");
        }
    }
}
