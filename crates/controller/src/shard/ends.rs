//! When ends of registrations are forgotten: once they are old, and every partner has them.

use std::collections::VecDeque;

use super::input::Millis;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::model::{Location, kind};
use crate::store::{Result, Store};

/// Marks of the table's head within the time that ends are kept.
const MARKS: Millis = 8;

/// Walks behind the changes of the table, at the distance that ends are kept. A row is looked at
/// once per change and nothing is remembered for each, so that a million ends cost no memory. After
/// a restart the walk begins anew.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Up to this change all is done.
    done: u64,
    /// What is up to these changes has been here at these times, at least.
    marks: VecDeque<(Millis, u64)>,
    /// The newest mark that is old enough.
    old: u64,
}

impl Ends {
    /// Makes a mark if it is time, and purges at most [`BATCH_MAX`] rows. `taken` is the change up
    /// to which every partner has confirmed. Gives when to come again.
    pub(super) fn step(
        &mut self,
        now: Millis,
        store: &mut dyn Store,
        keep: Millis,
        taken: u64,
    ) -> Result<Millis> {
        let every = (keep / MARKS).max(1);
        while self.marks.front().is_some_and(|(at, _)| at.saturating_add(keep) <= now) {
            self.old = self.marks.pop_front().map_or(self.old, |(_, lsn)| lsn);
        }
        let last = self.marks.back().map(|(at, _)| *at);
        if last.is_none_or(|at| at.saturating_add(every) <= now) {
            self.marks.push_back((now, store.head()));
        }
        let next_mark = self.marks.back().map_or(now, |(at, _)| *at).saturating_add(every);
        if self.walk(store, self.old.min(taken))? { Ok(now) } else { Ok(next_mark) }
    }

    /// Purges some of the ends up to `upto`; whether there is more to do.
    fn walk(&mut self, store: &mut dyn Store, upto: u64) -> Result<bool> {
        if self.done >= upto {
            return Ok(false);
        }
        let rows = store.changes(self.done, BATCH_MAX, BATCH_BYTES_MAX)?;
        let mut ends = Vec::new();
        let mut done = upto;
        let mut has_more = false;
        for row in rows {
            if row.lsn > upto {
                has_more = false;
                done = upto;
                break;
            }
            done = row.lsn;
            has_more = row.lsn < upto;
            if row.record.kind == kind::LOCATION
                && Location::from_record(&row.record).is_ok_and(|location| !location.stands())
            {
                ends.push((row.record.kind, row.record.key, row.lsn));
            }
        }
        if !ends.is_empty() {
            store.purge(&ends)?;
        }
        self.done = done;
        Ok(has_more)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;
    use crate::model::Standing;
    use crate::store::memory::MemDisk;

    fn location(n: u64, standing: Standing) -> Location {
        Location {
            device: format!("d{n}").parse().unwrap(),
            owner: "a".parse().unwrap(),
            seq: 1,
            version: 1,
            standing,
            nonce: 1,
            lease: std::time::Duration::from_secs(9),
            generation: 0,
            address: Vec::new(),
        }
    }

    #[test]
    fn only_old_ends_that_all_have_go_and_each_row_is_looked_at_once() {
        let disk = MemDisk::new("it", 1);
        let mut store = disk.open().unwrap();
        let many = BATCH_MAX as u64 * 3;
        for n in 0..many {
            let standing = if n % 3 == 0 { Standing::Registered } else { Standing::Expired };
            store.put(&location(n, standing).to_record(), None).unwrap();
        }
        let mut ends = Ends::default();
        let mut run = |store: &mut dyn Store, from: Millis, to: Millis, taken: u64| {
            let mut now = from;
            while now <= to {
                now = ends.step(now, store, 800, taken).unwrap().max(now + 1);
            }
        };
        run(&mut store, 0, 799, many);
        assert_eq!(store.totals().unwrap().records, many, "none is old");
        run(&mut store, 800, 2000, 0);
        assert_eq!(store.totals().unwrap().records, many, "nobody has them");
        let young = location(many, Standing::Deregistered).to_record();
        store.put(&young, None).unwrap();
        run(&mut store, 2001, 2500, many + 1);
        assert_eq!(store.totals().unwrap().records, many / 3 + 1, "the new one is not old");
        assert!(store.floor() < many + 1);
        run(&mut store, 2501, 4000, many + 1);
        assert_eq!(store.totals().unwrap().records, many / 3);
        assert_eq!(store.floor(), many + 1);
        assert!(ends.marks.len() <= 10);
    }
}
