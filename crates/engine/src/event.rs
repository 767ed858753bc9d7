//! What happens to sessions, for those who subscribe.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use crate::host::Kept;
use crate::sys::fd;

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
        /// Where the peer's end of it is.
        peer: Option<SocketAddr>,
        /// Where our end of it is.
        local: Option<SocketAddr>,
    },
    /// A dial to one address, which the program has asked for, has come to nothing. A connection
    /// that stood still does; without one the session is redialled as before.
    MoveFailed {
        /// Where it was to go.
        addr: SocketAddr,
        /// What the kernel or the protocol said.
        cause: String,
    },
    /// A server did not take a resume.
    Refused {
        /// Which.
        addr: SocketAddr,
        /// The code of the reason (PROTOCOL 3.3): 1, not proven, is what a server says that was
        /// started anew.
        reason: u8,
        /// The server has proven that it knows the session's secret.
        proven: bool,
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

/// Somebody who is told.
#[derive(Debug)]
pub(crate) struct Subscriber {
    events: Sender<Event>,
    /// Rung for each event, for who waits for more than this session.
    bell: Option<Arc<Kept>>,
}

impl Subscriber {
    pub(crate) fn new(events: Sender<Event>, bell: Option<Arc<Kept>>) -> Self {
        Self { events, bell }
    }

    /// False when nobody listens any more. Who is behind misses it, and is rung all the same.
    pub(crate) fn tell(&self, event: &Event) -> bool {
        let sent = self.events.try_send(event.clone());
        if let Some(bell) = self.bell.as_ref().filter(|bell| bell.is_here()) {
            fd::notify(bell.as_raw_fd());
        }
        !matches!(sent, Err(TrySendError::Disconnected(_)))
    }
}
