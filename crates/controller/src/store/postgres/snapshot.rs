//! Reading a whole table beside its writer, in a session of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fault::{self, Fault};
use super::schema::Schema;
use super::{Outcome, PostgresConfig, sql};
use crate::model::{ControllerId, Record};
use crate::store::{Position, Result, Snapshot, Totals};

/// Connects for each reading.
#[derive(Debug)]
pub(super) struct PostgresSnapshot {
    pub(super) config: Arc<PostgresConfig>,
    pub(super) schema: Schema,
    pub(super) partition: ControllerId,
    /// The store is closed, or about to be opened anew.
    pub(super) closed: Arc<AtomicBool>,
}

impl PostgresSnapshot {
    fn read_all(&self, each: &mut dyn FnMut(&Record) -> io::Result<()>) -> Outcome<Position> {
        let mut client = fault::connect(&self.config, &self.partition)?;
        self.schema.enter(&mut client)?;
        // By the index, in its order: the server keeps no more of it than a few rows either.
        client.batch_execute("SET enable_sort = off; SET enable_bitmapscan = off")?;
        let mut moment = client
            .build_transaction()
            .isolation_level(postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()?;
        let counters = sql::counters(&mut moment, &self.partition)?;
        let run = sql::runs(&mut moment)?.pop().map_or(0, |run| run.id);
        moment.batch_execute(concat!(
            "DECLARE all_rows NO SCROLL CURSOR FOR ",
            sql::select!("ORDER BY kind, key")
        ))?;
        let fetch = moment.prepare("FETCH 64 FROM all_rows")?;
        let mut seen = Totals::default();
        loop {
            let rows = moment.query(&fetch, &[])?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                if self.closed.load(Ordering::Relaxed) {
                    let cause = "its store was closed during a snapshot".to_owned();
                    return Err(Fault::Failed(cause));
                }
                let row = sql::row(&row)?;
                seen.records += 1;
                seen.bytes += row.record.weight() as u64;
                each(&row.record).map_err(|e| Fault::Failed(format!("a snapshot of it: {e}")))?;
            }
        }
        moment.commit()?;
        if seen != counters.totals {
            return Err(Fault::Damaged(format!(
                "{} records of {} bytes are there, and there should be {} of {}",
                seen.records, seen.bytes, counters.totals.records, counters.totals.bytes
            )));
        }
        Ok(Position { run, lsn: counters.head })
    }
}

impl Snapshot for PostgresSnapshot {
    fn read(&mut self, each: &mut dyn FnMut(&Record) -> io::Result<()>) -> Result<Position> {
        self.read_all(each).map_err(|fault| fault.of(&self.schema.what()))
    }
}
