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
    /// A connection did not go on while others waited.
    pub(super) fn note_stall(&mut self, peer: Option<SocketAddr>) {
        if let Some(peer) = peer {
            self.suspects.note(Source::of(peer), clock::now());
        }
    }

    /// An unproven connection has ended. Who has as many as there are places, and hangs up each
    /// before it would stall, keeps others out as well as who lets them stall.
    pub(super) fn hung_up(&mut self, token: usize) {
        let Some(handshake) = self.handshakes.get(&token) else { return };
        let peer = handshake.peer;
        let served = handshake.listener.and_then(|id| self.listeners.get(&id));
        // Others wait for a place, and not because of the program, which accepts too late.
        if served.is_some_and(|served| served.held_until.is_some()) && !handshake.is_parked() {
            self.note_stall(peer);
        }
        self.drop_handshake(token);
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
    use super::super::{Handshake, Served};
    use super::*;
    use crate::config::Config;
    use crate::listener::Listener;
    use crate::sys::Fd;
    use eversock_proto::wire::hello::HelloReader;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn source(n: u32) -> Source {
        Source::of(SocketAddr::from((Ipv4Addr::from(n), 1)))
    }

    /// A listener that the test's reactor serves; nobody comes to it but by [`come`].
    fn listen(reactor: &mut Reactor, config: Config) -> u64 {
        let number = crate::posix::socket(libc::AF_INET, libc::SOCK_STREAM, 0, Arc::default())
            .expect("a socket");
        let listener = Listener::new(number, 4, Arc::new(config)).expect("a listener");
        let id = listener.id;
        let served = Served {
            listener,
            token: 0,
            channel_token: 0,
            handshakes: VecDeque::new(),
            held_until: None,
            ready: VecDeque::new(),
            untaken: BTreeMap::new(),
            half_open: VecDeque::new(),
            closed: false,
        };
        reactor.listeners.insert(id, served);
        id
    }

    /// A connection from `n` comes, with its first message still to be said or with it said; gives
    /// its token and its other end.
    fn come(reactor: &mut Reactor, id: u64, n: u32, stage: Stage) -> (usize, Fd) {
        let (near, far) = sys::tcp::loopback_pair().expect("a pair");
        let (token, now) = (reactor.token(), clock::now());
        let handshake = Handshake {
            fd: Some(near),
            peer: Some(SocketAddr::from((Ipv4Addr::from(n), 1))),
            listener: Some(id),
            hops: 0,
            reader: HelloReader::default(),
            stage,
            since: now,
            moved: now,
        };
        reactor.handshakes.insert(token, handshake);
        reactor.listeners.get_mut(&id).expect("it listens").handshakes.push_back(token);
        (token, far)
    }

    /// Nobody noted it: with 1,200 connections that said OPEN and were closed after 0.6 s, one
    /// address held all places of a listener and made others wait behind its own, up to 4 s.
    #[test]
    fn who_hangs_up_before_he_stalls_is_suspect_if_others_waited() {
        let mut reactor = Reactor::for_test();
        let id = listen(&mut reactor, Config::default());
        for (n, others_wait) in [(1, false), (2, true)] {
            for _ in 0..STALLED_MIN {
                let (token, far) = come(&mut reactor, id, n, Stage::First);
                drop(far);
                let later = clock::now() + Duration::from_secs(60);
                let served = reactor.listeners.get_mut(&id).expect("it listens");
                served.held_until = others_wait.then_some(later);
                reactor.handshake_ready(token);
                assert!(!reactor.handshakes.contains_key(&token), "its end was not seen");
            }
            assert_eq!(reactor.suspects.has(source(n), clock::now()), others_wait);
        }
    }

    /// Were the oldest to go, none would come to its end; were it the newest, who only begins would
    /// keep all others of its address out.
    #[test]
    fn newcomers_of_a_suspect_address_take_places_of_its_own_now_and_then() {
        const SHARE: usize = 4;
        let mut reactor = Reactor::for_test();
        let share = u32::try_from(SHARE).expect("a small number");
        let id = listen(&mut reactor, Config { handshakes_per_source: share, ..Config::default() });
        let (socket, _far) = reactor.session_for_test(Config::default());
        let goes_on = || Stage::Resuming(None, Arc::clone(&socket));
        let (elsewhere, _kept) = come(&mut reactor, id, 2, goes_on());
        (0..STALLED_MIN).for_each(|_| reactor.suspects.note(source(1), clock::now()));
        let mut far_ends: HashMap<usize, Fd> =
            (0..SHARE).map(|_| come(&mut reactor, id, 1, goes_on())).collect();
        let mut came_in = 0;
        for _ in 0..1000 {
            let (newcomer, far) = come(&mut reactor, id, 1, goes_on());
            far_ends.insert(newcomer, far);
            // None of them stalls, however slow the test is.
            let now = clock::now();
            reactor.handshakes.values_mut().for_each(|it| it.moved = now);
            reactor.keep_to_share(id, Some(SocketAddr::from((Ipv4Addr::from(1), 2))));
            far_ends.retain(|token, _| reactor.handshakes.contains_key(token));
            assert_eq!(far_ends.len(), SHARE);
            came_in += usize::from(far_ends.contains_key(&newcomer));
        }
        // One of NEWCOMER_IN; so far off it is once in a billion runs.
        assert!((60..=190).contains(&came_in), "{came_in} of 1000");
        assert!(reactor.handshakes.contains_key(&elsewhere), "another address has paid for it");
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
