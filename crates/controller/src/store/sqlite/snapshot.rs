//! Reading a whole table beside its writer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::fault::Fault;
use super::{file, read};
use crate::model::Record;
use crate::store::{Position, Result, Snapshot, Totals};

/// What a store tells those who read beside it.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The store is closed, or about to be opened anew.
    closed: AtomicBool,
    /// How often the log has grown too long because somebody read.
    given_way: AtomicU64,
}

impl Signals {
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whoever reads now has to stop.
    pub(super) fn give_way(&self) {
        self.given_way.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens the file by itself for each reading.
#[derive(Debug)]
pub(super) struct SqliteSnapshot {
    pub(super) path: PathBuf,
    pub(super) partition: String,
    pub(super) what: String,
    pub(super) signals: Arc<Signals>,
}

impl SqliteSnapshot {
    fn go_on(&self, since: u64) -> std::result::Result<(), Fault> {
        if self.signals.closed.load(Ordering::Relaxed) {
            return Err(Fault::Failed("its store was closed during a snapshot".to_owned()));
        }
        if self.signals.given_way.load(Ordering::Relaxed) != since {
            let cause = "so much was written during a snapshot that its log grew too long";
            return Err(Fault::Failed(cause.to_owned()));
        }
        Ok(())
    }

    fn read_all(
        &self,
        each: &mut dyn FnMut(&Record) -> io::Result<()>,
    ) -> std::result::Result<Position, Fault> {
        let since = self.signals.given_way.load(Ordering::Relaxed);
        self.go_on(since)?;
        let mut conn = file::open_reader(&self.path)?;
        // All of what follows sees the moment of the first look.
        let moment = conn.transaction()?;
        let counters = read::counters(&moment, &self.partition)?;
        let run = read::runs(&moment)?.pop().map_or(0, |run| run.id);
        let mut statement = moment.prepare(read::select!("ORDER BY kind, key"))?;
        let mut rows = statement.query([])?;
        let mut seen = Totals::default();
        while let Some(row) = rows.next()? {
            self.go_on(since)?;
            let row = read::row(row)?;
            seen.records += 1;
            seen.bytes += row.record.weight() as u64;
            each(&row.record).map_err(|e| Fault::Failed(format!("a snapshot of it: {e}")))?;
        }
        if seen != counters.totals {
            return Err(Fault::Damaged(format!(
                "{} records of {} bytes are there, and there should be {} of {}",
                seen.records, seen.bytes, counters.totals.records, counters.totals.bytes
            )));
        }
        Ok(Position { run, lsn: counters.head })
    }
}

impl Snapshot for SqliteSnapshot {
    fn read(&mut self, each: &mut dyn FnMut(&Record) -> io::Result<()>) -> Result<Position> {
        self.read_all(each).map_err(|fault| fault.of(&self.what, &self.path))
    }
}
