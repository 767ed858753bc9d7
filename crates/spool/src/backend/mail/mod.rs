//! The reference backend: mailboxes in files, and an index in the database of the ledger.
//!
//! A message is there when its row in the index is, which the transaction of its request writes:
//! the file is written and synced before, and is swept if the row never came. What requests mean:
//! see the table in `command.rs`, and [`codes`] for what is refused.
//!
//! Main and standby may share one directory, on one machine (the index needs shared memory, which
//! network file systems do not give). Answers are JSON, except for a message that is read, which
//! comes as it was written.

mod boxes;
mod command;
mod files;
mod headers;
mod index;
mod program;

use std::io;
use std::path::Path;
use std::time::Duration;

pub use boxes::{FLAGS, FOUND_MAX, LIST_MAX, LOOKED_AT_MAX, Mailboxes, SEARCHED_BYTES_MAX};
pub use program::{MailConfig, MailReplica, MailServer, Watch, run};

use crate::backend::ledger::LedgerConfig;
use crate::backend::ledgered::LedgerBackend;

/// Why requests are refused.
pub mod codes {
    pub use super::command::{
        BAD_COMMAND, BAD_KIND, BAD_MAILBOX, FILE_GONE, MAILBOX_MAX, NOT_FOUND, SEARCH_MAX,
    };
}

/// The file of the index and the ledger, in the directory of a server.
pub const INDEX: &str = "index.db";
/// The directory of the mailboxes.
const MAIL: &str = "mail";

/// Opens mailboxes in a directory, which is made if it is not there, and sweeps files that belong
/// to no message and are older than the grace.
///
/// # Errors
///
/// The directory cannot be made or read, or its index is no ledger.
pub fn open(
    directory: &Path,
    ledger: LedgerConfig,
    grace: Duration,
) -> io::Result<LedgerBackend<Mailboxes>> {
    std::fs::create_dir_all(directory)?;
    let mailboxes = Mailboxes::open(&directory.join(MAIL), ledger.retry_after)?;
    let backend =
        LedgerBackend::open(&directory.join(INDEX), ledger, mailboxes).map_err(io::Error::other)?;
    let swept = sweep(&backend, grace)?;
    if swept > 0 {
        log::info!("mail: swept {swept} files of {} that no message has", directory.display());
    }
    Ok(backend)
}

/// Removes files that belong to no message and are older than the grace. Says how many.
///
/// # Errors
///
/// The directory cannot be read, or the index cannot be asked.
pub fn sweep(backend: &LedgerBackend<Mailboxes>, grace: Duration) -> io::Result<u64> {
    let strays = backend.effects().strays(grace)?;
    let mut swept = 0;
    for portion in Mailboxes::portions(&strays) {
        swept += backend
            .ledger()
            .maintain(|tx| Mailboxes::sweep(tx, portion))
            .map_err(io::Error::other)?;
    }
    Ok(swept)
}
