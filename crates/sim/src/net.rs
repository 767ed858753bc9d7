//! A bad network: TCP connections as pipes of bytes that arrive in order, late, or not at all.
//!
//! What a kernel does is modelled as far as a program can see it: buffers with a limit, ends (FIN),
//! resets, lost segments that are sent again, back-off that outlasts an outage, time-outs of
//! unconfirmed output, keepalive. A kernel that has taken bytes has promised nothing.

use std::collections::VecDeque;

use crate::plan::{CutKind, Harm};
use crate::trace::{MS, On, S, Time};
use crate::world::{Event, World};

pub(crate) type ConnId = usize;
/// A link, and 0 for its client's end.
pub(crate) type EndId = (usize, usize);

/// The link of connections that strangers made.
pub(crate) const STRANGE: usize = usize::MAX;

/// Who reads a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    /// A client's attempt to open or to resume.
    Attempt(EndId),
    /// The end whose epoch it carries.
    Stands(EndId),
    /// A server that waits for a proof.
    Unproven,
}

#[derive(Debug)]
struct Segment {
    ready: Time,
    bytes: Vec<u8>,
    fin: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Lane {
    flying: VecDeque<Segment>,
    arrived: VecDeque<Vec<u8>>,
    /// Bytes of the first of them that were read.
    read: usize,
    unread: usize,
    held: usize,
    last_ready: Time,
    /// The end of the bytes has arrived.
    fin: bool,
    delivered: u64,
    /// The sender found no room.
    waits: bool,
    /// Counts what arrives: a time-out that was set before is void.
    progress: u64,
    timeout_set: bool,
    /// Bytes of this direction vanish.
    dead: bool,
    /// Frames of it that are still to be changed, and handshake messages.
    corrupt: Option<Harm>,
    corrupt_hello: Option<Harm>,
}

#[derive(Debug)]
pub(crate) struct Conn {
    /// The session that it is for, as only the simulation knows.
    pub(crate) link: usize,
    pub(crate) hosts: [usize; 2],
    pub(crate) procs: [usize; 2],
    pub(crate) addr: usize,
    pub(crate) owner: [Owner; 2],
    pub(crate) lanes: [Lane; 2],
    pub(crate) err: [bool; 2],
    pub(crate) closed: [bool; 2],
    pub(crate) established: [bool; 2],
    /// The epoch that the client asked for over it.
    pub(crate) epoch: u64,
    pub(crate) cut_at: Option<(usize, u64, CutKind)>,
    /// The server's first word is replaced.
    pub(crate) forged: bool,
    /// Sealed frames that begin at a side were changed under way.
    pub(crate) tampered: [bool; 2],
    ready_set: [bool; 2],
    proxied: bool,
    /// The client's handshake messages, for those who record them.
    pub(crate) said: Vec<Vec<u8>>,
    /// What a stranger says, and when it says more.
    pub(crate) tale: VecDeque<u8>,
}

impl Conn {
    fn new(link: usize, hosts: [usize; 2], procs: [usize; 2], addr: usize) -> Self {
        Self {
            link,
            hosts,
            procs,
            addr,
            owner: [Owner::Nobody; 2],
            lanes: Default::default(),
            err: [false; 2],
            closed: [false; 2],
            established: [false; 2],
            epoch: 0,
            cut_at: None,
            forged: false,
            tampered: [false; 2],
            ready_set: [false; 2],
            proxied: false,
            said: Vec::new(),
            tale: VecDeque::new(),
        }
    }

    /// True when the kernel at `side` knows that nothing more will come.
    pub(crate) fn is_broken(&self, side: usize) -> bool {
        self.err[side] || self.lanes[1 - side].fin
    }

    /// The same, and all that came was read.
    pub(crate) fn is_ended(&self, side: usize) -> bool {
        self.is_broken(side) && self.lanes[1 - side].unread == 0
    }

    pub(crate) fn unread(&self, side: usize) -> usize {
        self.lanes[1 - side].unread
    }

    pub(crate) fn is_live(&self) -> bool {
        !(self.closed[0] || self.closed[1] || self.err[0] && self.err[1])
    }

    /// Nothing will happen to it any more: what it holds may go.
    fn is_over(&self) -> bool {
        (0..2).all(|side| self.closed[side] || self.err[side] && self.unread(side) == 0)
    }
}

impl World {
    pub(crate) fn connect(
        &mut self,
        link: usize,
        hosts: [usize; 2],
        proc: usize,
        addr: usize,
    ) -> ConnId {
        let id = self.conns.len();
        let listener = self.hosts[hosts[1]].listener;
        self.conns.push(Conn::new(link, hosts, [proc, listener], addr));
        let at = self.now + self.flight(hosts);
        self.note(On::Conn(id), "SYN for session, address", link as u64, addr as u64);
        self.push(at, Event::Syn(id));
        id
    }

    fn flight(&mut self, hosts: [usize; 2]) -> Time {
        let jitter = if self.plan.jitter == 0 { 0 } else { self.rng.below(self.plan.jitter) };
        let mut time = self.plan.latency + jitter;
        if self.now < self.slow_until && hosts[1] == self.slow_host {
            time += self.slow_by;
        }
        let burst = self.now < self.lossy_until && self.rng.below(100) < self.lossy_percent;
        let steady = self.plan.loss_one_in > 0 && self.rng.chance(1, self.plan.loss_one_in);
        if burst || steady {
            // The first retransmissions of a kernel.
            time += (200 * MS) << self.rng.below(4);
        }
        time
    }

    /// Until when nothing from `side` gets through.
    fn hole(&self, hosts: [usize; 2], side: usize) -> Option<Time> {
        let matching = self
            .holes
            .iter()
            .filter(|hole| hole.hosts == hosts && hole.from == side && hole.until > self.now);
        matching.map(|hole| hole.until).max()
    }

    pub(crate) fn on_syn(&mut self, id: ConnId) {
        let conn = &self.conns[id];
        if conn.closed[0] || conn.lanes[0].dead {
            return;
        }
        let (hosts, addr) = (conn.hosts, conn.addr);
        if let Some(until) = self.hole(hosts, 0) {
            let at = until + self.rng.below(2 * S);
            self.push(at, Event::Syn(id));
            return;
        }
        if !self.addrs[addr].up {
            self.note(On::Conn(id), "nobody has that address", addr as u64, 0);
            return;
        }
        let listener = self.hosts[hosts[1]].listener;
        if !self.procs[listener].alive || self.refuse_until[listener] > self.now {
            let at = self.now + self.flight(hosts);
            self.push(at, Event::Rst(id, 0));
            return;
        }
        self.conns[id].procs[1] = listener;
        if !self.incoming(id) {
            let at = self.now + S;
            self.push(at, Event::Syn(id));
            return;
        }
        self.conns[id].established[1] = true;
        let at = self.now + self.flight(hosts);
        self.push(at, Event::Established(id));
    }

    pub(crate) fn on_established(&mut self, id: ConnId) {
        let conn = &self.conns[id];
        if conn.closed[0] || conn.err[0] || conn.lanes[1].dead {
            return;
        }
        if let Some(until) = self.hole(conn.hosts, 1) {
            let at = until + self.rng.below(2 * S);
            self.push(at, Event::Established(id));
            return;
        }
        self.conns[id].established[0] = true;
        self.wake(id, 0);
    }

    pub(crate) fn room(&self, id: ConnId, side: usize) -> usize {
        let conn = &self.conns[id];
        if conn.err[side] || conn.closed[side] {
            return 0;
        }
        self.plan.kernel_bytes.saturating_sub(conn.lanes[side].held)
    }

    /// Tells `side` when there is room again.
    pub(crate) fn await_room(&mut self, id: ConnId, side: usize) {
        self.conns[id].lanes[side].waits = true;
    }

    pub(crate) fn send(&mut self, id: ConnId, side: usize, mut bytes: Vec<u8>, is_hello: bool) {
        let conn = &mut self.conns[id];
        if bytes.is_empty() || conn.err[side] || conn.closed[side] {
            return;
        }
        let lane = &mut conn.lanes[side];
        lane.held += bytes.len();
        if lane.dead {
            self.await_timeout(id, side);
            return;
        }
        let harm = if is_hello { lane.corrupt_hello.take() } else { lane.corrupt.take() };
        if let Some(harm) = harm {
            let link = conn.link;
            let is_sealed = self.plan.is_sealed();
            if let Some(link) = self.links.get_mut(link) {
                link.touch(self.now);
                // Clear frames are not protected: of this session only the bounds are checked now.
                link.tainted |= !is_hello && !is_sealed;
                link.cuts += u32::from(!is_hello && is_sealed);
            }
            if !is_hello && is_sealed {
                self.conns[id].tampered[side] = true;
                self.stats.tampered += 1;
            }
            self.harm(&mut bytes, harm, is_hello);
            self.note(On::Conn(id), "bytes are changed under way", is_hello.into(), side as u64);
        }
        let ready = self.now + self.flight(self.conns[id].hosts);
        self.launch(id, side, Segment { ready, bytes, fin: false });
    }

    fn harm(&mut self, bytes: &mut Vec<u8>, harm: Harm, is_hello: bool) {
        let at = self.rng.index(bytes.len());
        match harm {
            Harm::Flip => bytes[at] ^= 1 << self.rng.below(8),
            Harm::Drop => {
                let n = self.rng.between(1, 8) as usize;
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Harm::Insert => {
                // Behind a whole handshake message they would be frames.
                let at = if is_hello { at.min(bytes.len() - 1) } else { at };
                let more = self.rng.bytes();
                let n = self.rng.between(1, 32) as usize;
                bytes.splice(at..at, more[..n].iter().copied());
            }
            Harm::Repeat => bytes.extend_from_within(..),
        }
    }

    fn launch(&mut self, id: ConnId, side: usize, mut segment: Segment) {
        let lane = &mut self.conns[id].lanes[side];
        segment.ready = segment.ready.max(lane.last_ready);
        let ready = segment.ready;
        lane.last_ready = ready;
        lane.flying.push_back(segment);
        self.push(ready, Event::Arrive(id, 1 - side));
    }

    fn await_timeout(&mut self, id: ConnId, side: usize) {
        let at = self.now + self.plan.kernel_timeout;
        let conn = &mut self.conns[id];
        let lane = &mut conn.lanes[side];
        if !lane.timeout_set && !conn.proxied {
            lane.timeout_set = true;
            let progress = lane.progress;
            self.push(at, Event::KernelTimeout(id, side, progress));
        }
    }

    pub(crate) fn on_kernel_timeout(&mut self, id: ConnId, side: usize, progress: u64) {
        let conn = &self.conns[id];
        if conn.lanes[side].progress == progress && !conn.closed[side] {
            self.note(On::Conn(id), "kernel: timed out at", side as u64, 0);
            self.break_off(id, side);
        }
    }

    pub(crate) fn on_keepalive(&mut self, id: ConnId, side: usize) {
        let conn = &self.conns[id];
        if conn.closed[side] || conn.err[side] || conn.proxied {
            return;
        }
        let peer = &self.hosts[conn.hosts[1 - side]];
        let is_gone = conn.err[1 - side] || conn.closed[1 - side];
        let is_silent = is_gone || peer.suspended_until > self.now;
        let is_dead = is_silent || conn.lanes.iter().any(|lane| lane.dead);
        if is_dead || (0..2).any(|from| self.hole(conn.hosts, from).is_some()) {
            self.note(On::Conn(id), "kernel: keepalive unanswered at", side as u64, 0);
            self.break_off(id, side);
        }
    }

    fn break_off(&mut self, id: ConnId, side: usize) {
        let purges = self.rng.chance(1, 4);
        let conn = &mut self.conns[id];
        if conn.err[side] || conn.closed[side] {
            return;
        }
        conn.err[side] = true;
        if purges {
            // The kernel may drop what was unread.
            let lane = &mut conn.lanes[1 - side];
            lane.arrived.clear();
            (lane.unread, lane.read) = (0, 0);
        }
        self.wake(id, side);
    }

    pub(crate) fn on_arrive(&mut self, id: ConnId, to: usize) {
        let from = 1 - to;
        let conn = &self.conns[id];
        if conn.lanes[from].flying.is_empty() {
            return;
        }
        let hosts = conn.hosts;
        if let Some(until) = self.hole(hosts, from) {
            // A kernel that backs off finds out late that the path is well again.
            let waited = (until - self.now).min(60 * S);
            let at = until + self.rng.below(waited / 2 + 300 * MS);
            let lane = &mut self.conns[id].lanes[from];
            lane.last_ready = lane.last_ready.max(at);
            for segment in &mut lane.flying {
                segment.ready = segment.ready.max(at);
            }
            self.push(at, Event::Arrive(id, to));
            self.await_timeout(id, from);
            return;
        }
        if conn.closed[to] {
            self.conns[id].lanes[from].flying.clear();
            let at = self.now + self.flight(hosts);
            self.push(at, Event::Rst(id, from));
            return;
        }
        let mut cut = None;
        let conn = &mut self.conns[id];
        let lane = &mut conn.lanes[from];
        let before = lane.delivered;
        while lane.flying.front().is_some_and(|segment| segment.ready <= self.now) {
            let Some(mut segment) = lane.flying.pop_front() else { break };
            if let Some((side, byte, kind)) = conn.cut_at
                && side == from
                && lane.delivered + segment.bytes.len() as u64 >= byte
            {
                segment.bytes.truncate((byte.saturating_sub(lane.delivered)) as usize);
                segment.fin = false;
                conn.cut_at = None;
                cut = Some(kind);
                lane.flying.clear();
                // Bytes are missing: whatever the cut does besides, nothing follows them.
                lane.dead = true;
            }
            lane.delivered += segment.bytes.len() as u64;
            lane.unread += segment.bytes.len();
            if !segment.bytes.is_empty() && !conn.err[to] {
                lane.arrived.push_back(segment.bytes);
            } else {
                lane.unread -= segment.bytes.len();
            }
            lane.fin |= segment.fin;
        }
        lane.progress += 1;
        lane.timeout_set = false;
        let delivered = lane.delivered - before;
        self.note(On::Conn(id), "bytes arrive at", to as u64, delivered);
        if let Some(kind) = cut {
            self.cut(id, kind);
        }
        self.wake(id, to);
    }

    /// Reads a slice of at most `most` bytes that arrived at `side`.
    pub(crate) fn take(&mut self, id: ConnId, side: usize, most: usize) -> Option<Vec<u8>> {
        let slices = self.plan.slices && self.rng.chance(1, 3);
        let most = if slices { most.min(self.rng.scale(1, 2000) as usize) } else { most };
        let at = self.now + self.plan.latency;
        let lane = &mut self.conns[id].lanes[1 - side];
        let whole = lane.arrived.front()?.len();
        if most == 0 {
            return None;
        }
        let n = (whole - lane.read).min(most);
        let bytes = if n == whole {
            lane.arrived.pop_front()?
        } else {
            let bytes = lane.arrived.front()?[lane.read..lane.read + n].to_vec();
            lane.read += n;
            if lane.read == whole {
                lane.arrived.pop_front();
                lane.read = 0;
            }
            bytes
        };
        lane.unread -= n;
        lane.held = lane.held.saturating_sub(n);
        if lane.waits {
            lane.waits = false;
            self.push(at, Event::Writable(id, 1 - side));
        }
        Some(bytes)
    }

    /// The end at `side` closes. Unread bytes make its kernel send a reset, as Linux does.
    pub(crate) fn close(&mut self, id: ConnId, side: usize) {
        let conn = &mut self.conns[id];
        if conn.closed[side] {
            return;
        }
        conn.closed[side] = true;
        conn.owner[side] = Owner::Nobody;
        let had_unread = conn.unread(side) > 0;
        let hosts = conn.hosts;
        let in_lane = &mut conn.lanes[1 - side];
        in_lane.arrived.clear();
        (in_lane.unread, in_lane.read) = (0, 0);
        let (is_err, is_dead) = (conn.err[side], conn.lanes[side].dead);
        if is_err || is_dead || conn.is_over() {
            return;
        }
        let at = self.now + self.flight(hosts);
        if had_unread {
            if self.rng.chance(1, 2) {
                self.conns[id].lanes[side].flying.clear();
            }
            self.push(at, Event::Rst(id, 1 - side));
        } else {
            self.launch(id, side, Segment { ready: at, bytes: Vec::new(), fin: true });
        }
    }

    pub(crate) fn on_rst(&mut self, id: ConnId, side: usize) {
        let conn = &self.conns[id];
        // A reset is sent once: on a dead path it is lost.
        if conn.lanes[1 - side].dead || self.hole(conn.hosts, 1 - side).is_some() {
            return;
        }
        let carries = matches!(conn.owner[1], Owner::Stands(_));
        if side == 1 && carries && conn.closed[0] && !conn.err[1] {
            self.links[conn.link].overtaken = true;
        }
        self.note(On::Conn(id), "RST arrives at", side as u64, 0);
        self.break_off(id, side);
    }

    /// The network ends a connection.
    pub(crate) fn cut(&mut self, id: ConnId, kind: CutKind) {
        self.stats.cuts += 1;
        let link = self.conns[id].link;
        if link != STRANGE {
            self.links[link].touch(self.now);
            self.links[link].cuts += 1;
        }
        self.note(On::Conn(id), cut_name(kind), 0, 0);
        let kill = |lane: &mut Lane| {
            lane.flying.clear();
            lane.dead = true;
        };
        match kind {
            CutKind::Reset => {
                self.conns[id].lanes.iter_mut().for_each(kill);
                (0..2).for_each(|side| self.break_off(id, side));
            }
            CutKind::ResetOne(side) => {
                let late = if self.rng.chance(1, 2) { self.rng.scale(MS, 5 * S) } else { 0 };
                let conn = &mut self.conns[id];
                conn.lanes[1 - side].flying.clear();
                // What the side had sent still comes, behind the back of a new epoch.
                let lane = &mut conn.lanes[side];
                lane.last_ready += late;
                lane.flying.iter_mut().for_each(|segment| segment.ready += late);
                self.break_off(id, side);
                let at = self.conns[id].lanes[side].last_ready.max(self.now);
                self.push(at, Event::Arrive(id, 1 - side));
                self.expire(id);
            }
            CutKind::Fin | CutKind::FinOne(_) => {
                let sides = if let CutKind::FinOne(side) = kind { side..side + 1 } else { 0..2 };
                self.conns[id].lanes.iter_mut().for_each(kill);
                for side in sides {
                    self.conns[id].lanes[1 - side].fin = true;
                    self.wake(id, side);
                }
                self.expire(id);
            }
            CutKind::Dead => {
                self.conns[id].lanes.iter_mut().for_each(kill);
                self.expire(id);
            }
            CutKind::DeadOneWay(side) => {
                kill(&mut self.conns[id].lanes[side]);
                self.expire(id);
            }
            CutKind::Proxy => {
                let last = self.plan.heal_at.max(self.now) + 10 * S;
                let at = (self.now + self.rng.scale(S, 300 * S)).min(last);
                let conn = &mut self.conns[id];
                conn.lanes.iter_mut().for_each(kill);
                conn.proxied = true;
                self.push(at, Event::ProxyCloses(id));
                if link != STRANGE {
                    self.links[link].touch(at);
                }
            }
        }
    }

    /// Keepalive will find that nothing passes.
    pub(crate) fn expire(&mut self, id: ConnId) {
        for side in 0..2 {
            let at = self.now + self.plan.keepalive + self.rng.below(S);
            self.push(at, Event::Keepalive(id, side));
        }
    }

    pub(crate) fn on_proxy_closes(&mut self, id: ConnId) {
        self.note(On::Conn(id), "the proxy closes", 0, 0);
        for side in 0..2 {
            if self.rng.chance(1, 2) {
                self.break_off(id, side);
            } else {
                self.conns[id].lanes[1 - side].fin = true;
                self.wake(id, side);
            }
        }
    }

    /// The owner of `side` looks at the connection as soon as its process runs.
    pub(crate) fn wake(&mut self, id: ConnId, side: usize) {
        let conn = &mut self.conns[id];
        if conn.closed[side] || conn.ready_set[side] {
            return;
        }
        conn.ready_set[side] = true;
        let at = self.now;
        self.push(at, Event::Ready(id, side));
    }

    pub(crate) fn on_ready(&mut self, id: ConnId, side: usize) {
        let conn = &mut self.conns[id];
        conn.ready_set[side] = false;
        if conn.closed[side] {
            return;
        }
        match conn.owner[side] {
            Owner::Attempt(end) => self.attempt_ready(end, id),
            Owner::Stands(end) => self.pump(end),
            Owner::Unproven => self.hello_ready(id),
            Owner::Nobody => {}
        }
    }

    pub(crate) fn set_corrupt(&mut self, id: ConnId, harm: Harm, side: usize, is_hello: bool) {
        let lane = &mut self.conns[id].lanes[side];
        if is_hello {
            lane.corrupt_hello = Some(harm);
        } else {
            lane.corrupt = Some(harm);
        }
    }
}

fn cut_name(kind: CutKind) -> &'static str {
    match kind {
        CutKind::Reset => "cut: reset, both are told",
        CutKind::ResetOne(0) => "cut: reset, the client is told",
        CutKind::ResetOne(_) => "cut: reset, the server is told",
        CutKind::Fin => "cut: bare FINs",
        CutKind::FinOne(0) => "cut: a bare FIN for the client",
        CutKind::FinOne(_) => "cut: a bare FIN for the server",
        CutKind::Dead => "cut: silence",
        CutKind::DeadOneWay(0) => "cut: silence from the client",
        CutKind::DeadOneWay(_) => "cut: silence from the server",
        CutKind::Proxy => "cut: silence behind a proxy that lives",
    }
}
