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
/// to no message and are older than the grace. With much mail that takes long: see
/// [`open_unswept`].
///
/// # Errors
///
/// The directory cannot be made or read, or its index is no ledger.
pub fn open(
    directory: &Path,
    ledger: LedgerConfig,
    grace: Duration,
) -> io::Result<LedgerBackend<Mailboxes>> {
    let backend = open_unswept(directory, ledger)?;
    sweep(&backend, grace, &|| false)?;
    Ok(backend)
}

/// The same without the sweep.
///
/// # Errors
///
/// The directory cannot be made, or its index is no ledger.
pub fn open_unswept(
    directory: &Path,
    ledger: LedgerConfig,
) -> io::Result<LedgerBackend<Mailboxes>> {
    std::fs::create_dir_all(directory)?;
    let mailboxes = Mailboxes::open(&directory.join(MAIL), ledger.retry_after)?;
    LedgerBackend::open(&directory.join(INDEX), ledger, mailboxes).map_err(io::Error::other)
}

/// Removes files that belong to no message and are older than the grace. Says how many. Can go on
/// beside calls: only what no message seems to have is looked at in transactions. Ends early when
/// `stop` says so.
///
/// # Errors
///
/// The directory cannot be read, or the index cannot be asked.
pub fn sweep(
    backend: &LedgerBackend<Mailboxes>,
    grace: Duration,
    stop: &dyn Fn() -> bool,
) -> io::Result<u64> {
    let mut swept = 0;
    let told = backend.effects().strays(grace, &mut |strays| {
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let unknown = backend
            .looking(|connection| Mailboxes::unknown(connection, strays))
            .map_err(io::Error::other)?;
        if !unknown.is_empty() {
            swept += backend
                .ledger()
                .maintain(|tx| Mailboxes::sweep(tx, &unknown))
                .map_err(io::Error::other)?;
        }
        Ok(())
    });
    if swept > 0 {
        log::info!("mail: swept {swept} files that no message has");
    }
    match told {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(swept),
    }
}
