//! How many unproven connections a listener has, and which of them makes room for the next.
//!
//! A burst of clients is no attack: as long as those who are shaking hands go on doing so, the next
//! wait in the kernel's queue. Who says nothing more makes room, so that strangers keep nobody out.

use std::fmt::Display;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use core::net::SocketAddr;
use eversock_proto::resume::{Reason, Reject};

use super::{Handshake, Reactor, Stage};
use crate::clock;
use crate::reactor::timer::Timer;
use crate::sys;

/// Unproven connections of one listener, at most; and as many besides that wait for room in the
/// program's backlog.
pub(super) const HANDSHAKES_MAX: usize = 256;
/// Opens whose connection died before their CONFIRM came that are remembered, at most; the oldest
/// goes when one more comes. A burst that is cut leaves as many as it had connections.
pub(super) const HALF_OPEN_MAX: usize = 4096;
/// A connection that has said nothing for so long makes room: our clients say OPEN or RESUME
/// together with the last of TCP's own handshake.
const SILENT: Duration = Duration::from_millis(250);
/// One that has said something has so long for the next message, and the program so long to take a
/// session for which an open waits.
const STALLED: Duration = Duration::from_secs(1);

impl Handshake {
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.stage, Stage::Parked(_) | Stage::ParkedPlain)
    }

    /// When it may be dropped in favour of another.
    pub(super) fn stalls_at(&self) -> Instant {
        self.moved + if matches!(self.stage, Stage::First) { SILENT } else { STALLED }
    }
}

impl Reactor {
    /// Makes room for one more connection. False when nobody waits, or when all that are there are
    /// young: then the next is accepted as soon as one of them is done or has stalled.
    pub(super) fn make_room(&mut self, id: u64) -> bool {
        let Some(served) = self.listeners.get_mut(&id) else { return false };
        if served.handshakes.len() < HANDSHAKES_MAX {
            return true;
        }
        let now = clock::now();
        if served.held_until.is_some_and(|until| now < until) {
            self.accept_again.insert(id);
            return false;
        }
        served.held_until = None;
        let (mut counts, mut firsts) = ([0; 2], [None; 2]);
        for &token in &served.handshakes {
            let Some(handshake) = self.handshakes.get(&token) else { continue };
            let kind = usize::from(handshake.is_parked());
            counts[kind] += 1;
            let this = Some((handshake.stalls_at(), token));
            firsts[kind] = firsts[kind].min(this).or(this);
        }
        let full = counts.iter().zip(firsts).filter(|&(&count, _)| count >= HANDSHAKES_MAX);
        let full: Vec<_> = full.filter_map(|(_, first)| first).collect();
        if full.is_empty() {
            return true;
        }
        let mut waiting = [libc::pollfd {
            fd: served.listener.real.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        if !matches!(sys::io::poll(&mut waiting, Some(Duration::ZERO)), Ok(1)) {
            // The next to come is an event.
            return false;
        }
        if let Some(&(until, _)) = full.iter().filter(|(at, _)| *at > now).max() {
            served.held_until = Some(until);
            self.accept_again.insert(id);
            self.timers.set(until, Timer::Handshake(usize::MAX));
            return false;
        }
        for (_, token) in full {
            self.expel(token);
        }
        true
    }

    /// One that has stalled makes room.
    fn expel(&mut self, token: usize) {
        let Some(handshake) = self.handshakes.get(&token) else { return };
        let why = match handshake.stage {
            Stage::First => "it said nothing, and others wait; limit strangers in the firewall",
            Stage::Parked(_) | Stage::ParkedPlain => "the program must accept sooner, others wait",
            _ => "it did not go on with its handshake, and others wait",
        };
        let (peer, parked) = (handshake.peer, handshake.is_parked());
        self.refusals.note(peer, &why);
        if !parked {
            self.note_stall(peer);
        }
        let Some(handshake) = self.handshakes.get(&token) else { return };
        let open = matches!(handshake.stage, Stage::Parked(_));
        match handshake.fd.as_ref().map(AsRawFd::as_raw_fd).filter(|_| open) {
            Some(raw) => {
                self.reject(token, raw, &Reject::plain(Reason::Busy, Duration::from_secs(1)));
            }
            None => self.drop_handshake(token),
        }
    }

    /// There is one unproven connection less: who was kept waiting may come.
    pub(super) fn open_door(&mut self, id: u64) {
        let Some(served) = self.listeners.get_mut(&id) else { return };
        if served.held_until.take().is_some() {
            self.accept_again.insert(id);
            self.timers.set(clock::now(), Timer::Handshake(usize::MAX));
        }
    }
}

/// How often refused connections are told of.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What to do about a peer whose first bytes are not eversock's.
pub(super) const FOREIGN: &str = "if it is a client without eversock, let the listener take plain \
    peers too, or give it a port without eversock";

/// What is said of connections that were refused: anybody can make them, so one line a second.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Refusals {
    told: Option<Instant>,
    untold: u64,
    shortage_told: Option<Instant>,
}

impl Refusals {
    /// A connection was refused.
    pub(super) fn note(&mut self, peer: Option<SocketAddr>, why: &impl Display) {
        match self.line(clock::now(), peer, why) {
            Some(line) => log::info!("{line}"),
            None => log::debug!("a connection was refused: {why}"),
        }
    }

    /// The process is out of descriptors or memory, and `what` comes of it.
    pub(in crate::reactor) fn note_shortage(&mut self, what: &str) {
        let now = clock::now();
        if self.shortage_told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY) {
            self.shortage_told = Some(now);
            log::warn!("out of descriptors or memory: {what}; raise the limit (ulimit -n)");
        }
    }

    /// The line to be said of one now, if any.
    fn line(
        &mut self,
        now: Instant,
        peer: Option<SocketAddr>,
        why: &impl Display,
    ) -> Option<String> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        let from = peer.map_or_else(|| "a peer that is gone".to_owned(), |peer| peer.to_string());
        let more = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            n => format!(" ({n} more since the last such line)"),
        };
        Some(format!("a connection from {from} was refused: {why}{more}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_with_their_address_once_a_second_and_the_others_are_counted() {
        let mut refusals = Refusals::default();
        let begun = Instant::now();
        let peer = Some(SocketAddr::from(([192, 0, 2, 7], 4711)));
        let first = refusals.line(begun, peer, &"not eversock").expect("a line");
        assert!(first.contains("192.0.2.7:4711") && first.contains("not eversock"), "{first}");
        assert!(!first.contains("more since"), "{first}");
        for ms in [1, 500, 999] {
            let at = begun + Duration::from_millis(ms);
            assert_eq!(refusals.line(at, peer, &"not eversock"), None);
        }
        let next = refusals.line(begun + TELL_EVERY, None, &"it is gone").expect("a line");
        assert!(next.contains("(3 more since the last such line)"), "{next}");
        let later = refusals.line(begun + 2 * TELL_EVERY, peer, &"again").expect("a line");
        assert!(!later.contains("more since"), "{later}");
    }
}
