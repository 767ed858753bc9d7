//! Files and rows that are not as they were written, or not ours.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use eversock_controller::store::{Opens, Position, Store, StoreError};
use rusqlite::Connection;

use crate::cluster::PostgresMaker;
use crate::common::{KIND, Maker, SqliteMaker, bytes, home, named, record, records, snapshot};

fn is_damaged<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Damaged { .. }))
}

fn filled(maker: &dyn Maker, count: u64) -> Position {
    let mut store = maker.open();
    for n in 0..count {
        store.put(&record(&format!("key {n:04}"), n, 900), Some(&named("partner"))).unwrap();
    }
    store.set_taken(&named("partner"), Some(Position { run: 9, lsn: 9 })).unwrap();
    store.commit().unwrap();
    Position { run: store.run(), lsn: store.head() }
}

/// A file that cannot be used is set aside as it is; the partition begins anew.
fn begins_anew(maker: &SqliteMaker, old: Position) {
    let before = fs::read(maker.file("")).ok();
    let opens = maker.stores();
    assert!(is_damaged(opens.open(&home())));
    opens.set_aside(&home()).unwrap();
    let mut store = opens.open(&home()).unwrap();
    assert_eq!((store.head(), store.totals().unwrap().records), (0, 0));
    assert!(!store.reaches(old).unwrap());
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    let aside = aside(maker);
    assert_eq!(aside.len(), 1);
    if let Some(before) = before {
        assert_eq!(fs::read(maker.0.path().join(&aside[0])).unwrap(), before);
    }
}

/// The names of what was set aside.
fn aside(maker: &SqliteMaker) -> Vec<String> {
    let names = fs::read_dir(maker.0.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| name.contains(".db.damaged-"))
        .map(|name| name.trim_end_matches("-wal").to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn torn_files() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [Harm; 6] = [
        |file| file.truncate(0),
        |file| file.truncate(1000),
        |file| file.truncate(4096),
        |file| file[..4096].fill(0),
        |file| file[..100].fill(b'x'),
        |file| file.fill(0),
    ];
    for harm in harms {
        let maker = SqliteMaker::new();
        let old = filled(&maker, 50);
        let mut file = fs::read(maker.file("")).unwrap();
        harm(&mut file);
        fs::write(maker.file(""), file).unwrap();
        begins_anew(&maker, old);
    }
}

#[test]
fn a_log_without_its_file() {
    let maker = SqliteMaker::new();
    let old = filled(&maker, 5);
    fs::write(maker.file("-wal"), bytes(1, 9000)).unwrap();
    fs::remove_file(maker.file("")).unwrap();
    begins_anew(&maker, old);
}

#[test]
fn old_runs_leave_the_file() {
    let maker = SqliteMaker::new();
    for _ in 0..66 {
        drop(maker.open());
    }
    let conn = Connection::open(maker.file("")).unwrap();
    let count: i64 = conn.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 64);
}

#[test]
fn what_was_set_aside_is_kept_for_a_while() {
    let maker = SqliteMaker::new();
    for _ in 0..5 {
        filled(&maker, 1);
        maker.stores().set_aside(&home()).unwrap();
    }
    assert_eq!(aside(&maker).len(), 3);
}

/// The end of the log did not come to the disk, though the disk said so.
#[test]
fn a_torn_log() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    let mut last = Position { run: store.run(), lsn: 0 };
    let mut before = last;
    for n in 0..20 {
        before = last;
        store.put(&record(&format!("key {n}"), n, 900), None).unwrap();
        store.commit().unwrap();
        last.lsn = store.head();
    }
    let copy = SqliteMaker::new();
    fs::copy(maker.file(""), copy.file("")).unwrap();
    let log = fs::read(maker.file("-wal")).unwrap();
    fs::write(copy.file("-wal"), &log[..log.len() - 100]).unwrap();
    let mut store = copy.open();
    assert_eq!((store.head(), store.totals().unwrap().records), (19, 19));
    // The lost change is not taken for the one that comes in its place.
    assert!(store.reaches(before).unwrap() && !store.reaches(last).unwrap());
    assert_eq!(store.put(&record("other", 1, 10), None).unwrap(), 20);
    store.commit().unwrap();
    assert!(!store.reaches(last).unwrap());
}

/// As [`a_torn_log`], by an operator.
#[test]
fn a_backup_that_is_brought_back() {
    let maker = SqliteMaker::new();
    let old = filled(&maker, 10);
    let backup = fs::read(maker.file("")).unwrap();
    let mut store = maker.open();
    let run = store.run();
    assert!(store.reaches(old).unwrap());
    for n in 10..15 {
        store.put(&record(&format!("key {n:04}"), n, 10), None).unwrap();
    }
    store.commit().unwrap();
    drop(store);
    fs::write(maker.file(""), backup).unwrap();
    let mut store = maker.open();
    assert_eq!(store.head(), 10);
    for n in 20..27 {
        store.put(&record(&format!("key {n:04}"), n, 10), None).unwrap();
    }
    store.commit().unwrap();
    assert!(store.reaches(old).unwrap());
    for lsn in 0..=17 {
        assert!(!store.reaches(Position { run, lsn }).unwrap(), "the backup had no such run");
        assert!(store.reaches(Position { run: store.run(), lsn }).unwrap());
        assert_eq!(store.reaches(Position { lsn, ..old }).unwrap(), lsn <= 10);
    }
}

#[test]
fn one_bit_of_a_record() {
    let maker = SqliteMaker::new();
    filled(&maker, 50);
    let needle = record("key 0033", 33, 900).body;
    let mut file = fs::read(maker.file("")).unwrap();
    let at = file.windows(900).position(|window| window == needle).unwrap();
    file[at + 450] ^= 4;
    fs::write(maker.file(""), file).unwrap();
    let looks: [fn(&mut dyn Store) -> bool; 4] = [
        |store| is_damaged(store.get(KIND, b"key 0033")),
        |store| is_damaged(store.changes(0, 100, usize::MAX)),
        |store| is_damaged(store.scan(None, 100)),
        |store| is_damaged(snapshot(store)),
    ];
    for look in looks {
        let mut store = maker.open();
        assert_eq!(store.get(KIND, b"key 0032").unwrap().unwrap().lsn, 33);
        assert!(look(&mut *store));
    }
    let mut store = maker.open();
    assert!(is_damaged(store.get(KIND, b"key 0033")));
    // After that nothing is built upon it.
    let refused = store.put(&record("a", 1, 10), None);
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    assert!(store.commit().is_err());
}

/// Changes that leave the file whole, and what it says wrong.
const LIES: [&str; 9] = [
    "UPDATE meta SET head = head + 1",
    "UPDATE meta SET floor = floor + 1",
    "UPDATE meta SET records = records - 1",
    "UPDATE meta SET bytes = -1",
    "DELETE FROM meta",
    "UPDATE run SET began = 3",
    "UPDATE run SET run = substr(run, 1, 15)",
    "DROP TABLE meta",
    "DROP TABLE run",
];

#[test]
fn rows_that_lie() {
    for lie in LIES {
        let maker = SqliteMaker::new();
        filled(&maker, 5);
        Connection::open(maker.file("")).unwrap().execute_batch(lie).unwrap();
        assert!(is_damaged(maker.stores().open(&home())), "{lie}");
    }
    for lie in [
        "UPDATE record SET origin = 'other' WHERE lsn = 3",
        "UPDATE record SET lsn = 30 WHERE lsn = 3",
        "UPDATE record SET key = x'01' WHERE lsn = 3",
        "UPDATE record SET kind = 70000 WHERE lsn = 3",
        "UPDATE record SET body = 'text' WHERE lsn = 3",
        "DELETE FROM record WHERE lsn = 3",
        "UPDATE taken SET lsn = 10",
    ] {
        let maker = SqliteMaker::new();
        filled(&maker, 5);
        Connection::open(maker.file("")).unwrap().execute_batch(lie).unwrap();
        let mut store = maker.open();
        let noticed = if lie.contains("taken") {
            is_damaged(store.taken(&named("partner")))
        } else {
            is_damaged(snapshot(&*store))
        };
        assert!(noticed, "{lie}");
    }
}

#[test]
fn rows_that_lie_in_postgres() {
    let Some(cluster) = crate::cluster::Cluster::shared() else { return };
    for lie in LIES {
        let maker = PostgresMaker::on(cluster.clone());
        filled(&maker, 5);
        let lie = lie.replace("substr(run, 1, 15)", "substring(run FROM 1 FOR 15)");
        maker.within("home.1").batch_execute(&lie).unwrap();
        // Without that table nothing says whose the schema is.
        let opened = maker.stores().open(&home()).err().unwrap();
        match lie.as_str() {
            "DROP TABLE meta" => assert!(matches!(opened, StoreError::Foreign { .. })),
            _ => assert!(matches!(opened, StoreError::Damaged { .. }), "{lie}: {opened:?}"),
        }
        if lie != "DROP TABLE meta" {
            maker.stores().set_aside(&home()).unwrap();
            assert_eq!(maker.open().head(), 0);
        }
    }
    let maker = PostgresMaker::on(cluster);
    filled(&maker, 5);
    let mut client = maker.within("home.1");
    client.batch_execute("UPDATE record SET body = body || '\\x00' WHERE lsn = 3").unwrap();
    assert!(is_damaged(snapshot(&*maker.open())));
    assert!(is_damaged(maker.open().get(KIND, b"key 0002")));
}

#[test]
fn files_that_are_not_ours() {
    let maker = SqliteMaker::new();
    let refused = |maker: &SqliteMaker| {
        let refused = maker.stores().open(&home()).err();
        assert!(matches!(refused, Some(StoreError::Foreign { .. })), "{refused:?}");
    };
    let theirs = Connection::open(maker.file("")).unwrap();
    theirs.execute_batch("CREATE TABLE theirs (a)").unwrap();
    refused(&maker);
    theirs.execute_batch("PRAGMA application_id = 77").unwrap();
    refused(&maker);
    drop(theirs);
    let maker = SqliteMaker::new();
    filled(&maker, 5);
    let conn = Connection::open(maker.file("")).unwrap();
    conn.execute_batch("PRAGMA user_version = 2").unwrap();
    refused(&maker);
    conn.execute_batch("PRAGMA user_version = 1").unwrap();
    drop(conn);
    drop(maker.open());
    fs::rename(maker.file(""), maker.0.path().join("other.db")).unwrap();
    let refused = maker.stores().open(&named("other")).err();
    assert!(matches!(refused, Some(StoreError::Foreign { .. })), "{refused:?}");
}

#[test]
fn bits_anywhere() {
    let maker = SqliteMaker::new();
    filled(&maker, 60);
    let expected = records(maker.open().scan(None, 100).unwrap());
    let whole = fs::read(maker.file("")).unwrap();
    let mut noticed = 0;
    for round in 0..200_u64 {
        let at = usize::try_from(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11).unwrap();
        fs::write(maker.file(""), &whole).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _gone = fs::remove_file(maker.file(suffix));
        }
        let at = at % whole.len();
        let file = OpenOptions::new().write(true).open(maker.file("")).unwrap();
        file.write_all_at(&[whole[at] ^ (1 << (round % 8))], at as u64).unwrap();
        drop(file);
        // Whatever is hit: what is given is what was written, and nothing panics.
        let Ok(mut store) = maker.stores().open(&home()) else {
            noticed += 1;
            continue;
        };
        match snapshot(&*store) {
            Ok((_, read)) => assert_eq!(read, expected, "bit {} of byte {at}", round % 8),
            Err(_) => noticed += 1,
        }
        for row in store.changes(0, 1000, usize::MAX).unwrap_or_default() {
            assert!(expected.contains(&row.record));
        }
        let _whatever = store.put(&record("key 0001", 99, 900), None);
        let _whatever = store.commit();
    }
    assert!(noticed > 100, "{noticed}");
}
