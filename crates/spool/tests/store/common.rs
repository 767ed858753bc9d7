//! What the tests share: places to work in, records, and the stores under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_spool::record::Record;
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{
    Appended, Batch, Finish, NewRecord, Quota, SpoolReader, SpoolStore, StoreError,
};
use eversock_spool::{Kind, RequestId};

/// The longest that anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const ROOMY: Quota = Quota { records: 1 << 40, bytes: 1 << 40 };
pub(crate) const PAIR: &str = "orders";

/// A number that no other test of this run has.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory that goes with its test.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let name = format!("evs-store-{}-{}", std::process::id(), unique());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// Says that something is missing which a test needs: a failure in CI, a skip elsewhere.
pub(crate) fn skip(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}, and CI has to have it");
    eprintln!("SKIPPED: {what}");
}

/// Waits until something holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Opens one store again and again.
pub(crate) trait Maker {
    fn open_with(&self, quota: Quota) -> Result<Box<dyn SpoolStore>, StoreError>;
    /// As the CLI reads it.
    fn reader(&self) -> Box<dyn SpoolReader>;

    fn open(&self) -> Box<dyn SpoolStore> {
        self.open_with(ROOMY).unwrap()
    }
}

pub(crate) struct SqliteMaker(pub(crate) Scratch);

impl SqliteMaker {
    pub(crate) fn new() -> Self {
        Self(Scratch::new())
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("orders.db")
    }
}

impl Maker for SqliteMaker {
    fn open_with(&self, quota: Quota) -> Result<Box<dyn SpoolStore>, StoreError> {
        Ok(Box::new(SqliteStore::open(&self.file(), PAIR, quota)?))
    }

    fn reader(&self) -> Box<dyn SpoolReader> {
        Box::new(SqliteStore::open_reader(&self.file()).unwrap())
    }
}

/// A record with the id `n`, whose bytes follow from it.
pub(crate) fn record(n: u64) -> Record {
    let key = format!("key {}", n % 7).into_bytes();
    let payload = payload(n, (n % 600) as usize);
    keyed(n, key, payload)
}

/// Bytes that follow from a number, and no other number's are like them.
pub(crate) fn payload(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

pub(crate) fn keyed(n: u64, key: Vec<u8>, payload: Vec<u8>) -> Record {
    let kind = match n % 3 {
        0 => Kind::Write,
        1 => Kind::Delete,
        _ => Kind::Custom(7),
    };
    let id = RequestId(u128::from(n) << 64 | u128::from(n));
    Record { lsn: 0, id, kind, key, payload, epoch: 3, accepted_ms: 1_000 + n }
}

pub(crate) fn new(record: Record) -> NewRecord {
    NewRecord { record, sent: false, held: false }
}

pub(crate) fn appends(records: impl IntoIterator<Item = Record>) -> Batch {
    Batch { append: records.into_iter().map(new).collect(), ..Batch::default() }
}

pub(crate) fn ends(ends: impl IntoIterator<Item = (u64, Finish)>) -> Batch {
    Batch { finish: ends.into_iter().collect(), ..Batch::default() }
}

pub(crate) fn done(answer: &[u8]) -> Finish {
    Finish::Done { answer: answer.to_vec() }
}

/// The places of records that are new.
pub(crate) fn places(results: &[Appended]) -> Vec<u64> {
    let place = |one: &Appended| match one {
        Appended::New { lsn } => *lsn,
        other => panic!("not new: {other:?}"),
    };
    results.iter().map(place).collect()
}

/// Nothing of the store is damaged and its counters are right.
pub(crate) fn assert_sound(reader: &mut dyn SpoolReader) {
    let checked = reader.check().unwrap();
    assert!(checked.damaged.is_empty() && checked.faults.is_empty(), "{checked:?}");
}
