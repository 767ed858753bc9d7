//! A server of PostgreSQL that goes away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use eversock_spool::store::{Appended, Batch, PairState, SpoolStore, StoreError};

use crate::cluster::{Cluster, PostgresMaker};
use crate::common::{
    Maker, PAIR, PATIENCE, ROOMY, appends, assert_sound, places, record, wait_for,
};
use crate::crash::Promised;
use crate::writer::{Role, Said};

/// The server's process that has the lock of a pair.
fn holder(maker: &PostgresMaker) -> i32 {
    let mut client = maker.cluster.client();
    let sql = "SELECT a.pid FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid
               WHERE l.locktype = 'advisory' AND l.granted
               AND a.application_name LIKE 'evs spool%'";
    let mut found = None;
    wait_for("a session with the lock", || {
        found = client.query(sql, &[]).unwrap().first().map(|row| row.get(0));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_server_killed_under_load() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    drop(maker.open());
    let mut promised = Promised::default();
    let mut writer = Role::postgres(&maker.config, 0, 1_000_000).start(&[]);
    for round in 0..6 {
        // Something is promised between two deaths.
        for _ in 0..30 + round * 7 {
            promised.add(writer.next().expect("the writer goes on"));
        }
        if round % 2 == 0 {
            maker.cluster.kill();
            maker.cluster.start();
        } else {
            maker.cluster.kill_session(holder(&maker));
        }
    }
    for _ in 0..30 {
        promised.add(writer.next().expect("the writer goes on"));
    }
    writer.kill();
    let mut doubtful = 0;
    for said in writer.rest() {
        doubtful += u64::from(matches!(said, Said::Unknown(_)));
        promised.add(said);
    }
    assert_eq!(doubtful, 0, "the server came back, so it could be asked");
    let mut reader = maker.reader();
    promised.verify(&mut *reader, 0);
    assert_sound(&mut *reader);
}

#[test]
fn a_session_that_is_ended_between_two_commits() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut store = maker.open();
    let mut reader = store.reader().unwrap();
    for n in 0..5 {
        assert_eq!(places(&store.commit(&appends([record(n)])).unwrap()), [n + 1]);
        assert_eq!(reader.totals().unwrap().pending, n + 1);
        let mut client = maker.cluster.client();
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name LIKE 'evs spool%'";
        assert_eq!(client.query(sql, &[]).unwrap().len(), 2);
    }
    assert_eq!(store.totals().unwrap().pending, 5);
}

#[test]
fn a_lock_that_another_front_took_meanwhile() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut first = maker.open();
    first.commit(&appends([record(0)])).unwrap();
    // The session ends, and before its front has noticed another front is there.
    let mut client = maker.cluster.client();
    client.execute("SELECT pg_terminate_backend($1)", &[&holder(&maker)]).unwrap();
    let mut second = maker.open();
    assert_eq!(places(&second.commit(&appends([record(1)])).unwrap()), [2]);
    let refused = first.commit(&appends([record(2)]));
    assert!(matches!(refused, Err(StoreError::Held { .. })), "{refused:?}");
    assert_eq!(places(&second.commit(&appends([record(2)])).unwrap()), [3]);
    let newest = PairState { epoch: 9, holder: 1, on_hold: true };
    second.commit(&Batch { state: Some(newest.clone()), ..Batch::default() }).unwrap();
    drop(second);
    // The lock is free, and what the first has in memory is of the past: refused for good.
    for _ in 0..2 {
        let old = PairState { epoch: 3, holder: 0, on_hold: false };
        let refused = first.commit(&Batch { state: Some(old), ..Batch::default() });
        assert!(matches!(refused, Err(StoreError::Held { .. })), "{refused:?}");
    }
    drop(first);
    let mut third = maker.open();
    assert_eq!(third.state().unwrap(), newest);
    let results = third.commit(&appends([record(2)])).unwrap();
    assert_eq!(results, [Appended::Duplicate { lsn: 3, end: None }]);
}

/// A session that is lost before anything was written is made anew, whoever wrote before.
#[test]
fn a_session_that_is_lost_before_the_first_commit() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    maker.open().commit(&appends([record(0)])).unwrap();
    let mut store = maker.open();
    let mut client = maker.cluster.client();
    client.execute("SELECT pg_terminate_backend($1)", &[&holder(&maker)]).unwrap();
    assert_eq!(places(&store.commit(&appends([record(1)])).unwrap()), [2]);
}

fn impatient(cluster: &Cluster) -> PostgresConfig {
    PostgresConfig {
        call_timeout: Duration::from_secs(2),
        ..PostgresConfig::new(&cluster.params())
    }
}

#[test]
fn a_replica_that_never_answers() {
    let Some(cluster) = Cluster::new() else { return };
    let config = impatient(&cluster);
    let mut store = PostgresStore::open(&config, PAIR, ROOMY).unwrap();
    let mut client = cluster.client();
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    // The server's processes take that up one by one.
    let mut n = 0;
    let mut refused = None;
    wait_for("a commit that waits for the replica", || {
        n += 1;
        refused = store.commit(&appends([record(n)])).err();
        refused.is_some()
    });
    assert!(matches!(refused, Some(StoreError::Unknown { .. })), "{refused:?}");
    // Now its transaction can be seen here, and nowhere else: still nobody may be told that it is
    // safe.
    let again = store.commit(&appends([record(n)]));
    assert!(matches!(again, Err(StoreError::Unknown { .. })), "{again:?}");
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let mut results = None;
    wait_for("a commit", || {
        results = store.commit(&appends([record(n)])).ok();
        results.is_some()
    });
    assert_eq!(results.unwrap(), [Appended::Duplicate { lsn: n, end: None }]);
}

#[test]
fn a_server_that_is_stopped() {
    let Some(cluster) = Cluster::new() else { return };
    let config = impatient(&cluster);
    let maker = PostgresMaker { config: config.clone(), cluster };
    let mut store = PostgresStore::open(&config, PAIR, ROOMY).unwrap();
    let mut reader = store.reader().unwrap();
    store.commit(&appends([record(0)])).unwrap();
    let stopped = maker.cluster.stop(holder(&maker));
    let began = Instant::now();
    let refused = store.commit(&appends([record(1)]));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(reader.totals().unwrap().pending, 1);
    drop(stopped);
    wait_for("a commit", || store.commit(&appends([record(1)])).is_ok());
    assert_eq!(store.totals().unwrap().pending, 2);
    // Nobody takes connections any more, and the kernel does.
    let stopped = maker.cluster.stop_all();
    assert!(PostgresStore::open(&config, "other", ROOMY).is_err());
    assert!(store.totals().is_err() && reader.totals().is_err());
    drop(stopped);
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_server_that_dies_of_each_commit() {
    let Some(cluster) = Cluster::new() else { return };
    let config = impatient(&cluster);
    let mut store = PostgresStore::open(&config, PAIR, ROOMY).unwrap();
    let mut client = cluster.client();
    let table = format!("{}.record_{PAIR}", config.schema);
    client
        .batch_execute(&format!(
            "CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON {table}
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_it()"
        ))
        .unwrap();
    let refused = store.commit(&appends([record(0)]));
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    client.batch_execute(&format!("DROP TRIGGER ends ON {table}")).unwrap();
    assert_eq!(places(&store.commit(&appends([record(0)])).unwrap()), [1]);
}

#[test]
fn a_server_that_is_not_there() {
    let Some(cluster) = Cluster::new() else { return };
    let config = PostgresConfig {
        call_timeout: Duration::from_millis(700),
        ..PostgresConfig::new(&cluster.params())
    };
    let mut store = PostgresStore::open(&config, PAIR, ROOMY).unwrap();
    let mut reader = store.reader().unwrap();
    store.commit(&appends([record(0)])).unwrap();
    cluster.kill();
    let refused = store.commit(&appends([record(1)]));
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    assert!(matches!(reader.totals(), Err(StoreError::Failed { .. })));
    let opened = PostgresStore::open(&config, "other", ROOMY);
    assert!(matches!(opened, Err(StoreError::Failed { .. })), "{opened:?}");
    cluster.start();
    wait_for("a commit", || store.commit(&appends([record(1)])).is_ok());
    assert_eq!(store.totals().unwrap().pending, 2);
    wait_for("a reader", || reader.totals().is_ok_and(|totals| totals.pending == 2));
}

#[test]
fn readers_while_the_server_begins_anew() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut store = maker.open();
    store.commit(&appends((0..50).map(record))).unwrap();
    let over = AtomicBool::new(false);
    let mut reader = maker.reader();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) || reads == 0 {
                assert_eq!(reader.pending(0, 100, u64::MAX).unwrap().len(), 50);
                reads += 1;
            }
        });
        for _ in 0..2 {
            maker.cluster.kill();
            maker.cluster.start();
        }
        over.store(true, Ordering::Relaxed);
        reading.join().unwrap();
    });
}

#[test]
fn pairs_on_one_server_do_not_meet() {
    let Some(maker) = PostgresMaker::new() else { return };
    let long = ["x".repeat(63), "x".repeat(64)];
    let names = ["orders", "Orders", "mail-2", &long[0], &long[1], "orders_pkey", "orders_id_key"];
    let odd = PostgresStore::open_reader(&maker.config, &"ä".repeat(60));
    assert!(matches!(odd, Err(StoreError::Foreign { .. })), "{odd:?}");
    let mut stores: Vec<PostgresStore> =
        names.iter().map(|name| PostgresStore::open(&maker.config, name, ROOMY).unwrap()).collect();
    for (store, n) in stores.iter_mut().zip(1..) {
        let placed = store.commit(&appends((0..n).map(record))).unwrap();
        assert_eq!(places(&placed), (1..=n).collect::<Vec<_>>());
    }
    for (store, n) in stores.iter_mut().zip(1..) {
        assert_eq!(store.totals().unwrap().pending, n);
    }
}
