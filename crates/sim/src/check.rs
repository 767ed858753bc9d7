//! What must hold, and what is found when it does not. Numbers are those of the design's list of
//! what must always hold; 0 stands for liveness and for panics.

use std::fmt;

use eversock_proto::limits::{HELLO_MAX_BYTES, LOG_GUARANTEED_BYTES, WINDOW_WIRE_MAX_BYTES};
use eversock_proto::recv::Violation;
use eversock_proto::resume::Reason;
use eversock_proto::session::Fault;

use crate::end::{Ending, Link};
use crate::net::{ConnId, EndId};
use crate::server::Serving;
use crate::trace::{On, S, Time};
use crate::world::World;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The seed that shows it.
    pub seed: u64,
    /// Simulated microseconds since the start.
    pub at: u64,
    /// Which invariant; 0 for liveness.
    pub invariant: u32,
    /// What happened, and to what.
    pub what: String,
    /// The last events before it.
    pub last: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "{line}")?;
        }
        let (secs, micros) = (self.at / S, self.at % S);
        let Self { seed, invariant, what, .. } = self;
        writeln!(f, "seed {seed} at {secs}.{micros:06} s, invariant {invariant}: {what}")?;
        write!(f, "replay: evs sim --replay {seed}")
    }
}

/// How long after the last fault that met a session an end of it may still fail for that.
const SETTLED: Time = 120 * S;
/// What an end may take besides its own limits to find out that its peer is gone.
const FINDS_OUT: Time = 60 * S;
/// A path over which bytes came so lately is still at work.
const STILL_COMES: Time = 10 * S;
/// By so much an ack may come later than what it tells of: the sweep, and the way.
const ACK_COMES: Time = 3 * S;

impl World {
    pub(crate) fn find(&mut self, invariant: u32, on: On, what: &str) {
        if self.finding.is_none() {
            self.finding = Some(Finding {
                seed: 0,
                at: self.now,
                invariant,
                what: format!("{on}: {what}"),
                last: self.trace.last(),
            });
        }
    }

    pub(crate) fn find_at(&mut self, invariant: u32, id: EndId, what: &str) {
        self.find(invariant, On::End(id.0, id.1), what);
    }

    /// Bytes that the program is about to read.
    pub(crate) fn check_read(&mut self, id: EndId, bytes: &[u8]) {
        if !self.links[id.0].tainted {
            if let Some(at) = self.torn_at(id, bytes) {
                let offset = self.end(id).read + at as u64;
                let what = format!("the program reads another byte than was written at {offset}");
                self.find_at(1, id, &what);
            }
            if self.end(id).read + bytes.len() as u64 > self.end((id.0, 1 - id.1)).written {
                self.find_at(1, id, "the program reads more than was written");
            }
        }
        self.end_mut(id).read += bytes.len() as u64;
    }

    /// The program sees the end of the stream.
    pub(crate) fn check_eof(&mut self, id: EndId) {
        let peer = self.end((id.0, 1 - id.1));
        if self.links[id.0].tainted {
            return;
        }
        if !peer.finished {
            self.find_at(1, id, "the program sees an end that nobody sent");
        } else if self.end(id).read != peer.written {
            self.find_at(1, id, "the program sees the end before all bytes");
        }
    }

    /// Bytes of `conn` reach the session.
    pub(crate) fn check_delivery(&mut self, id: EndId, conn: ConnId) {
        if self.conns[conn].link != id.0 {
            self.find_at(3, id, "bytes of a connection that is not its own reach a session");
        } else if self.conns[conn].epoch < self.end(id).epoch {
            self.find_at(6, id, "bytes of an old epoch reach a session");
        }
    }

    /// `conn` is to carry the session.
    pub(crate) fn check_stand(&mut self, id: EndId, conn: ConnId) {
        let epoch = self.conns[conn].epoch;
        if self.conns[conn].link != id.0 {
            self.find_at(3, id, "a stranger has taken the session over");
        } else if epoch <= self.end(id).epoch {
            self.find_at(6, id, "an epoch stands that is not above the one before");
        }
        let known = self.end(id).core.as_ref().map(|core| core.control.epoch());
        if known.is_some_and(|known| known != epoch) && !self.links[id.0].tainted {
            self.find_at(6, id, "the two ends give one connection different epochs");
        }
        self.end_mut(id).epoch = epoch;
    }

    /// A client asks for an epoch: for none twice, as nobody knows what became of the first asking.
    /// An OPEN asks for the first until there is a session.
    pub(crate) fn check_asked(&mut self, id: EndId, epoch: u64) {
        let end = self.end_mut(id);
        let is_again = end.core.is_some() && epoch <= end.asked;
        end.asked = end.asked.max(epoch);
        if is_again {
            self.find_at(6, id, "asks again for an epoch that it has asked for");
        }
    }

    /// An end holds that the peer has broken a rule.
    pub(crate) fn check_fault(&mut self, id: EndId, conn: ConnId, fault: Fault) {
        let broken =
            matches!(fault, Fault::Violation(Violation::BrokenSeal | Violation::BadHeader));
        // Nothing but the length of a record that was changed under way may be believed.
        let is_cut = broken && self.conns[conn].tampered[1 - id.1];
        if !self.links[id.0].tainted && !is_cut {
            self.find_at(1, id, &format!("a peer that keeps the rules is accused: {fault}"));
        }
    }

    /// Bounds of one session, and what its two ends may know of each other.
    pub(crate) fn check_link(&mut self, link: usize) {
        let plan = &self.plan.links[link];
        let state = &self.links[link];
        let tainted = state.tainted;
        let mut bad = None;
        for side in 0..2 {
            let Some(mine) = &state.ends[side].core else { continue };
            if mine.rx.stashed() as u64 > mine.rx.window() {
                bad = Some((2, side, "the stash is beyond the window"));
            }
            if mine.rx.window() > plan.window_max[side] {
                bad = Some((2, side, "the window is beyond its maximum"));
            }
            let most = if tainted { WINDOW_WIRE_MAX_BYTES } else { plan.window_max[1 - side] };
            if mine.tx.log_len() > most {
                bad = Some((2, side, "the log is beyond the peer's window"));
            }
            let cap = self.plan.cap.unwrap_or(u64::MAX - LOG_GUARANTEED_BYTES);
            if mine.tx.log_len() > LOG_GUARANTEED_BYTES + cap {
                bad = Some((2, side, "the log is beyond the process's cap"));
            }
            let Some(theirs) = state.ends[1 - side].core.as_ref().filter(|_| !tainted) else {
                continue;
            };
            if mine.tx.acked() > theirs.rx.acks().ack {
                bad = Some((1, side, "more is acknowledged than the peer's program consumed"));
            }
            if mine.tx.edge() > theirs.rx.acks().edge() {
                bad = Some((2, side, "there is credit that the peer did not give"));
            }
            if theirs.rx.next() > mine.tx.total_end() {
                bad = Some((1, side, "the peer has received more than was sent"));
            }
        }
        for side in 0..2 {
            let end = &mut self.links[link].ends[side];
            let Some(edge) = end.core.as_ref().map(|core| core.tx.edge()) else { continue };
            if edge < end.credit {
                bad = Some((2, side, "has lost credit that its peer gave"));
            }
            end.credit = edge;
        }
        if let Some((invariant, side, what)) = bad {
            self.find_at(invariant, (link, side), what);
        }
    }

    /// Bounds of a listener.
    pub(crate) fn check_serving(&mut self, proc: usize) {
        let Some(serving) = &self.procs[proc].serving else { return };
        let plan = &self.plan;
        let what = if serving.unproven.len() > plan.unproven_max {
            "more handshakes are in flight than allowed"
        } else if serving.unproven.values().any(|hello| hello.holds() > HELLO_MAX_BYTES) {
            "a handshake holds more than a message"
        } else if serving.half_open.len() > 2 * plan.unproven_max {
            "more opens are kept than allowed"
        } else if serving.tombs.len() > plan.tombs_max {
            "more tombstones are kept than allowed"
        } else {
            return;
        };
        self.find(4, On::Proc(proc), what);
    }

    /// A session ends here: is it true what the program is told?
    pub(crate) fn check_ending(&mut self, id: EndId, ending: Ending) {
        if ending == Ending::Lingered {
            return self.check_lingered(id);
        }
        let link = &self.links[id.0];
        if link.tainted || ending == Ending::Killed {
            return;
        }
        let peer = &link.ends[1 - id.1];
        let is_early = self.is_troubled(id.0, SETTLED);
        let is_peer_gone = peer.ending.is_some();
        let what = match ending {
            Ending::Done => return self.check_done(id),
            Ending::Reset => {
                // An end that has a connection tells its peer by it.
                let conn = link.ends[id.1].standing;
                conn.is_some_and(|conn| !link.ends[id.1].said.has_reset(conn))
                    .then_some("has reset and never said so")
            }
            Ending::Lingered | Ending::Killed => return,
            Ending::ResetByPeer => {
                let resets = matches!(
                    peer.ending,
                    Some(Ending::Reset | Ending::Stale | Ending::Lingered | Ending::Killed)
                );
                (!resets && !peer.resetting).then_some("is reset although its peer did not")
            }
            Ending::Refused(reason) => {
                let is_so = match reason {
                    // Who is done has the peer's FIN and knows that the peer has its own: then it
                    // is no refusal but the end.
                    Reason::Closed => peer.ending == Some(Ending::Lingered),
                    Reason::Reset => matches!(
                        peer.ending,
                        Some(
                            Ending::Reset | Ending::ResetByPeer | Ending::Stale | Ending::Lingered
                        )
                    ),
                    Reason::Expired => peer.ending == Some(Ending::Expired),
                    _ => false,
                };
                (!is_so).then_some("is refused for good although its peer did not end so")
            }
            Ending::Expired if self.is_hasty(id) => Some("expires before its grace is over"),
            Ending::TimedOut if !is_early && self.could_be_told(id.0) => {
                Some("gives up although its server could tell that all is over")
            }
            Ending::TimedOut | Ending::Expired => {
                // A server that was started anew knows no session: its client's time-out is honest.
                let is_alone = is_peer_gone || peer.core.is_none();
                (!is_early && !is_alone && !link.forgotten)
                    .then_some("gives up although nothing keeps it from its peer")
            }
            Ending::NotOpened => (!is_early && !link.turned_away)
                .then_some("is not opened although nothing hinders it"),
            Ending::Stale => {
                (!is_early || link.cuts == 0).then_some("is stale although its path is well")
            }
            Ending::DataLost => Some("bytes are lost for good"),
        };
        if let Some(what) = what {
            let invariant = if ending == Ending::DataLost { 1 } else { 3 };
            self.find_at(invariant, id, what);
        }
    }

    /// True when a server gives a session up that has had no connection for less than its grace.
    fn is_hasty(&self, id: EndId) -> bool {
        let lost_at = self.end(id).lost_at;
        lost_at.is_none_or(|at| self.local(id) < at + self.plan.grace)
    }

    /// True when the server of a client that has a session keeps what it needs to answer it.
    fn could_be_told(&self, link: usize) -> bool {
        let [client, server] = &self.links[link].ends;
        let has_tomb = |serving: &Serving| serving.tombs.iter().any(|&(_, of, _)| of == link);
        let listens = self.procs[server.proc].serving.as_deref();
        client.core.is_some() && server.ending.is_some() && listens.is_some_and(has_tomb)
    }

    /// True when a fault meets a session now, or did within `time`.
    fn is_troubled(&self, link: usize, time: Time) -> bool {
        self.links[link].touched.is_some_and(|until| self.now < until + time)
    }

    /// An end whose program has closed waits no longer: only for a peer that is gone, cannot be
    /// reached, does not end its direction by itself, or sleeps for longer.
    fn check_lingered(&mut self, id: EndId) {
        let linger = self.plan.linger;
        let link = &self.links[id.0];
        let peer = &link.ends[1 - id.1];
        let is_gone = peer.ending.is_some() || peer.core.is_none();
        let troubled = self.is_troubled(id.0, linger + SETTLED);
        // A RESET waits for the rest of a begun frame, which the peer may not read for long.
        let resets = link.ends[id.1].resetting;
        if link.tainted || is_gone || troubled || link.forgotten || resets {
            return;
        }
        if !peer.script.is_orderly() {
            return;
        }
        // All of its own was delivered, and what nobody will read here still comes.
        let end = &link.ends[id.1];
        let is_done = end.core.as_ref().is_some_and(|core| core.tx.is_done());
        if is_done && self.local(id) < end.last_heard + STILL_COMES {
            return;
        }
        if peer.script.pause + peer.script.delay + ACK_COMES >= linger {
            self.links[id.0].overslept = true;
            return;
        }
        self.find_at(3, id, "lingers in vain although nothing keeps it from its peer");
    }

    /// All that this end wrote has been consumed, and all that the peer wrote is here.
    fn check_done(&mut self, id: EndId) {
        let end = self.end(id);
        let peer = self.end((id.0, 1 - id.1));
        let Some(core) = &end.core else { return };
        let stashed = core.rx.stashed() as u64;
        let confirms = peer.core.as_ref().map_or(0, |core| core.rx.acks().ack);
        let what = if confirms < core.tx.total_end() {
            "is told that all is over, but its peer has not got its FIN"
        } else if peer.read + peer.discarded < end.written {
            "is told that all is delivered, but its peer has not read all"
        } else if !peer.finished || !core.rx.fin_seen() {
            "is told that all is over, but its peer has not ended"
        } else if end.read + end.discarded + stashed != peer.written {
            "is told that all is over, but it lacks bytes of its peer"
        } else {
            return;
        };
        self.find_at(1, id, what);
    }

    /// Programs that end by themselves have ended.
    pub(crate) fn check_orderly(&mut self) {
        for index in 0..self.links.len() {
            let link = &self.links[index];
            let is_orderly = link.ends.iter().all(|end| end.script.is_orderly());
            if !is_orderly || link.tainted || self.finding.is_some() {
                continue;
            }
            let [client, server] = &link.ends;
            let is_settled =
                client.ending.is_some() && (server.core.is_none() || server.ending.is_some());
            let has_time = self.has_time_to_find_out(index);
            let is_untouched = link.touched.is_none()
                && !(link.forgotten || link.turned_away || link.unburied || link.overslept);
            if !is_settled && !has_time {
                self.find_at(0, (index, 0), "the network is well and it is not over");
            } else if is_untouched
                && is_settled
                && link.ends.iter().any(|end| end.ending != Some(Ending::Done))
                && !Self::is_last_ack_lost(link)
            {
                self.find_at(3, (index, 0), "nothing was aimed at it and it has failed");
            }
        }
    }

    /// An end whose peer is no more, or never was, has to find that out by its own limits: true
    /// while these may not have passed.
    fn has_time_to_find_out(&self, index: usize) -> bool {
        let [client, server] = &self.links[index].ends;
        let ended = client.ending.map(|_| client.ended_at);
        let ended = ended.or_else(|| server.ending.map(|_| server.ended_at));
        let Some(ended) = ended else {
            // The server was started anew before it knew of the session.
            return server.core.is_none();
        };
        let plan = &self.plan;
        let notices = plan.kernel_timeout.max(plan.keepalive);
        let most = notices + plan.linger + plan.grace.max(plan.give_up) + FINDS_OUT;
        self.now < ended.max(plan.heal_at) + most
    }

    /// A client that is done closes; what its server sends at that moment makes the client's kernel
    /// send a reset, which overtakes the last ack (the engine closes so too, see `Reactor::over`).
    /// All was delivered, and the server's program has closed: its end lingers in vain, and nobody
    /// is told an error.
    fn is_last_ack_lost(link: &Link) -> bool {
        let [client, server] = &link.ends;
        link.overtaken
            && client.ending == Some(Ending::Done)
            && server.ending == Some(Ending::Lingered)
            && server.closed
            && server.core.as_ref().is_some_and(|core| core.rx.is_at_end())
    }

    /// The end of the run: everything has completed or has failed.
    pub(crate) fn judge(&mut self) {
        self.note(On::World, "the run is judged", 0, 0);
        for index in 0..self.links.len() {
            let [client, server] = &self.links[index].ends;
            if client.ending.is_none() {
                self.find_at(0, (index, 0), "it has neither completed nor failed");
            } else if server.core.is_some() && server.ending.is_none() {
                self.find_at(0, (index, 1), "it has neither completed nor failed");
            }
        }
    }
}
