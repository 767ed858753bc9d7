//! Snapshots of a partition as files: those made here for partners, and those that come from them.
//!
//! A [`Folder`] belongs to one partition and one thread. All it does blocks for as long as the disk
//! takes; what goes over a whole snapshot takes seconds for a gigabyte.

mod files;
mod folder;
pub mod format;
mod made;
mod part;
mod serve;
mod sidecar;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use folder::Folder;

use crate::store::StoreError;

/// Why something could not be done with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file.
    #[error("{} cannot be used: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was said; `StorageFull`: free some, it is tried again.
        cause: io::Error,
    },
    /// More than the folder may hold of one.
    #[error("the snapshot has {bytes} bytes, more than the {most} that are allowed: raise that")]
    TooLarge {
        /// Its bytes, or what it had when that was noticed.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// The table could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not here, or not whole, or a chunk that it does not have.
    #[error("there is no such snapshot or chunk here")]
    Unknown,
    /// Not what its manifest says; it was removed.
    #[error("the snapshot is of no use: {0}")]
    Unusable(String),
}

/// What came of it.
pub type Result<T> = std::result::Result<T, SnapshotError>;

/// Names the file in an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError + '_ {
    move |cause| SnapshotError::File { path: path.to_owned(), cause }
}
