//! Dialling, and dialling again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use eversock_engine::{Config, Event, EventKind};
use eversock_socket::VirtualStream;

use super::{Ended, Greets, Line, LineReader, first, send};
use crate::wire::{FrameError, Hello, Role};

/// The reason of a server that does not know a session (PROTOCOL 3.3): it was started anew.
const UNKNOWN_SESSION: u8 = 1;

impl Line {
    /// What happens to the session from now on; nothing if it cannot be watched.
    pub(crate) fn events(&self) -> Receiver<Event> {
        self.stream.events().unwrap_or_else(|error| {
            log::debug!("a session is not watched: {error}");
            crossbeam_channel::never()
        })
    }

    /// Takes note of an event: a peer that was started anew does not know the session, and never
    /// will, so that there is no use in redialling.
    pub(crate) fn heard(&self, event: &Event) {
        let is_unknown = matches!(event.kind, EventKind::Refused { reason: UNKNOWN_SESSION, .. });
        // Somebody else at one of the peer's addresses says so too; the peer may have been found
        // at another since.
        if is_unknown && self.stream.info().is_ok_and(|info| info.detached_ms.is_some()) {
            self.sever();
        }
    }
}

/// Connects to one server, which may have several addresses. Blocks up to the configuration's
/// `connect_timeout`.
pub(crate) fn connect(addrs: &[SocketAddr], config: Config) -> io::Result<Arc<Line>> {
    VirtualStream::connect_with(addrs, config).map(Line::new)
}

/// Says hello and gives what the other side says to it. Blocks up to
/// [`GREETING_TIMEOUT`](super::GREETING_TIMEOUT).
pub(crate) fn greet<M: Greets>(
    line: &Line,
    reader: &mut LineReader,
    role: Role,
) -> Result<M, Ended> {
    send(&line.stream, &M::of_hello(Hello::new(role))).map_err(FrameError::Io)?;
    first::<M>(line, reader)
}

/// Waits between attempts: doubled each time up to the longest, half of it by chance, so that those
/// who lost the same peer do not come back together.
#[derive(Debug)]
pub(crate) struct Pause {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Pause {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.next.min(self.most);
        self.next = (whole * 2).min(self.most);
        jitter(whole)
    }
}

/// Between half of it and all of it.
pub(crate) fn jitter(whole: Duration) -> Duration {
    use ring::rand::SecureRandom;
    let mut byte = [128];
    // Without randomness it is three quarters.
    let _none = ring::rand::SystemRandom::new().fill(&mut byte);
    whole / 2 + whole * u32::from(byte[0]) / 512
}
