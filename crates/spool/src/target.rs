//! A server of a pair, as the front sees it: what can be asked of it, and what it says of itself.
//!
//! Nothing here waits: answers come by callback, on any thread, and each callback is called once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::record::Record;

/// What a server promises about a request that it is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Keeps the id with the effect, in one transaction: a request takes effect once.
    Ledger,
    /// A request done twice is as one done once (a PUT by key).
    Idempotent,
    /// Neither: whatever was under way when an answer was lost is in doubt.
    Opaque,
}

/// Requests for a server, to be done in this order.
#[derive(Debug, Clone)]
pub struct Call {
    /// The lock key that the front believes the server to hold. A server refuses a lower one than
    /// it has ever seen.
    pub epoch: u64,
    /// What is to be done. An item that fails for now ([`ItemResult::Later`]) lets later items of
    /// its lane be left out; other lanes go on.
    pub items: Arc<[Record]>,
    /// The call is part of the batch job of a diversion with this number.
    pub job: Option<u64>,
    /// Without an answer for so long, the call has failed with [`CallFailed::TimedOut`].
    pub timeout: Duration,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemResult {
    /// It took effect, now or before.
    Done {
        /// The backend's answer.
        answer: Vec<u8>,
        /// It had taken effect before: the ledger knew its id.
        again: bool,
    },
    /// Refused for good, without effect.
    Refused {
        /// The backend's own.
        code: u32,
        /// What it said.
        text: String,
    },
    /// Not done, surely without effect: try again later.
    Later {
        /// When; zero if the server does not say.
        after: Duration,
    },
}

/// A call that has no results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFailed {
    /// The call surely never reached the server: there is no connection to it.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The answer did not come; each item may have taken effect.
    #[error("no answer in time")]
    TimedOut,
    /// The answer was lost with the server or its connection; each item may have taken effect.
    #[error("the answer was lost: {0}")]
    Lost(String),
    /// The server says that it failed: each item may have taken effect, and nothing of it goes on.
    #[error("the server failed: {0}")]
    Failed(String),
    /// The server does not hold the lock, or has seen a higher epoch: nothing took effect.
    #[error("the server refuses epoch {asked}: it knows epoch {seen}")]
    Fenced {
        /// What the call said.
        asked: u64,
        /// The highest that the server has seen.
        seen: u64,
    },
}

impl CallFailed {
    /// Whether items may have taken effect all the same.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Lost(_) | Self::Failed(_))
    }

    /// Whether items may still take effect later.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Lost(_))
    }
}

/// One result for each item of a call, in order.
pub type CallResult = Result<Vec<ItemResult>, CallFailed>;

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Could work if it were given the lock.
    pub ready: bool,
    /// The epoch of the lock that it holds right now, if it holds it.
    pub holds: Option<u64>,
    /// The highest epoch that it has ever seen.
    pub seen: u64,
    /// Asks the front to let the other server take over (its own monitor says so).
    pub wants_switch: bool,
    /// Its own time and incarnation when it wrote this; goes back to it in a [`Grant`].
    pub stamp: Stamp,
}

/// A moment of a server's clock, which means nothing to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// A random number of this run of the server.
    pub run: u64,
    /// Microseconds of its clock that never goes back.
    pub at_us: u64,
}

/// The lock key for a server: it may work until its clock says `stamp + lease - margin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Higher than any before, or that of the grant that it renews.
    pub epoch: u64,
    /// How long it holds, counted from the stamp.
    pub lease: Duration,
    /// From the report which it answers.
    pub stamp: Stamp,
}

/// A callback that is called once, on any thread, and does not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// One server of a pair.
pub trait Target: Send + Sync + fmt::Debug {
    /// What it promises.
    fn class(&self) -> Class;

    /// Sends requests. Several calls may be under way; the server may do them in any order.
    fn call(&self, call: Call, reply: Reply<CallResult>);

    /// Asks how the server is. `None`: no answer within `timeout`.
    fn probe(&self, timeout: Duration, reply: Reply<Option<Report>>);

    /// Gives or renews the lock. `true`: the server has it. Servers that know no locks run their
    /// hook when the epoch is a new one.
    fn grant(&self, grant: Grant, reply: Reply<bool>);

    /// Asks the server to finish what it does and to give the lock with this epoch back. `true`: it
    /// has, and will do nothing under it any more.
    fn release(&self, epoch: u64, timeout: Duration, reply: Reply<bool>);

    /// Makes sure by force that the server does nothing more (a command that cuts its power or its
    /// network). `true`: it does nothing more; `false`: there is no such command, or it failed.
    fn fence(&self, reply: Reply<bool>);

    /// Ends connections and threads; calls under way fail.
    fn close(&self);
}
