//! What happens to sessions, for those who subscribe.

use std::time::Duration;

/// One thing that happened to one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The engine's number of the session in this process.
    pub local_id: u64,
    /// The epoch that it concerns.
    pub epoch: u64,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The session stands for the first time.
    Opened,
    /// The connection died; the session waits or redials.
    Fault {
        /// What the kernel or the protocol said.
        cause: String,
    },
    /// A redial is planned.
    Redialling {
        /// Attempts since the last progress.
        attempt: u32,
        /// When.
        after: Duration,
    },
    /// A new connection carries the session.
    Resumed {
        /// Bytes that are sent again.
        replayed: u64,
        /// How long there was none.
        stalled: Duration,
    },
    /// Both directions have ended and both ends know it.
    Closed,
    /// The session has failed; the program gets one error.
    Failed {
        /// Why.
        cause: String,
        /// The error's number.
        errno: i32,
    },
}
