//! Disks that are full or that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eversock_spool::record::Record;
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{Appended, Batch, Known, Quota, SpoolReader, SpoolStore, StoreError};

use crate::common::{
    Maker, PAIR, Scratch, SqliteMaker, appends, assert_sound, done, ends, keyed, payload, skip,
    unique,
};
use crate::crash::Promised;
use crate::writer::{Role, Said};

/// A disk of so many MiB.
struct SmallDisk {
    at: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    fn new(mebibytes: u32) -> Option<Self> {
        let scratch = Scratch::new();
        let at = scratch.path().join("disk");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "evs-store"])
            .arg(&at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { at, _scratch: scratch });
        }
        skip("no small disk can be mounted here (not root?)");
        None
    }

    fn file(&self) -> PathBuf {
        self.at.join("orders.db")
    }

    /// Takes up all room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.at.join(format!("filler-{}", unique()));
        let block = vec![7; 64 << 10];
        let mut file = fs::File::create(&path).unwrap();
        let mut part = block.len();
        while part > 0 {
            if std::io::Write::write_all(&mut file, &block[..part]).is_err() {
                part /= 2;
            }
        }
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.at)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

const QUOTA: Quota = Quota { records: 1 << 40, bytes: 20 << 20 };

fn open(file: &Path) -> SqliteStore {
    SqliteStore::open(file, PAIR, QUOTA).unwrap()
}

fn sized(n: u64) -> Record {
    keyed(n, vec![1, 2, 3], payload(n, 3000))
}

/// Appends in batches of eight until the disk is full: how many records it has taken.
fn until_full(store: &mut dyn SpoolStore, from: u64) -> u64 {
    let mut n = from;
    loop {
        match store.commit(&appends((n..n + 8).map(sized))) {
            Ok(results) => {
                assert!(results.iter().all(|one| matches!(one, Appended::New { .. })));
                n += 8;
            }
            Err(StoreError::Full { .. }) => return n - from,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::new(12) else { return };
    let mut store = open(&disk.file());
    let kept = until_full(&mut store, 0);
    assert!(kept > 500, "{kept}");
    assert!(until_full(&mut store, 50_000) == 0, "full stays full");
    let filler = disk.fill();

    // What was acknowledged is there, what was refused is not.
    let mut reader = SqliteStore::open_reader(&disk.file()).unwrap();
    let waiting = |reader: &mut dyn SpoolReader| {
        let found = reader.pending(0, 100_000, u64::MAX).unwrap();
        assert!(found.iter().all(|one| matches!(one, eversock_spool::store::Found::Whole { .. })));
        found.len() as u64
    };
    assert_eq!(waiting(&mut reader), kept);
    assert_eq!(reader.find(sized(kept).id).unwrap(), None);

    // All of it drains, though nothing is free. Each end is a transaction of its own.
    for lsn in 1..=kept {
        store.commit(&ends([(lsn, done(b"ok"))])).unwrap();
    }
    assert_eq!(store.totals().unwrap().pending, 0);
    assert_sound(&mut reader);

    // The drained file has room for the reserve, and for new records.
    let again = until_full(&mut store, 100_000);
    assert!(again > 300, "{again}");
    fs::remove_file(filler).unwrap();
    for lsn in 1..=again {
        store.commit(&ends([(kept + lsn, done(b"ok"))])).unwrap();
    }
    let again = until_full(&mut store, 200_000);
    assert!(again > 300, "{again}");
    assert_eq!(store.totals().unwrap().pending, again);
    let waiting = reader.pending(0, 100_000, u64::MAX).unwrap();
    for one in &waiting {
        store.commit(&ends([(one.lsn(), done(b"ok"))])).unwrap();
    }
    drop(reader);
    drop(store);
    assert_eq!(disk.names(), ["orders.db", "orders.lock", "orders.reserve"]);
}

/// A transaction that is larger than the reserve usually is: what it leaves in the log has to find
/// room in the file as well, and the ends after it.
#[test]
fn a_full_disk_after_a_large_record() {
    let Some(disk) = SmallDisk::new(32) else { return };
    let large = |n| keyed(n, vec![1], payload(n, 6 << 20));
    // From a disk with room for none of it, to one with room for all.
    let mut all = Vec::new();
    for room in [2, 5, 7, 9, 12, 16] {
        let mut store = open(&disk.file());
        let first = store.totals().unwrap().last_lsn;
        store.commit(&appends((0..300).map(|n| sized(room * 1000 + n)))).unwrap();
        let filler = disk.fill();
        fs::File::options()
            .write(true)
            .open(&filler)
            .unwrap()
            .set_len(fs::metadata(&filler).unwrap().len().saturating_sub(room << 20))
            .unwrap();
        let accepted = match store.commit(&appends([large(room * 1000 + 999)])) {
            Ok(_) => 1,
            Err(StoreError::Full { .. }) => 0,
            Err(other) => panic!("{other}"),
        };
        let rest = disk.fill();
        for lsn in first + 1..=first + 300 + accepted {
            store.commit(&ends([(lsn, done(b"ok"))])).unwrap();
        }
        assert_eq!(store.totals().unwrap().pending, 0);
        all.push(accepted);
        drop(store);
        assert_sound(&mut SqliteStore::open_reader(&disk.file()).unwrap());
        fs::remove_file(filler).unwrap();
        fs::remove_file(rest).unwrap();
        for name in ["orders.db", "orders.reserve"] {
            fs::remove_file(disk.at.join(name)).unwrap();
        }
    }
    assert_eq!((all.first(), all.last()), (Some(&0), Some(&1)), "{all:?}");
}

#[test]
fn long_answers_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(12) else { return };
    let mut store = open(&disk.file());
    let kept = until_full(&mut store, 0);
    let _filler = disk.fill();
    let long = payload(1, 3 << 20);
    let all = (1..=kept).map(|lsn| (lsn, done(if lsn % 100 == 0 { &long } else { b"short" })));
    store.commit(&ends(all)).unwrap();
    assert_eq!(store.totals().unwrap().pending, 0);
    let mut reader = SqliteStore::open_reader(&disk.file()).unwrap();
    let known = |reader: &mut dyn SpoolReader, n| reader.find(sized(n).id).unwrap();
    let ended =
        |lsn, end| Some(Known::Ended { lsn, end, fingerprint: sized(lsn - 1).fingerprint() });
    assert_eq!(known(&mut reader, 0), ended(1, done(b"short")));
    assert_eq!(known(&mut reader, 99), ended(100, done(b"")));
}

#[test]
fn a_front_that_starts_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let mut store = open(&disk.file());
    let kept = until_full(&mut store, 0);
    drop(store);
    let filler = disk.fill();
    let mut store = open(&disk.file());
    assert_eq!(store.totals().unwrap().pending, kept);
    for lsn in 1..=kept {
        store.commit(&ends([(lsn, done(b""))])).unwrap();
    }
    drop(store);
    // Now even the reserve is gone, and SQLite has no room for its log.
    let more = disk.fill();
    let refused = SqliteStore::open(&disk.file(), PAIR, QUOTA);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    fs::remove_file(filler).unwrap();
    fs::remove_file(more).unwrap();
    let mut store = open(&disk.file());
    store.commit(&appends([sized(1_000_000)])).unwrap();
    drop(store);
    assert_eq!(disk.names(), ["orders.db", "orders.lock", "orders.reserve"]);
}

#[test]
fn a_new_spool_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(1) else { return };
    let filler = disk.fill();
    let opened = SqliteStore::open(&disk.file(), PAIR, QUOTA);
    assert!(matches!(opened, Err(StoreError::Full { .. })), "{opened:?}");
    assert_eq!(disk.names().iter().filter(|name| name.starts_with("orders.db")).count(), 0);
    fs::remove_file(filler).unwrap();
    // Room for the file, and none for the reserve: it opens, and takes nothing.
    let mut store = open(&disk.file());
    let refused = store.commit(&appends([sized(1)]));
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    store.commit(&Batch::default()).unwrap();
}

/// A disk that fails syncs: those with these numbers (as strace counts them), of all that a writer
/// makes.
fn syncs_fail(which: &str) -> (Promised, Vec<Said>) {
    let maker = SqliteMaker::new();
    drop(maker.open());
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={which}");
    let log = maker.0.path().join("strace");
    let under = [
        "strace",
        "-f",
        "-qq",
        "-o",
        log.to_str().unwrap(),
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        &inject,
    ];
    let said = Role::sqlite(&maker.file(), 0, 40).start(&under).rest();
    assert!(fs::read_to_string(&log).unwrap().contains("EIO"), "nothing failed at {which}");
    let mut promised = Promised::default();
    said.iter().cloned().for_each(|said| promised.add(said));
    let mut reader = maker.reader();
    promised.verify(&mut *reader, 0);
    drop(maker.open());
    promised.verify(&mut *reader, 0);
    assert_sound(&mut *reader);
    (promised, said)
}

fn strace_is_missing() -> bool {
    let missing = Command::new("strace").arg("-V").output().is_err();
    if missing {
        skip("there is no strace here");
    }
    missing
}

#[test]
fn a_disk_that_fails_once() {
    if strace_is_missing() {
        return;
    }
    let mut recovered = 0;
    for which in 8..20 {
        let (_, said) = syncs_fail(&which.to_string());
        let failed = said.iter().position(|said| matches!(said, Said::Refused(_)));
        let after = failed.map_or(&said[..], |at| &said[at..]);
        if said.contains(&Said::Over) && after.iter().any(|said| matches!(said, Said::Kept(..))) {
            recovered += 1;
        }
    }
    assert_eq!(recovered, 12, "whoever had opened the file went on after the error");
}

#[test]
fn a_disk_that_fails_for_good() {
    if strace_is_missing() {
        return;
    }
    for from in [10, 15] {
        let (promised, said) = syncs_fail(&format!("{from}+"));
        let doubtful =
            said.iter().filter(|said| matches!(said, Said::Refused(_) | Said::Unknown(_))).count();
        assert!(doubtful > 50, "{doubtful}");
        // At most eight with each sync that was one.
        assert!(promised.kept() < 8 * from, "acknowledged without a sync: {}", promised.kept());
        assert_eq!(said.last(), Some(&Said::Over));
    }
}
