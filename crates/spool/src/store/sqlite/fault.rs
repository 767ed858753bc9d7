//! What SQLite says went wrong, as far as it makes a difference.

use std::io;

use rusqlite::{ErrorCode, ffi};

/// What went wrong, without the name of the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// No room.
    Full,
    /// Another process has it.
    Held,
    /// Not a spool of this version.
    Foreign(String),
    /// Something of the file is not as it was written.
    Damaged(String),
    /// All else; nothing was kept.
    Failed(String),
    /// All else; nobody knows what was kept.
    Unknown(String),
}

pub(super) fn foreign(cause: impl Into<String>) -> Fault {
    Fault::Foreign(cause.into())
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let cause = error.to_string();
        match &error {
            rusqlite::Error::SqliteFailure(e, _) if e.code == ErrorCode::DiskFull => Self::Full,
            // The index of the log could not grow.
            rusqlite::Error::SqliteFailure(e, _)
                if e.extended_code == ffi::SQLITE_IOERR_SHMSIZE =>
            {
                Self::Full
            }
            rusqlite::Error::SqliteFailure(e, _) if e.code == ErrorCode::DatabaseCorrupt => {
                Self::Damaged(cause)
            }
            rusqlite::Error::SqliteFailure(e, _) if e.code == ErrorCode::NotADatabase => {
                Self::Foreign(cause)
            }
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::QueryReturnedNoRows => Self::Damaged(cause),
            _ => Self::Failed(cause),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Whether an error is of the place that was read, not of the whole store: the record that lies
/// there is lost, others are not.
pub(super) fn is_local(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(e, _) => {
            e.code == ErrorCode::DatabaseCorrupt
                || matches!(
                    e.extended_code,
                    ffi::SQLITE_IOERR_READ
                        | ffi::SQLITE_IOERR_SHORT_READ
                        | ffi::SQLITE_IOERR_DATA
                        | ffi::SQLITE_IOERR_CORRUPTFS
                )
        }
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    }
}
