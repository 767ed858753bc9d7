//! Where the records lie.

use std::path::PathBuf;
use std::time::Duration;

use super::table::{Table, number, size, text, time};
use crate::limits::{CHUNK_BYTES, CHUNKS_MAX};
use crate::store::Quota;

/// Bytes of a snapshot, as its format has it.
pub(super) const SNAPSHOT_MAX: u64 = CHUNKS_MAX as u64 * CHUNK_BYTES as u64;

/// Where the records lie, and how many.
#[derive(Debug, Clone)]
pub(super) struct StoreFile {
    /// Of the database files, unless those are in PostgreSQL, and of the snapshots.
    pub(super) dir: PathBuf,
    pub(super) postgres: Option<Postgres>,
    /// Of each partition.
    pub(super) quota: Quota,
}

/// A database of PostgreSQL.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "refused as a whole"))]
pub(super) struct Postgres {
    pub(super) params: String,
    pub(super) prefix: String,
    pub(super) timeout: Duration,
}

impl StoreFile {
    pub(super) fn read(mut table: Table<'_, '_>) -> Option<Self> {
        let has_dir = table.has("dir");
        let dir = table.path("dir");
        if !has_dir {
            table.wrong(table.at(), "dir", "it is missing; name the directory of the records");
        }
        let params = table.take("postgres", text);
        let prefix = table.take("postgres-prefix", |value| match text(value)? {
            prefix if (1..=32).contains(&prefix.len()) && is_usual(&prefix) => Ok(prefix),
            _ => Err("it has 1 to 32 letters, digits, - or _; take another".to_owned()),
        });
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
        let timeout = table.take("postgres-timeout", time(least, most));
        if params.is_none() && (prefix.is_some() || timeout.is_some()) {
            let problem = "`postgres-prefix` and `postgres-timeout` belong to it; add it, or leave \
                           them out";
            table.wrong(table.at(), "postgres", problem);
        }
        if params.is_some() && cfg!(not(feature = "postgres")) {
            let problem = "this program was built without the feature `postgres`; build it with, \
                           or leave this out";
            table.wrong(table.at(), "postgres", problem);
        }
        let quota_records = table.take("quota-records", number(1, i64::MAX as u64));
        let quota_bytes = table.take("quota-bytes", |value| match size(value)? {
            0 => Err("it is 0, with which nothing is kept; take more".to_owned()),
            much if much > SNAPSHOT_MAX => {
                Err("a snapshot has 64 GiB at most, and has to hold all; take less".to_owned())
            }
            bytes => Ok(bytes),
        });
        table.end();
        let usual = Quota::default();
        Some(Self {
            dir: dir?,
            postgres: params.map(|params| Postgres {
                params,
                prefix: prefix.unwrap_or_else(|| "eversock_controller".to_owned()),
                timeout: timeout.unwrap_or(Duration::from_secs(10)),
            }),
            quota: Quota {
                records: quota_records.unwrap_or(usual.records),
                bytes: quota_bytes.unwrap_or(usual.bytes),
            },
        })
    }
}

fn is_usual(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
