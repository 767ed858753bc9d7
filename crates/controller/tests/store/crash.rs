//! Writers that are killed at any moment: what they were promised is there, and nothing half.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use eversock_controller::store::{Position, Row, Store};

use crate::cluster::PostgresMaker;
use crate::common::{Maker, SqliteMaker, home, records, snapshot, wait_for};
use crate::writer::{Role, Said, mark, puts};

/// What writers were promised, and what has to be there therefore.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    runs: Vec<u128>,
    /// The last transaction that was acknowledged, and the head and run then.
    pub(crate) last: u64,
    position: Option<Position>,
    /// How often a writer had to open its store anew.
    pub(crate) failed: u64,
    /// The last that somebody may have committed.
    begun: u64,
    /// What stands after the transaction `at`.
    table: BTreeMap<Vec<u8>, Row>,
    at: u64,
    head: u64,
}

impl Promised {
    pub(crate) fn add(&mut self, said: &Said) {
        match *said {
            Said::Run(run) => {
                assert!(!self.runs.contains(&run), "a run has come again");
                self.runs.push(run);
            }
            Said::Committing(n) => {
                assert!(n == self.last + 1 || n == self.begun + 1, "{n} is to come");
                self.begun = n;
            }
            Said::Committed(n, head) => {
                assert_eq!(n, self.begun);
                self.last = n;
                let run = *self.runs.last().unwrap();
                self.position = Some(Position { run, lsn: head });
            }
            Said::Failed => self.failed += 1,
            Said::Full | Said::Over => {}
        }
    }

    /// Counts the changes that the transactions up to this one make.
    fn follow(&mut self, to: u64) {
        while self.at < to {
            self.at += 1;
            for (record, from) in puts(self.at) {
                self.head += 1;
                let row = Row { lsn: self.head, from, record };
                self.table.insert(row.record.key.clone(), row);
            }
        }
    }

    pub(crate) fn verify(&mut self, store: &mut dyn Store) {
        let there = mark(store).unwrap();
        assert!((self.last..=self.begun).contains(&there), "{there} of {self:?}");
        self.follow(there);
        assert_eq!(store.head(), self.head);
        let rows = store.scan(None, usize::MAX).unwrap();
        assert_eq!(rows, self.table.values().cloned().collect::<Vec<_>>());
        let bytes = rows.iter().map(|row| row.record.weight() as u64).sum::<u64>();
        let totals = store.totals().unwrap();
        assert_eq!((totals.records, totals.bytes), (rows.len() as u64, bytes));
        assert!(!self.runs.contains(&store.run()));
        self.runs.push(store.run());
        if let Some(position) = self.position {
            assert!(store.reaches(position).unwrap());
            let ahead = Position { lsn: self.head + 1, ..position };
            assert!(!store.reaches(ahead).unwrap());
        }
        let (at, read) = snapshot(store).unwrap();
        assert_eq!((at, read), (Position { run: store.run(), lsn: self.head }, records(rows)));
        // Whatever comes, it is not less than that.
        self.last = there;
        self.begun = there;
    }
}

/// Opens it as soon as whoever had it is known to be gone.
fn open(maker: &dyn Maker) -> Box<dyn Store> {
    let mut store = None;
    wait_for("a store that is not held", || {
        store = maker.opens(crate::common::ROOMY).open(&home()).ok();
        store.is_some()
    });
    store.unwrap()
}

fn killed(maker: &dyn Maker, role: &Role, rounds: u64) -> Promised {
    let mut promised = Promised::default();
    for round in 0..rounds {
        let moment = round.wrapping_mul(2_654_435_761) % 97;
        let mut writer = role.start(&[]);
        let stop = promised.last + 1 + moment % 13;
        // Up to where a commit begins, then anywhere within it or behind.
        while let Some(said) = writer.next() {
            promised.add(&said);
            if matches!(said, Said::Committing(n) if n >= stop) {
                break;
            }
        }
        thread::sleep(Duration::from_micros(moment * moment / 3));
        writer.kill();
        writer.rest().iter().for_each(|said| promised.add(said));
        promised.verify(&mut *open(maker));
    }
    promised
}

#[test]
fn sqlite_writers_killed() {
    let maker = SqliteMaker::new();
    let promised = killed(&maker, &Role::sqlite(&maker, 1 << 40), 60);
    assert!(promised.last > 300, "{}", promised.last);
}

#[test]
fn postgres_writers_killed() {
    let Some(maker) = PostgresMaker::new() else { return };
    let promised = killed(&maker, &Role::postgres(&maker.config, 1 << 40), 12);
    assert!(promised.last > 60, "{}", promised.last);
}
