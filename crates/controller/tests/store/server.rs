//! A server of PostgreSQL that goes away, and sessions that end.

use std::time::{Duration, Instant};

use eversock_controller::store::postgres::{PostgresConfig, PostgresStores};
use eversock_controller::store::{Opens, StoreError};

use crate::cluster::{Cluster, PostgresMaker};
use crate::common::{KIND, Maker, PATIENCE, ROOMY, home, named, record, wait_for};
use crate::crash::Promised;
use crate::writer::Role;

#[test]
fn a_server_killed_under_load() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut promised = Promised::default();
    let mut writer = Role::postgres(&maker.config, 1 << 40).start(&[]);
    for round in 0..4 {
        let until = promised.last + 10 + round * 7;
        while promised.last < until {
            promised.add(&writer.next().expect("the writer goes on"));
        }
        if round % 2 == 0 {
            maker.cluster.kill();
            maker.cluster.start();
        } else {
            let mut client = maker.cluster.client();
            let pid = maker.holder(&mut client, "home.1");
            client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
        }
    }
    let until = promised.last + 10;
    while promised.last < until {
        promised.add(&writer.next().expect("the writer goes on"));
    }
    assert!(promised.failed >= 4, "{promised:?}");
    writer.kill();
    writer.rest().iter().for_each(|said| promised.add(said));
    let mut store = None;
    wait_for("the lock", || {
        store = maker.stores().open(&home()).ok();
        store.is_some()
    });
    promised.verify(&mut *store.unwrap());
}

#[test]
fn a_session_that_ended_writes_no_more() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut first = maker.open();
    first.put(&record("a", 1, 10), None).unwrap();
    first.commit().unwrap();
    first.put(&record("a", 2, 10), None).unwrap();
    let mut client = maker.cluster.client();
    let pid = maker.holder(&mut client, "home.1");
    client.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    // Another node goes on where the first was.
    let mut second = None;
    wait_for("the lock", || {
        second = maker.stores().open(&home()).ok();
        second.is_some()
    });
    let mut second = second.unwrap();
    assert_eq!(second.head(), 1);
    second.put(&record("b", 1, 10), None).unwrap();
    second.commit().unwrap();
    for _ in 0..2 {
        let refused = first.commit();
        assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
        assert!(first.get(KIND, b"a").is_err());
    }
    drop(first);
    let refused = maker.stores().open(&home()).err();
    assert!(matches!(refused, Some(StoreError::Held { .. })), "{refused:?}");
    assert_eq!(second.get(KIND, b"a").unwrap().unwrap().record, record("a", 1, 10));
}

#[test]
fn a_server_that_is_not_there() {
    let Some(cluster) = Cluster::new() else { return };
    let maker = PostgresMaker::on(cluster);
    let mut store = maker.open();
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    maker.cluster.kill();
    let refused = store.get(KIND, b"a");
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    drop(store);
    let refused = maker.stores().open(&home()).err();
    assert!(matches!(refused, Some(StoreError::Failed { .. })), "{refused:?}");
    maker.cluster.start();
    assert_eq!(maker.open().head(), 1);
}

#[test]
fn a_statement_that_takes_too_long() {
    let Some(maker) = PostgresMaker::new() else { return };
    let config = PostgresConfig { call_timeout: Duration::from_secs(1), ..maker.config.clone() };
    drop(maker.open());
    let mut store = PostgresStores::new(config, ROOMY).open(&home()).unwrap();
    let mut client = maker.within("home.1");
    let mut tx = client.transaction().unwrap();
    tx.batch_execute("LOCK TABLE record").unwrap();
    let began = Instant::now();
    let refused = store.put(&record("a", 1, 10), None);
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    assert!(began.elapsed() < PATIENCE);
    tx.rollback().unwrap();
}

#[test]
fn schemas_that_are_not_ours() {
    let Some(maker) = PostgresMaker::new() else { return };
    let opens = maker.stores();
    drop(maker.open());
    let foreign = |partition: &str| {
        let refused = opens.open(&named(partition)).err();
        assert!(matches!(refused, Some(StoreError::Foreign { .. })), "{refused:?}");
    };
    let mut client = maker.within("home.1");
    client.batch_execute("UPDATE meta SET version = 2").unwrap();
    foreign("home.1");
    client.batch_execute("UPDATE meta SET version = 1, partition = 'other'").unwrap();
    foreign("home.1");
    client.batch_execute("UPDATE meta SET partition = 'home.1'").unwrap();
    drop(maker.open());
    let prefix = maker.config.prefix.replace('"', "\"\"");
    client.batch_execute(&format!("CREATE SCHEMA \"{prefix}:bare\"")).unwrap();
    foreign("bare");
}

#[test]
fn what_was_set_aside_is_kept_for_a_while() {
    let Some(maker) = PostgresMaker::new() else { return };
    for _ in 0..5 {
        drop(maker.open());
        maker.stores().set_aside(&home()).unwrap();
    }
    let sql = "SELECT count(*) FROM pg_namespace WHERE starts_with(nspname::text, $1)";
    let names = format!("{}:home.1 damaged ", maker.config.prefix);
    let kept: i64 = maker.cluster.client().query_one(sql, &[&names]).unwrap().get(0);
    assert_eq!(kept, 3);
}
