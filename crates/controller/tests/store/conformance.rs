//! What every store promises, each by itself.

use eversock_controller::model::Standing;
use eversock_controller::store::{Position, Quota, StoreError};

use crate::common::{
    KIND, Maker, ROOMY, home, location, named, on_each, record, records, snapshot,
};

on_each!(
    what_is_not_committed_vanishes,
    one_process_has_it,
    partitions_do_not_meet,
    a_new_one_begins_where_one_was_set_aside,
    runs_are_told_apart_and_old_ones_forgotten,
    large_records,
    a_snapshot_that_cannot_be_written,
);

fn what_is_not_committed_vanishes(maker: &dyn Maker) {
    let partner = named("partner");
    let mut store = maker.open();
    store.put(&record("a", 1, 10), Some(&partner)).unwrap();
    store.commit().unwrap();
    let position = Position { run: 5, lsn: 7 };
    store.put(&record("a", 2, 20), None).unwrap();
    store.put(&record("b", 1, 10), None).unwrap();
    store.purge(&[(KIND, b"a".to_vec(), 2)]).unwrap();
    store.set_taken(&partner, Some(position)).unwrap();
    assert_eq!((store.head(), store.floor()), (3, 2));
    drop(store);
    let mut store = maker.open();
    assert_eq!((store.head(), store.floor(), store.totals().unwrap().records), (1, 0, 1));
    let row = store.get(KIND, b"a").unwrap().unwrap();
    assert_eq!((row.lsn, row.from, row.record), (1, Some(partner.clone()), record("a", 1, 10)));
    assert_eq!(store.taken(&partner).unwrap(), None);
    // A purged head is not given again.
    assert_eq!(store.put(&record("b", 1, 10), None).unwrap(), 2);
    store.purge(&[(KIND, b"b".to_vec(), 2)]).unwrap();
    store.commit().unwrap();
    drop(store);
    assert_eq!(maker.open().put(&record("b", 1, 10), None).unwrap(), 3);
}

fn one_process_has_it(maker: &dyn Maker) {
    let mut store = maker.open();
    let opens = maker.opens(ROOMY);
    let second = opens.open(&home()).err();
    assert!(matches!(second, Some(StoreError::Held { .. })), "{second:?}");
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    drop(store);
    assert_eq!(maker.open().head(), 1);
}

fn partitions_do_not_meet(maker: &dyn Maker) {
    let long = ["x".repeat(63), "x".repeat(64)];
    let names = ["a", "A", "a.db", "a.db-wal", ".", "..", "-", &long[0], &long[1]];
    let opens = maker.opens(ROOMY);
    let mut stores: Vec<_> = names.iter().map(|name| opens.open(&named(name)).unwrap()).collect();
    for (n, store) in (1..).zip(&mut stores) {
        for rank in 0..n {
            store.put(&record("a", rank, 10), None).unwrap();
        }
        store.commit().unwrap();
    }
    drop(stores);
    for (n, name) in (1..).zip(names) {
        assert_eq!(opens.open(&named(name)).unwrap().head(), n);
    }
}

fn a_new_one_begins_where_one_was_set_aside(maker: &dyn Maker) {
    let opens = maker.opens(ROOMY);
    for n in 0..6 {
        let mut store = opens.open(&home()).unwrap();
        assert_eq!((store.head(), store.totals().unwrap().records), (0, 0), "{n}");
        store.put(&record("a", n, 10), None).unwrap();
        store.commit().unwrap();
        drop(store);
        opens.set_aside(&home()).unwrap();
    }
    opens.set_aside(&home()).unwrap();
    assert_eq!(opens.open(&home()).unwrap().head(), 0);
}

fn runs_are_told_apart_and_old_ones_forgotten(maker: &dyn Maker) {
    let mut runs = Vec::new();
    for n in 0..70 {
        let mut store = maker.open();
        runs.push(Position { run: store.run(), lsn: n + 1 });
        store.put(&record("a", n, 10), None).unwrap();
        store.commit().unwrap();
    }
    let store = maker.open();
    for (n, at) in runs.iter().enumerate() {
        // 63, and the one that has just begun.
        assert_eq!(store.reaches(*at).unwrap(), n >= 7, "{n}");
        assert!(!store.reaches(Position { lsn: at.lsn + 1, ..*at }).unwrap());
    }
}

fn large_records(maker: &dyn Maker) {
    let mut store = maker.open();
    let large = |n| record(&format!("{}{n}", "k".repeat(255)), n, 64 << 10);
    for n in 0..9 {
        store.put(&large(n), None).unwrap();
    }
    store.put(&record("", 1, 0), None).unwrap();
    store.commit().unwrap();
    assert_eq!(records(store.changes(0, 100, 1).unwrap()), [large(0)]);
    assert_eq!(records(store.changes(0, 100, 200 << 10).unwrap()), [large(0), large(1), large(2)]);
    assert_eq!(store.scan(None, 100).unwrap().len(), 10);
}

fn a_snapshot_that_cannot_be_written(maker: &dyn Maker) {
    let mut store = maker.open();
    for n in 0..9 {
        store.put(&record(&n.to_string(), n, 10), None).unwrap();
    }
    store.commit().unwrap();
    let mut seen = 0;
    let refused = store.snapshots().unwrap().read(&mut |_| {
        seen += 1;
        if seen == 3 { Err(std::io::Error::other("no room there")) } else { Ok(()) }
    });
    let said = refused.unwrap_err();
    assert!(matches!(&said, StoreError::Failed { cause, .. } if cause.contains("no room there")));
    assert_eq!(seen, 3);
    assert_eq!(snapshot(&*store).unwrap().1.len(), 9);
}

/// Over the quota, what makes room and what takes none goes on.
pub(crate) fn a_quota(maker: &dyn Maker) {
    let registered = |n: u64, len| location(&format!("d{n}"), n + 1, Standing::Registered, len);
    let weight = registered(1, 100).weight() as u64;
    let opens = maker.opens(Quota { records: 10, bytes: 5 * weight });
    let mut store = opens.open(&home()).unwrap();
    let full = |result| assert!(matches!(result, Err(StoreError::Full { .. })), "{result:?}");
    for n in 0..5 {
        store.put(&registered(n, 100), None).unwrap();
    }
    full(store.put(&registered(5, 0), None));
    full(store.put(&registered(0, 101), None));
    // The transaction stands.
    store.put(&registered(0, 100), None).unwrap();
    let end = |n: u64, len| location(&format!("d{n}"), n + 1, Standing::Expired, len);
    store.put(&end(1, 100), None).unwrap();
    store.put(&end(2, 300), None).unwrap();
    full(store.put(&end(9, 10), None));
    store.commit().unwrap();
    drop(store);

    // A smaller quota refuses what grows and nothing else.
    let opens = maker.opens(Quota { records: 2, bytes: weight });
    let mut store = opens.open(&home()).unwrap();
    assert_eq!(store.totals().unwrap().bytes, 5 * weight + 200);
    full(store.put(&registered(3, 101), None));
    store.put(&registered(3, 10), None).unwrap();
    let rows: Vec<_> = store.scan(None, 4).unwrap();
    let rows: Vec<_> =
        rows.into_iter().map(|row| (row.record.kind, row.record.key, row.lsn)).collect();
    store.purge(&rows).unwrap();
    full(store.put(&registered(7, 100), None));
    store.purge(&[(1, b"d4".to_vec(), 5)]).unwrap();
    store.put(&registered(7, 100), None).unwrap();
    store.commit().unwrap();
    assert_eq!(store.totals().unwrap().records, 1);
}

#[test]
fn sqlite_quota() {
    a_quota(&crate::common::SqliteMaker::new());
}

#[test]
fn postgres_quota() {
    let Some(maker) = crate::cluster::PostgresMaker::new() else { return };
    a_quota(&maker);
}
