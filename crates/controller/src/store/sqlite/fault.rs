//! What SQLite and the file system say went wrong, as far as it makes a difference.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Error, ErrorCode, ffi};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::store::StoreError;

/// Bytes that have to be free again after the disk was full: more than the log has, which an
/// opening cuts.
const ROOM: u64 = 5 << 20;

/// What went wrong, without the name of the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// Over the quota: nothing was begun.
    Quota,
    Full,
    Held,
    Foreign(String),
    Damaged(String),
    Failed(String),
    /// As `Failed`; SQLite does not say whether the user's quota of the disk is the reason.
    Unwritten(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let cause = error.to_string();
        match &error {
            Error::SqliteFailure(e, _) => match e.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(cause),
                // What is asked never changes, so the tables are not those that were made.
                ErrorCode::Unknown if e.extended_code == ffi::SQLITE_ERROR => Self::Damaged(cause),
                _ => match e.extended_code {
                    ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS => {
                        Self::Damaged(cause)
                    }
                    ffi::SQLITE_IOERR_WRITE
                    | ffi::SQLITE_IOERR_FSYNC
                    | ffi::SQLITE_IOERR_DIR_FSYNC
                    | ffi::SQLITE_IOERR_TRUNCATE
                    | ffi::SQLITE_IOERR_SHMOPEN
                    | ffi::SQLITE_IOERR_SHMSIZE => Self::Unwritten(cause),
                    _ => Self::Failed(cause),
                },
            },
            Error::SqlInputError { .. }
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows => Self::Damaged(cause),
            _ => Self::Failed(cause),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Failed(error.to_string()) }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Fault {
    /// With the name of the store. May write a page beside it, to see whether there is room.
    pub(super) fn of(self, what: &str, path: &Path) -> StoreError {
        let what = what.to_owned();
        match self {
            Self::Quota => StoreError::Full { what },
            Self::Held => StoreError::Held { what },
            Self::Foreign(cause) => StoreError::Foreign { what, cause },
            Self::Damaged(cause) => StoreError::Damaged { what, cause },
            fault if fault.is_full(path) => StoreError::Full { what },
            Self::Unwritten(cause) | Self::Failed(cause) => StoreError::Failed { what, cause },
            Self::Full => StoreError::Full { what },
        }
    }

    /// Whether the disk is full, or the user's part of it. May write a page beside the store.
    pub(super) fn is_full(&self, path: &Path) -> bool {
        match self {
            Self::Full => true,
            Self::Unwritten(_) => has_no_room(path),
            _ => false,
        }
    }
}

/// Whether a disk that was full has room again, as far as the file system tells.
pub(super) fn has_room(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let take = || -> rustix::io::Result<()> {
        let file = File::create(&probe).map_err(|_| Errno::NOSPC)?;
        fallocate(&file, FallocateFlags::empty(), 0, ROOM)
    };
    let taken = take();
    let _gone = fs::remove_file(&probe);
    !taken.is_err_and(lacks_room)
}

/// Whether a call has failed as there is no room.
pub(super) fn lacks_room(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT)
}

/// Tries to write a page beside the file.
fn has_no_room(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let write = || {
        let file = File::create(&probe)?;
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_all()
    };
    let refused = write().is_err_and(|e| is_full(&e));
    let _gone = fs::remove_file(&probe);
    refused
}
