use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::{AGAINST_RULES, ANSWER_TOO_LONG, ID_REUSED, Ledger, LedgerConfig};
use crate::backend::epoch::EpochStore;
use crate::backend::lock::Fenced;
use crate::limits::{BATCH_BYTES_MAX, PAYLOAD_MAX};
use crate::record::Record;
use crate::request::{Kind, RequestId};
use crate::target::{CallFailed, CallResult, ItemResult};

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = RequestId::random().unwrap();
        let path = std::env::temp_dir().join(format!("spool-ledger-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("db")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path, config: LedgerConfig) -> Ledger {
    let mut ledger = Ledger::open(path, config).unwrap();
    ledger
        .maintain(|tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS thing
                 (key BLOB PRIMARY KEY, value BLOB, times INTEGER NOT NULL CHECK (times < 3))",
            )
        })
        .unwrap();
    ledger
}

fn record(id: u128, kind: Kind, key: &str, payload: &str) -> Record {
    let (key, payload) = (key.as_bytes().to_vec(), payload.as_bytes().to_vec());
    Record { lsn: 0, id: RequestId(id), kind, key, payload, epoch: 1, accepted_ms: 1 }
}

fn write(id: u128, key: &str, payload: &str) -> Record {
    record(id, Kind::Write, key, payload)
}

/// Counts how often each key was written, in the answer too.
fn apply(tx: &Connection, _place: usize, item: &Record) -> rusqlite::Result<ItemResult> {
    if item.kind.only_looks() {
        let answer =
            tx.query_row("SELECT value FROM thing WHERE key = ?1", [&item.key], |row| row.get(0))?;
        return Ok(ItemResult::Done { answer, again: false });
    }
    tx.execute(
        "INSERT INTO thing VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET value = ?2, times = times + 1",
        params![item.key, item.payload],
    )?;
    match item.payload.as_slice() {
        b"refuse" => Ok(ItemResult::Refused { code: 9, text: "no".to_owned() }),
        b"later" => Ok(ItemResult::Later { after: Duration::from_secs(3) }),
        b"huge" => Ok(done(&vec![0; PAYLOAD_MAX + 1])),
        b"big" => Ok(done(&vec![0; BATCH_BYTES_MAX / 2])),
        _ => Ok(done(&item.payload)),
    }
}

fn done(answer: &[u8]) -> ItemResult {
    ItemResult::Done { answer: answer.to_vec(), again: false }
}

fn again(answer: &[u8]) -> ItemResult {
    ItemResult::Done { answer: answer.to_vec(), again: true }
}

fn run(ledger: &mut Ledger, epoch: u64, items: &[Record]) -> CallResult {
    ledger.run(epoch, items, &|| Ok(()), &mut apply)
}

fn times(path: &Path, key: &str) -> u64 {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT coalesce(max(times), 0) FROM thing WHERE key = ?1";
    connection.query_row(sql, [key.as_bytes()], |row| row.get::<_, i64>(0)).unwrap() as u64
}

#[test]
fn a_request_takes_effect_once() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), [done(b"x")]);
    assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), [again(b"x")]);
    drop(ledger);
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let twice = [write(1, "a", "x"), write(2, "a", "y"), write(2, "a", "y")];
    assert_eq!(run(&mut ledger, 1, &twice).unwrap(), [again(b"x"), done(b"y"), again(b"y")]);
    assert_eq!(times(&dir.file(), "a"), 2);
    let other = run(&mut ledger, 1, &[write(1, "a", "z")]).unwrap();
    assert!(matches!(other[0], ItemResult::Refused { code: ID_REUSED, .. }), "{other:?}");
    let read = run(&mut ledger, 1, &[record(1, Kind::Read, "a", "")]).unwrap();
    assert_eq!(read, [done(b"y")]);
}

#[test]
fn what_is_refused_leaves_nothing_and_stays_refused() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let no = ItemResult::Refused { code: 9, text: "no".to_owned() };
    let items = [write(1, "a", "refuse"), write(2, "a", "x")];
    assert_eq!(run(&mut ledger, 1, &items).unwrap(), [no.clone(), done(b"x")]);
    assert_eq!(times(&dir.file(), "a"), 1);
    assert_eq!(run(&mut ledger, 1, &items).unwrap(), [no, again(b"x")]);
    let items = [write(3, "a", "y"), write(4, "a", "z"), write(5, "b", "z")];
    let results = run(&mut ledger, 1, &items).unwrap();
    assert_eq!((&results[0], &results[2]), (&done(b"y"), &done(b"z")));
    let rules = matches!(results[1], ItemResult::Refused { code: AGAINST_RULES, .. });
    assert!(rules, "{results:?}");
    assert_eq!(times(&dir.file(), "a"), 2);
}

#[test]
fn what_comes_later_holds_up_its_lane_only() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let items = [write(1, "a", "later"), write(2, "a", "x"), write(3, "b", "y")];
    let results = run(&mut ledger, 1, &items).unwrap();
    assert_eq!(results[0], ItemResult::Later { after: Duration::from_secs(3) });
    assert!(matches!(results[1], ItemResult::Later { .. }));
    assert_eq!(results[2], done(b"y"));
    assert_eq!((times(&dir.file(), "a"), times(&dir.file(), "b")), (0, 1));
    assert_eq!(run(&mut ledger, 1, &[write(2, "a", "x")]).unwrap(), [done(b"x")]);
}

#[test]
fn answers_fit_into_a_message() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let items = [write(1, "a", "big"), write(2, "b", "big"), write(3, "c", "big")];
    let results = run(&mut ledger, 1, &items).unwrap();
    assert!(matches!(results[1], ItemResult::Done { .. }));
    assert_eq!(results[2], ItemResult::Later { after: Duration::ZERO });
    assert_eq!(times(&dir.file(), "c"), 0);
    let results = run(&mut ledger, 1, &[write(4, "d", "huge")]).unwrap();
    let long = matches!(results[0], ItemResult::Refused { code: ANSWER_TOO_LONG, .. });
    assert!(long && times(&dir.file(), "d") == 0);
}

#[test]
fn a_higher_epoch_in_the_database_fences_calls_and_reads() {
    let dir = Directory::new();
    let mut old = open(&dir.file(), LedgerConfig::default());
    let new = open(&dir.file(), LedgerConfig::default());
    let epochs = new.epochs().unwrap();
    assert_eq!(old.epochs().unwrap().raise(1).unwrap(), 1);
    assert_eq!(run(&mut old, 1, &[write(1, "a", "x")]).unwrap(), [done(b"x")]);
    // Its own checks have passed: the other takes over before its transaction begins.
    assert_eq!(epochs.raise(2).unwrap(), 2);
    assert_eq!(epochs.raise(1).unwrap(), 2);
    let fenced = CallFailed::Fenced { asked: 1, seen: 2 };
    assert_eq!(run(&mut old, 1, &[write(2, "a", "y")]).unwrap_err(), fenced);
    assert_eq!(run(&mut old, 1, &[record(3, Kind::Read, "a", "")]).unwrap_err(), fenced);
    assert_eq!(times(&dir.file(), "a"), 1);
}

#[test]
fn a_lease_that_ends_in_the_transaction_undoes_it() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let asked = std::cell::Cell::new(0);
    let gate = || {
        asked.set(asked.get() + 1);
        if asked.get() < 2 { Ok(()) } else { Err(Fenced { asked: 1, seen: 1 }) }
    };
    let result = ledger.run(1, &[write(1, "a", "x")], &gate, &mut apply);
    assert_eq!(result.unwrap_err(), CallFailed::Fenced { asked: 1, seen: 1 });
    assert_eq!((asked.get(), times(&dir.file(), "a")), (2, 0));
    assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), [done(b"x")]);
}

#[test]
fn nobody_takes_over_in_the_middle_of_a_transaction() {
    let dir = Directory::new();
    let config =
        LedgerConfig { busy_timeout: Duration::from_millis(50), ..LedgerConfig::default() };
    let mut old = open(&dir.file(), config.clone());
    let epochs = open(&dir.file(), config.clone()).epochs().unwrap();
    let mut other = open(&dir.file(), config.clone());
    let mut inside = |tx: &Connection, place: usize, item: &Record| {
        assert!(epochs.raise(2).is_err());
        let busy = run(&mut other, 1, &[write(2, "b", "y")]).unwrap();
        assert_eq!(busy, [ItemResult::Later { after: config.retry_after }]);
        apply(tx, place, item)
    };
    let result = old.run(1, &[write(1, "a", "x")], &|| Ok(()), &mut inside).unwrap();
    assert_eq!(result, [done(b"x")]);
    assert_eq!(epochs.raise(2).unwrap(), 2);
    assert_eq!(times(&dir.file(), "b"), 0);
}

#[test]
fn a_full_disk_undoes_the_call_and_it_comes_later() {
    let dir = Directory::new();
    let mut ledger = open(&dir.file(), LedgerConfig::default());
    let pages: i64 = ledger
        .connection()
        .unwrap()
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    let room = |ledger: &mut Ledger, pages: i64| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        ledger.connection().unwrap().query_row(&sql, [], |_| Ok(())).unwrap();
    };
    room(&mut ledger, pages + 1);
    let large = "x".repeat(200_000);
    let items = [write(1, "a", "x"), write(2, "b", &large)];
    let later = ItemResult::Later { after: ledger.config().retry_after };
    assert_eq!(run(&mut ledger, 1, &items).unwrap(), [later.clone(), later]);
    assert_eq!(times(&dir.file(), "a"), 0);
    room(&mut ledger, 100_000);
    assert_eq!(run(&mut ledger, 1, &items).unwrap(), [done(b"x"), done(large.as_bytes())]);
}

#[test]
fn ids_are_forgotten_by_age_and_number() {
    let dir = Directory::new();
    let config = LedgerConfig { keep_rows: 3, ..LedgerConfig::default() };
    let mut ledger = open(&dir.file(), config.clone());
    for id in 1..=5 {
        run(&mut ledger, 1, &[write(id, &id.to_string(), "x")]).unwrap();
    }
    assert_eq!(run(&mut ledger, 1, &[write(3, "3", "x")]).unwrap(), [again(b"x")]);
    assert_eq!(run(&mut ledger, 1, &[write(2, "2", "x")]).unwrap(), [done(b"x")]);
    // A clock that counts running time: what it says before is what it says after a restart.
    ledger.maintain(|tx| super::schema::set(tx, super::schema::CLOCK_MS, 10_000_000)).unwrap();
    drop(ledger);
    let config = LedgerConfig { keep: Duration::from_secs(100), ..LedgerConfig::default() };
    let mut ledger = open(&dir.file(), config);
    run(&mut ledger, 1, &[write(6, "6", "x")]).unwrap();
    assert_eq!(run(&mut ledger, 1, &[write(5, "5", "x")]).unwrap(), [done(b"x")]);
    assert_eq!(run(&mut ledger, 1, &[write(6, "6", "x")]).unwrap(), [again(b"x")]);
}

/// One of two servers that were started together for the first time gave up: "database is locked".
#[test]
fn servers_that_start_together_make_one_ledger() {
    for _ in 0..10 {
        let dir = Directory::new();
        let file = dir.file();
        std::thread::scope(|scope| {
            let open = || scope.spawn(|| Ledger::open(&file, LedgerConfig::default()).map(drop));
            let opens: Vec<_> = (0..6).map(|_| open()).collect();
            for open in opens {
                open.join().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn other_databases_are_left_alone() {
    let dir = Directory::new();
    Connection::open(dir.file()).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = Ledger::open(&dir.file(), LedgerConfig::default()).unwrap_err();
    assert!(error.to_string().contains("no ledger"), "{error}");
    std::fs::write(dir.0.join("junk"), vec![7; 5000]).unwrap();
    assert!(Ledger::open(&dir.0.join("junk"), LedgerConfig::default()).is_err());
}

#[test]
fn a_log_follows_another() {
    let (one, two) = (Directory::new(), Directory::new());
    let config = LedgerConfig { log_bytes: Some(1 << 20), ..LedgerConfig::default() };
    let mut main = open(&one.file(), config.clone());
    let mut standby = open(&two.file(), config);
    let items = [write(1, "a", "x"), write(2, "a", "refuse"), write(3, "b", "y")];
    run(&mut main, 1, &items).unwrap();
    run(&mut main, 1, &[write(4, "a", "later"), write(1, "a", "x")]).unwrap();
    let head = main.head().unwrap();
    assert_eq!((head.seq, head.epoch), (3, 1));
    let entries = main.entries(0, 100, u64::MAX).unwrap();
    assert_eq!(main.entries(0, 100, 1).unwrap(), entries[..1]);
    let start = super::Head::default();
    assert_eq!(standby.follow(1, &start, &entries, &mut apply).unwrap(), head);
    assert_eq!(times(&two.file(), "a"), 1);
    let next = standby.follow(1, &start, &entries, &mut apply);
    assert!(matches!(next, Err(super::LogError::NotNext { here }) if here == head), "{next:?}");
    // As a main it knows what the other one did.
    let results = run(&mut standby, 2, &items).unwrap();
    assert_eq!((&results[0], &results[2]), (&again(b"x"), &again(b"y")));
    run(&mut standby, 2, &[write(5, "b", "z")]).unwrap();
    assert_eq!(standby.first_above(1).unwrap(), Some(4));
    standby.epochs().unwrap().raise(2).unwrap();
    let old = standby.follow(1, &standby_head(&mut main), &[], &mut apply);
    assert!(matches!(old, Err(super::LogError::Fenced(_))), "{old:?}");
    run(&mut main, 1, &[write(6, "c", "tail")]).unwrap();
    let (here, there) = (main.head().unwrap(), standby.head().unwrap());
    assert_eq!(here.seq, there.seq);
    assert_ne!(here.chain, there.chain);
    assert_eq!(standby.head_at(3).unwrap(), Some(head));
    assert_eq!(standby.prune_log(3, 100).unwrap(), 3);
    assert_eq!(standby.head_at(3).unwrap(), None);
    assert_eq!(standby.prune_log(u64::MAX, 100).unwrap(), 0, "the last one stays");
    assert_eq!(standby.head().unwrap(), there);
}

fn standby_head(ledger: &mut Ledger) -> super::Head {
    ledger.head().unwrap()
}

#[test]
fn a_log_with_gaps_begins_anew() {
    let dir = Directory::new();
    let without = LedgerConfig::default();
    let with = LedgerConfig { log_bytes: Some(1 << 20), ..LedgerConfig::default() };
    // An empty one has nothing that a standby could lack.
    assert_eq!(open(&dir.file(), with.clone()).head().unwrap(), super::Head::default());
    run(&mut open(&dir.file(), without.clone()), 1, &[write(1, "a", "x")]).unwrap();
    let mut ledger = open(&dir.file(), with.clone());
    let base = ledger.head().unwrap();
    assert_eq!(base.seq, 2);
    assert_ne!(base.chain, [0; 16]);
    assert!(ledger.entries(0, 10, u64::MAX).unwrap().is_empty(), "it is never sent");
    run(&mut ledger, 1, &[write(2, "b", "y")]).unwrap();
    let head = ledger.head().unwrap();
    assert_eq!((head.seq, ledger.entries(0, 10, u64::MAX).unwrap()[0].lsn), (3, 3));
    drop(ledger);
    // What is whole stays as it is, also after a run in which nothing was done.
    drop(open(&dir.file(), without.clone()));
    assert_eq!(open(&dir.file(), with.clone()).head().unwrap(), head);
    let mut ledger = open(&dir.file(), without);
    run(&mut ledger, 1, &[write(2, "b", "y"), record(3, Kind::Read, "b", "")]).unwrap();
    assert_eq!(open(&dir.file(), with.clone()).head().unwrap(), head);
    run(&mut ledger, 1, &[write(4, "a", "z")]).unwrap();
    let mut ledger = open(&dir.file(), with.clone());
    let anew = ledger.head().unwrap();
    assert_eq!((anew.seq, ledger.head_at(3).unwrap()), (5, None));
    // Ledgers of versions that did not mark what they left out of the log.
    ledger
        .maintain(|tx| {
            tx.execute("DELETE FROM evs_log", [])?;
            super::schema::set(tx, super::schema::UNLOGGED, 0)
        })
        .unwrap();
    assert_eq!(open(&dir.file(), with).head().unwrap().seq, 2);
}

#[test]
fn a_log_that_nobody_confirms_stays_within_its_bytes() {
    let dir = Directory::new();
    let config = LedgerConfig { log_bytes: Some(10_000), ..LedgerConfig::default() };
    let mut ledger = open(&dir.file(), config);
    let payload = "x".repeat(1000);
    let weight = write(1, "key", &payload).weight();
    for id in 1..=40 {
        run(&mut ledger, 1, &[write(id, &format!("k{id:02}"), &payload)]).unwrap();
        let kept = ledger.entries(0, 100, u64::MAX).unwrap();
        let bytes: u64 = kept.iter().map(Record::weight).sum();
        assert!(bytes <= 10_000 && kept.last().unwrap().lsn == id as u64, "{bytes}");
        assert_eq!(kept.len() as u64, (id as u64).min(10_000 / weight));
    }
    // A standby that comes back has confirmed what it has: the rest stays for it.
    let kept = ledger.entries(0, 100, u64::MAX).unwrap();
    assert_eq!(ledger.prune_log(kept[1].lsn, 100).unwrap(), 2);
    assert_eq!(ledger.entries(0, 100, u64::MAX).unwrap(), kept[2..]);
    // What one call adds stays, however much it is.
    let many: Vec<_> = (100..120).map(|id| write(id, &id.to_string(), &payload)).collect();
    run(&mut ledger, 1, &many).unwrap();
    assert_eq!(ledger.entries(0, 100, u64::MAX).unwrap().len(), 20);
}

#[test]
fn a_database_that_another_process_holds_is_noticed() {
    let dir = Directory::new();
    let busy_timeout = Duration::from_millis(300);
    let config = LedgerConfig { busy_timeout, ..LedgerConfig::default() };
    let mut ledger = open(&dir.file(), config.clone());
    let mut notes = ledger.another().unwrap();
    let epochs = ledger.epochs().unwrap();
    assert!(notes.is_writable());
    let mut other = Connection::open(dir.file()).unwrap();
    // As one that was stopped in the middle.
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let later = [ItemResult::Later { after: config.retry_after }];
    let since = Instant::now();
    assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), later);
    let first = since.elapsed();
    assert!(first >= busy_timeout);
    assert!(notes.is_writable(), "it may be a short while");
    let mut quick = Duration::MAX;
    while since.elapsed() < first + 3 * busy_timeout {
        let begun = Instant::now();
        assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), later);
        quick = quick.min(begun.elapsed());
    }
    assert!(quick < busy_timeout, "those behind the first do not wait as long: {quick:?}");
    assert!(!notes.is_writable());
    assert!(epochs.raise(2).is_err());
    held.rollback().unwrap();
    // It finds that out by itself: one who is not ready is not asked for anything.
    assert!(notes.is_writable());
    assert_eq!(run(&mut ledger, 1, &[write(1, "a", "x")]).unwrap(), [done(b"x")]);
}

#[test]
fn a_standby_forgets_ids_too() {
    let (one, two) = (Directory::new(), Directory::new());
    let config = LedgerConfig { log_bytes: Some(1 << 20), keep_rows: 3, ..LedgerConfig::default() };
    let mut main = open(&one.file(), config.clone());
    let mut standby = open(&two.file(), config);
    let items: Vec<_> = (1..=9).map(|id| write(id, &id.to_string(), "x")).collect();
    run(&mut main, 1, &items).unwrap();
    let entries = main.entries(0, 100, u64::MAX).unwrap();
    standby.follow(1, &super::Head::default(), &entries, &mut apply).unwrap();
    for item in &items {
        assert_eq!(standby.knows(item).unwrap(), item.id.0 > 6, "{}", item.id);
    }
}
