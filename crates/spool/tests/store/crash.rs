//! Writers that are killed at any moment: what they were promised is there.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use eversock_spool::store::{Found, Known, SpoolReader};

use crate::cluster::PostgresMaker;
use crate::common::{Maker, SqliteMaker, assert_sound};
use crate::writer::{Role, Said, end, written};

/// Numbers that one writer may use.
const STEP: u64 = 1_000_000;
const FAILPOINTS: [&str; 5] = [
    "store.begin",
    "store.before_commit",
    "store.after_commit",
    "store.finish.before_commit",
    "store.finish.after_commit",
];

/// What all writers of a store together were promised.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    kept: BTreeMap<u64, u64>,
    ended: BTreeSet<u64>,
    /// Surely not there.
    refused: BTreeSet<u64>,
}

impl Promised {
    pub(crate) fn add(&mut self, said: Said) {
        match said {
            Said::Kept(n, lsn) => {
                assert_eq!(self.kept.insert(n, lsn), None);
            }
            Said::Ended(lsn) => {
                self.ended.insert(lsn);
            }
            Said::Refused(n) => {
                self.refused.insert(n);
            }
            Said::Unknown(_) | Said::Over => {}
        }
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Looks at what was promised from this number on, and at all that waits.
    pub(crate) fn verify(&self, reader: &mut dyn SpoolReader, from: u64) {
        for (&n, &lsn) in self.kept.range(from..) {
            let known = reader.find(written(n).id).unwrap();
            let fingerprint = written(n).fingerprint();
            if self.ended.contains(&lsn) {
                assert_eq!(
                    known,
                    Some(Known::Ended { lsn, end: end(lsn), fingerprint }),
                    "number {n}"
                );
            } else {
                // Ended or not: the writer may have died before it could say so.
                let ended = Known::Ended { lsn, end: end(lsn), fingerprint };
                let pending = Known::Pending { lsn, fingerprint };
                assert!(known.as_ref().is_some_and(|k| *k == ended || *k == pending), "{known:?}");
            }
        }
        for &n in self.refused.range(from..) {
            assert_eq!(reader.find(written(n).id).unwrap(), None, "number {n} was refused");
        }
        let mut seen = BTreeSet::new();
        let mut after = 0;
        loop {
            let step = reader.pending(after, 500, u64::MAX).unwrap();
            let Some(last) = step.last() else { break };
            after = last.lsn();
            for found in step {
                let Found::Whole { record, .. } = found else { panic!("{found:?}") };
                assert!(!self.ended.contains(&record.lsn), "{} had ended", record.lsn);
                let n = u64::try_from(record.id.0 >> 64).unwrap();
                assert!(seen.insert(n), "number {n} is there twice");
                let lsn = record.lsn;
                assert_eq!(record, eversock_spool::record::Record { lsn, ..written(n) });
            }
        }
    }
}

/// Moments between the birth of a writer and its end, the same in each run.
fn moments(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|i| i.wrapping_mul(2_654_435_761) % 97)
}

#[test]
fn sqlite_killed_at_random() {
    let maker = SqliteMaker::new();
    drop(maker.open());
    let mut promised = Promised::default();
    for (round, moment) in (0..).zip(moments(80)) {
        let from = round * STEP;
        let mut writer = Role::sqlite(&maker.file(), from, 100_000).start(&[]);
        // So many promises, then anywhere within the next.
        for said in (0..moment).map_while(|_| writer.next()) {
            promised.add(said);
        }
        thread::sleep(Duration::from_micros(moment * 37));
        writer.kill();
        writer.rest().into_iter().for_each(|said| promised.add(said));
        if round % 4 == 0 {
            // Read as the CLI would, with nobody there who could have recovered the file.
            promised.verify(&mut *maker.reader(), from);
        }
    }
    assert!(promised.kept() > 1000, "{}", promised.kept());
    let mut reader = maker.reader();
    promised.verify(&mut *reader, 0);
    assert_sound(&mut *reader);
    drop(maker.open());
    promised.verify(&mut *reader, 0);
}

#[test]
fn sqlite_killed_at_each_place() {
    let maker = SqliteMaker::new();
    at_each_place(&maker, &[1, 2, 3, 7, 20, 41], |from| Role::sqlite(&maker.file(), from, 1000));
}

#[test]
fn postgres_writers_killed_at_each_place() {
    let Some(maker) = PostgresMaker::new() else { return };
    at_each_place(&maker, &[1, 2, 9], |from| Role::postgres(&maker.config, from, 1000));
}

fn at_each_place(maker: &dyn Maker, counts: &[u64], role: impl Fn(u64) -> Role) {
    let mut promised = Promised::default();
    let mut from = 0;
    for place in FAILPOINTS {
        for count in counts {
            let writer = Role { die: Some(format!("{place}:{count}")), ..role(from) };
            let said = writer.start(&[]).rest();
            assert!(!said.contains(&Said::Over), "it did not die at {place}:{count}");
            said.into_iter().for_each(|said| promised.add(said));
            promised.verify(&mut *maker.reader(), from);
            from += STEP;
        }
    }
    drop(maker.open());
    let mut reader = maker.reader();
    promised.verify(&mut *reader, 0);
    assert_sound(&mut *reader);
}
