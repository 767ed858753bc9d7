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
    /// When the next look at it is due, if one is planned.
    look_at: Option<Instant>,
}

impl Reactor {
    fn waiting_fault(&self, socket: &Socket) -> Option<&PutOff> {
        self.owned.get(&socket.id)?.trouble.as_ref()?.put_off.as_ref()
    }

    /// True for the fault of a connection before the one whose own fault waits: a late word that
    /// must not take its place.
    pub(super) fn is_outlived(&self, socket: &Socket, epoch: u64) -> bool {
        self.waiting_fault(socket).is_some_and(|it| it.epoch > epoch)
    }

    /// When the fault of this epoch was seen first.
    pub(super) fn fault_seen(&self, socket: &Socket, epoch: u64) -> Instant {
        let waiting = self.waiting_fault(socket).filter(|it| it.epoch == epoch);
        waiting.map_or_else(clock::now, |it| it.seen)
    }

    pub(super) fn put_off(&mut self, socket: &Socket, epoch: u64, seen: Instant, cause: &str) {
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        let put_off = &mut owned.trouble_mut().put_off;
        match put_off.as_mut() {
            Some(it) if it.epoch == epoch && it.cause == cause => {}
            Some(it) if it.epoch == epoch => cause.clone_into(&mut it.cause),
            _ => {
                let cause = cause.to_owned();
                *put_off = Some(PutOff { epoch, seen, cause, look_at: None });
            }
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
        let put_off = owned.trouble.as_ref().and_then(|trouble| trouble.put_off.as_ref());
        let Some(PutOff { epoch, cause, look_at, .. }) = put_off else { return };
        if look_at.is_none_or(|at| at > clock::now()) {
            // The timer of an earlier one.
            return;
        }
        let (socket, epoch, cause) = (Arc::clone(&owned.socket), *epoch, cause.clone());
        self.fault(socket, epoch, cause);
    }

    /// Plans the next look at a fault that was put off: one, however often the fault is told.
    pub(super) fn look_again(&mut self, socket: &Socket) {
        let now = clock::now();
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        let put_off = owned.trouble.as_mut().and_then(|trouble| trouble.put_off.as_mut());
        let Some(it) = put_off else { return };
        if it.look_at.is_none_or(|at| at <= now) {
            let at = now + SHORTAGE_PAUSE;
            it.look_at = Some(at);
            self.timers.set(at, Timer::Fault(socket.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::socket::bits;

    /// The late word of the connection before cleared the note of a fault that waited for
    /// descriptors: the next look found nothing to do, and the dead connection stayed for ever.
    #[test]
    fn a_late_fault_of_an_older_connection_does_not_lose_the_one_that_waits() {
        let mut reactor = Reactor::for_test();
        let (socket, _far) = reactor.session_for_test(Config::default());
        reactor.put_off(&socket, 6, clock::now(), "it has died");
        reactor.look_again(&socket);
        reactor.fault(Arc::clone(&socket), 5, "a late word".to_owned());
        assert!(!socket.has(bits::DETACHED), "it was the word of another connection");
        let until = clock::now() + Duration::from_secs(10);
        while !socket.has(bits::DETACHED) {
            assert!(clock::now() < until, "the fault was lost");
            reactor.expire();
            std::thread::yield_now();
        }
    }

    /// Each word of a fault that waited had a timer of its own, which planned the next.
    #[test]
    fn a_fault_that_waits_is_looked_at_once_at_a_time_however_often_it_is_told() {
        let mut reactor = Reactor::for_test();
        let (socket, _far) = reactor.session_for_test(Config::default());
        for _ in 0..100 {
            reactor.put_off(&socket, 6, clock::now(), "it has died");
            reactor.look_again(&socket);
        }
        let later = clock::now() + Duration::from_secs(10);
        let mut looks = 0;
        while let Some(timer) = reactor.timers.pop(later) {
            looks += u32::from(timer == Timer::Fault(socket.id));
        }
        assert_eq!(looks, 1);
    }
}
