//! One end of a pair: the session and what both roles have in common.

use std::time::Duration;

use super::net::{ConnId, Side};
use crate::limits::RECORD_DEADLINE;
use crate::resume::Reason;
use crate::session::Session;

/// How a session ended at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions have ended and both ends were told.
    Done,
    /// This end's program reset it.
    Reset,
    /// The peer's program reset it, with this code.
    ResetByPeer(u64),
    /// Server: no resume came within the grace.
    Expired,
    /// Client: no connection came about within its limit.
    TimedOut,
    /// Bytes are missing for good.
    DataLost,
    /// Many resumes in a row brought nothing.
    Stale,
    /// The server refused for good and proved that it was the server.
    Refused(Reason),
    /// The program had closed, and the peer did not end its direction in time.
    Lingered,
}

/// One end.
pub struct End {
    pub(super) side: Side,
    pub(super) session: Option<Session>,
    /// The connection that stands, as this end sees it.
    pub(super) standing: Option<ConnId>,
    /// The highest connection that ever delivered here.
    pub(super) delivered_by: ConnId,
    pub(super) ending: Option<Ending>,
    pub(super) closed: bool,
    pub(super) resetting: bool,
    pub(super) linger_until: Option<Duration>,
    pub(super) sweep_at: Option<Duration>,
    pub(super) last_heard: Duration,
    /// All that the program wrote and the session took.
    pub(super) written: Vec<u8>,
    /// How much of the peer's bytes the program has read.
    pub(super) read: usize,
    pub(super) late_bytes: u64,
}

impl End {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            session: None,
            standing: None,
            delivered_by: 0,
            ending: None,
            closed: false,
            resetting: false,
            linger_until: None,
            sweep_at: None,
            last_heard: Duration::ZERO,
            written: Vec::new(),
            read: 0,
            late_bytes: 0,
        }
    }

    /// Which one this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The session, once there is one.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The connection that stands, as this end sees it.
    pub fn standing(&self) -> Option<ConnId> {
        self.standing
    }

    /// How the session ended here, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The error that the program gets: an ending that is no orderly one, unless it had closed.
    pub fn error(&self) -> Option<Ending> {
        self.ending.filter(|&ending| ending != Ending::Done && !self.closed)
    }

    /// Bytes that the program wrote so far.
    pub fn written(&self) -> usize {
        self.written.len()
    }

    /// Bytes of the peer that the program has read so far.
    pub fn read(&self) -> usize {
        self.read
    }

    /// When the standing connection is given up because a record has not become whole.
    pub(super) fn record_due(&self) -> Option<Duration> {
        let waits = self.session.as_ref().is_some_and(|session| session.rx.is_mid_record());
        (waits && self.standing.is_some() && self.ending.is_none())
            .then(|| self.last_heard + RECORD_DEADLINE)
    }

    /// Bytes that came over connections which did not stand, and were dropped.
    pub fn late_bytes(&self) -> u64 {
        self.late_bytes
    }

    /// True when the program has seen the end of the peer's bytes.
    pub fn is_at_end(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.rx.is_at_end())
    }
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "\n{:?}: standing {:?}, ending {:?}, closed {}, wrote {}, read {}, late {}",
            self.side,
            self.standing,
            self.ending,
            self.closed,
            self.written.len(),
            self.read,
            self.late_bytes,
        )?;
        let Some(session) = &self.session else { return f.write_str(", no session") };
        let (tx, rx) = (&session.tx, &session.rx);
        write!(
            f,
            "\n  epoch {}, log {}..{} acked {} cursor {} edge {} finished {} output {}",
            session.control.epoch(),
            tx.written() - tx.log_len(),
            tx.written(),
            tx.acked(),
            tx.cursor(),
            tx.edge(),
            tx.is_finished(),
            tx.has_output(),
        )?;
        write!(
            f,
            "\n  next {} consumed {} acks {:?} told {:?} fin {} direct {}",
            rx.next(),
            rx.consumed(),
            rx.acks(),
            tx.told(),
            rx.fin_seen(),
            rx.is_direct(),
        )
    }
}
