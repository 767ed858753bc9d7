//! Files and rows that are not as they were written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use eversock_spool::store::postgres::PostgresStore;
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{
    Appended, Batch, Finish, Found, Known, SpoolReader, SpoolStore, StoreError,
};
use rusqlite::Connection;

use crate::cluster::PostgresMaker;
use crate::common::{
    Maker, PAIR, ROOMY, SqliteMaker, appends, assert_sound, done, ends, keyed, payload, places,
    record,
};

const DAMAGED: u64 = 4;

/// Only the record in this place is damaged, the others are whole; it can be set aside, and then
/// is in nobody's way.
fn only_one_is_damaged(store: &mut dyn SpoolStore, reader: &mut dyn SpoolReader) {
    let found = reader.pending(0, 100, u64::MAX).unwrap();
    assert_eq!(found.iter().map(Found::lsn).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    for one in found {
        match one {
            Found::Damaged { lsn, lane, .. } => {
                assert_eq!((lsn, lane), (DAMAGED, large(DAMAGED).lane()));
            }
            Found::Whole { record, .. } => assert_ne!(record.lsn, DAMAGED),
        }
    }
    let newest = reader.newest(large(DAMAGED).lane()).unwrap();
    assert!(matches!(newest, Some(Found::Damaged { lsn: DAMAGED, .. })), "{newest:?}");
    assert_eq!(reader.check().unwrap().damaged, [DAMAGED]);
    // Its sender asks again, and is not told that it is unknown.
    let known = reader.find(large(DAMAGED).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Pending { lsn: DAMAGED, fingerprint: large(DAMAGED).fingerprint() })
    );

    store.quarantine(DAMAGED, "a test has").unwrap();
    let found = reader.pending(0, 100, u64::MAX).unwrap();
    assert_eq!(found.len(), 7);
    assert!(found.iter().all(|found| matches!(found, Found::Whole { .. })));
    let known = reader.find(large(DAMAGED).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Quarantined { lsn: DAMAGED, fingerprint: large(DAMAGED).fingerprint() })
    );
    assert_eq!(reader.newest(large(DAMAGED).lane()).unwrap(), None);
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined), (7, 1));
    assert!(reader.list(0, 100).unwrap().iter().any(|line| {
        line.lsn == DAMAGED && line.state == "quarantined" && !line.note.is_empty()
    }));
    let checked = reader.check().unwrap();
    assert!(checked.damaged.is_empty(), "{checked:?}");
    // The rest drains as ever.
    store.commit(&ends((1..=8).map(|lsn| (lsn, done(b""))))).unwrap();
    assert_eq!(store.totals().unwrap().pending, 0);
    assert_eq!(places(&store.commit(&appends([record(77)])).unwrap()), [9]);
    store.commit(&ends([(DAMAGED, Finish::Purged)])).unwrap();
    assert_eq!(store.totals().unwrap().quarantined, 0);
}

/// Each has a key of its own and pages of its own.
fn large(lsn: u64) -> eversock_spool::record::Record {
    keyed(lsn, format!("key {lsn}").into_bytes(), payload(lsn, 20_000))
}

fn filled(store: &mut dyn SpoolStore) {
    store.commit(&appends((1..=8).map(large))).unwrap();
}

#[test]
fn a_bit_of_a_payload_in_the_file() {
    let maker = SqliteMaker::new();
    filled(&mut *maker.open());
    let mut bytes = fs::read(maker.file()).unwrap();
    let needle = &large(DAMAGED).payload[..200];
    let at = bytes.windows(200).position(|window| window == needle).unwrap();
    bytes[at + 100] ^= 4;
    fs::write(maker.file(), bytes).unwrap();
    let mut store = maker.open();
    let mut reader = SqliteStore::open_reader(&maker.file()).unwrap();
    let kept = reader.kept(DAMAGED).unwrap().unwrap();
    assert!(!kept.whole && kept.payload.len() == 20_000 && kept.payload != large(DAMAGED).payload);
    assert!(reader.kept(1).unwrap().unwrap().whole);
    only_one_is_damaged(&mut *store, &mut reader);
    assert_sound(&mut reader);
}

#[test]
fn what_was_set_aside_keeps_its_bytes() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    filled(&mut *store);
    store.quarantine(2, "by hand").unwrap();
    store.commit(&ends([(3, Finish::Refused { code: 5, text: "no".into() })])).unwrap();
    store.commit(&ends([(5, done(b""))])).unwrap();
    let mut reader = SqliteStore::open_reader(&maker.file()).unwrap();
    let kept = reader.kept(2).unwrap().unwrap();
    assert_eq!((kept.payload, kept.note.as_str()), (large(2).payload, "by hand"));
    let kept = reader.kept(3).unwrap().unwrap();
    assert!(kept.whole && kept.payload == large(3).payload && kept.note.contains("no"));
    assert_eq!(reader.kept(5).unwrap(), None);
    store.commit(&ends([(2, Finish::Purged), (3, Finish::Purged)])).unwrap();
    assert_eq!((reader.kept(2).unwrap(), reader.kept(3).unwrap()), (None, None));
}

/// Where the pages of a payload say which is next.
fn chain(file: &Path) -> Vec<u64> {
    let conn = Connection::open(file).unwrap();
    let sql = "SELECT pageno FROM dbstat WHERE name = 'body' AND pagetype = 'overflow' \
               ORDER BY path";
    let mut statement = conn.prepare(sql).unwrap();
    let pages = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.unwrap().cast_unsigned()).collect()
}

#[test]
fn a_page_of_a_payload_that_leads_nowhere() {
    let maker = SqliteMaker::new();
    filled(&mut *maker.open());
    let needle = &large(DAMAGED).payload[8000..8200];
    let bytes = fs::read(maker.file()).unwrap();
    let at = bytes.windows(200).position(|window| window == needle).unwrap() as u64;
    let page = at / 4096 + 1;
    assert!(chain(&maker.file()).contains(&page));
    // Its first four bytes are the number of the next page.
    let file = OpenOptions::new().write(true).open(maker.file()).unwrap();
    file.write_all_at(&0x00ff_ff00_u32.to_be_bytes(), (page - 1) * 4096).unwrap();
    drop(file);
    let mut store = maker.open();
    let mut reader = maker.reader();
    only_one_is_damaged(&mut *store, &mut *reader);
}

#[test]
fn a_row_on_a_page_that_is_gone() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    // One row fills a page, with nothing beside it, so that one page is one record.
    let page_filling = |n: u64| keyed(n, format!("key {n}").into_bytes(), payload(n, 3700));
    store.commit(&appends((1..=40).map(page_filling))).unwrap();
    drop(store);
    let conn = Connection::open(maker.file()).unwrap();
    let sql = "SELECT pageno FROM dbstat WHERE name = 'body' AND pagetype = 'leaf' \
               ORDER BY path LIMIT 1 OFFSET 20";
    let page: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(conn);
    let file = OpenOptions::new().write(true).open(maker.file()).unwrap();
    file.write_all_at(&[0xff; 4096], (page.cast_unsigned() - 1) * 4096).unwrap();
    drop(file);
    let mut store = maker.open();
    let mut reader = maker.reader();
    let found = reader.pending(0, 100, u64::MAX).unwrap();
    assert_eq!(found.iter().map(Found::lsn).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    let gone: Vec<u64> = found
        .iter()
        .filter(|found| matches!(found, Found::Damaged { .. }))
        .map(Found::lsn)
        .collect();
    assert_eq!(gone.len(), 1, "{gone:?}");
    let lost = page_filling(gone[0]);
    let known = reader.find(lost.id).unwrap();
    assert_eq!(known, Some(Known::Pending { lsn: gone[0], fingerprint: lost.fingerprint() }));
    assert_eq!(reader.list(0, 100).unwrap().len(), 40);
    // Its sender asks again: it was kept once, and the others of the batch are as well.
    let again = store.commit(&appends([page_filling(900), lost.clone()])).unwrap();
    assert_eq!(again[1], Appended::Duplicate { lsn: gone[0], end: None });
    // It ends as the others do; what cannot be freed of it lies there, seen by nobody.
    store.commit(&ends((1..=40).map(|lsn| (lsn, done(b""))))).unwrap();
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined, totals.oldest_ms), (1, 0, 1900));
    let known = reader.find(lost.id).unwrap();
    assert_eq!(
        known,
        Some(Known::Ended { lsn: gone[0], end: done(b""), fingerprint: lost.fingerprint() })
    );
    assert_eq!(reader.list(0, 100).unwrap().len(), 1);
    assert_eq!(store.forget(u64::MAX, 100).unwrap(), 40);
}

#[test]
fn many_rows_on_a_page_that_is_gone() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    store.commit(&appends((1..=500).map(record))).unwrap();
    drop(store);
    let conn = Connection::open(maker.file()).unwrap();
    let sql = "SELECT pageno FROM dbstat WHERE name = 'record' AND pagetype = 'leaf' \
               ORDER BY path LIMIT 1 OFFSET 4";
    let page: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(conn);
    let file = OpenOptions::new().write(true).open(maker.file()).unwrap();
    file.write_all_at(&[0xff; 4096], (page.cast_unsigned() - 1) * 4096).unwrap();
    drop(file);
    let mut store = maker.open();
    let mut reader = maker.reader();
    let found = reader.pending(0, 1000, u64::MAX).unwrap();
    assert_eq!(found.len(), 500);
    let gone: Vec<u64> = found
        .iter()
        .filter(|found| matches!(found, Found::Damaged { .. }))
        .map(Found::lsn)
        .collect();
    assert!((2..100).contains(&gone.len()), "{gone:?}");
    for &lsn in &gone {
        store.quarantine(lsn, "its page is gone").unwrap();
    }
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined), (500 - gone.len() as u64, gone.len() as u64));
    let found = reader.pending(0, 1000, u64::MAX).unwrap();
    assert_eq!(found.len(), 500 - gone.len());
    assert!(found.iter().all(|found| matches!(found, Found::Whole { .. })));
    let listed = reader.list(0, 1000).unwrap();
    assert_eq!(listed.iter().filter(|l| l.state == "quarantined").count(), gone.len());
    store.commit(&ends(found.iter().map(|found| (found.lsn(), done(b""))))).unwrap();
    assert_eq!(store.totals().unwrap().pending, 0);
}

/// Takes a row away, and leaves one index as it is.
fn remove_behind_the_index(file: &Path, index: &str, lsn: u64) {
    let hidden = format!("name = '{index}'");
    let conn = Connection::open(file).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA writable_schema = ON;
         CREATE TABLE away AS SELECT * FROM sqlite_schema WHERE {hidden};
         DELETE FROM sqlite_schema WHERE {hidden};"
    ))
    .unwrap();
    drop(conn);
    let conn = Connection::open(file).unwrap();
    assert_eq!(conn.execute("DELETE FROM record WHERE lsn = ?1", [lsn.cast_signed()]).unwrap(), 1);
    conn.execute_batch(
        "PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema SELECT * FROM away;
         DROP TABLE away;",
    )
    .unwrap();
}

#[test]
fn a_row_that_only_the_index_knows() {
    // However it is changed: its end, a mark, set aside.
    type Change = fn(&mut dyn SpoolStore);
    let changes: [Change; 4] = [
        |store| drop(store.commit(&ends([(DAMAGED, done(b""))])).unwrap()),
        |store| {
            let sent = Batch { sent: vec![DAMAGED], ..Batch::default() };
            store.commit(&sent).unwrap();
        },
        |store| {
            let hold = Batch { hold: vec![DAMAGED], ..Batch::default() };
            store.commit(&hold).unwrap();
        },
        |store| store.quarantine(DAMAGED, "gone").unwrap(),
    ];
    for change in changes {
        let maker = SqliteMaker::new();
        filled(&mut *maker.open());
        remove_behind_the_index(&maker.file(), "record_pending", DAMAGED);
        let mut store = maker.open();
        let mut reader = maker.reader();
        change(&mut *store);
        let waits = reader.pending(0, 100, u64::MAX).unwrap();
        let totals = store.totals().unwrap();
        assert_eq!((totals.pending, totals.quarantined), (7, 1));
        assert_eq!((waits.len(), totals.in_doubt, totals.held), (7, 0, 0));
    }
}

#[test]
fn a_check_spares_a_front_that_is_at_work() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    filled(&mut *store);
    store.commit(&ends([(DAMAGED, done(b""))])).unwrap();
    drop(store);
    // Nothing but SQLite's own look at all pages finds that.
    remove_behind_the_index(&maker.file(), "record_id", DAMAGED);
    assert!(!maker.reader().check().unwrap().faults.is_empty());
    let mut store = maker.open();
    let checked = maker.reader().check().unwrap();
    assert!(checked.faults.is_empty(), "{checked:?}");
    store.commit(&ends([(1, done(b""))])).unwrap();
    drop(store);
    assert!(!maker.reader().check().unwrap().faults.is_empty());
}

#[test]
fn counters_that_cannot_be_right_are_mended_when_it_is_opened() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    filled(&mut *store);
    store.commit(&Batch { hold: vec![2], ..Batch::default() }).unwrap();
    store.quarantine(3, "by hand").unwrap();
    let right = store.totals().unwrap();
    drop(store);
    let conn = Connection::open(maker.file()).unwrap();
    conn.execute("UPDATE meta SET pending = 0, bytes = 9, held = 5, quarantined = 0", []).unwrap();
    drop(conn);
    let mut store = maker.open();
    assert_eq!(store.totals().unwrap(), right);
    assert_sound(&mut *maker.reader());
}

#[test]
fn bits_of_a_file_anywhere() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    store.commit(&appends((1..=30).map(|n| keyed(n, vec![1], payload(n, 2000))))).unwrap();
    drop(store);
    let whole = fs::read(maker.file()).unwrap();
    let mut noticed = 0;
    for round in 0..150_u64 {
        let at = usize::try_from(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11).unwrap();
        let at = at % whole.len();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (round % 8);
        for suffix in ["-wal", "-shm"] {
            let _gone = fs::remove_file(format!("{}{suffix}", maker.file().display()));
        }
        fs::write(maker.file(), &bytes).unwrap();
        // Whatever is hit, what is given as whole is what was written, and nothing panics.
        let Ok(mut reader) = SqliteStore::open_reader(&maker.file()) else {
            noticed += 1;
            continue;
        };
        match reader.pending(0, 100, u64::MAX) {
            Ok(found) => {
                for one in found {
                    let Found::Whole { record, .. } = one else {
                        noticed += 1;
                        continue;
                    };
                    let n = u64::try_from(record.id.0 >> 64).unwrap();
                    let lsn = record.lsn;
                    let written = keyed(n, vec![1], payload(n, 2000));
                    assert_eq!(record, eversock_spool::record::Record { lsn, ..written });
                }
            }
            Err(_) => noticed += 1,
        }
        let (_, _) = (reader.check(), reader.list(0, 100));
        if let Ok(mut store) = maker.open_with(ROOMY) {
            let (_, _) = (store.totals(), store.commit(&ends([(3, done(b""))])));
        }
    }
    assert!(noticed > 50, "{noticed}");
}

#[test]
fn a_payload_changed_by_sql() {
    let Some(maker) = PostgresMaker::new() else { return };
    let mut store = maker.open();
    filled(&mut *store);
    let table = maker.table();
    maker
        .cluster
        .client()
        .batch_execute(&format!(
            "UPDATE {table} SET payload = set_byte(payload, 77, 1 # get_byte(payload, 77))
             WHERE lsn = {DAMAGED}"
        ))
        .unwrap();
    let mut reader = PostgresStore::open_reader(&maker.config, PAIR).unwrap();
    assert!(!reader.kept(DAMAGED).unwrap().unwrap().whole);
    only_one_is_damaged(&mut *store, &mut reader);
    assert_sound(&mut reader);
}

#[test]
fn counters_that_are_wrong_are_found() {
    let maker = SqliteMaker::new();
    filled(&mut *maker.open());
    let conn = Connection::open(maker.file()).unwrap();
    conn.execute("UPDATE meta SET pending = pending + 1, last_lsn = 5", []).unwrap();
    drop(conn);
    assert_eq!(maker.reader().check().unwrap().faults.len(), 2);

    let Some(maker) = PostgresMaker::new() else { return };
    filled(&mut *maker.open());
    let schema = format!("\"{}\"", maker.config.schema.replace('"', "\"\""));
    let change = format!("UPDATE {schema}.spool_meta SET bytes = bytes + 1");
    maker.cluster.client().batch_execute(&change).unwrap();
    assert_eq!(maker.reader().check().unwrap().faults.len(), 1);
}

/// Refused as foreign, and not a byte of it altered.
fn is_foreign(file: &Path, what: &str) {
    let before = fs::read(file).unwrap();
    let opened = SqliteStore::open(file, PAIR, ROOMY);
    assert!(matches!(opened, Err(StoreError::Foreign { .. })), "{what}: {opened:?}");
    let read = SqliteStore::open_reader(file);
    assert!(matches!(read, Err(StoreError::Foreign { .. })), "{what}: {read:?}");
    assert_eq!(fs::read(file).unwrap(), before, "{what}");
}

#[test]
fn files_of_others() {
    let maker = SqliteMaker::new();
    let file = maker.file();
    File::create(&file).unwrap();
    is_foreign(&file, "nothing");
    fs::write(&file, b"a letter to nobody").unwrap();
    is_foreign(&file, "a letter");
    fs::write(&file, payload(1, 10_000)).unwrap();
    is_foreign(&file, "noise");
    fs::remove_file(&file).unwrap();
    let conn = Connection::open(&file).unwrap();
    conn.execute_batch("CREATE TABLE record (lsn); CREATE TABLE meta (pair)").unwrap();
    drop(conn);
    is_foreign(&file, "another program's");
    fs::remove_file(&file).unwrap();
    drop(maker.open());
    let conn = Connection::open(&file).unwrap();
    conn.pragma_update(None, "user_version", 2).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    is_foreign(&file, "a newer one");
}

#[test]
fn a_log_without_its_file() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    filled(&mut *store);
    let log = format!("{}-wal", maker.file().display());
    let kept = fs::read(&log).unwrap();
    assert!(!kept.is_empty());
    drop(store);
    fs::remove_file(maker.file()).unwrap();
    fs::write(&log, kept).unwrap();
    let refused = maker.open_with(ROOMY).err().unwrap();
    assert!(refused.to_string().contains(&log), "{refused}");
    fs::remove_file(&log).unwrap();
    assert_eq!(maker.open().totals().unwrap().last_lsn, 0);
}

#[test]
fn a_file_of_another_pair() {
    let maker = SqliteMaker::new();
    drop(maker.open());
    let opened = SqliteStore::open(&maker.file(), "mail", ROOMY);
    assert!(matches!(opened, Err(StoreError::Foreign { .. })), "{opened:?}");
    for name in ["", "../x", "a b", &"x".repeat(65)] {
        let opened = SqliteStore::open(&maker.file(), name, ROOMY);
        assert!(matches!(opened, Err(StoreError::Failed { .. })), "{name}: {opened:?}");
    }
    let missing = SqliteStore::open_reader(&maker.0.path().join("nothing.db"));
    assert!(matches!(missing, Err(StoreError::Failed { .. })), "{missing:?}");
}

#[test]
fn a_newer_layout_in_postgres() {
    let Some(maker) = PostgresMaker::new() else { return };
    let none = PostgresStore::open_reader(&maker.config, PAIR);
    assert!(matches!(none, Err(StoreError::Foreign { .. })), "{none:?}");
    drop(maker.open());
    let schema = format!("\"{}\"", maker.config.schema.replace('"', "\"\""));
    let newer = format!("UPDATE {schema}.spool_layout SET version = 2");
    maker.cluster.client().batch_execute(&newer).unwrap();
    let opened = PostgresStore::open(&maker.config, PAIR, ROOMY);
    assert!(matches!(opened, Err(StoreError::Foreign { .. })), "{opened:?}");
}

#[test]
fn a_file_that_was_cut_short() {
    let maker = SqliteMaker::new();
    filled(&mut *maker.open());
    let long = fs::metadata(maker.file()).unwrap().len();
    let file = OpenOptions::new().write(true).open(maker.file()).unwrap();
    file.set_len(long / 2 / 4096 * 4096).unwrap();
    drop(file);
    // What remains is read or reported, and whoever cannot go on says what to do.
    match maker.open_with(ROOMY) {
        Ok(_) => {
            let mut reader = maker.reader();
            let checked = reader.check().unwrap();
            assert!(!checked.damaged.is_empty() || !checked.faults.is_empty());
        }
        Err(e) => assert!(e.to_string().contains(".recover"), "{e}"),
    }
}
