//! What the pool learns of addresses: proofs asked for beside a dial, and how lines are, to move a
//! session to a better one.

mod device;

use super::*;
use crate::ident::{self, Ask, Asker, Nonce, QUERY_BYTES};
use crate::key::ServerId;
use crate::preface::Service;
use crate::race::Book;
use crate::score::{self, Judge, Line, Weights};
use eversock_engine::udp::Udp;

/// Probes of each line in a window.
const PROBES: u64 = 5;
/// Fewer answers say nothing of a line.
const ANSWERS_MIN: usize = 3;
/// Of the line in use fewer queries say nothing of what it loses.
const SENT_MIN: u32 = 3;
/// Lines of one session that are looked at.
const CANDIDATES_MAX: usize = 8;
/// Sessions that an address is asked for a proof of.
const PROOFS_MAX: usize = 4;
/// Where the queries' sockets are counted from, behind [`OTHERS`].
const UDP: u64 = 1 << 62;

/// How long it is remembered what a query was sent for.
const PURPOSE_MICROS: u64 = 2_000_000;
/// Replies that are heard at a time.
const REPLIES_MAX: usize = 64;
/// Windows without an answer after which an address is asked in one of [`SILENT_ASKED`] only.
const SILENT_MAX: u32 = 3;
const SILENT_ASKED: u32 = 8;

/// What a query was sent for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Proof { flight: u64, session: u64 },
    Probe { session: u64, addr: SocketAddr },
}

#[derive(Debug, Default)]
struct Samples {
    sent: u32,
    rtts: Vec<u64>,
    hops: Option<u8>,
}

#[derive(Debug)]
struct Watched {
    judge: Judge,
    samples: BTreeMap<SocketAddr, Samples>,
    active: Line,
    /// Windows in a row in which an address was asked and has not answered.
    silent: BTreeMap<SocketAddr, u32>,
}

/// Queries, and what they have shown.
#[derive(Debug)]
pub(super) struct Lines {
    weights: Weights,
    rules: score::Rules,
    window: u64,
    udp: [Option<Udp>; 2],
    asker: Asker,
    /// And when each was sent.
    purposes: BTreeMap<Nonce, (u64, Purpose)>,
    book: Book,
    last_good: Option<SocketAddr>,
    watched: BTreeMap<u64, Watched>,
    /// When the next probe is due, and how many this window has had; none while nothing is probed.
    probing: Option<(u64, u64)>,
    random: ring::rand::SystemRandom,
}

impl Lines {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let rules = score::Rules { dwell_us: micros(config.dwell), ..score::Rules::default() };
        let weights = config.weights.checked().unwrap_or_default();
        Self {
            weights,
            rules,
            window: micros(config.window),
            udp: [None, None],
            asker: Asker::new(),
            purposes: BTreeMap::new(),
            book: Book::new(),
            last_good: None,
            watched: BTreeMap::new(),
            probing: None,
            random: ring::rand::SystemRandom::new(),
        }
    }

    pub(super) fn is_mine(&self, which: u64) -> bool {
        which >= UDP
    }

    pub(super) fn order(&self, addrs: &[SocketAddr], now: u64) -> Vec<SocketAddr> {
        self.book.order(addrs, self.last_good, now)
    }

    pub(super) fn dial_failed(&mut self, addr: SocketAddr, now: u64) {
        let random = self.random::<4>().map_or(0, u32::from_le_bytes);
        self.book.failed(addr, now, random);
    }

    pub(super) fn dial_worked(&mut self, addr: SocketAddr) {
        self.book.succeeded(addr);
        self.last_good = Some(addr);
    }

    pub(super) fn forget(&mut self) {
        self.book.network_changed();
        self.watched.values_mut().for_each(|watched| watched.silent.clear());
        self.last_good = None;
    }

    pub(super) fn begins(&mut self, session: u64) {
        let (samples, active, silent) = (BTreeMap::new(), Line::default(), BTreeMap::new());
        let judge = Judge::new(self.rules);
        self.watched.insert(session, Watched { judge, samples, active, silent });
    }

    pub(super) fn ended(&mut self, session: u64) {
        self.watched.remove(&session);
    }

    /// A new connection carries the session, to this address.
    pub(super) fn resumed(&mut self, session: u64, has_moved: bool, now: u64) {
        let Some(watched) = self.watched.get_mut(&session) else { return };
        watched.samples.clear();
        watched.silent.clear();
        if has_moved {
            watched.judge.moved(now);
        } else if let Some(to) = watched.judge.moving() {
            // Its old line was lost and found meanwhile.
            watched.judge.failed(to, now);
        }
    }

    pub(super) fn failed(&mut self, session: u64, addr: SocketAddr, now: u64) {
        if let Some(watched) = self.watched.get_mut(&session) {
            watched.judge.failed(addr, now);
        }
    }

    /// TCP_INFO, and where our end of the connection is.
    pub(super) fn kernel_says(
        &mut self,
        session: u64,
        line: &posix::Line,
        local: Option<SocketAddr>,
    ) {
        let Some(watched) = self.watched.get_mut(&session) else { return };
        let lost = line.retrans.zip(line.segs_out).filter(|(_, out)| *out > 0);
        let device = local.and_then(|local| device::of_local(local.ip()));
        watched.active = Line {
            rtt_min_us: line.min_rtt_us.map(u64::from),
            rtt_us: line.rtt_us.map(u64::from),
            loss_ppm: lost.map(|(lost, out)| {
                let ppm = u64::from(lost) * 1_000_000 / u64::from(out);
                u32::try_from(ppm).unwrap_or(u32::MAX)
            }),
            rate_bps: line.delivery_rate.map(|bytes| bytes.saturating_mul(8)),
            link_mbps: device.as_deref().and_then(device::speed),
            hops: watched.active.hops,
            mtu: line.pmtu,
        };
    }

    pub(super) fn active(&self, session: u64) -> Option<Line> {
        self.watched.get(&session).map(|watched| watched.active)
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let probe = self.probing.map(|(at, _)| at);
        [self.asker.next_timeout(), probe].into_iter().flatten().min()
    }

    pub(super) fn forged(&self) -> u64 {
        self.asker.counts().forged + self.asker.counts().late
    }

    fn random<const N: usize>(&self) -> Option<[u8; N]> {
        use ring::rand::SecureRandom;
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).ok().map(|()| bytes)
    }

    /// Asks an address; what it costs if nothing comes of it is one datagram, three times.
    /// False when nothing was sent.
    fn query(
        &mut self,
        addr: SocketAddr,
        ask: &Ask,
        purpose: Purpose,
        now: u64,
        watch: &Watch,
    ) -> bool {
        let Some(nonce) = self.random() else { return false };
        let Ok(query) = self.asker.begin(addr, ask, now, nonce) else { return false };
        let is_sent = self.send(addr, &query, watch);
        if is_sent {
            self.purposes.insert(nonce, (now, purpose));
        } else {
            // No answer will come, and what waits for one is counted.
            self.asker.cancel(addr);
        }
        is_sent
    }

    fn send(&mut self, addr: SocketAddr, query: &[u8; QUERY_BYTES], watch: &Watch) -> bool {
        let which = usize::from(addr.is_ipv6());
        if self.udp[which].is_none() {
            let any = match addr {
                SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
                SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
            };
            let opened = Udp::bind(any).and_then(|udp| {
                watch.add_level(&udp, OTHERS + UDP + which as u64)?;
                Ok(udp)
            });
            match opened {
                Ok(udp) => self.udp[which] = Some(udp),
                Err(error) => {
                    log::debug!("nobody is asked: {error}");
                    return false;
                }
            }
        }
        let Some(udp) = &self.udp[which] else { return false };
        match udp.send(query, addr, None) {
            Ok(()) => true,
            Err(error) => {
                log::debug!("{addr} is not asked: {error}");
                false
            }
        }
    }
}

impl Client {
    /// Asks the addresses of a flight whether they are a server to which a session stands: if one
    /// can prove it, the dial is not needed.
    pub(super) fn ask_for_proofs(&mut self, flight: u64, addrs: &[SocketAddr]) {
        let now = self.clock.now();
        let mut might = look(&self.books).state.might_be(flight, now);
        // Those first whose names lead here.
        might.sort_by_key(|session| std::cmp::Reverse(self.likelihood(*session, addrs)));
        let connection = look(&self.books).state.first_of(flight);
        let service = connection
            .and_then(|connection| self.pending.get(&connection))
            .map_or_else(Service::default, |pending| pending.preface.service.clone());
        for session in might.into_iter().take(PROOFS_MAX) {
            let Some(held) = self.by_session.get(&session).and_then(|id| self.held.get(id)) else {
                continue;
            };
            let ask = Ask { session: held.id, service: service.clone(), ..Ask::default() };
            for addr in addrs.iter().take(PROOFS_MAX) {
                let purpose = Purpose::Proof { flight, session };
                self.lines.query(*addr, &ask, purpose, now, &self.inbox.watch);
            }
        }
    }

    pub(super) fn hear_replies(&mut self) {
        for which in 0..2 {
            for _ in 0..REPLIES_MAX {
                let Some(udp) = &self.lines.udp[which] else { break };
                let mut bytes = [0; QUERY_BYTES + 1];
                let received = match udp.recv(&mut bytes) {
                    Ok(received) => received,
                    Err(error) if crate::hub::would_block(&error) => break,
                    // "Connection refused" of an earlier query: nobody answers there.
                    Err(_) => continue,
                };
                let now = self.clock.now();
                let said = &bytes[..received.len];
                let answer = self.lines.asker.heard(received.from, said, now);
                look(&self.books).state.metrics_mut().forged = self.lines.forged();
                let Some(answer) = answer else { continue };
                match self.lines.purposes.remove(&answer.reply.nonce) {
                    Some((_, Purpose::Proof { flight, session })) => {
                        self.proven(flight, session, &answer);
                    }
                    Some((_, Purpose::Probe { session, addr })) => {
                        let Some(watched) = self.lines.watched.get_mut(&session) else { continue };
                        let samples = watched.samples.entry(addr).or_default();
                        if !answer.was_repeated {
                            samples.rtts.push(answer.rtt_us);
                        }
                        samples.hops = received.ttl.and_then(score::hops);
                    }
                    None => {}
                }
            }
        }
    }

    /// A reply that only the other end of a session can have made.
    fn proven(&mut self, flight: u64, session: u64, answer: &ident::Answer) {
        let Some(server) = self.server_of(session) else { return };
        let Some(held) = self.by_session.get(&session).and_then(|id| self.held.get(id)) else {
            return;
        };
        let pin = look(&self.books).state.first_of(flight);
        let pin = pin.and_then(|first| self.pending.get(&first)).and_then(|first| first.how.pin);
        if pin.is_some_and(|pin| ServerId::of_key(&pin) != server.id) {
            return;
        }
        let reply = &answer.reply;
        // Whoever forwards a query to the server does not become it: it says where it was asked.
        let is_there = reply.asked_at == Some(answer.address);
        if !reply.has_proof() || !is_there || !reply.shares || reply.boot != server.boot {
            return;
        }
        let said = reply.encode();
        let Some(parts) = ident::mac_input(&answer.query, &said) else { return };
        match posix::is_identity_proof(held.number, &parts, &reply.mac) {
            Ok(true) => {
                let now = self.clock.now();
                let todo = look(&self.books).state.proven(flight, answer.address, server, now);
                self.perform(todo);
            }
            Ok(false) => {
                log::warn!("{} claims to be a server that it is not", answer.address);
                look(&self.books).state.metrics_mut().forged += 1;
            }
            Err(error) => log::debug!("a proof cannot be looked at: {error}"),
        }
    }

    // ---------------------------------------------------------------------------------------------
    // Lines

    pub(super) fn time_lines(&mut self, now: u64) {
        let due = self.lines.asker.due(now);
        for (addr, query) in due.again {
            self.lines.send(addr, &query, &self.inbox.watch);
        }
        // Long after the asker has given them up.
        self.lines.purposes.retain(|_, (since, _)| now < since.saturating_add(PURPOSE_MICROS));
        match self.lines.probing {
            None if self.has_choice() => self.lines.probing = Some((now, 0)),
            Some((at, count)) if at <= now => {
                if !self.has_choice() {
                    self.lines.probing = None;
                    return;
                }
                let every = self.lines.window / PROBES;
                if count == PROBES {
                    self.judge(now);
                    self.lines.probing = Some((now + every, 0));
                } else {
                    self.probe(now);
                    self.lines.probing = Some((now + every, count + 1));
                }
            }
            _ => {}
        }
    }

    /// True when there is a session in use that could go over more than one line.
    fn has_choice(&self) -> bool {
        if !self.config.migrate || self.tell_end.is_some() {
            return false;
        }
        let shown = look(&self.books);
        self.held.values().any(|held| {
            matches!(held.load, Load::Shared(_))
                && shown.state.references(held.session) > 0
                && self.addresses(&shown, held).len() > 1
        })
    }

    fn addresses(&self, shown: &Shown, held: &Held) -> Vec<SocketAddr> {
        // Where names alone lead is nowhere to move to: whoever is there may pass on what he hears.
        let mut addrs = posix::candidates(held.number).unwrap_or_default();
        addrs.retain(|addr| !held.only_hinted.contains(addr));
        for addr in shown.state.verified(held.session) {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        addrs.truncate(CANDIDATES_MAX);
        addrs
    }

    fn probe(&mut self, now: u64) {
        let mut probes = Vec::new();
        {
            let shown = look(&self.books);
            for held in self.held.values() {
                let is_used = shown.state.references(held.session) > 0;
                if !is_used || matches!(held.load, Load::Lone(_)) {
                    continue;
                }
                let addrs = self.addresses(&shown, held);
                if addrs.len() > 1 {
                    let here = posix::link(held.number).ok().and_then(|link| link.peer);
                    probes.push((held.session, here, addrs));
                }
            }
        }
        for (session, here, mut addrs) in probes {
            // The line in use first, without which nothing can be compared.
            addrs.sort_by_key(|addr| Some(*addr) != here);
            if let Some(watched) = self.lines.watched.get_mut(&session) {
                watched.silent.retain(|addr, _| addrs.contains(addr));
            }
            for addr in addrs {
                let silent = self.lines.watched.get(&session).and_then(|it| it.silent.get(&addr));
                let windows = silent.copied().unwrap_or(0);
                if Some(addr) != here && windows >= SILENT_MAX && windows % SILENT_ASKED != 0 {
                    continue;
                }
                let purpose = Purpose::Probe { session, addr };
                let ask = Ask { probe: true, ..Ask::default() };
                let is_sent = self.lines.query(addr, &ask, purpose, now, &self.inbox.watch);
                if let Some(watched) = self.lines.watched.get_mut(&session) {
                    watched.samples.entry(addr).or_default().sent += u32::from(is_sent);
                }
            }
            self.measure(session);
        }
    }

    /// A window is over.
    fn judge(&mut self, now: u64) {
        let mut moves = Vec::new();
        for held in self.held.values() {
            let Some(watched) = self.lines.watched.get_mut(&held.session) else { continue };
            let samples = std::mem::take(&mut watched.samples);
            let mut silent = std::mem::take(&mut watched.silent);
            for (addr, samples) in &samples {
                match samples.rtts.is_empty() {
                    false => drop(silent.remove(addr)),
                    true if samples.sent > 0 => *silent.entry(*addr).or_default() += 1,
                    true => {}
                }
            }
            for (addr, windows) in &mut silent {
                // Those that were not asked in this one.
                *windows += u32::from(!samples.contains_key(addr));
            }
            watched.silent = silent;
            let Ok(link) = posix::link(held.number) else { continue };
            let Some(here) = link.peer.filter(|_| link.attached) else { continue };
            let mut lines: BTreeMap<SocketAddr, Line> = samples
                .into_iter()
                .filter(|(addr, samples)| {
                    let is_used = *addr == here && samples.sent >= SENT_MIN;
                    samples.rtts.len() >= ANSWERS_MIN || is_used
                })
                .map(|(addr, samples)| (addr, samples.line(addr)))
                .collect();
            // Both by the same measure: the kernel's of a busy connection has its queues in it.
            let Some(active) = lines.remove(&here) else { continue };
            watched.active.hops = active.hops;
            let others: Vec<(SocketAddr, Line)> = lines.into_iter().collect();
            let weights = &self.lines.weights;
            if let Some(to) = watched.judge.window(now, &active, &others, weights) {
                moves.push((held.session, held.number, to));
            }
        }
        for (session, number, to) in moves {
            log::info!("session {session} is moved to the better line of {to}");
            match posix::redial_at(number, to) {
                Ok(()) => self.with(session, |held, _| held.moving = Some(to)),
                Err(error) => {
                    log::info!("session {session} is not moved to {to}: {error}");
                    self.lines.failed(session, to, now);
                }
            }
        }
    }
}

impl Samples {
    fn line(&self, addr: SocketAddr) -> Line {
        let device = device::towards(addr.ip());
        let sum: u64 = self.rtts.iter().sum();
        let answered = u32::try_from(self.rtts.len()).unwrap_or(u32::MAX);
        let lost = u64::from(self.sent.saturating_sub(answered));
        // Of a line that is too bad to say how fast it is, it is known that it loses.
        let is_known = self.rtts.len() >= ANSWERS_MIN;
        let ppm = lost * 1_000_000 / u64::from(self.sent.max(1));
        Line {
            rtt_min_us: self.rtts.iter().min().copied().filter(|_| is_known),
            rtt_us: is_known.then(|| sum / u64::from(answered.max(1))),
            loss_ppm: u32::try_from(ppm).ok(),
            rate_bps: None,
            link_mbps: device.as_deref().and_then(device::speed),
            hops: self.hops,
            mtu: device.as_deref().and_then(device::mtu),
        }
    }
}
