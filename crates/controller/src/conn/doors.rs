//! Listeners: how many connections each may have, and what is said to one too many.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use eversock_socket::{VirtualListener, VirtualStream};

use crate::wire::client::ClientMessage;
use crate::wire::codes::bye;
use crate::wire::{Bye, frame};

/// Between attempts to accept when the system has no descriptors or memory left.
const SCARCITY_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are taken from a listener in a turn.
pub(super) const SHARE: usize = 64;

/// One listener.
pub(super) struct Door {
    pub(super) listener: VirtualListener,
    pub(super) token: u64,
    pub(super) connections_max: usize,
    pub(super) connections: usize,
    /// Nothing is accepted before then.
    pub(super) paused: Option<Instant>,
}

impl Door {
    pub(super) fn new(
        listener: VirtualListener,
        token: u64,
        connections_max: usize,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, token, connections_max, connections: 0, paused: None })
    }

    pub(super) fn pause(&mut self, error: &io::Error) {
        log::warn!("no connection can be accepted: {error}");
        self.paused = Some(Instant::now() + SCARCITY_PAUSE);
    }
}

/// Says that there is no place, and when there may be one: not at the same time to all.
pub(super) fn refuse(stream: &VirtualStream, connections_max: usize, number: u64) {
    let text = format!("there are {connections_max} connections, and may be no more: come later");
    let after_ms = 2000 + u32::try_from(number % 4000).unwrap_or(0);
    let bye = Bye { after_ms, ..Bye::new(bye::FULL, text) };
    if let Err(error) = (&mut &*stream).write_all(&frame(&ClientMessage::Bye(bye))) {
        log::debug!("a refusal was not sent: {error}");
    }
}
