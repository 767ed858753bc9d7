//! Partners that say what is not so.

use super::super::{Step, Sync};
use super::world::{Chance, merge, name, settings};
use crate::limits::{
    BATCH_MAX, CHUNK_BYTES, CHUNKS_IN_FLIGHT, CHUNKS_MAX, KEY_MAX, RANK_MAX, RECORD_MAX,
    UPDATE_WINDOW,
};
use crate::model::Record;
use crate::shard::output::SyncState;
use crate::shard::{Event, Millis, Output};
use crate::store::memory::{MemDisk, MemStore};
use crate::store::{Position, Store};
use crate::wire::peer::{Manifest, SyncMessage};

const THERE: u128 = 77;
const HOUR: Millis = 3_600_000;

/// One side, and a partner that is played by the test.
struct Rig {
    sync: Sync,
    store: MemStore,
    now: Millis,
    snapshot_from: u64,
}

impl Rig {
    /// With so many records here, and a link to a partner that has taken nothing.
    fn new(records: u32) -> Self {
        let mut store = MemDisk::new("it", 1).open().unwrap();
        for n in 0..records {
            store.put(&record(n, 20), None).unwrap();
        }
        let sync = Sync::new([name(1)]);
        let mut rig = Self { sync, store, now: 1, snapshot_from: 1000 };
        rig.link_up(None);
        rig
    }

    /// The same, but the partner gets a snapshot.
    fn with_snapshot(records: u32) -> Self {
        let mut rig = Self::new(records);
        rig.snapshot_from = 0;
        rig.link_up(None);
        rig
    }

    fn run<T>(&mut self, what: impl FnOnce(&mut Sync, &mut Step<'_>) -> T) -> (T, Vec<Output>) {
        let (settings, mut out) = (settings(self.snapshot_from), Vec::new());
        let (now, store) = (self.now, &mut self.store);
        let mut step = Step { now, store, settings: &settings, out: &mut out };
        let given = what(&mut self.sync, &mut step);
        self.sync.pump(&mut step).unwrap();
        (given, out)
    }

    fn link_up(&mut self, taken: Option<Position>) -> Vec<Output> {
        let head = Position { run: THERE, lsn: 5 };
        let (done, out) = self.run(|sync, step| sync.link_up(step, &name(1), Some(head), taken));
        done.unwrap();
        out
    }

    fn say(&mut self, message: SyncMessage) -> Vec<Output> {
        let (done, out) = self.run(|sync, step| sync.message(step, &mut merge, &name(1), message));
        done.unwrap();
        out
    }

    fn wait(&mut self, by: Millis) -> Vec<Output> {
        self.now += by;
        self.run(|_, _| ()).1
    }

    fn here(&self, lsn: u64) -> Position {
        Position { run: self.store.run(), lsn }
    }

    fn taken(&mut self) -> Option<Position> {
        self.store.taken(&name(1)).unwrap()
    }

    fn built(&mut self, manifest: Manifest) -> Vec<Output> {
        self.run(|sync, _| sync.snapshot_built(&name(1), Some(manifest))).1
    }

    /// The partner offers a snapshot, and the folder has nothing of it yet.
    fn receiving(&mut self, chunks: u32) -> (Manifest, Vec<Output>) {
        let manifest = manifest(chunks);
        let out = self.say(SyncMessage::Snapshot(manifest.clone()));
        assert!(out.iter().any(|out| matches!(out, Output::ReceiveSnapshot { .. })));
        let (now, snapshot) = (self.now, manifest.snapshot);
        let opened = |sync: &mut Sync, _: &mut Step<'_>| {
            sync.snapshot_opened(now, &name(1), snapshot, Some(0));
        };
        let out = self.run(opened).1;
        (manifest, out)
    }
}

fn record(n: u32, bytes: usize) -> Record {
    Record { kind: 9, key: n.to_be_bytes().to_vec(), rank: vec![1], body: vec![0; bytes] }
}

fn manifest(chunks: u32) -> Manifest {
    Manifest {
        snapshot: 1234,
        at: Position { run: THERE, lsn: 4 },
        bytes: u64::from(chunks) * CHUNK_BYTES as u64,
        chunks,
        records: 3,
        digest: [0; 32],
    }
}

fn there(lsn: u64) -> Position {
    Position { run: THERE, lsn }
}

fn is_odd(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::Event(Event::Odd { .. })))
}

fn said(out: &[Output]) -> Vec<&SyncMessage> {
    out.iter()
        .filter_map(|out| match out {
            Output::Sync { message, .. } => Some(message),
            _ => None,
        })
        .collect()
}

fn asks_for_all(out: &[Output]) -> bool {
    said(out).contains(&&SyncMessage::Resync)
}

fn update(upto: Position, records: Vec<Record>) -> SyncMessage {
    SyncMessage::Update { upto, records }
}

#[test]
fn what_was_never_sent_is_not_taken() {
    let mut rig = Rig::new(10);
    for upto in [rig.here(11), rig.here(u64::MAX), Position { run: 1, lsn: 1 }, there(1)] {
        rig.now += 2000;
        assert!(is_odd(&rig.say(SyncMessage::Taken { upto })), "{upto:?}");
        assert_eq!(rig.sync.taken_by_all(&rig.store), 0);
    }
    let upto = rig.here(10);
    assert!(!is_odd(&rig.say(SyncMessage::Taken { upto })));
    assert_eq!(rig.sync.taken_by_all(&rig.store), 10);
    // It does not go back.
    let upto = rig.here(3);
    rig.say(SyncMessage::Taken { upto });
    assert_eq!(rig.sync.taken_by_all(&rig.store), 10);
}

#[test]
fn a_partner_that_confirms_nothing_gets_no_more_than_the_window() {
    let mut rig = Rig::new(0);
    let mut bytes = 0;
    for n in 0..500 {
        rig.store.put(&record(n, 10_000), None).unwrap();
        for message in said(&rig.wait(1)) {
            if let SyncMessage::Update { records, .. } = message {
                bytes += records.iter().map(Record::weight).sum::<usize>();
            }
        }
    }
    assert!(bytes <= UPDATE_WINDOW && bytes > UPDATE_WINDOW / 2, "{bytes}");
    rig.wait(60_000);
    assert_eq!(rig.sync.state(&name(1)), Some(SyncState::CatchUp));
}

#[test]
fn updates_out_of_bounds_are_left_out_and_all_is_asked_for() {
    let large = |key, rank, body| Record {
        kind: 9,
        key: vec![1; key],
        rank: vec![1; rank],
        body: vec![1; body],
    };
    for wrong in [
        update(there(6), (0..=BATCH_MAX as u32).map(|n| record(n, 1)).collect()),
        update(there(6), vec![large(KEY_MAX + 1, 1, 1)]),
        update(there(6), vec![large(1, RANK_MAX + 1, 1)]),
        update(there(6), vec![large(1, 1, RECORD_MAX)]),
        update(there(6), (0..10).map(|n| record(n, 60_000)).collect()),
        update(Position { run: 1, lsn: 6 }, vec![record(1, 1)]),
        update(there(u64::MAX), vec![record(1, 1)]),
    ] {
        let mut rig = Rig::new(0);
        let out = rig.say(wrong);
        assert!(is_odd(&out) && asks_for_all(&out), "{out:?}");
        assert_eq!(rig.store.totals().unwrap().records, 0);
        // Behind the gap nothing is claimed.
        let out = rig.say(update(there(7), vec![record(1, 1)]));
        assert!(said(&out).is_empty());
        assert_eq!(rig.store.totals().unwrap().records, 1);
        assert_eq!(rig.taken(), None);
    }
}

#[test]
fn changes_that_go_backwards_are_left_out() {
    let mut rig = Rig::new(0);
    let out = rig.say(update(there(6), vec![record(1, 1)]));
    assert_eq!(said(&out), [&SyncMessage::Taken { upto: there(6) }]);
    let out = rig.say(update(there(5), vec![record(2, 1)]));
    assert!(is_odd(&out) && said(&out).is_empty());
    assert_eq!(rig.taken(), Some(there(6)));
    assert_eq!(rig.store.totals().unwrap().records, 1);
}

#[test]
fn endless_nonsense_is_told_of_now_and_then_and_asks_for_few_snapshots() {
    let mut rig = Rig::new(0);
    let (mut odd, mut asked) = (0, 0);
    for _ in 0..36_000 {
        let out = rig.say(update(Position { run: 1, lsn: 6 }, vec![record(1, 1)]));
        odd += u64::from(is_odd(&out));
        asked += u64::from(asks_for_all(&out));
        asked += u64::from(asks_for_all(&rig.wait(100)));
    }
    assert!((2..=3601).contains(&odd), "{odd}");
    assert!((2..=25).contains(&asked), "{asked}");
}

#[test]
fn a_partner_that_always_wants_all_anew_gets_few_snapshots() {
    let mut rig = Rig::new(3);
    let mut builds = 0;
    let mut id = 0;
    while rig.now < HOUR {
        let mut out = rig.say(SyncMessage::Resync);
        out.extend(rig.wait(50));
        if out.iter().any(|out| matches!(out, Output::BuildSnapshot { .. })) {
            builds += 1;
            id += 1;
            let at = rig.here(3);
            let offered = rig.built(Manifest { snapshot: id, at, ..manifest(1) });
            assert!(matches!(said(&offered)[..], [SyncMessage::Snapshot(_)]));
            // Or it pretends to have it.
            if id % 2 == 0 {
                rig.say(SyncMessage::Loaded { snapshot: id, at });
            }
        }
    }
    assert!((3..=25).contains(&builds), "{builds}");
}

/// Two receive one snapshot, and one of them says that it is of no use: the other goes on.
#[test]
fn one_partner_does_not_take_the_snapshot_of_another() {
    let mut rig = Rig::new(3);
    rig.sync = Sync::new([name(1), name(2)]);
    rig.snapshot_from = 0;
    let at = rig.here(3);
    let offered = Manifest { at, ..manifest(9) };
    for partner in [name(1), name(2)] {
        let manifest = Some(offered.clone());
        rig.run(|sync, step| sync.link_up(step, &partner, Some(there(5)), None)).0.unwrap();
        rig.run(|sync, _| sync.snapshot_built(&partner, manifest));
    }
    let snapshot = offered.snapshot;
    let drops = |out: &[Output]| out.contains(&Output::DropSnapshot { snapshot });
    let out = rig.say(SyncMessage::Resync);
    assert!(!drops(&out) && out.contains(&Output::RetireSnapshot { snapshot }), "{out:?}");
    // It goes when nobody receives it any more.
    let loaded = SyncMessage::Loaded { snapshot, at };
    let out = rig.run(|sync, step| sync.message(step, &mut merge, &name(2), loaded)).1;
    assert!(drops(&out), "{out:?}");
}

/// A snapshot for which there is no room here is told of once, and not asked for every 10 s.
#[test]
fn a_snapshot_that_cannot_be_kept_is_tried_ever_more_rarely() {
    let mut rig = Rig::new(0);
    let manifest = manifest(9);
    let mut out = rig.say(SyncMessage::Snapshot(manifest.clone()));
    let (mut tries, mut told) = (0, 0);
    while rig.now < HOUR {
        let opens = |out: &Output| matches!(out, Output::ReceiveSnapshot { .. });
        if out.iter().any(opens) {
            tries += 1;
            let (now, snapshot) = (rig.now, manifest.snapshot);
            out = rig.run(|sync, _| sync.snapshot_opened(now, &name(1), snapshot, None)).1;
            told += out
                .iter()
                .filter(|out| {
                    matches!(out, Output::Event(Event::Odd { text, .. })
                if text.contains("snapshot_bytes_max"))
                })
                .count();
        }
        out = rig.wait(1000);
    }
    assert!((5..=30).contains(&tries), "{tries}");
    assert_eq!(told, 1);
}

#[test]
fn snapshots_out_of_bounds_are_not_received() {
    let good = manifest(3);
    for wrong in [
        Manifest { chunks: CHUNKS_MAX + 1, bytes: u64::MAX, ..good.clone() },
        Manifest { chunks: 4, ..good.clone() },
        Manifest { bytes: u64::MAX, ..good.clone() },
        Manifest { records: u64::MAX, ..good.clone() },
        Manifest { at: there(u64::MAX), ..good.clone() },
    ] {
        let mut rig = Rig::new(0);
        let out = rig.say(SyncMessage::Snapshot(wrong));
        assert!(is_odd(&out) && asks_for_all(&out));
        assert!(!out.iter().any(|out| matches!(out, Output::ReceiveSnapshot { .. })));
    }
}

#[test]
fn chunks_that_were_not_asked_for_are_left_out_and_damaged_ones_asked_for_again() {
    let mut rig = Rig::new(0);
    let (manifest, out) = rig.receiving(9);
    let snapshot = manifest.snapshot;
    let need = |first, count| SyncMessage::Need { snapshot, first, count };
    assert_eq!(said(&out), [&need(0, CHUNKS_IN_FLIGHT)]);
    let data = vec![5; CHUNK_BYTES];
    let crc = crc32fast::hash(&data);
    let writes = |out: &[Output]| out.iter().any(|out| matches!(out, Output::WriteChunk { .. }));
    let chunk = |snapshot, index, crc, data: &[u8]| SyncMessage::Chunk {
        snapshot,
        index,
        crc,
        data: data.to_vec(),
    };
    for (snapshot, index) in [(snapshot, CHUNKS_IN_FLIGHT), (snapshot, u32::MAX), (1, 0)] {
        rig.now += 2000;
        assert!(!writes(&rig.say(chunk(snapshot, index, crc, &data))));
    }
    let out = rig.say(chunk(snapshot, 2, crc, &data));
    assert!(writes(&out) && !is_odd(&out));
    // Once is enough.
    assert!(!writes(&rig.say(chunk(snapshot, 2, crc, &data))));
    let mut tries = 0;
    loop {
        let short = &data[usize::from(tries % 2 == 0)..];
        let out = rig.say(chunk(snapshot, 1, crc ^ 1, short));
        assert!(!writes(&out));
        if asks_for_all(&out) {
            break;
        }
        assert_eq!(said(&out), [&need(1, 1)]);
        tries += 1;
        assert!(tries < 1000, "it never gives up");
    }
    assert!(tries > 10, "{tries}");
}

#[test]
fn a_partner_asks_for_chunks_within_bounds_only() {
    let mut rig = Rig::with_snapshot(3);
    let at = rig.here(3);
    rig.built(Manifest { at, ..manifest(9) });
    let need = |first, count| SyncMessage::Need { snapshot: 1234, first, count };
    for (first, count) in [(9, 1), (0, 10), (u32::MAX, 1), (1, u32::MAX)] {
        rig.now += 2000;
        let out = rig.say(need(first, count));
        assert!(is_odd(&out) && out.len() == 1, "{out:?}");
    }
    let reads =
        |out: &[Output]| out.iter().filter(|out| matches!(out, Output::ReadChunk { .. })).count();
    rig.now += 2000;
    let out = rig.say(need(0, 9));
    assert!(is_odd(&out));
    assert_eq!(reads(&out), CHUNKS_IN_FLIGHT as usize);
    assert_eq!(reads(&rig.say(need(0, CHUNKS_IN_FLIGHT))), 0);
    // Again and again the same one.
    let mut went = 0;
    let is_gone = |out: &[Output]| said(out).contains(&&SyncMessage::Gone { snapshot: 1234 });
    loop {
        let data = Some(vec![0; CHUNK_BYTES]);
        let read = |sync: &mut Sync, step: &mut Step<'_>| {
            sync.chunk_read(step, &name(1), 1234, 0, data);
        };
        let out = rig.run(read).1;
        assert!(matches!(said(&out)[..], [SyncMessage::Chunk { .. }]));
        went += 1;
        if is_gone(&rig.say(need(0, 1))) {
            break;
        }
        assert!(went < 1000);
    }
    assert!(went > 2 * 9);
}

#[test]
fn a_snapshot_that_was_not_offered_is_not_loaded() {
    let mut rig = Rig::with_snapshot(3);
    let at = rig.here(3);
    rig.say(SyncMessage::Loaded { snapshot: 1, at });
    rig.built(Manifest { at, ..manifest(9) });
    rig.say(SyncMessage::Loaded { snapshot: 1, at });
    rig.say(SyncMessage::Loaded { snapshot: 1234, at: Position { lsn: 2, ..at } });
    assert_eq!(rig.sync.taken_by_all(&rig.store), 0);
    rig.say(SyncMessage::Loaded { snapshot: 1234, at });
    assert_eq!(rig.sync.taken_by_all(&rig.store), 3);
    rig.now += 2000;
    assert!(is_odd(&rig.say(SyncMessage::Loaded { snapshot: 1234, at })));
}

/// A message of small numbers, so that some of it fits by chance.
fn any_message(rig: &Rig, chance: &mut Chance) -> SyncMessage {
    let small = chance.below(6) as u32;
    let lsn = [small.into(), 3, u64::MAX, 1 << 63][chance.below(4) as usize];
    let run = [THERE, rig.store.run(), 0][chance.below(3) as usize];
    let upto = Position { run, lsn };
    let snapshot = [1234, 7][chance.below(2) as usize];
    let data = vec![0; [CHUNK_BYTES, 1, 0][chance.below(3) as usize]];
    match chance.below(8) {
        0 => update(upto, (0..small).map(|n| record(n, 5)).collect()),
        1 => SyncMessage::Taken { upto },
        2 => SyncMessage::Resync,
        3 => SyncMessage::Snapshot(Manifest { at: upto, snapshot, ..manifest(small) }),
        4 => SyncMessage::Need { snapshot, first: small, count: chance.below(5) as u32 },
        5 => {
            let crc = [crc32fast::hash(&data), 0][chance.below(2) as usize];
            SyncMessage::Chunk { snapshot, index: small, crc, data }
        }
        6 => SyncMessage::Gone { snapshot },
        _ => SyncMessage::Loaded { snapshot, at: upto },
    }
}

#[test]
fn whatever_a_partner_says_little_comes_of_each_word() {
    for seed in 0..300 {
        let mut chance = Chance::new(seed);
        let mut rig = if chance.one_in(2) { Rig::new(3) } else { Rig::with_snapshot(3) };
        let mut orders: Vec<Output> = Vec::new();
        for _ in 0..300 {
            let out = match chance.below(12) {
                0 => rig.wait(chance.below(20_000)),
                1 => {
                    let head = Some(there(chance.below(6)));
                    let taken = Some(rig.here(chance.below(9)));
                    let taken = taken.filter(|_| chance.one_in(2));
                    let (done, out) =
                        rig.run(|sync, step| sync.link_up(step, &name(1), head, taken));
                    done.unwrap();
                    out
                }
                2 => rig.run(|sync, _| sync.link_down(&name(1))).1,
                3..6 if !orders.is_empty() => {
                    let order = orders.swap_remove(chance.below(orders.len() as u64) as usize);
                    rig.obey(order, &mut chance)
                }
                _ => {
                    let message = any_message(&rig, &mut chance);
                    rig.say(message)
                }
            };
            assert!(out.len() <= 16, "{out:?}");
            orders.extend(out.into_iter().filter(|out| !matches!(out, Output::Sync { .. })));
            orders.truncate(50);
        }
    }
}

impl Rig {
    /// What a folder might say, or not.
    fn obey(&mut self, order: Output, chance: &mut Chance) -> Vec<Output> {
        let (now, at, works) = (self.now, self.here(3), chance.one_in(2));
        let (done, out) = self.run(|sync, step| {
            let partner = &name(1);
            match order {
                Output::BuildSnapshot { .. } => {
                    let made = Manifest { at, snapshot: 7, ..manifest(5) };
                    sync.snapshot_built(partner, works.then_some(made));
                }
                Output::ReadChunk { snapshot, index, .. } => {
                    let data = works.then(|| vec![0; CHUNK_BYTES]);
                    sync.chunk_read(step, partner, snapshot, index, data);
                }
                Output::ReceiveSnapshot { manifest, .. } => {
                    let next = works.then_some(now as u32 % 7);
                    sync.snapshot_opened(now, partner, manifest.snapshot, next);
                }
                Output::WriteChunk { snapshot, index, .. } => {
                    sync.chunk_written(now, partner, snapshot, index, works);
                }
                Output::ReadSnapshot { snapshot, .. } => {
                    let records = if works { vec![record(now as u32, 5)] } else { Vec::new() };
                    sync.snapshot_records(step, &mut merge, partner, snapshot, Ok(records))?;
                }
                _ => {}
            }
            Ok::<_, crate::store::StoreError>(())
        });
        done.unwrap();
        out
    }
}
