//! Random batches against a store and against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use eversock_spool::record::{Lane, Record};
use eversock_spool::store::{
    Appended, Batch, Finish, Found, Known, NewRecord, PairState, Quota, SpoolReader, SpoolStore,
    Totals,
};
use eversock_spool::{Kind, RequestId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::cluster::PostgresMaker;
use crate::common::{Maker, SqliteMaker, assert_sound};

const QUOTA: Quota = Quota { records: 14, bytes: 1800 };
const IDS: u64 = 12;
const KEYS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Commit(Batch),
    Quarantine(u64),
    Forget,
    Reopen,
}

/// What the model keeps of a record.
#[derive(Debug, Clone)]
struct Entry {
    record: Record,
    sent: bool,
    held: bool,
    end: Option<Finish>,
    quarantined: bool,
    /// Set aside for an operator.
    aside: bool,
}

impl Entry {
    fn waits(&self) -> bool {
        self.end.is_none() && !self.quarantined
    }
}

type Mark = fn(&mut Entry);

#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    last: u64,
    state: PairState,
}

impl Model {
    fn waiting(&self) -> impl DoubleEndedIterator<Item = (&u64, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.waits())
    }

    fn totals(&self) -> Totals {
        let count = |of: fn(&Entry) -> bool| self.waiting().filter(|(_, e)| of(e)).count() as u64;
        Totals {
            pending: count(|_| true),
            bytes: self.waiting().map(|(_, entry)| entry.record.weight()).sum(),
            held: count(|entry| entry.held),
            in_doubt: count(|entry| entry.sent),
            quarantined: self.entries.values().filter(|entry| entry.aside).count() as u64,
            last_lsn: self.last,
            oldest_ms: self.waiting().map(|(_, e)| e.record.accepted_ms).min().unwrap_or(0),
        }
    }

    fn append(&mut self, new: &NewRecord) -> Appended {
        let known = self.entries.iter().find(|(_, entry)| entry.record.id == new.record.id);
        if let Some((&lsn, entry)) = known {
            let same = entry.record.kind == new.record.kind
                && entry.record.key == new.record.key
                && entry.record.payload == new.record.payload;
            return if same {
                Appended::Duplicate { lsn, end: entry.end.clone() }
            } else {
                Appended::IdReused
            };
        }
        let totals = self.totals();
        if totals.pending + 1 > QUOTA.records || totals.bytes + new.record.weight() > QUOTA.bytes {
            return Appended::OverQuota;
        }
        self.last += 1;
        let record = Record { lsn: self.last, ..new.record.clone() };
        let (sent, held) = (new.sent, new.held);
        let entry = Entry { record, sent, held, end: None, quarantined: false, aside: false };
        self.entries.insert(self.last, entry);
        Appended::New { lsn: self.last }
    }

    fn commit(&mut self, batch: &Batch) -> Vec<Appended> {
        let results = batch.append.iter().map(|new| self.append(new)).collect();
        for (lsn, finish) in &batch.finish {
            let Some(entry) = self.entries.get_mut(lsn) else { continue };
            if entry.waits() {
                entry.end = Some(finish.clone());
                entry.aside = matches!(finish, Finish::Refused { .. });
            } else if entry.aside && *finish == Finish::Purged {
                entry.aside = false;
                entry.end.get_or_insert(Finish::Purged);
                entry.quarantined = false;
            }
        }
        let marks: [(&[u64], Mark); 4] = [
            (&batch.sent, |entry| entry.sent = true),
            (&batch.unsent, |entry| entry.sent = false),
            (&batch.hold, |entry| entry.held = true),
            (&batch.release, |entry| entry.held = false),
        ];
        for (places, mark) in marks {
            for lsn in places {
                if let Some(entry) = self.entries.get_mut(lsn).filter(|entry| entry.waits()) {
                    mark(entry);
                }
            }
        }
        if let Some(state) = &batch.state {
            self.state = state.clone();
        }
        results
    }

    fn quarantine(&mut self, lsn: u64) {
        if let Some(entry) = self.entries.get_mut(&lsn).filter(|entry| entry.waits()) {
            (entry.quarantined, entry.aside) = (true, true);
        }
    }

    fn forget(&mut self) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.aside || entry.end.is_none());
        (before - self.entries.len()) as u64
    }

    fn compare(&self, store: &mut dyn SpoolStore, reader: &mut dyn SpoolReader) {
        assert_eq!(store.totals().unwrap(), self.totals());
        assert_eq!(reader.totals().unwrap(), self.totals());
        assert_eq!(store.state().unwrap(), self.state);
        let found = |entry: &Entry| Found::Whole {
            record: entry.record.clone(),
            sent: entry.sent,
            held: entry.held,
        };
        let waiting: Vec<_> = self.waiting().map(|(_, entry)| found(entry)).collect();
        assert_eq!(reader.pending(0, 1000, u64::MAX).unwrap(), waiting);
        for key in 0..KEYS {
            let newest = self.waiting().rev().find(|(_, entry)| entry.record.key == [key]);
            let newest = newest.map(|(_, entry)| found(entry));
            assert_eq!(reader.newest(Lane::of(&[key])).unwrap(), newest);
        }
        let listed: Vec<_> =
            reader.list(0, 1000).unwrap().iter().map(|line| (line.lsn, line.state)).collect();
        let word = |entry: &Entry| match entry {
            entry if !entry.waits() => "quarantined",
            Entry { sent: true, .. } => "in doubt",
            Entry { held: true, .. } => "held",
            _ => "pending",
        };
        let expected: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.waits() || entry.aside)
            .map(|(&lsn, entry)| (lsn, word(entry)))
            .collect();
        assert_eq!(listed, expected);
        for n in 0..IDS {
            let known = self.entries.iter().find(|(_, e)| e.record.id == id(n));
            let known = known.map(|(&lsn, entry)| {
                let fingerprint = entry.record.fingerprint();
                match &entry.end {
                    Some(end) => Known::Ended { lsn, end: end.clone(), fingerprint },
                    None if entry.quarantined => Known::Quarantined { lsn, fingerprint },
                    None => Known::Pending { lsn, fingerprint },
                }
            });
            assert_eq!(reader.find(id(n)).unwrap(), known);
        }
    }
}

fn id(n: u64) -> RequestId {
    RequestId(u128::from(n) << 100)
}

fn new_record() -> impl Strategy<Value = NewRecord> {
    // Few ids and few contents, so that they meet again.
    let parts = (0..IDS, 0..KEYS, 0..2_u8, 0..3_usize, any::<u64>(), 0..1_u64 << 50);
    let marks = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (parts, marks).prop_map(|((n, key, kind, size, epoch, accepted_ms), (sent, held))| {
        let kind = if kind == 0 { Kind::Write } else { Kind::Delete };
        let payload = vec![b'p'; size * 100];
        let (id, key) = (id(n), vec![key]);
        let record = Record { lsn: 0, id, kind, key, payload, epoch, accepted_ms };
        NewRecord { record, sent, held }
    })
}

fn finish() -> impl Strategy<Value = Finish> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40).prop_map(|answer| Finish::Done { answer }),
        2 => (any::<u32>(), "\\PC{0,9}").prop_map(|(code, text)| Finish::Refused { code, text }),
        1 => Just(Finish::SkippedInDoubt),
        2 => Just(Finish::Purged),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let places = || vec(0..30_u64, 0..3);
    let state = (any::<u64>(), any::<u8>(), any::<bool>())
        .prop_map(|(epoch, holder, on_hold)| PairState { epoch, holder, on_hold });
    (
        vec(new_record(), 0..6),
        vec((0..30_u64, finish()), 0..4),
        (places(), places(), places(), places()),
        prop::option::weighted(0.2, state),
    )
        .prop_map(|(append, finish, (sent, unsent, hold, release), state)| Batch {
            append,
            finish,
            sent,
            unsent,
            hold,
            release,
            state,
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => batch().prop_map(Step::Commit),
        2 => (0..30_u64).prop_map(Step::Quarantine),
        1 => Just(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

fn play(maker: &dyn Maker, steps: &[Step]) {
    let mut model = Model::default();
    let mut store = maker.open_with(QUOTA).unwrap();
    let mut reader = maker.reader();
    for step in steps {
        match step {
            Step::Commit(batch) => {
                assert_eq!(store.commit(batch).unwrap(), model.commit(batch));
            }
            Step::Quarantine(lsn) => {
                store.quarantine(*lsn, "the test says so").unwrap();
                model.quarantine(*lsn);
            }
            Step::Forget => {
                assert_eq!(store.forget(u64::MAX, 1000).unwrap(), model.forget());
            }
            Step::Reopen => {
                drop(store);
                store = maker.open_with(QUOTA).unwrap();
            }
        }
        model.compare(&mut *store, &mut *reader);
    }
    assert_sound(&mut *reader);
}

fn run<M: Maker>(cases: u32, make: impl Fn() -> M) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&vec(step(), 1..25), |steps| {
        let maker = make();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            play(&maker, &steps);
        }));
        played.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
            TestCaseError::fail(text.to_owned())
        })
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}

#[test]
fn sqlite_does_as_the_model() {
    run(64, SqliteMaker::new);
}

#[test]
fn postgres_does_as_the_model() {
    if let Some(maker) = PostgresMaker::new() {
        run(10, || PostgresMaker::on(maker.cluster.clone()));
    }
}
