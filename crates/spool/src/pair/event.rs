//! What happens to a pair, and what it wants done.

use crate::record::{Lane, Record};
use crate::request::{Outcome, Request, RequestId};
use crate::store::{Appended, Batch, Found, Known, NewRecord, StoreError, Totals};
use crate::target::{Call, CallResult, Grant, Report};

/// Which of the two servers.
pub type Side = usize;

/// Names a request that waits for its outcome, or a command: chosen by who hands it in.
pub type Token = u64;

/// What of a [`StoreError`] decides something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// No room; nothing was kept.
    Full,
    /// Nothing was kept.
    Failed,
    /// Nobody knows.
    Unknown,
}

impl From<&StoreError> for StoreFault {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Full { .. } => Self::Full,
            StoreError::Unknown { .. } => Self::Unknown,
            StoreError::Failed { .. } | StoreError::Held { .. } | StoreError::Foreign { .. } => {
                Self::Failed
            }
        }
    }
}

/// What an operator can tell a pair to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Let the other server take over: running work is finished first, and nothing waits for a
    /// lease.
    Switch,
    /// Let the other server take over without asking this one, which is believed dead.
    SwitchNow,
    /// The main is believed dead: look at once.
    Suspect,
    /// Spool everything, and drain nothing.
    Hold,
    /// The end of that.
    Release,
    /// Let records go that are held because they are in doubt: they are done again.
    Retry(Vec<u64>),
    /// Give records up.
    Purge(Vec<u64>),
}

/// What happens to a pair.
#[derive(Debug)]
pub enum Event {
    /// A request comes in.
    Submit {
        /// For the answer.
        token: Token,
        /// What is asked.
        request: Request,
        /// Milliseconds since 1970, to be kept with it.
        wall_ms: u64,
    },
    /// An operator says something.
    Command {
        /// For the answer.
        token: Token,
        /// What.
        command: Command,
    },
    /// The end of [`Action::Append`].
    Appended {
        /// Of the request.
        token: Token,
        /// What became of it.
        result: Result<Appended, StoreFault>,
    },
    /// The end of [`Action::Newest`].
    Newest {
        /// Of the request.
        token: Token,
        /// The newest pending record of the lane.
        result: Result<Option<Found>, StoreFault>,
    },
    /// The end of [`Action::Find`].
    FoundId {
        /// Of the request.
        token: Token,
        /// What the store knows of its id.
        result: Result<Option<Known>, StoreFault>,
    },
    /// The end of [`Action::Fetch`].
    Fetched {
        /// Records after the place that was asked for.
        result: Result<Vec<Found>, StoreFault>,
    },
    /// The end of [`Action::Write`].
    Written {
        /// Of the action.
        tag: u64,
        /// Whether it is on disk.
        result: Result<(), StoreFault>,
    },
    /// The end of [`Action::Count`].
    Counted {
        /// What waits.
        result: Result<Totals, StoreFault>,
    },
    /// The end of [`Action::Call`].
    Called {
        /// Of the action.
        tag: u64,
        /// What the server said.
        result: CallResult,
    },
    /// The end of [`Action::Probe`].
    Reported {
        /// Who.
        side: Side,
        /// `None`: it did not answer.
        report: Option<Report>,
    },
    /// The end of [`Action::Grant`].
    Granted {
        /// Who.
        side: Side,
        /// Of the grant.
        epoch: u64,
        /// It has the lock.
        ok: bool,
    },
    /// The end of [`Action::Release`].
    Released {
        /// Who.
        side: Side,
        /// Of the lock.
        epoch: u64,
        /// It has given the lock back.
        ok: bool,
    },
    /// The end of [`Action::Fence`].
    Fenced {
        /// Who.
        side: Side,
        /// The epoch when it was asked for.
        epoch: u64,
        /// It does nothing more.
        ok: bool,
    },
    /// The time has come that [`Pair::wake_at`](super::Pair::wake_at) named.
    Tick,
}

/// What a pair wants done. Actions are done in their order; appends and writes reach the store in
/// their order.
#[derive(Debug)]
pub enum Action {
    /// Tell the sender.
    Reply {
        /// Of the request.
        token: Token,
        /// What it is told.
        outcome: Outcome,
    },
    /// Tell the operator.
    Answer {
        /// Of the command.
        token: Token,
        /// Done, or why not.
        result: Result<String, String>,
    },
    /// Put a record into the spool.
    Append {
        /// Of the request.
        token: Token,
        /// What is to be kept.
        record: NewRecord,
    },
    /// Look for the newest pending record of a lane.
    Newest {
        /// Of the request.
        token: Token,
        /// Which lane.
        lane: Lane,
    },
    /// Look what the store knows of an id.
    Find {
        /// Of the request.
        token: Token,
        /// Which id.
        id: RequestId,
    },
    /// Read pending records.
    Fetch {
        /// Places above this one.
        after: u64,
        /// At most so many.
        limit: usize,
        /// No more after this weight.
        weight_max: u64,
    },
    /// Say what waits.
    Count,
    /// Write ends, marks or state.
    Write {
        /// For the answer.
        tag: u64,
        /// What; appends nothing.
        batch: Batch,
    },
    /// Set a damaged record aside.
    Quarantine {
        /// For the answer, which is [`Event::Written`].
        tag: u64,
        /// Its place.
        lsn: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Send requests to a server.
    Call {
        /// For the answer.
        tag: u64,
        /// To whom.
        side: Side,
        /// What.
        call: Call,
    },
    /// Ask a server how it is.
    Probe {
        /// Whom.
        side: Side,
        /// Microseconds it may take.
        timeout: u64,
    },
    /// Give a server the lock, or renew it.
    Grant {
        /// Whom.
        side: Side,
        /// The lock.
        grant: Grant,
    },
    /// Ask a server to finish and to give the lock back.
    Release {
        /// Whom.
        side: Side,
        /// Of the lock.
        epoch: u64,
        /// Microseconds it may take.
        timeout: u64,
    },
    /// Make sure by force that a server does nothing more.
    Fence {
        /// Whom.
        side: Side,
        /// Of the lock that it had.
        epoch: u64,
    },
    /// Write into the log; alarms are shown to operators as well.
    Log {
        /// Somebody must look at it.
        alarm: bool,
        /// What happened.
        text: String,
    },
}

/// A record that is new to the spool.
pub(crate) fn plain(record: Record) -> NewRecord {
    NewRecord { record, sent: false, held: false }
}
