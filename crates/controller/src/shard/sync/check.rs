//! What a partner may say at all.

use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX, KEY_MAX, RANK_MAX, RECORD_MAX};
use crate::model::Record;
use crate::store::Position;

/// The highest number of a change: stores keep it as a signed number.
const LSN_MAX: u64 = i64::MAX as u64;

/// Whether stores can keep it.
pub(super) fn is_sound(position: Position) -> bool {
    position.lsn <= LSN_MAX
}

/// The records of one update.
pub(super) fn update(records: &[Record]) -> Result<(), String> {
    batch(records)?;
    let bytes: usize = records.iter().map(content).sum();
    if records.len() > 1 && bytes > BATCH_BYTES_MAX {
        return Err(format!("{bytes} bytes of records in one update"));
    }
    Ok(())
}

/// Some records of a snapshot.
pub(super) fn batch(records: &[Record]) -> Result<(), String> {
    if records.len() > BATCH_MAX {
        return Err(format!("{} records at once", records.len()));
    }
    for record in records {
        let (key, rank) = (record.key.len(), record.rank.len());
        if key > KEY_MAX || rank > RANK_MAX || content(record) > RECORD_MAX {
            return Err(format!(
                "a record with {key} bytes of key, {rank} of rank, {} in all",
                content(record)
            ));
        }
    }
    Ok(())
}

/// Bytes of what a record says.
fn content(record: &Record) -> usize {
    record.key.len() + record.rank.len() + record.body.len()
}
