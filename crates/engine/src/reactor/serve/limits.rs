//! What one source may have of a listener, and all of them together.
//!
//! A burst of clients from one address is no attack, so a source is limited only once connections
//! from there have stalled while others waited. From then on it has a share of the places, and one
//! of its own makes room for its next: the door stays open for everybody else. Those that go on
//! with their handshakes come through, as a whole network may be behind one address.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use std::os::fd::AsRawFd;

use super::{Reactor, Stage};
use crate::clock;
use crate::reactor::channel;
use crate::sys::{self, fd};

/// When a client that is refused for want of room may come again.
pub(super) const COME_AGAIN: Duration = Duration::from_secs(1);
/// So many connections that stalled make a source a suspect.
const STALLED_MIN: u32 = 16;
/// A source that has not been seen to stall for so long is as good as any.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// One newcomer of so many takes the place of a handshake that goes on.
const NEWCOMER_IN: usize = 8;
/// Sources that are remembered, at most; the oldest is forgotten when one more comes.
const SOURCES_MAX: usize = 1024;
/// How often a listener at its limit looks whether processes that have sessions of it live.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where connections come from: an IPv4 address, or the 64 bits of an IPv6 address that one user
/// is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Source {
    pub(super) fn of(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

#[derive(Debug)]
struct Stalls {
    count: u32,
    last: Instant,
}

/// Sources whose connections have stalled lately.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Suspects {
    stalls: HashMap<Source, Stalls>,
    /// In the order in which they came.
    order: VecDeque<Source>,
    looked: Option<Instant>,
}

impl Suspects {
    /// A connection from there has stalled while others waited.
    fn note(&mut self, source: Source, now: Instant) {
        if let Some(stalls) = self.stalls.get_mut(&source) {
            let is_old = now.saturating_duration_since(stalls.last) >= FORGET_AFTER;
            stalls.count = if is_old { 1 } else { stalls.count.saturating_add(1) };
            stalls.last = now;
            return;
        }
        self.stalls.insert(source, Stalls { count: 1, last: now });
        self.order.push_back(source);
        if self.order.len() > SOURCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.stalls.remove(&oldest);
        }
    }

    fn has(&self, source: Source, now: Instant) -> bool {
        self.stalls.get(&source).is_some_and(|stalls| {
            let is_new = now.saturating_duration_since(stalls.last) < FORGET_AFTER;
            is_new && stalls.count >= STALLED_MIN
        })
    }
}

impl Reactor {
    /// A connection is dropped because it did not go on.
    pub(super) fn note_stall(&mut self, peer: Option<SocketAddr>) {
        if let Some(peer) = peer {
            self.suspects.note(Source::of(peer), clock::now());
        }
    }

    /// One more has come from `peer`: a suspect that has its share of the places by now loses one
    /// that has proven nothing.
    pub(super) fn keep_to_share(&mut self, id: u64, peer: Option<SocketAddr>) {
        let Some(source) = peer.map(Source::of) else { return };
        let now = clock::now();
        let Some(served) = self.listeners.get(&id) else { return };
        let share = served.listener.config.handshakes_per_source as usize;
        if share == 0 || !self.suspects.has(source, now) {
            return;
        }
        let its: Vec<usize> = served
            .handshakes
            .iter()
            .filter(|token| {
                self.handshakes.get(token).is_some_and(|handshake| {
                    let proven = matches!(handshake.stage, Stage::Attaching { .. });
                    !proven
                        && !handshake.is_parked()
                        && handshake.peer.map(Source::of) == Some(source)
                })
            })
            .copied()
            .collect();
        if its.len() > share
            && let Some((token, has_stalled)) = self.dispensable(&its, now)
        {
            if has_stalled {
                self.suspects.note(source, now);
            }
            let why =
                "its address has its share of unfinished handshakes, and has let others stall";
            self.refusals.note(peer, &why);
            self.drop_handshake(token);
        }
    }

    /// Which of a source's connections makes room for the last of them; true if it lets others
    /// wait. One that has stalled or says nothing goes first, then by lot one whose first words are
    /// not read yet. Those that go on stay, mostly: were it the oldest that went, a burst would
    /// drop each of its own just before its end, again and again. But who only begins handshakes
    /// must not keep all others out.
    fn dispensable(&self, its: &[usize], now: Instant) -> Option<(usize, bool)> {
        let (last, before) = its.split_last()?;
        let of = |token: &usize| self.handshakes.get(token);
        let stalled = |token: &&usize| of(token).is_some_and(|it| it.stalls_at() <= now);
        let is_first =
            |token: &&usize| of(token).is_some_and(|it| matches!(it.stage, Stage::First));
        let is_silent = |token: &&usize| {
            let number = of(token).and_then(|it| it.fd.as_ref()).map(AsRawFd::as_raw_fd);
            is_first(token) && number.is_some_and(|number| sys::io::queued(number) == 0)
        };
        if let Some(&token) = before.iter().find(stalled).or_else(|| before.iter().find(is_silent))
        {
            return Some((token, true));
        }
        let lot =
            |n: usize| usize::try_from(fd::random_u64() % n.max(1) as u64).unwrap_or_default();
        let beginning: Vec<usize> = its.iter().filter(is_first).copied().collect();
        let token = match beginning.len() {
            // None but the last.
            0 | 1 if lot(NEWCOMER_IN) != 0 => *last,
            0 | 1 => *before.get(lot(before.len()))?,
            n => *beginning.get(lot(n))?,
        };
        Some((token, false))
    }

    /// Why a listener takes no more sessions at present, if so. Resumes are not asked this.
    pub(super) fn is_full_up(&mut self, id: u64) -> Option<&'static str> {
        let config = &self.listeners.get(&id)?.listener.config;
        let (most, memory) = (config.sessions_max as usize, config.memory_max);
        if memory > 0 && self.engine.pool.shared_used() >= memory {
            return Some(
                "the sessions of this process hold as much memory as they may (memory_max)",
            );
        }
        if most == 0 || self.sessions_at_most(id) < most {
            return None;
        }
        // What accept has taken a moment ago may be in nobody's books yet.
        self.obey_waiting();
        if self.sessions_of(id) >= most && self.foreign.living() > 0 {
            let now = clock::now();
            let is_due = self.suspects.looked.is_none_or(|at| now - at >= LOOK_EVERY);
            if is_due {
                self.suspects.looked = Some(now);
                self.foreign.forget_dead(channel::is_alive);
            }
        }
        let is_full = self.sessions_of(id) >= most;
        is_full.then_some("the listener has as many sessions as it may (sessions_max)")
    }

    /// No fewer than there are, without a look at each.
    fn sessions_at_most(&self, id: u64) -> usize {
        let Some(served) = self.listeners.get(&id) else { return 0 };
        let coming = served.handshakes.len() + served.ready.len() + served.untaken.len();
        coming + self.owned.len() + self.foreign.living()
    }

    /// Sessions born of a listener that go on, and those that are being opened. Other processes'
    /// are counted whichever listener of ours they came by.
    fn sessions_of(&self, id: u64) -> usize {
        let Some(served) = self.listeners.get(&id) else { return 0 };
        let opening = served.handshakes.iter().filter(|token| {
            let handshake = self.handshakes.get(token);
            handshake.is_some_and(|handshake| matches!(handshake.stage, Stage::Opening(_)))
        });
        let own = self.owned.values().filter(|owned| {
            !served.untaken.contains_key(&owned.id)
                && owned.socket.meta.lock().is_ok_and(|meta| {
                    meta.born_of.as_ref().is_some_and(|listener| listener.id == id)
                })
        });
        let waiting = served.ready.len() + served.untaken.len();
        opening.count() + own.count() + waiting + self.foreign.living()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::of(SocketAddr::from((Ipv4Addr::from(n), 1)))
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_64_bits_of_an_ipv6_address() {
        let of = |text: &str| Source::of(SocketAddr::new(text.parse().expect("an address"), 7));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }

    #[test]
    fn a_source_is_suspected_after_some_stalls_and_forgiven_after_a_while_without() {
        let mut suspects = Suspects::default();
        let begun = Instant::now();
        for _ in 1..STALLED_MIN {
            suspects.note(source(1), begun);
        }
        assert!(!suspects.has(source(1), begun));
        suspects.note(source(1), begun);
        assert!(suspects.has(source(1), begun) && !suspects.has(source(2), begun));
        let almost = begun + FORGET_AFTER - Duration::from_nanos(1);
        assert!(suspects.has(source(1), almost));
        assert!(!suspects.has(source(1), begun + FORGET_AFTER));
        suspects.note(source(1), begun + FORGET_AFTER);
        assert!(!suspects.has(source(1), begun + FORGET_AFTER), "it begins anew");
    }

    #[test]
    fn sources_are_remembered_up_to_the_limit() {
        let mut suspects = Suspects::default();
        let now = Instant::now();
        let all = u32::try_from(SOURCES_MAX).expect("a small number");
        for n in 0..=all {
            for _ in 0..STALLED_MIN {
                suspects.note(source(n), now);
            }
        }
        assert_eq!((suspects.stalls.len(), suspects.order.len()), (SOURCES_MAX, SOURCES_MAX));
        assert!(!suspects.has(source(0), now), "the oldest");
        assert!(suspects.has(source(1), now) && suspects.has(source(all), now));
    }
}
