//! A look at every record of a file.

use rusqlite::Connection;

use super::fault::Fault;
use super::read;
use super::write::{counted, counters, uint};
use crate::limits::BATCH_BYTES_MAX;
use crate::store::row::{DAMAGED_MAX, FAULTS_MAX};
use crate::store::{Checked, Found};

/// Records that are in memory at once.
const STEP: usize = 256;

/// A part of a check: one transaction, so that the log can be cut between two of them.
pub(super) type Step = fn(&Connection, &mut Checked) -> Result<(), Fault>;

/// What is looked at after the records. The last one takes a long time with a large file, and the
/// log grows meanwhile: only for a file that no front writes.
pub(super) const COUNT: Step = count;
pub(super) const PAGES: Step = pages;

/// Checksums of some of what is pending after this place. Gives the last place; `None` at the end.
pub(super) fn records(
    conn: &Connection,
    after: u64,
    checked: &mut Checked,
) -> Result<Option<u64>, Fault> {
    let step = read::pending(conn, after, STEP, BATCH_BYTES_MAX as u64)?;
    let last = step.last().map(Found::lsn);
    for found in step {
        if let Found::Damaged { lsn, .. } = found
            && checked.damaged.len() < DAMAGED_MAX
        {
            checked.damaged.push(lsn);
        }
    }
    Ok(last)
}

/// Takes down what a part of a check has met: damage is a finding, and other parts may find more.
pub(super) fn noted<T: Default>(
    looked: Result<T, Fault>,
    checked: &mut Checked,
) -> Result<T, Fault> {
    match looked {
        Err(Fault::Damaged(cause)) => {
            if checked.faults.len() < FAULTS_MAX {
                checked.faults.push(cause);
            }
            Ok(T::default())
        }
        looked => looked,
    }
}

/// Counts what the counters say.
fn count(conn: &Connection, checked: &mut Checked) -> Result<(), Fault> {
    let counted = counted(conn)?;
    checked.records =
        conn.query_row("SELECT count(*) FROM record", [], |row| row.get(0).map(uint))?;
    checked.faults.extend(counters(conn)?.faults(&counted));
    Ok(())
}

/// SQLite's own check: every page, and whether indexes and rows agree.
fn pages(conn: &Connection, checked: &mut Checked) -> Result<(), Fault> {
    let mut statement = conn.prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            checked.faults.push(text);
        }
    }
    Ok(())
}
