//! Snapshots that are read while the store is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::model::Standing;
use eversock_controller::store::postgres::{PostgresConfig, PostgresStores};
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Position, Quota, Store, StoreError};

use crate::cluster::PostgresMaker;
use crate::common::{
    Maker, PATIENCE, ROOMY, Scratch, SqliteMaker, home, location, on_each, record, wait_for,
};
use crate::writer::start;

const KEYS: u64 = 40;

on_each!(each_is_of_one_moment, what_is_open_is_not_in_it);

/// Each transaction gives all records the same rank; so has each snapshot one rank.
fn each_is_of_one_moment(maker: &dyn Maker) {
    each_of_many_is(maker, 20);
}

/// Often enough that a commit comes between any two steps of a reading.
#[test]
fn each_of_many_is_of_one_moment() {
    each_of_many_is(&SqliteMaker(Scratch::fast()), 1000);
}

fn each_of_many_is(maker: &dyn Maker, readings: usize) {
    let mut store = maker.open();
    let write = |store: &mut dyn Store, n: u64| {
        for key in 0..KEYS {
            store.put(&record(&key.to_string(), n, 500), None).unwrap();
        }
        store.commit().unwrap();
    };
    write(&mut *store, 1);
    let (run, mut snapshots) = (store.run(), store.snapshots().unwrap());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut ranks = Vec::new();
            let began = Instant::now();
            // Fewer where the machine is slow, but until something was written meanwhile.
            while ranks.first() == ranks.last()
                || (ranks.len() < readings && began.elapsed() < PATIENCE / 4)
            {
                assert!(began.elapsed() < PATIENCE, "{} readings", ranks.len());
                let mut seen = Vec::new();
                let at = snapshots.read(&mut |one| {
                    seen.push(one.clone());
                    // So that the writer goes on within.
                    thread::yield_now();
                    Ok(())
                });
                let first = u64::from_be_bytes(seen[0].rank[..].try_into().unwrap());
                let mut all: Vec<_> =
                    (0..KEYS).map(|key| record(&key.to_string(), first, 500)).collect();
                all.sort_by(|a, b| a.key.cmp(&b.key));
                assert_eq!(seen, all);
                assert_eq!(at.unwrap(), Position { run, lsn: first * KEYS });
                ranks.push(first);
            }
            over.store(true, Ordering::Relaxed);
            ranks
        });
        let mut n = 1;
        while !over.load(Ordering::Relaxed) && !reading.is_finished() {
            n += 1;
            write(&mut *store, n);
        }
        let ranks = reading.join().unwrap();
        assert!(ranks.is_sorted(), "{ranks:?}");
    });
}

fn what_is_open_is_not_in_it(maker: &dyn Maker) {
    let mut store = maker.open();
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    store.put(&record("a", 2, 10), None).unwrap();
    store.put(&record("b", 1, 10), None).unwrap();
    let mut snapshots = store.snapshots().unwrap();
    let mut read = || {
        let mut seen = Vec::new();
        let at = snapshots.read(&mut |one| {
            seen.push(one.clone());
            Ok(())
        });
        (at.unwrap().lsn, seen)
    };
    assert_eq!(read(), (1, vec![record("a", 1, 10)]));
    store.commit().unwrap();
    assert_eq!(read(), (3, vec![record("a", 2, 10), record("b", 1, 10)]));
}

/// Whoever reads for long does not make the log grow for ever.
#[test]
fn the_log_is_bounded() {
    let maker = SqliteMaker::new();
    let mut store = maker.opens(Quota { bytes: 1 << 20, ..ROOMY }).open(&home()).unwrap();
    let mut snapshots = store.snapshots().unwrap();
    let mut again = store.snapshots().unwrap();
    let log = || std::fs::metadata(maker.file("-wal")).unwrap().len();
    let mut write = |n: u64| {
        for key in 0..8 {
            store.put(&record(&key.to_string(), n, 60_000), None).unwrap();
        }
        store.commit().unwrap();
    };
    for n in 0..60 {
        write(n);
    }
    assert!(log() < 8 << 20, "{}", log());
    let (begun, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            snapshots.read(&mut |_| {
                begun.store(true, Ordering::Relaxed);
                wait_for("leave to go on", || go_on.load(Ordering::Relaxed));
                Ok(())
            })
        });
        wait_for("a reader", || begun.load(Ordering::Relaxed));
        let mut n = 100;
        while log() <= 64 << 20 {
            n += 1;
            write(n);
        }
        go_on.store(true, Ordering::Relaxed);
        let said = reading.join().unwrap().unwrap_err();
        assert!(matches!(&said, StoreError::Failed { cause, .. } if cause.contains("log")));
        for n in 0..20 {
            write(n);
        }
        assert!(log() < 8 << 20, "{}", log());
        again.read(&mut |_| Ok(())).unwrap();
    });
}

/// Who is closed during a reading need not wait for it for long, and is opened anew beside it.
#[test]
fn a_reading_ends_with_its_store() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    for n in 0..20 {
        store.put(&record(&n.to_string(), n, 100), None).unwrap();
    }
    store.commit().unwrap();
    let mut snapshots = store.snapshots().unwrap();
    let mut store = Some(store);
    let said = snapshots.read(&mut |_| {
        store = None;
        Ok(())
    });
    assert!(matches!(said, Err(StoreError::Failed { .. })), "{said:?}");
    drop(maker.open());
    assert!(snapshots.read(&mut |_| Ok(())).is_err());
}

/// What the child of [`large_tables`] is to do: "sqlite\tFOLDER" or
/// "postgres\tPREFIX\tPARAMS\tFOLDER".
const ROLE: &str = "EVERSOCK_LARGE_ROLE";
const MANY: u64 = 100_000;

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Fills a store and reads a snapshot of it; says by how many KiB the memory grew meanwhile.
fn read_a_large_table(role: &str) {
    let fields: Vec<&str> = role.split('\t').collect();
    let opens: Box<dyn Opens> = match fields[0] {
        "sqlite" => Box::new(SqliteStores::new(fields[1].as_ref(), ROOMY)),
        _ => Box::new(PostgresStores::new(
            PostgresConfig {
                params: fields[2].to_owned(),
                prefix: fields[1].to_owned(),
                call_timeout: Duration::from_secs(60),
                folder: fields[3].into(),
            },
            ROOMY,
        )),
    };
    let mut store = opens.open(&home()).unwrap();
    for n in 0..MANY {
        let device = format!("device-{:06}", n * 7919 % MANY);
        store.put(&location(&device, n + 1, Standing::Registered, 200), None).unwrap();
        if n % 512 == 511 {
            store.commit().unwrap();
        }
    }
    store.commit().unwrap();
    // The peak counts from here on.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let (mut count, mut last) = (0, Vec::new());
    let at = store.snapshots().unwrap().read(&mut |one| {
        assert!(one.key > last);
        last.clone_from(&one.key);
        count += 1;
        Ok(())
    });
    assert_eq!((at.unwrap().lsn, count), (MANY, MANY));
    println!("grown {}", memory("VmHWM").saturating_sub(before));
}

#[test]
fn large_tables() {
    if let Ok(role) = std::env::var(ROLE) {
        return read_a_large_table(&role);
    }
    let maker = SqliteMaker::new();
    large_table(&format!("sqlite\t{}", maker.0.path().display()));
    // More than 20 MB are in it, and it opens as fast as an empty one.
    let began = Instant::now();
    let store = maker.open();
    assert!(store.head() == MANY && began.elapsed() < PATIENCE);
    drop(store);
    let Some(maker) = PostgresMaker::new() else { return };
    let PostgresConfig { prefix, params, folder, .. } = &maker.config;
    large_table(&format!("postgres\t{prefix}\t{params}\t{}", folder.display()));
    assert_eq!(maker.open().totals().unwrap().records, MANY);
}

fn large_table(role: &str) {
    let mut child = start("beside::large_tables", ROLE, role, &[]);
    let mut grown = None;
    while let Some(line) = child.line() {
        if let Some(number) = line.split("grown ").nth(1) {
            grown = Some(number.trim().parse::<u64>().unwrap());
        }
    }
    let grown = grown.expect("the child says it");
    assert!(grown < 6 << 10, "{grown} KiB");
}
