//! What runs inside a main or a standby server.
//!
//! * [`lock`]: the holder's side of the lock key; [`epoch`]: where the highest epoch lies.
//! * [`ledger`]: each request once, in one transaction with its effect.
//! * [`ledgered`]: a backend on a ledger, of two functions.
//! * [`server`]: a [`Backend`] at an address; [`monitor`]: a standby that watches its main.
//! * [`replica`]: a pair whose servers have storage of their own.
//! * [`mail`]: the reference backend: mailboxes in files, with an index.
//! * [`clock`]: the time that leases are counted in.

pub mod clock;
pub mod epoch;
pub mod ledger;
pub mod ledgered;
pub mod lock;
pub mod mail;
pub mod monitor;
pub mod replica;
pub mod server;

use std::fmt;
use std::io;

use crate::record::Record;
use crate::target::{CallResult, Class};
use epoch::EpochStore;
use lock::Permit;

pub use ledgered::{Effects, LedgerBackend};
/// The database of a ledger, in the version that [`Effects`] speaks of.
pub use rusqlite;
pub use server::{BackendServer, Guarded};

/// What a server does with requests. Any number of threads call it at once.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What it promises about a request that it is given twice.
    fn class(&self) -> Class;

    /// Where it keeps the highest epoch for good. Asked once, when the server starts.
    ///
    /// # Errors
    ///
    /// The store cannot be opened; the server does not start.
    fn epoch_store(&self) -> io::Result<Box<dyn EpochStore>>;

    /// Does items in their order and gives one result for each. May block. The lease held when the
    /// permit was given; [`Permit::still`] is to be asked again right before an effect. The lock is
    /// not given back before this has returned.
    ///
    /// # Errors
    ///
    /// The call has no results; see [`crate::target::CallFailed`].
    fn execute(&self, epoch: u64, items: &[Record], permit: &Permit) -> CallResult;

    /// Does items that are part of the batch job of a diversion: what was asked while main and
    /// standby changed places, all kinds in one row.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    fn run_job(&self, epoch: u64, job: u64, items: &[Record], permit: &Permit) -> CallResult {
        let _unused = job;
        self.execute(epoch, items, permit)
    }

    /// Whether it could work if it were given the lock.
    fn ready(&self) -> bool {
        true
    }

    /// Whether its own monitor asks for the other server to take over.
    fn wants_switch(&self) -> bool {
        false
    }

    /// Asked before a grant with this epoch is taken, also for renewals. May block.
    ///
    /// # Errors
    ///
    /// Why this server cannot be main under it, for people.
    fn admit(&self, epoch: u64) -> Result<(), String> {
        let _unused = epoch;
        Ok(())
    }
}
