//! What the tests share: places to work in, records, and the stores under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::model::{ControllerId, Location, Record, Standing, kind};
use eversock_controller::store::memory::MemOpens;
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Quota, Result, Row, Store};

/// The longest that anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const ROOMY: Quota = Quota { records: 1 << 40, bytes: 1 << 40 };
/// The kind of records that no version knows.
pub(crate) const KIND: u16 = 700;

/// The partition of most tests.
pub(crate) fn home() -> ControllerId {
    "home.1".parse().unwrap()
}

pub(crate) fn named(name: &str) -> ControllerId {
    name.parse().unwrap()
}

/// A number that no other test of this run has.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A folder that goes with its test.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Where syncs cost nothing, if there is such a place.
    pub(crate) fn fast() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::within(memory) } else { Self::new() }
    }

    fn within(folder: &Path) -> Self {
        let name = format!("evs-table-{}-{}", std::process::id(), unique());
        let path = folder.join(name);
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
    fn opens(&self, quota: Quota) -> Box<dyn Opens>;

    fn open(&self) -> Box<dyn Store> {
        self.opens(ROOMY).open(&home()).unwrap()
    }
}

pub(crate) struct SqliteMaker(pub(crate) Scratch);

impl SqliteMaker {
    pub(crate) fn new() -> Self {
        Self(Scratch::new())
    }

    pub(crate) fn stores(&self) -> SqliteStores {
        SqliteStores::new(self.0.path(), ROOMY)
    }

    /// The file of the store, or what lies beside it.
    pub(crate) fn file(&self, suffix: &str) -> PathBuf {
        self.0.path().join(format!("{}.db{suffix}", home()))
    }
}

impl Maker for SqliteMaker {
    fn opens(&self, quota: Quota) -> Box<dyn Opens> {
        Box::new(SqliteStores::new(self.0.path(), quota))
    }
}

pub(crate) struct MemMaker(Arc<MemOpens>);

impl MemMaker {
    pub(crate) fn new() -> Self {
        Self(Arc::new(MemOpens::new(unique(), "/nowhere".into())))
    }
}

/// The same disks each time.
struct Same(Arc<MemOpens>);

impl Opens for Same {
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>> {
        self.0.open(partition)
    }

    fn set_aside(&self, partition: &ControllerId) -> Result<()> {
        self.0.set_aside(partition)
    }

    fn folder(&self, partition: &ControllerId) -> PathBuf {
        self.0.folder(partition)
    }
}

impl Maker for MemMaker {
    fn opens(&self, _roomy: Quota) -> Box<dyn Opens> {
        Box::new(Same(Arc::clone(&self.0)))
    }
}

/// Bytes that follow from a number, and no other number's are like them.
pub(crate) fn bytes(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

pub(crate) fn record(key: &str, rank: u64, len: usize) -> Record {
    let rank_bytes = rank.to_be_bytes().to_vec();
    Record { kind: KIND, key: key.into(), rank: rank_bytes, body: bytes(rank, len) }
}

/// Where a device is; its address is so long.
pub(crate) fn location(device: &str, seq: u64, standing: Standing, address: usize) -> Record {
    let location = Location {
        device: device.parse().unwrap(),
        owner: home(),
        seq,
        version: 1,
        standing,
        nonce: seq,
        lease: Duration::from_secs(60),
        generation: 0,
        address: bytes(seq, address),
    };
    let record = location.to_record();
    assert_eq!(record.kind, kind::LOCATION);
    record
}

/// All that a snapshot has, and where it was taken.
pub(crate) fn snapshot(
    store: &dyn Store,
) -> Result<(eversock_controller::store::Position, Vec<Record>)> {
    let mut records = Vec::new();
    let position = store.snapshots()?.read(&mut |record| {
        records.push(record.clone());
        Ok(())
    })?;
    Ok((position, records))
}

pub(crate) fn records(rows: Vec<Row>) -> Vec<Record> {
    rows.into_iter().map(|row| row.record).collect()
}

/// A test for each store there is.
macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test]
            fn $name() {
                super::$name(&crate::common::MemMaker::new());
            })*
        }
        mod sqlite {
            $(#[test]
            fn $name() {
                super::$name(&crate::common::SqliteMaker::new());
            })*
        }
        mod postgres {
            $(#[test]
            fn $name() {
                let Some(maker) = crate::cluster::PostgresMaker::new() else { return };
                super::$name(&maker);
            })*
        }
    };
}
pub(crate) use on_each;
