//! A bad network in virtual time: connections that carry bytes in order until they do not.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rng::Rng;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Dials.
    Client,
    /// Is dialled.
    Server,
}

impl Side {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Its place in an array of two.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Names a connection; later ones have higher numbers.
pub type ConnId = u64;

/// When an end learns that its connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// With the cut: a reset came.
    AtOnce,
    /// Later: a time-out.
    After(Duration),
    /// Not by itself: half-open until something else happens (or the keepalive of the network).
    Never,
}

/// What becomes of the bytes that are under way when a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// They are lost.
    Lost,
    /// They arrive after all, this much later: behind the back of a new epoch.
    Late(Duration),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// When each end learns of it, by [`Side::index`].
    pub notice: [Notice; 2],
    /// What becomes of the bytes under way.
    pub in_flight: InFlight,
}

impl Cut {
    /// Both ends see a reset at once; bytes under way are lost.
    pub const RESET: Self =
        Self { notice: [Notice::AtOnce, Notice::AtOnce], in_flight: InFlight::Lost };

    /// One end learns of it at once, the other never.
    pub fn half_open(knows: Side) -> Self {
        let mut notice = [Notice::Never; 2];
        notice[knows.index()] = Notice::AtOnce;
        Self { notice, in_flight: InFlight::Lost }
    }
}

/// A cut that waits for its byte.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCut {
    /// Which connection, counted from 0.
    pub conn: ConnId,
    /// The direction whose bytes are counted, by its sender.
    pub from: Side,
    /// The cut comes when so many of its bytes were delivered.
    pub after: u64,
    /// How.
    pub cut: Cut,
}

/// What somebody on the path does to the bytes under way in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// One bit is turned over.
    Flip,
    /// A few bytes are put in between.
    Insert,
    /// A few bytes are taken out.
    Drop,
    /// All that is under way is taken out.
    DropAll,
    /// Two pieces change places.
    Swap,
    /// What was once sent this way, over this connection or an older one, is sent again in between.
    Replay,
    /// What the other side once sent is sent back in between.
    Reflect,
}

impl Tamper {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Flip,
        Self::Insert,
        Self::Drop,
        Self::DropAll,
        Self::Swap,
        Self::Replay,
        Self::Reflect,
    ];
}

/// What an end sees of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Connecting,
    Open,
    /// The peer closed and all its bytes were read, or the connection broke.
    Ended,
}

#[derive(Debug, Default)]
struct Lane {
    flying: VecDeque<(Duration, Vec<u8>)>,
    arrived: VecDeque<u8>,
    held: usize,
    delivered: u64,
    /// No more bytes are taken from the sender.
    shut: bool,
    planned: Option<(u64, Cut)>,
}

#[derive(Debug)]
struct Conn {
    lanes: [Lane; 2],
    established_at: Duration,
    fault_at: [Option<Duration>; 2],
    gone: [bool; 2],
    cut: bool,
    /// The client's end belongs to a stranger.
    stranger: bool,
}

/// All connections, and what ails them.
#[derive(Debug)]
pub struct Net {
    /// Time since the start.
    pub now: Duration,
    /// Time from one end to the other.
    pub latency: Duration,
    /// Bytes that a direction of a connection holds before it stops taking more.
    pub kernel: usize,
    /// After this long an end learns of a cut whose [`Notice`] is `Never`.
    pub keepalive: Option<Duration>,
    /// Dials are refused until then.
    pub refuse_until: Duration,
    /// Cuts that wait for their byte.
    pub planned: Vec<PlannedCut>,
    /// Bytes sent by a side stay under way until then, by [`Side::index`].
    hold: [Duration; 2],
    conns: BTreeMap<ConnId, Conn>,
    dials: ConnId,
    /// What each side has sent over whatever connection, as far as somebody who listens keeps it.
    heard: [Vec<u8>; 2],
}

/// Of what goes over the network somebody who listens keeps so much for each direction.
const HEARD_MAX_BYTES: usize = 4 * 1024 * 1024;

impl Net {
    pub(super) fn new(latency: Duration, kernel: usize, keepalive: Option<Duration>) -> Self {
        Self {
            now: Duration::ZERO,
            latency,
            kernel,
            keepalive,
            refuse_until: Duration::ZERO,
            planned: Vec::new(),
            hold: [Duration::ZERO; 2],
            conns: BTreeMap::new(),
            dials: 0,
            heard: Default::default(),
        }
    }

    /// Nothing that `from` sends arrives for so long; it is not lost.
    pub fn hold(&mut self, from: Side, time: Duration) {
        let until = &mut self.hold[from.index()];
        *until = (*until).max(self.now + time);
    }

    /// Ends every blackhole and every refusal.
    pub fn heal(&mut self) {
        self.hold = [self.now; 2];
        self.refuse_until = self.now;
    }

    /// Connections dialled so far.
    pub fn dials(&self) -> ConnId {
        self.dials
    }

    /// Dials; `None` when the dial is refused.
    pub(super) fn dial(&mut self, stranger: bool) -> Option<ConnId> {
        if self.now < self.refuse_until {
            return None;
        }
        let id = self.dials;
        self.dials += 1;
        let there = self.now.max(self.hold[0]) + self.latency;
        let established_at = there.max(self.hold[1]) + self.latency;
        let mut lanes = [Lane::default(), Lane::default()];
        for plan in self.planned.iter().filter(|plan| plan.conn == id) {
            lanes[plan.from.index()].planned = Some((plan.after, plan.cut));
        }
        let conn = Conn {
            lanes,
            established_at,
            fault_at: [None; 2],
            gone: [false; 2],
            cut: false,
            stranger,
        };
        self.conns.insert(id, conn);
        Some(id)
    }

    pub(super) fn is_strange(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.stranger)
    }

    /// The connections that carry or may still carry bytes.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    pub(super) fn status(&self, id: ConnId, side: Side) -> Status {
        let Some(conn) = self.conns.get(&id) else { return Status::Ended };
        let lane = &conn.lanes[side.other().index()];
        let drained = lane.arrived.is_empty() && lane.flying.is_empty();
        if conn.fault_at[side.index()].is_some_and(|at| at <= self.now) {
            return if lane.arrived.is_empty() { Status::Ended } else { Status::Open };
        }
        if lane.shut && drained && !conn.cut {
            return Status::Ended;
        }
        if conn.established_at > self.now { Status::Connecting } else { Status::Open }
    }

    /// True when the kernel at `side` knows that nothing more will come.
    pub(super) fn is_broken(&self, id: ConnId, side: Side) -> bool {
        let Some(conn) = self.conns.get(&id) else { return true };
        let lane = &conn.lanes[side.other().index()];
        conn.fault_at[side.index()].is_some_and(|at| at <= self.now)
            || lane.shut && lane.flying.is_empty() && !conn.cut
    }

    /// How many bytes the direction that begins at `side` takes now.
    pub(super) fn room(&self, id: ConnId, side: Side) -> usize {
        let Some(conn) = self.conns.get(&id) else { return 0 };
        let lane = &conn.lanes[side.index()];
        if lane.shut && !conn.cut { 0 } else { self.kernel.saturating_sub(lane.held) }
    }

    pub(super) fn send(&mut self, id: ConnId, side: Side, bytes: Vec<u8>) {
        let ready = self.now + self.latency;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if bytes.is_empty() || conn.lanes[side.index()].shut && !conn.cut {
            return;
        }
        let lane = &mut conn.lanes[side.index()];
        lane.held += bytes.len();
        let heard = &mut self.heard[side.index()];
        if heard.len() + bytes.len() <= HEARD_MAX_BYTES {
            heard.extend_from_slice(&bytes);
        }
        // What goes into a cut connection fills its queue and arrives nowhere.
        if !conn.cut {
            lane.flying.push_back((ready, bytes));
        }
    }

    /// What `side` has sent so far, over all connections.
    pub fn heard(&self, side: Side) -> &[u8] {
        &self.heard[side.index()]
    }

    /// Changes what is under way; true if anything was.
    pub(super) fn tamper(&mut self, id: ConnId, from: Side, how: Tamper, rng: &mut Rng) -> bool {
        let source = if how == Tamper::Reflect { from.other() } else { from };
        let heard = &self.heard[source.index()];
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let lane = &mut conn.lanes[from.index()];
        let pieces = lane.flying.len() as u64;
        if pieces == 0 {
            return false;
        }
        let at = rng.below(pieces) as usize;
        let bytes = &mut lane.flying[at].1;
        let mut spot = |length: usize| rng.below(length as u64 + 1) as usize;
        match how {
            Tamper::Flip => {
                let bit = spot(bytes.len() * 8 - 1);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Tamper::Drop => {
                let from = spot(bytes.len() - 1);
                let to = from + 1 + spot(bytes.len() - from - 1);
                bytes.drain(from..to);
                if bytes.is_empty() {
                    lane.flying.remove(at);
                }
                lane.held = lane.held.saturating_sub(to - from);
            }
            Tamper::DropAll => {
                let lost: usize = lane.flying.iter().map(|(_, bytes)| bytes.len()).sum();
                lane.held = lane.held.saturating_sub(lost);
                lane.flying.clear();
            }
            Tamper::Swap => {
                let other = spot(pieces as usize - 1);
                let (one, two) = (lane.flying[at].0, lane.flying[other].0);
                lane.flying.swap(at, other);
                (lane.flying[at].0, lane.flying[other].0) = (one, two);
                return lane.flying[at].1 != lane.flying[other].1;
            }
            Tamper::Insert | Tamper::Replay | Tamper::Reflect => {
                let more: Vec<u8> = if how == Tamper::Insert || heard.is_empty() {
                    (0..=spot(40)).map(|_| spot(255) as u8).collect()
                } else {
                    let from = spot(heard.len() - 1);
                    let length = 1 + spot((heard.len() - from - 1).min(2000));
                    heard[from..from + length].to_vec()
                };
                let place = spot(bytes.len());
                lane.held += more.len();
                bytes.splice(place..place, more);
            }
        }
        true
    }

    /// The end at `side` closes: what it has sent still arrives, what comes is not read.
    pub(super) fn close(&mut self, id: ConnId, side: Side) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.lanes[side.index()].shut = true;
        conn.gone[side.index()] = true;
    }

    /// Ends a connection now.
    pub fn cut(&mut self, id: ConnId, cut: Cut) {
        let (now, keepalive) = (self.now, self.keepalive);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.cut {
            return;
        }
        conn.cut = true;
        for side in Side::BOTH {
            conn.fault_at[side.index()] = match cut.notice[side.index()] {
                Notice::AtOnce => Some(now),
                Notice::After(time) => Some(now + time),
                Notice::Never => keepalive.map(|time| now + time),
            };
            let lane = &mut conn.lanes[side.index()];
            match cut.in_flight {
                InFlight::Lost => lane.flying.clear(),
                InFlight::Late(time) => {
                    lane.flying.iter_mut().for_each(|(ready, _)| *ready = (*ready).max(now) + time);
                }
            }
        }
    }

    /// Moves what is due to its end; true if anything moved.
    pub(super) fn deliver(&mut self) -> bool {
        let mut moved = false;
        let mut cuts = Vec::new();
        for (&id, conn) in &mut self.conns {
            for (index, lane) in conn.lanes.iter_mut().enumerate() {
                if self.now < self.hold[index] || self.now < conn.established_at {
                    continue;
                }
                while lane.flying.front().is_some_and(|(ready, _)| *ready <= self.now) {
                    let Some((_, bytes)) = lane.flying.pop_front() else { break };
                    moved = true;
                    let limit = lane.planned.map_or(u64::MAX, |(after, _)| after - lane.delivered);
                    let n = bytes.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
                    lane.arrived.extend(&bytes[..n]);
                    lane.delivered += n as u64;
                    if let Some((after, cut)) = lane.planned
                        && after == lane.delivered
                    {
                        lane.planned = None;
                        cuts.push((id, cut));
                        lane.flying.clear();
                    }
                }
            }
        }
        for (id, cut) in cuts {
            self.cut(id, cut);
        }
        moved
    }

    /// Reads a random slice of at most `most` bytes that arrived at `side`.
    pub(super) fn take(
        &mut self,
        id: ConnId,
        side: Side,
        most: usize,
        rng: &mut Rng,
    ) -> Option<Vec<u8>> {
        let lane = &mut self.conns.get_mut(&id)?.lanes[side.other().index()];
        if lane.arrived.is_empty() || most == 0 {
            return None;
        }
        let n = rng.slice(lane.arrived.len().min(most));
        lane.held = lane.held.saturating_sub(n);
        Some(lane.arrived.drain(..n).collect())
    }

    /// Forgets the bytes that have arrived at `side`, as the kernel may when a connection breaks.
    pub(super) fn purge(&mut self, id: ConnId, side: Side) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.lanes[side.other().index()].arrived.clear();
        }
    }

    /// Forgets connections that both ends have left and that carry nothing any more.
    pub(super) fn tidy(&mut self) {
        let now = self.now;
        self.conns.retain(|_, conn| {
            let told = |side: Side| {
                conn.gone[side.index()]
                    || conn.fault_at[side.index()].is_some_and(|at| at <= now)
                    || (side == Side::Client && conn.stranger && conn.cut)
            };
            let carries = conn.lanes.iter().any(|lane| !lane.flying.is_empty());
            let unread = !conn.lanes[1].arrived.is_empty() && !conn.gone[0]
                || !conn.lanes[0].arrived.is_empty() && !conn.gone[1];
            !(told(Side::Client) && told(Side::Server)) || carries || unread
        });
    }

    /// When something happens next by itself.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut offer = |at: Duration| {
            if at > self.now {
                next = Some(next.map_or(at, |other| other.min(at)));
            }
        };
        for conn in self.conns.values() {
            offer(conn.established_at);
            conn.fault_at.iter().flatten().for_each(|&at| offer(at));
            for (index, lane) in conn.lanes.iter().enumerate() {
                if let Some((ready, _)) = lane.flying.front() {
                    offer((*ready).max(self.hold[index]).max(conn.established_at));
                }
            }
        }
        next
    }
}
