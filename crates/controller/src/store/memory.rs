//! Stores in memory: for tests, and for a partition whose partners keep what it knows.
//!
//! A [`MemDisk`] stands for the disk: it has what was committed and outlives the [`Store`]s that
//! are opened on it, one at a time. It can lose all, go back to an earlier moment, or fail.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Opens, Position, Result, Row, Snapshot, Store, StoreError, Totals};
use crate::model::{ControllerId, Record};

/// Runs that are remembered: as many as a store on disk has.
const RUNS_MAX: usize = 64;

/// What is on a disk; a copy of it is a backup.
#[derive(Debug, Clone, Default)]
pub struct MemTable {
    rows: BTreeMap<(u16, Vec<u8>), Row>,
    by_lsn: BTreeMap<u64, (u16, Vec<u8>)>,
    head: u64,
    floor: u64,
    /// Each run and the change behind which it began.
    runs: Vec<(u128, u64)>,
    taken: HashMap<ControllerId, Position>,
    bytes: u64,
}

impl MemTable {
    /// The records, in their order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.rows.values().map(|row| &row.record)
    }

    /// The rows whose last change is behind this one, in the order of their changes.
    pub fn rows_after(&self, lsn: u64) -> impl Iterator<Item = &Row> {
        let keys = self.by_lsn.range(lsn.saturating_add(1)..).map(|(_, key)| key);
        keys.filter_map(|key| self.rows.get(key))
    }

    /// Ends up to this change may have been purged.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The number of the last change.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The record under a kind and key.
    #[must_use]
    pub fn get(&self, kind: u16, key: &[u8]) -> Option<&Record> {
        self.rows.get(&(kind, key.to_vec())).map(|row| &row.record)
    }

    fn remove(&mut self, key: &(u16, Vec<u8>)) {
        if let Some(row) = self.rows.remove(key) {
            self.by_lsn.remove(&row.lsn);
            self.bytes = self.bytes.saturating_sub(weight(&row.record));
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(row) => {
                let key = (row.record.kind, row.record.key.clone());
                self.remove(&key);
                self.head = row.lsn;
                self.bytes += weight(&row.record);
                self.by_lsn.insert(row.lsn, key.clone());
                self.rows.insert(key, row.clone());
            }
            Change::Purge { kind, key, lsn } => {
                let key = (*kind, key.clone());
                if self.rows.get(&key).is_some_and(|row| row.lsn == *lsn) {
                    self.remove(&key);
                    self.floor = self.floor.max(*lsn);
                }
            }
            Change::Taken(partner, Some(position)) => {
                self.taken.insert(partner.clone(), *position);
            }
            Change::Taken(partner, None) => {
                self.taken.remove(partner);
            }
        }
    }

    fn reaches(&self, position: Position) -> bool {
        let Some(at) = self.runs.iter().position(|(run, _)| *run == position.run) else {
            return false;
        };
        let end = self.runs.get(at + 1).map_or(self.head, |(_, began)| *began);
        (self.floor..=end).contains(&position.lsn)
    }
}

fn weight(record: &Record) -> u64 {
    record.weight() as u64
}

/// One step of a transaction.
#[derive(Debug, Clone)]
enum Change {
    Put(Row),
    Purge { kind: u16, key: Vec<u8>, lsn: u64 },
    Taken(ControllerId, Option<Position>),
}

#[derive(Debug)]
struct Disk {
    what: String,
    table: MemTable,
    /// For the numbers of runs: it does not go back with the table, as chance does not.
    chance: u64,
    bytes_max: u64,
    is_held: bool,
    fail_next: bool,
}

/// What outlives the stores that are opened on it. Cheap to clone: all clones are one disk.
#[derive(Debug, Clone)]
pub struct MemDisk(Arc<Mutex<Disk>>);

impl MemDisk {
    /// An empty disk; `seed` makes the numbers of its runs.
    #[must_use]
    pub fn new(what: impl Into<String>, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            what: what.into(),
            table: MemTable::default(),
            chance: seed,
            bytes_max: u64::MAX,
            is_held: false,
            fail_next: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is committed now: a backup.
    #[must_use]
    pub fn backup(&self) -> MemTable {
        self.lock().table.clone()
    }

    /// Goes back to a backup. A store that is open now does not see it: close it before.
    pub fn restore(&self, backup: MemTable) {
        self.lock().table = backup;
    }

    /// Loses everything. A store that is open now does not see it: close it before.
    pub fn lose(&self) {
        self.restore(MemTable::default());
    }

    /// The next commit fails, and nothing of it is there.
    pub fn fail_next_commit(&self) {
        self.lock().fail_next = true;
    }

    /// The quota: a put that would make the table larger than this many bytes fails with `Full`.
    pub fn set_quota(&self, bytes_max: u64) {
        self.lock().bytes_max = bytes_max;
    }

    /// Looks at what is committed.
    pub fn look<T>(&self, look: impl FnOnce(&MemTable) -> T) -> T {
        look(&self.lock().table)
    }

    /// Opens it: a new run begins.
    ///
    /// # Errors
    ///
    /// `Held` while another store is open on it.
    pub fn open(&self) -> Result<MemStore> {
        let mut disk = self.lock();
        if disk.is_held {
            return Err(StoreError::Held { what: disk.what.clone() });
        }
        disk.is_held = true;
        let run = u128::from(splitmix(&mut disk.chance)) << 64 | u128::from(disk.chance);
        let head = disk.table.head;
        let runs = &mut disk.table.runs;
        runs.push((run, head));
        let excess = runs.len().saturating_sub(RUNS_MAX);
        runs.drain(..excess);
        Ok(MemStore { run, table: disk.table.clone(), changes: Vec::new(), disk: self.clone() })
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A store on a [`MemDisk`]. What is not committed vanishes with it.
#[derive(Debug)]
pub struct MemStore {
    run: u128,
    /// With the transaction that is open.
    table: MemTable,
    changes: Vec<Change>,
    disk: MemDisk,
}

impl MemStore {
    fn change(&mut self, change: Change) {
        self.table.apply(&change);
        self.changes.push(change);
    }
}

impl Drop for MemStore {
    fn drop(&mut self) {
        self.disk.lock().is_held = false;
    }
}

impl Store for MemStore {
    fn run(&self) -> u128 {
        self.run
    }

    fn head(&self) -> u64 {
        self.table.head
    }

    fn floor(&self) -> u64 {
        self.table.floor
    }

    fn reaches(&self, position: Position) -> Result<bool> {
        Ok(self.table.reaches(position))
    }

    fn get(&mut self, kind: u16, key: &[u8]) -> Result<Option<Row>> {
        Ok(self.table.rows.get(&(kind, key.to_vec())).cloned())
    }

    fn put(&mut self, record: &Record, from: Option<&ControllerId>) -> Result<u64> {
        let key = (record.kind, record.key.clone());
        let freed = self.table.rows.get(&key).map_or(0, |row| weight(&row.record));
        let bytes = self.table.bytes.saturating_sub(freed).saturating_add(weight(record));
        {
            let disk = self.disk.lock();
            if bytes > disk.bytes_max {
                return Err(StoreError::Full { what: disk.what.clone() });
            }
        }
        let lsn = self.table.head + 1;
        self.change(Change::Put(Row { lsn, from: from.cloned(), record: record.clone() }));
        Ok(lsn)
    }

    fn changes(&mut self, after: u64, count: usize, bytes: usize) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        let mut sum = 0_usize;
        for key in self.table.by_lsn.range(after.saturating_add(1)..).map(|(_, key)| key) {
            let Some(row) = self.table.rows.get(key) else { continue };
            sum = sum.saturating_add(row.record.weight());
            if rows.len() >= count || (sum > bytes && !rows.is_empty()) {
                break;
            }
            rows.push(row.clone());
        }
        Ok(rows)
    }

    fn count_after(&mut self, after: u64, most: u64) -> Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.table.by_lsn.range(after.saturating_add(1)..).take(most).count() as u64)
    }

    fn scan(&mut self, after: Option<(u16, &[u8])>, count: usize) -> Result<Vec<Row>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |(kind, key)| Excluded((kind, key.to_vec())));
        Ok(self
            .table
            .rows
            .range((from, Unbounded))
            .take(count)
            .map(|(_, row)| row.clone())
            .collect())
    }

    fn purge(&mut self, rows: &[(u16, Vec<u8>, u64)]) -> Result<()> {
        for (kind, key, lsn) in rows {
            self.change(Change::Purge { kind: *kind, key: key.clone(), lsn: *lsn });
        }
        Ok(())
    }

    fn taken(&mut self, partner: &ControllerId) -> Result<Option<Position>> {
        Ok(self.table.taken.get(partner).copied())
    }

    fn set_taken(&mut self, partner: &ControllerId, position: Option<Position>) -> Result<()> {
        self.change(Change::Taken(partner.clone(), position));
        Ok(())
    }

    fn totals(&mut self) -> Result<Totals> {
        Ok(Totals { records: self.table.rows.len() as u64, bytes: self.table.bytes })
    }

    fn commit(&mut self) -> Result<()> {
        let mut disk = self.disk.lock();
        if std::mem::take(&mut disk.fail_next) {
            let what = disk.what.clone();
            return Err(StoreError::Failed { what, cause: "the disk was told to fail".to_owned() });
        }
        for change in self.changes.drain(..) {
            disk.table.apply(&change);
        }
        Ok(())
    }

    fn snapshots(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(MemSnapshot { run: self.run, disk: self.disk.clone() }))
    }
}

/// Reads what is committed.
#[derive(Debug)]
struct MemSnapshot {
    run: u128,
    disk: MemDisk,
}

impl Snapshot for MemSnapshot {
    fn read(&mut self, each: &mut dyn FnMut(&Record) -> std::io::Result<()>) -> Result<Position> {
        // A copy, so that the writer need not wait for whoever reads.
        let (what, table) = {
            let disk = self.disk.lock();
            (disk.what.clone(), disk.table.clone())
        };
        for record in table.records() {
            each(record).map_err(|error| StoreError::Failed {
                what: what.clone(),
                cause: format!("a snapshot of it could not be written: {error}"),
            })?;
        }
        Ok(Position { run: self.run, lsn: table.head })
    }
}

/// One [`MemDisk`] per partition.
#[derive(Debug)]
pub struct MemOpens {
    seed: u64,
    folder: PathBuf,
    disks: Mutex<HashMap<ControllerId, MemDisk>>,
}

impl MemOpens {
    /// None yet. `seed` makes the numbers of runs; snapshots go below `folder`.
    #[must_use]
    pub fn new(seed: u64, folder: PathBuf) -> Self {
        Self { seed, folder, disks: Mutex::default() }
    }

    /// The disk of a partition, made if there is none.
    #[must_use]
    pub fn disk(&self, partition: &ControllerId) -> MemDisk {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seed = self.seed.wrapping_add(disks.len() as u64);
        let seed = splitmix(&mut seed);
        disks
            .entry(partition.clone())
            .or_insert_with(|| MemDisk::new(format!("the store of {partition}"), seed))
            .clone()
    }
}

impl Opens for MemOpens {
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>> {
        Ok(Box::new(self.disk(partition).open()?))
    }

    fn set_aside(&self, partition: &ControllerId) -> Result<()> {
        self.disk(partition).lose();
        Ok(())
    }

    fn folder(&self, partition: &ControllerId) -> PathBuf {
        self.folder.join(partition.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;

    fn record(key: &str, rank: u8) -> Record {
        Record { kind: 7, key: key.into(), rank: vec![rank], body: vec![rank] }
    }

    fn partner() -> ControllerId {
        "partner".parse().unwrap()
    }

    #[test]
    fn what_is_not_committed_vanishes_with_the_store() {
        let disk = MemDisk::new("it", 1);
        let mut store = disk.open().unwrap();
        store.put(&record("a", 1), None).unwrap();
        store.commit().unwrap();
        store.put(&record("a", 2), Some(&partner())).unwrap();
        store.put(&record("b", 1), None).unwrap();
        store.set_taken(&partner(), Some(Position { run: 1, lsn: 1 })).unwrap();
        assert_eq!(store.get(7, b"a").unwrap().unwrap().lsn, 2);
        assert_eq!(disk.look(|table| table.records().count()), 1);
        assert!(matches!(disk.open(), Err(StoreError::Held { .. })));
        drop(store);
        let mut store = disk.open().unwrap();
        assert_eq!(store.head(), 1);
        assert_eq!(store.get(7, b"a").unwrap().unwrap().record, record("a", 1));
        assert_eq!(store.get(7, b"b").unwrap(), None);
        assert_eq!(store.taken(&partner()).unwrap(), None);
        assert_eq!(store.totals().unwrap().records, 1);
    }

    #[test]
    fn a_commit_that_was_told_to_fail_leaves_nothing() {
        let disk = MemDisk::new("it", 1);
        let mut store = disk.open().unwrap();
        store.put(&record("a", 1), None).unwrap();
        disk.fail_next_commit();
        assert!(matches!(store.commit(), Err(StoreError::Failed { .. })));
        drop(store);
        assert_eq!(disk.open().unwrap().totals().unwrap(), Totals::default());
    }

    #[test]
    fn positions_are_reached_in_their_run_only_and_never_below_the_floor() {
        let disk = MemDisk::new("it", 1);
        let mut store = disk.open().unwrap();
        let first = store.run();
        for n in 0..4 {
            store.put(&record(&n.to_string(), 1), None).unwrap();
        }
        store.commit().unwrap();
        let backup = disk.backup();
        store.put(&record("later", 1), None).unwrap();
        store.commit().unwrap();
        let at = |run, lsn| Position { run, lsn };
        assert!(store.reaches(at(first, 5)).unwrap() && !store.reaches(at(first, 6)).unwrap());
        drop(store);
        disk.restore(backup);
        let mut store = disk.open().unwrap();
        assert_ne!(store.run(), first);
        assert!(!store.reaches(at(first, 5)).unwrap(), "that change was lost");
        assert!(store.reaches(at(first, 4)).unwrap());
        assert!(store.reaches(at(store.run(), 4)).unwrap());
        assert!(!store.reaches(at(77, 1)).unwrap());
        store.purge(&[(7, b"1".to_vec(), 2), (7, b"3".to_vec(), 1)]).unwrap();
        assert_eq!((store.floor(), store.totals().unwrap().records), (2, 3));
        assert!(!store.reaches(at(first, 1)).unwrap() && store.reaches(at(first, 2)).unwrap());
    }

    #[test]
    fn changes_come_in_their_order_within_both_bounds() {
        let disk = MemDisk::new("it", 1);
        let mut store = disk.open().unwrap();
        for key in ["c", "a", "b", "c"] {
            store.put(&record(key, 1), None).unwrap();
        }
        let keys = |rows: Vec<Row>| -> Vec<(u64, Vec<u8>)> {
            rows.into_iter().map(|row| (row.lsn, row.record.key)).collect()
        };
        let all = vec![(2, b"a".to_vec()), (3, b"b".to_vec()), (4, b"c".to_vec())];
        assert_eq!(keys(store.changes(0, 9, 9999).unwrap()), all);
        assert_eq!(keys(store.changes(2, 1, 9999).unwrap()), all[1..2]);
        assert_eq!(keys(store.changes(0, 9, 1).unwrap()), all[..1]);
        assert_eq!(store.count_after(2, 9).unwrap(), 2);
        assert_eq!(store.count_after(0, 2).unwrap(), 2);
        assert_eq!(keys(store.scan(None, 9).unwrap()), all);
        assert_eq!(keys(store.scan(Some((7, b"a")), 1).unwrap()), all[1..2]);
        let mut seen = 0;
        store.commit().unwrap();
        let mut snapshots = store.snapshots().unwrap();
        store.put(&record("z", 1), None).unwrap();
        let at = snapshots
            .read(&mut |_| {
                seen += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!((seen, at), (3, Position { run: store.run(), lsn: 4 }));
    }

    #[test]
    fn a_quota_refuses_a_put_and_leaves_the_transaction() {
        let opens = MemOpens::new(1, "/nowhere".into());
        let home = partner();
        let mut store = opens.open(&home).unwrap();
        opens.disk(&home).set_quota(80);
        store.put(&record("a", 1), None).unwrap();
        store.put(&record("b", 1), None).unwrap();
        assert!(matches!(store.put(&record("c", 1), None), Err(StoreError::Full { .. })));
        store.put(&record("b", 2), None).unwrap();
        store.commit().unwrap();
        drop(store);
        assert_eq!(opens.open(&home).unwrap().totals().unwrap().records, 2);
        opens.set_aside(&home).unwrap();
        assert_eq!(opens.open(&home).unwrap().totals().unwrap().records, 0);
    }
}
