//! Many senders at once: they share transactions.

use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use eversock_spool::store::committer::{Committer, CommitterConfig};
use eversock_spool::store::{
    Appended, Batch, PairState, SpoolReader, SpoolStore, StoreError, Totals,
};

use crate::common::{Maker, PATIENCE, SqliteMaker, assert_sound, new, record};

type Failure = fn() -> StoreError;

#[derive(Default)]
struct Inner {
    open: bool,
    at_it: bool,
    sizes: Vec<usize>,
    failures: VecDeque<Failure>,
    quarantine_panics: bool,
}

/// Stops a store's first commit until the test has prepared what comes next.
#[derive(Clone)]
pub(crate) struct Gate(Arc<(Mutex<Inner>, Condvar)>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn guard(&self, store: Box<dyn SpoolStore>) -> Box<dyn SpoolStore> {
        Box::new(Gated { store, gate: self.clone() })
    }

    pub(crate) fn wait_for_one_at_it(&self) {
        let (inner, changed) = &*self.0;
        let waited = changed.wait_timeout_while(inner.lock().unwrap(), PATIENCE, |g| !g.at_it);
        assert!(!waited.unwrap().1.timed_out(), "no commit came");
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// The commit after the one that stands at the gate fails.
    pub(crate) fn fail_next_with(&self, failure: Failure) {
        self.0.0.lock().unwrap().failures.push_back(failure);
    }

    /// The next that is set aside makes the store panic.
    pub(crate) fn fail_quarantine(&self) {
        self.0.0.lock().unwrap().quarantine_panics = true;
    }

    /// How many records each commit has appended.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.0.0.lock().unwrap().sizes.clone()
    }

    /// Says with what a commit is to fail.
    fn pass(&self, batch: &Batch) -> Option<StoreError> {
        let (inner, changed) = &*self.0;
        let mut inner = inner.lock().unwrap();
        inner.sizes.push(batch.append.len());
        let first = !inner.at_it;
        inner.at_it = true;
        changed.notify_all();
        let mut inner = changed.wait_while(inner, |inner| !inner.open).unwrap();
        let failure = if first { None } else { inner.failures.pop_front() };
        // One that panics is to leave the gate as it is.
        drop(inner);
        failure.map(|failure| failure())
    }
}

struct Gated {
    store: Box<dyn SpoolStore>,
    gate: Gate,
}

impl SpoolStore for Gated {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<Appended>, StoreError> {
        match self.gate.pass(batch) {
            Some(error) => Err(error),
            None => self.store.commit(batch),
        }
    }

    fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), StoreError> {
        let panics = std::mem::take(&mut self.gate.0.0.lock().unwrap().quarantine_panics);
        assert!(!panics, "a test's own");
        self.store.quarantine(lsn, what)
    }

    fn state(&mut self) -> Result<PairState, StoreError> {
        self.store.state()
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.store.totals()
    }

    fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, StoreError> {
        self.store.forget(before_ms, limit)
    }

    fn reader(&self) -> Result<Box<dyn SpoolReader>, StoreError> {
        self.store.reader()
    }
}

#[test]
fn sixty_four_senders_share_transactions() {
    let maker = SqliteMaker::new();
    // As long as nobody stays away a transaction waits for all who shared the last one; a machine
    // with other work may take its time until they are there.
    let config = CommitterConfig { window: PATIENCE / 20, ..CommitterConfig::default() };
    let committer = Committer::start(maker.open(), config).unwrap();
    let (senders, each) = (64, 20);
    let records = senders * each;
    thread::scope(|scope| {
        for sender in 0..senders {
            let committer = &committer;
            scope.spawn(move || {
                let mut last = 0;
                for i in 0..each {
                    let (answer, answered) = channel();
                    let record = record(i * senders + sender);
                    let reply = move |result| answer.send(result).unwrap();
                    committer.append(new(record), Box::new(reply));
                    let Appended::New { lsn } = answered.recv_timeout(PATIENCE).unwrap().unwrap()
                    else {
                        panic!("not new");
                    };
                    assert!(lsn > last);
                    last = lsn;
                }
            });
        }
    });
    let stats = committer.stats();
    assert_eq!(stats.records, records);
    assert!(stats.commits < records / 4, "{} commits", stats.commits);
    drop(committer);
    let mut reader = maker.reader();
    assert_eq!(reader.totals().unwrap().pending, records);
    assert_sound(&mut *reader);
}
