//! Faults that cannot be dealt with yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reactor;
use super::timer::Timer;
use crate::clock;
use crate::socket::Socket;

/// Between looks whether there are descriptors and memory again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// A fault that cannot be dealt with yet.
#[derive(Debug)]
pub(super) struct PutOff {
    epoch: u64,
    seen: Instant,
    cause: String,
}

impl Reactor {
    /// When the fault of this epoch was seen first.
    pub(super) fn fault_seen(&self, socket: &Socket, epoch: u64) -> Instant {
        let put_off = self.owned.get(&socket.id).and_then(|owned| owned.put_off.as_ref());
        put_off.filter(|it| it.epoch == epoch).map_or_else(clock::now, |it| it.seen)
    }

    pub(super) fn put_off(&mut self, socket: &Socket, epoch: u64, seen: Instant, cause: &str) {
        if let Some(owned) = self.owned.get_mut(&socket.id)
            && owned.put_off.as_ref().is_none_or(|it| it.epoch != epoch || it.cause != cause)
        {
            owned.put_off = Some(Box::new(PutOff { epoch, seen, cause: cause.to_owned() }));
        }
    }

    /// Descriptors and memory that lack now may be there later; not for longer than the grace.
    pub(super) fn may_wait(&self, socket: &Socket, seen: Instant) -> bool {
        self.owned.contains_key(&socket.id)
            && clock::now().saturating_duration_since(seen) < socket.config.grace
    }

    /// There was nothing to put in the place of a dead connection: perhaps there is now.
    pub(super) fn fault_again(&mut self, id: u64) {
        let Some(owned) = self.owned.get(&id) else { return };
        let Some(PutOff { epoch, cause, .. }) = owned.put_off.as_deref() else { return };
        let (socket, epoch, cause) = (Arc::clone(&owned.socket), *epoch, cause.clone());
        self.fault(socket, epoch, cause);
    }

    pub(super) fn look_again(&mut self, socket: &Socket) {
        self.timers.set(clock::now() + SHORTAGE_PAUSE, Timer::Fault(socket.id));
    }
}
