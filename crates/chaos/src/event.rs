//! What happened, as it happens: a bounded log with any number of readers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::fault::Fault;

/// Events that are kept for readers that come late or are slow; older ones are forgotten.
const KEPT: usize = 16_384;

pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Something that happened in the proxy.
///
/// JSON: `{"t": seconds, "conn": number or null, "up": bytes, "down": bytes, "flowing": bool,
/// "kind": "opened", ...}` with the keys of [`EventKind`] at the same level.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Time since the proxy started; in JSON the key `t`, in seconds.
    #[serde(rename = "t", serialize_with = "seconds")]
    pub at: Duration,
    /// The number of the connection, if it is about one.
    pub conn: Option<u64>,
    /// Bytes forwarded to the upstream so far: of the connection, else of all together.
    pub up: u64,
    /// Bytes forwarded to the client so far: of the connection, else of all together.
    pub down: u64,
    /// Whether bytes were forwarded within the last 100 ms or were waiting in the proxy. For a
    /// fault: at the moment when it struck.
    pub flowing: bool,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of [`Event`]; in JSON the key `kind` is the name in snake case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A connection was accepted.
    Opened {
        /// Address of the client; JSON key `peer`.
        peer: SocketAddr,
    },
    /// A connection was refused by [`Fault::Refuse`].
    Refused {
        /// Address of the client; JSON key `peer`.
        peer: SocketAddr,
    },
    /// A fault was done to the connection, or (refusals) to the listener.
    Fault {
        /// The fault; JSON key `fault`, a string in the form of the script.
        fault: Fault,
    },
    /// The connection is over.
    Closed {
        /// Why; JSON key `reason`.
        reason: CloseReason,
    },
    /// Connects fail from now on.
    ListenerClosed,
    /// Connects succeed again.
    ListenerOpen,
    /// The proxy has ended; no event follows.
    Stopped,
}

/// Why a connection ended; in JSON the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CloseReason {
    /// Both sides closed it, and both know of it unless a black hole swallowed that.
    Finished,
    /// A fault ended it.
    Cut,
    /// The client reset it; the upstream was reset too.
    ClientReset,
    /// The upstream reset it; the client was reset too.
    ServerReset,
    /// The upstream could not be reached; the client was reset.
    UpstreamUnreachable,
    /// The proxy was stopped.
    Stopped,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of events that were forgotten, which is the number of the first kept one.
    forgotten: u64,
    events: VecDeque<Event>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct EventLog {
    kept: Mutex<Kept>,
    news: Condvar,
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        let mut kept = self.lock();
        if kept.events.len() == KEPT {
            kept.events.pop_front();
            kept.forgotten += 1;
        }
        kept.closed |= event.kind == EventKind::Stopped;
        kept.events.push_back(event);
        drop(kept);
        self.news.notify_all();
    }

    /// Ends the wait of all readers, also when the worker died without a last event.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }
}

/// Reads the events of a proxy, from its start on. Every reader sees all events, as long as it is
/// not more than 16384 behind; the proxy never waits for a reader.
///
/// As an iterator it waits for the next event and ends when the proxy has stopped.
#[derive(Clone, Debug)]
pub struct Events {
    log: Arc<EventLog>,
    next: u64,
    missed: u64,
}

impl Events {
    pub(crate) fn new(log: Arc<EventLog>) -> Self {
        Self { log, next: 0, missed: 0 }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.next_until(Some(Instant::now()))
    }

    /// The next event, for which it waits at most this long. `None` also when the proxy has
    /// stopped and all events are read.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        // A time beyond what the clock can hold is no limit.
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// Reads on to the first event that `wanted` accepts; waits at most this long altogether.
    pub fn find_timeout(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Option<Event> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let event = self.next_until(deadline)?;
            if wanted(&event) {
                return Some(event);
            }
        }
    }

    /// How many events were forgotten before this reader came to them.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<Event> {
        let mut kept = self.log.lock();
        loop {
            let lost = kept.forgotten.saturating_sub(self.next);
            self.missed += lost;
            self.next += lost;
            if let Some(event) = kept.events.get((self.next - kept.forgotten) as usize) {
                self.next += 1;
                return Some(event.clone());
            }
            if kept.closed {
                return None;
            }
            kept = match deadline {
                None => self.log.news.wait(kept).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let woken = self.log.news.wait_timeout(kept, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.next_until(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(conn: u64) -> Event {
        let kind = EventKind::Closed { reason: CloseReason::Finished };
        Event { at: Duration::ZERO, conn: Some(conn), up: 0, down: 0, flowing: false, kind }
    }

    #[test]
    fn every_reader_sees_everything() {
        let log = Arc::new(EventLog::default());
        let mut early = Events::new(Arc::clone(&log));
        log.push(event(1));
        log.push(event(2));
        let mut late = early.clone();
        assert_eq!(early.try_next(), Some(event(1)));
        assert_eq!(late.try_next(), Some(event(1)));
        assert_eq!(late.find_timeout(Duration::MAX, |e| e.conn == Some(2)), Some(event(2)));
        assert_eq!(late.try_next(), None);
        log.close();
        assert_eq!(late.next(), None);
        assert_eq!(early.next(), Some(event(2)));
        assert_eq!(early.next(), None);
    }

    #[test]
    fn a_slow_reader_is_told_how_much_it_missed() {
        let log = Arc::new(EventLog::default());
        let mut reader = Events::new(Arc::clone(&log));
        (0..KEPT as u64 + 3).for_each(|conn| log.push(event(conn)));
        assert_eq!(reader.try_next(), Some(event(3)));
        assert_eq!(reader.missed(), 3);
    }
}
