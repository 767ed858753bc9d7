//! What a committer answers, and when.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_spool::store::committer::{
    AppendResult, Committer, CommitterConfig, LATENCY_EDGES_US, WriteResult,
};
use eversock_spool::store::{Appended, Batch, Found, Known, PairState, StoreError};

use crate::common::{
    Maker, PATIENCE, SqliteMaker, appends, assert_sound, done, ends, new, record, wait_for,
};
use crate::groups::Gate;

fn config() -> CommitterConfig {
    CommitterConfig::default()
}

fn append(committer: &Committer, n: u64) -> Receiver<AppendResult> {
    let (answer, answered) = channel();
    committer.append(new(record(n)), Box::new(move |result| answer.send(result).unwrap()));
    answered
}

fn write(committer: &Committer, batch: Batch) -> Receiver<WriteResult> {
    let (answer, answered) = channel();
    committer.write(batch, Box::new(move |result| answer.send(result).unwrap()));
    answered
}

fn get<T>(answered: &Receiver<T>) -> T {
    answered.recv_timeout(PATIENCE).expect("an answer")
}

#[test]
fn what_it_writes_is_there() {
    let maker = SqliteMaker::new();
    let committer = Committer::start(maker.open(), config()).unwrap();
    assert_eq!(get(&append(&committer, 1)).unwrap(), Appended::New { lsn: 1 });
    let again = get(&append(&committer, 1)).unwrap();
    assert_eq!(again, Appended::Duplicate { lsn: 1, end: None });
    let results = get(&write(&committer, appends([record(2), record(1), record(3)]))).unwrap();
    let expected = [
        Appended::New { lsn: 2 },
        Appended::Duplicate { lsn: 1, end: None },
        Appended::New { lsn: 3 },
    ];
    assert_eq!(results, expected);
    assert!(get(&write(&committer, ends([(2, done(b"yes"))]))).unwrap().is_empty());
    let mut reader = maker.reader();
    let known = reader.find(record(2).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Ended { lsn: 2, end: done(b"yes"), fingerprint: record(2).fingerprint() })
    );
    let (answer, answered) = channel();
    let reply = Box::new(move |result: Result<_, _>| answer.send(result.is_ok()).unwrap());
    committer.quarantine(3, "worms".to_owned(), reply);
    assert!(get(&answered));
    assert_eq!(
        reader.find(record(3).id).unwrap(),
        Some(Known::Quarantined { lsn: 3, fingerprint: record(3).fingerprint() })
    );
    let stats = committer.stats();
    assert_eq!((stats.commits, stats.records, stats.failed, stats.refused), (4, 3, 0, 0));
    assert_eq!(stats.latency.iter().sum::<u64>(), 4);
    assert!(stats.latency_sum_us > 0 && LATENCY_EDGES_US.is_sorted());
    drop(committer);
    assert_sound(&mut *reader);
    assert_eq!(maker.open().totals().unwrap().pending, 1, "the store was given up");
}

#[test]
fn batches_that_wait_share_a_transaction_and_keep_their_order() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let committer = Committer::start(gate.guard(maker.open()), config()).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    // What stands in line while the first is written.
    let appended: Vec<_> = (1..5).map(|n| append(&committer, n)).collect();
    let state = |epoch| Batch {
        state: Some(PairState { epoch, holder: 0, on_hold: false }),
        ..Batch::default()
    };
    let rest = [
        write(&committer, ends([(1, done(b"a")), (2, done(b"b"))])),
        write(&committer, state(1)),
        write(&committer, Batch { hold: vec![3], sent: vec![4], ..Batch::default() }),
        write(&committer, Batch { release: vec![3], unsent: vec![4], ..Batch::default() }),
        write(&committer, state(2)),
    ];
    // These take back what those before say of the same records: not in the same transaction.
    let back = [
        write(&committer, Batch { sent: vec![4], ..Batch::default() }),
        write(&committer, Batch { hold: vec![3], ..Batch::default() }),
    ];
    gate.open();
    assert_eq!(get(&first).unwrap(), Appended::New { lsn: 1 });
    for (lsn, answer) in (2..).zip(&appended) {
        assert_eq!(get(answer).unwrap(), Appended::New { lsn });
    }
    for answer in rest.iter().chain(&back) {
        assert!(get(answer).unwrap().is_empty());
    }
    assert_eq!(gate.sizes(), [1, 4, 0]);
    drop(committer);
    let mut store = maker.open();
    assert_eq!(store.state().unwrap().epoch, 2);
    let mark = |found| match found {
        Found::Whole { record, sent, held } => (record.lsn, sent, held),
        Found::Damaged { .. } => panic!("{found:?}"),
    };
    let found: Vec<_> =
        maker.reader().pending(0, 9, u64::MAX).unwrap().into_iter().map(mark).collect();
    assert_eq!(found, [(3, false, true), (4, true, false), (5, false, false)]);
}

#[test]
fn transactions_are_bounded() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let small = CommitterConfig { records_max: 10, ..config() };
    let committer = Committer::start(gate.guard(maker.open()), small).unwrap();
    let mut answers = vec![append(&committer, 0)];
    gate.wait_for_one_at_it();
    answers.extend((1..26).map(|n| append(&committer, n)));
    // More than may be in one transaction, and still one.
    let large = write(&committer, appends((100..115).map(record)));
    gate.open();
    assert!(answers.iter().all(|answer| get(answer).is_ok()) && get(&large).is_ok());
    assert_eq!(gate.sizes(), [1, 10, 10, 5, 15]);
    drop(committer);

    let gate = Gate::new();
    let small = CommitterConfig { bytes_max: 2 * record(599).weight(), ..config() };
    let committer = Committer::start(gate.guard(maker.open()), small).unwrap();
    let mut answers = vec![append(&committer, 200)];
    gate.wait_for_one_at_it();
    answers.extend((0..5).map(|i| append(&committer, 599 + 600 * i)));
    gate.open();
    assert!(answers.iter().all(|answer| get(answer).is_ok()));
    assert_eq!(gate.sizes(), [1, 2, 2, 1]);
}

#[test]
fn who_finds_no_room_to_wait_is_refused_at_once() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let narrow = CommitterConfig { queue_max: 3, ..config() };
    let committer = Committer::start(gate.guard(maker.open()), narrow).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    let waiting: Vec<_> = (1..4).map(|n| append(&committer, n)).collect();
    for n in 4..9 {
        let refused = append(&committer, n).try_recv().expect("an answer at once");
        assert!(matches!(*refused.unwrap_err(), StoreError::Full { .. }));
    }
    assert_eq!(committer.stats().refused, 5);
    gate.open();
    assert!(waiting.iter().chain([&first]).all(|answer| get(answer).is_ok()));
    assert_eq!(get(&append(&committer, 9)).unwrap(), Appended::New { lsn: 5 });
}

#[test]
fn a_failure_is_told_to_all_who_shared_it_and_to_nobody_else() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let committer = Committer::start(gate.guard(maker.open()), config()).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    let shared: Vec<_> = (1..4).map(|n| append(&committer, n)).collect();
    let ended = write(&committer, ends([(1, done(b""))]));
    gate.fail_next_with(|| StoreError::Failed { what: "x".into(), cause: "by the test".into() });
    gate.open();
    assert!(get(&first).is_ok());
    for answer in &shared {
        assert!(matches!(*get(answer).unwrap_err(), StoreError::Failed { .. }));
    }
    assert!(get(&ended).is_err());
    assert_eq!(get(&append(&committer, 9)).unwrap(), Appended::New { lsn: 2 });
    assert_eq!(committer.stats().failed, 1);
}

#[test]
fn a_full_disk_refuses_records_and_not_ends() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let committer = Committer::start(gate.guard(maker.open()), config()).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    let refused = append(&committer, 1);
    let ended = write(&committer, ends([(1, done(b""))]));
    let also = write(&committer, appends([record(2), record(3)]));
    gate.fail_next_with(|| StoreError::Full { what: "x".into() });
    gate.open();
    assert!(get(&first).is_ok() && get(&ended).is_ok());
    assert!(matches!(*get(&refused).unwrap_err(), StoreError::Full { .. }));
    assert!(matches!(*get(&also).unwrap_err(), StoreError::Full { .. }));
    drop(committer);
    let mut store = maker.open();
    assert_eq!((store.totals().unwrap().pending, store.totals().unwrap().last_lsn), (0, 1));
}

#[test]
fn an_answer_that_panics_hurts_nobody_else() {
    let maker = SqliteMaker::new();
    let committer = Committer::start(maker.open(), config()).unwrap();
    committer.append(new(record(1)), Box::new(|_| panic!("a test's own")));
    assert_eq!(get(&append(&committer, 2)).unwrap(), Appended::New { lsn: 2 });
}

fn quarantine(committer: &Committer, lsn: u64) -> Receiver<Result<(), Arc<StoreError>>> {
    let (answer, answered) = channel();
    let reply = move |result| answer.send(result).unwrap();
    committer.quarantine(lsn, "worms".to_owned(), Box::new(reply));
    answered
}

#[test]
fn a_store_that_panics_is_answered_for_and_goes_on() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let committer = Committer::start(gate.guard(maker.open()), config()).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    let hurt = [append(&committer, 1), append(&committer, 2)];
    gate.fail_next_with(|| panic!("a test's own"));
    gate.open();
    assert!(get(&first).is_ok());
    for answer in &hurt {
        assert!(matches!(*get(answer).unwrap_err(), StoreError::Unknown { .. }));
    }
    gate.fail_quarantine();
    let set_aside = get(&quarantine(&committer, 1));
    assert!(matches!(*set_aside.unwrap_err(), StoreError::Unknown { .. }));
    assert_eq!(get(&append(&committer, 3)).unwrap(), Appended::New { lsn: 2 });
    get(&quarantine(&committer, 1)).unwrap();
}

#[test]
fn a_full_queue_blocks_nobody() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let narrow = CommitterConfig { queue_max: 2, ..config() };
    let committer = Committer::start(gate.guard(maker.open()), narrow).unwrap();
    let first = append(&committer, 0);
    gate.wait_for_one_at_it();
    let waiting = [append(&committer, 1), append(&committer, 2)];
    let refused = quarantine(&committer, 1).try_recv().expect("an answer at once");
    assert!(matches!(*refused.unwrap_err(), StoreError::Full { .. }));
    assert!(!committer.call(Box::new(|_| ())));
    gate.open();
    assert!(waiting.iter().chain([&first]).all(|answer| get(answer).is_ok()));
    get(&quarantine(&committer, 1)).unwrap();
}

#[test]
fn what_was_handed_in_is_written_before_the_end() {
    let maker = SqliteMaker::new();
    let gate = Gate::new();
    let committer = Committer::start(gate.guard(maker.open()), config()).unwrap();
    let answers: Vec<_> = (0..40).map(|n| append(&committer, n)).collect();
    gate.open();
    committer.close();
    for answer in &answers {
        assert!(answer.try_recv().expect("answered by now").is_ok());
    }
    assert_eq!(maker.open().totals().unwrap().pending, 40);
}

#[test]
fn ids_are_forgotten_when_there_is_time() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    let many = 2500;
    store.commit(&appends((0..many).map(record))).unwrap();
    store.commit(&ends((1..many).map(|lsn| (lsn, done(b""))))).unwrap();
    let short = CommitterConfig { keep: Duration::ZERO, ..config() };
    let committer = Committer::start(store, short).unwrap();
    let mut reader = maker.reader();
    wait_for("all ended records forgotten", || reader.check().unwrap().records == 1);
    let known = reader.find(record(many - 1).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Pending { lsn: many, fingerprint: record(many - 1).fingerprint() })
    );
    drop(committer);
}

#[test]
fn under_load_as_much_is_forgotten_as_comes() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    let many = 4000;
    store.commit(&appends((0..many).map(record))).unwrap();
    store.commit(&ends((1..=many).map(|lsn| (lsn, done(b""))))).unwrap();
    let short = CommitterConfig { keep: Duration::ZERO, ..config() };
    let committer = Committer::start(store, short).unwrap();
    let mut reader = maker.reader();
    // It is never idle: what was there goes, by the time that twice as much could have come.
    let mut n = many;
    let mut rest = many;
    wait_for("a store that does not grow", || {
        for _ in 0..200 {
            let Appended::New { lsn } = get(&append(&committer, n)).unwrap() else { panic!() };
            assert!(get(&write(&committer, ends([(lsn, done(b""))]))).is_ok());
            n += 1;
        }
        rest = reader.check().unwrap().records;
        rest < many / 2
    });
    assert!(committer.stats().commits >= 2 * (n - many), "{n}");
}

#[test]
fn large_answers_share_no_transaction() {
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    store.commit(&appends((0..4).map(record))).unwrap();
    let gate = Gate::new();
    let small = CommitterConfig { bytes_max: 10_000, ..config() };
    let committer = Committer::start(gate.guard(store), small).unwrap();
    let first = write(&committer, Batch::default());
    gate.wait_for_one_at_it();
    let all: Vec<_> =
        (1..=4).map(|lsn| write(&committer, ends([(lsn, done(&[7; 4000]))]))).collect();
    gate.open();
    assert!(all.iter().chain([&first]).all(|answer| get(answer).is_ok()));
    assert_eq!(gate.sizes().len(), 3);
}

#[test]
fn a_single_sender_is_not_delayed() {
    let maker = SqliteMaker::new();
    // Whoever waits for others to come waits for as long as this.
    let patient = CommitterConfig { window: PATIENCE * 10, ..config() };
    let committer = Committer::start(maker.open(), patient).unwrap();
    let began = Instant::now();
    for n in 0..50 {
        assert!(get(&append(&committer, n)).is_ok());
    }
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(committer.stats().commits, 50);
}

#[test]
fn acknowledgements_come_in_the_order_of_their_places() {
    let maker = SqliteMaker::new();
    let committer = Committer::start(maker.open(), config()).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (over, all_over) = channel();
    for n in 0..1000 {
        let (order, over) = (Arc::clone(&order), over.clone());
        let reply = move |result: AppendResult| {
            order.lock().unwrap().push((n, result.unwrap()));
            over.send(()).unwrap();
        };
        committer.append(new(record(n)), Box::new(reply));
    }
    for _ in 0..1000 {
        get(&all_over);
    }
    let expected: Vec<_> = (0..1000).map(|n| (n, Appended::New { lsn: n + 1 })).collect();
    assert_eq!(*order.lock().unwrap(), expected);
}
