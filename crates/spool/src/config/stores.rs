//! The spools of a front's pairs.

use std::path::PathBuf;

use super::{FrontFile, PairFile, Storage};
#[cfg(feature = "postgres")]
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Kept, SpoolReader, SpoolStore, StoreError};

impl FrontFile {
    /// Where the spool of a pair lies, if that is a file.
    #[must_use]
    pub fn spool_file(&self, pair: &PairFile) -> Option<PathBuf> {
        match &self.storage {
            Storage::Sqlite => Some(self.dir.join(format!("{}.db", pair.name))),
            #[cfg(feature = "postgres")]
            Storage::Postgres(_) => None,
        }
    }

    /// Opens the spool of a pair to write it, which one process can at a time. It is made if it is
    /// not there. Blocks; not from a thread of tokio's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] while a front runs; others of the disk or the server.
    pub fn open_store(&self, pair: &PairFile) -> Result<Box<dyn SpoolStore>, StoreError> {
        match &self.storage {
            Storage::Sqlite => {
                let path = self.dir.join(format!("{}.db", pair.name));
                Ok(Box::new(SqliteStore::open(&path, &pair.name, pair.quota())?))
            }
            #[cfg(feature = "postgres")]
            Storage::Postgres(config) => {
                Ok(Box::new(PostgresStore::open(config, &pair.name, pair.quota())?))
            }
        }
    }

    /// Opens the spool of a pair to read it, beside whoever writes it. Blocks; not from a thread of
    /// tokio's.
    ///
    /// # Errors
    ///
    /// There is no spool yet; others of the disk or the server.
    pub fn open_reader(&self, pair: &PairFile) -> Result<PairReader, StoreError> {
        let inner = match &self.storage {
            Storage::Sqlite => {
                let path = self.dir.join(format!("{}.db", pair.name));
                if !path.exists() {
                    let what = format!("{} ({})", pair.name, path.display());
                    let cause = "there is none yet: a front makes it when it runs".to_owned();
                    return Err(StoreError::Failed { what, cause });
                }
                Inner::Sqlite(SqliteStore::open_reader(&path)?)
            }
            #[cfg(feature = "postgres")]
            Storage::Postgres(config) => {
                Inner::Postgres(Box::new(PostgresStore::open_reader(config, &pair.name)?))
            }
        };
        Ok(PairReader { inner })
    }
}

#[derive(Debug)]
enum Inner {
    Sqlite(crate::store::sqlite::SqliteReader),
    #[cfg(feature = "postgres")]
    Postgres(Box<crate::store::postgres::PostgresReader>),
}

/// Reads the spool of a pair, damaged records included.
#[derive(Debug)]
pub struct PairReader {
    inner: Inner,
}

impl PairReader {
    /// As any reader.
    pub fn reader(&mut self) -> &mut dyn SpoolReader {
        match &mut self.inner {
            Inner::Sqlite(reader) => reader,
            #[cfg(feature = "postgres")]
            Inner::Postgres(reader) => &mut **reader,
        }
    }

    /// The bytes of a pending or set-aside record as they lie there, whole or not.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn kept(&mut self, lsn: u64) -> Result<Option<Kept>, StoreError> {
        self.reader().kept(lsn)
    }
}
