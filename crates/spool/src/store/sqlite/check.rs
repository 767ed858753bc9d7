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

/// All that can be said of a file. Time and disk reads grow with it; memory does not.
pub(super) fn check(conn: &Connection) -> Result<Checked, Fault> {
    let mut checked = Checked::default();
    for look in [records, count, pages] {
        match look(conn, &mut checked) {
            // A finding, and the other looks may find more.
            Err(Fault::Damaged(cause)) => checked.faults.push(cause),
            looked => looked?,
        }
    }
    checked.faults.truncate(FAULTS_MAX);
    Ok(checked)
}

/// Checksums of all that is pending.
fn records(conn: &Connection, checked: &mut Checked) -> Result<(), Fault> {
    let mut after = 0;
    loop {
        let step = read::pending(conn, after, STEP, BATCH_BYTES_MAX as u64)?;
        let Some(last) = step.last() else { return Ok(()) };
        after = last.lsn();
        for found in step {
            if let Found::Damaged { lsn, .. } = found
                && checked.damaged.len() < DAMAGED_MAX
            {
                checked.damaged.push(lsn);
            }
        }
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
