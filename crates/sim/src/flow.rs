//! Bytes between a session and the connection that stands, and what ends a connection or a session.

use eversock_proto::limits::RECORD_DEADLINE;
use eversock_proto::seal::EpochKeys;
use eversock_proto::session::Fault;

use crate::Bug;
use crate::end::Ending;
use crate::net::{ConnId, EndId, Owner};
use crate::trace::{On, S, Time};
use crate::world::World;

/// Rounds of receiving and sending in one step; an end that takes more goes in circles.
const ROUNDS_MAX: u32 = 20_000;
/// How long a proven peer may take for its START (PROTOCOL 2.2).
const START_WITHIN: Time = 10 * S;
/// How long the next byte of a record may take (PROTOCOL 2.9).
const RECORD_WITHIN: Time = RECORD_DEADLINE.as_micros() as Time;

impl World {
    /// Lets one end do all that it can do now.
    pub(crate) fn pump(&mut self, id: EndId) {
        let mut rounds = 0;
        while self.receive(id) | self.flush(id) {
            rounds += 1;
            if rounds > ROUNDS_MAX {
                self.find(0, On::End(id.0, id.1), "it sends and receives without an end");
            }
            if self.finding.is_some() {
                return;
            }
        }
        self.watch(id);
        self.settle(id);
        self.check_link(id.0);
        self.arm(id);
        self.wake_program(id);
    }

    /// Reads what has arrived, as far as this end reads by itself.
    fn receive(&mut self, id: EndId) -> bool {
        let mut busy = false;
        if self.has_bug(Bug::OldEpochDelivers) {
            busy |= self.receive_from_the_old(id);
        }
        while let Some(conn) = self.end(id).standing.filter(|&conn| self.is_hungry(id, conn)) {
            let Some(bytes) = self.take(conn, id.1, 64 * 1024) else { break };
            busy = true;
            self.hear(id, conn, &bytes);
        }
        busy
    }

    fn receive_from_the_old(&mut self, id: EndId) -> bool {
        let owner = Owner::Stands(id);
        let standing = self.end(id).standing;
        let old = (0..self.conns.len()).find(|&conn| {
            let is_old = self.conns[conn].owner[id.1] == owner && standing != Some(conn);
            is_old && self.conns[conn].unread(id.1) > 0
        });
        let bytes = old.and_then(|conn| Some((conn, self.take(conn, id.1, 64 * 1024)?)));
        if let Some((conn, bytes)) = &bytes {
            self.hear(id, *conn, bytes);
        }
        bytes.is_some()
    }

    /// A program that reads from the connection itself reads alone, unless it waits to write. The
    /// engine reads where no program will: behind a close, behind the end of the stream, and on a
    /// connection that has ended.
    fn is_hungry(&self, id: EndId, conn: ConnId) -> bool {
        let end = self.end(id);
        let Some(core) = &end.core else { return false };
        if !end.is_taken() {
            return false;
        }
        !end.script.direct
            || end.closed
            || core.rx.is_at_end()
            || core.tx.is_out_of_room()
            || core.tx.has_output() && self.room(conn, id.1) == 0
            || self.conns[conn].is_broken(id.1)
    }

    /// Reads what has arrived although the program does not.
    pub(crate) fn read_ahead(&mut self, id: EndId) {
        while let Some(conn) = self.end(id).standing.filter(|_| self.end(id).is_taken()) {
            if self.end(id).core.as_ref().is_none_or(|core| core.rx.has_started()) {
                return;
            }
            let Some(bytes) = self.take(conn, id.1, 64 * 1024) else { return };
            self.hear(id, conn, &bytes);
        }
    }

    /// Frames of the session have come over `conn`.
    pub(crate) fn hear(&mut self, id: EndId, conn: ConnId, bytes: &[u8]) {
        let now = self.local(id);
        self.check_delivery(id, conn);
        let end = self.end_mut(id);
        end.last_heard = now;
        let Some(core) = &mut end.core else { return };
        let result = core.handle_bytes(bytes);
        self.heard(id, conn);
        if let Err(fault) = result {
            self.fault(id, conn, fault);
        }
    }

    /// What follows from frames, however they were read.
    fn heard(&mut self, id: EndId, conn: ConnId) {
        let until = self.local(id) + self.plan.linger;
        let end = self.end_mut(id);
        let closed = end.closed;
        let Some(core) = &mut end.core else { return };
        if closed && core.tx.acked() > end.lingers_from {
            // A peer that reads on is waited for.
            end.lingers_from = core.tx.acked();
            end.linger_until = Some(until);
        }
        if closed {
            end.discarded += core.discard() as u64;
        }
        if core.rx.has_started() {
            end.heard_start = true;
            end.start_by = None;
        }
        if id.1 == 0 {
            self.client_heard(id, conn);
        }
    }

    pub(crate) fn fault(&mut self, id: EndId, conn: ConnId, fault: Fault) {
        self.note(On::End(id.0, id.1), "the peer breaks a rule", conn as u64, 0);
        self.stats.violations += 1;
        self.check_fault(id, conn, fault);
        self.close(conn, id.1);
        if self.end(id).standing == Some(conn) {
            self.end_mut(id).standing = None;
        }
        if fault.is_final() {
            self.finish(id, Ending::DataLost);
        } else {
            self.lost(id);
        }
    }

    /// Looks whether the standing connection has ended.
    fn watch(&mut self, id: EndId) {
        let Some(conn) = self.end(id).standing else { return };
        if !self.conns[conn].is_ended(id.1) {
            return;
        }
        self.note(On::End(id.0, id.1), "its connection has ended", conn as u64, 0);
        if self.has_bug(Bug::EndOfFileIsEnd) && !self.conns[conn].err[id.1] {
            self.end_mut(id).eof = true;
            self.finish(id, Ending::Done);
            return;
        }
        self.close(conn, id.1);
        self.lose(id);
    }

    pub(crate) fn lose(&mut self, id: EndId) {
        self.end_mut(id).standing = None;
        self.end_mut(id).start_by = None;
        if !self.is_over(id) {
            self.lost(id);
        }
    }

    fn lost(&mut self, id: EndId) {
        if self.is_over(id) {
            return;
        }
        let now = self.local(id);
        self.end_mut(id).lost_at.get_or_insert(now);
        match id.1 {
            0 => self.client_down(id),
            _ => {
                let keeps = self.has_bug(Bug::GraceIsNotRestarted);
                let grace = self.plan.grace;
                if let Some(server) = self.end_mut(id).server() {
                    let first = *server.first_lost.get_or_insert(now);
                    let at = if keeps { first } else { now } + grace;
                    server.grace_at.get_or_insert(at);
                }
            }
        }
        self.arm(id);
    }

    /// A new connection takes over: what the old one still holds may be read, then it goes.
    pub(crate) fn drop_standing(&mut self, id: EndId, heir: ConnId) {
        let Some(old) = self.end(id).standing.filter(|&old| old != heir) else { return };
        // The server has quoted its offset already; both may read on all the same.
        if self.end(id).is_taken() && self.rng.chance(1, 2) {
            while let Some(bytes) = self.take(old, id.1, 64 * 1024) {
                let end = self.end_mut(id);
                let Some(core) = &mut end.core else { break };
                let result = core.handle_bytes(&bytes);
                if result.is_err() {
                    break;
                }
            }
        }
        if self.has_bug(Bug::OldEpochDelivers) {
            // Its bytes go on to the session.
            self.end_mut(id).standing = None;
            return;
        }
        self.close(old, id.1);
        self.end_mut(id).standing = None;
    }

    /// `conn` carries the session from now on.
    pub(crate) fn stand(&mut self, id: EndId, conn: ConnId) {
        self.check_stand(id, conn);
        let now = self.local(id);
        self.conns[conn].owner[id.1] = Owner::Stands(id);
        let end = self.end_mut(id);
        end.standing = Some(conn);
        end.lost_at = None;
        end.stood_since = now;
        end.last_heard = now;
        let waits = if id.1 == 0 { end.heard_start } else { end.is_taken() };
        end.start_by = waits.then_some(now + START_WITHIN);
        if end.closed
            && let Some(core) = &mut end.core
        {
            end.discarded += core.discard() as u64;
        }
        self.note(On::End(id.0, id.1), "stands on", conn as u64, self.conns[conn].epoch);
    }

    /// An epoch has begun: a sealed session has keys for it, which nobody had before.
    pub(crate) fn seal(&mut self, id: EndId, keys: Option<EpochKeys>) {
        let is_sealed = self.end(id).core.as_ref().is_some_and(|core| core.tx.is_sealed());
        if is_sealed != self.plan.is_sealed() {
            self.find(3, On::End(id.0, id.1), "somebody was talked into the other kind of session");
        }
        let Some(keys) = keys else { return };
        let (cipher, mut root) = keys.into_parts();
        if self.has_bug(Bug::KeysOutliveTheirEpoch) {
            root = *self.links[id.0].root.get_or_insert(root);
        }
        // Records count from 0 under the keys of each epoch: who has had them once has used their
        // nonces.
        if !self.roots.insert((id.1, root)) {
            self.find(3, On::End(id.0, id.1), "two epochs are sealed with the same keys");
        }
        let keys = EpochKeys::from_parts(cipher, root);
        if let Some(core) = &mut self.end_mut(id).core {
            core.seal_with(keys);
        }
    }

    /// When the standing connection is given up, as a record has not become whole.
    pub(crate) fn record_due(&self, id: EndId) -> Option<Time> {
        let end = self.end(id);
        let waits = end.core.as_ref().is_some_and(|core| core.rx.is_mid_record());
        (waits && end.standing.is_some()).then(|| end.last_heard + RECORD_WITHIN)
    }

    /// No other byte of a record has come for long: what the program has not read is looked at
    /// before that is believed.
    pub(crate) fn record_is_late(&mut self, id: EndId) {
        while let Some(conn) = self.end(id).standing {
            if self.end(id).core.as_ref().is_none_or(|core| !core.rx.is_mid_record()) {
                return;
            }
            let Some(bytes) = self.take(conn, id.1, 4096) else { break };
            self.hear(id, conn, &bytes);
        }
        let now = self.local(id);
        if let Some(conn) = self.end(id).standing
            && self.record_due(id).is_some_and(|at| at <= now)
        {
            self.note(On::End(id.0, id.1), "a record does not become whole", conn as u64, 0);
            self.close(conn, id.1);
            self.lose(id);
        }
    }

    /// Frames go out as far as the connection takes them.
    fn flush(&mut self, id: EndId) -> bool {
        let end = self.end(id);
        let (Some(conn), Some(core)) = (end.standing, &end.core) else { return false };
        if !end.is_taken() || !core.tx.has_output() {
            return false;
        }
        let room = self.room(conn, id.1);
        if room == 0 {
            self.await_room(conn, id.1);
            return false;
        }
        let slices = self.plan.slices && self.rng.chance(1, 3);
        let most = if slices { self.rng.scale(1, 4000) as usize } else { usize::MAX };
        let trims = self.has_bug(Bug::KernelsAckIsAck);
        let Some(core) = &mut self.end_mut(id).core else { return false };
        let bytes = core.transmit(room.min(most));
        let is_stuck = core.is_stuck;
        if trims {
            let (sent, edge) = (core.tx.cursor(), core.tx.edge());
            // Cannot be refused: so much was sent.
            let absorbed = core.tx.absorb(sent, edge);
            debug_assert!(absorbed.is_ok());
        }
        if is_stuck {
            self.find(0, On::End(id.0, id.1), "a frame is to go out and there is nothing of it");
            return false;
        }
        let busy = !bytes.is_empty();
        let words = self.read_along(id, conn, &bytes);
        self.send(conn, id.1, bytes, false);
        self.strike(id, conn, &words);
        busy
    }

    /// What the session's state ends.
    fn settle(&mut self, id: EndId) {
        let now = self.local(id);
        let sweep = self.plan.sweep;
        let sleeps = self.has_bug(Bug::NoSweep);
        let end = self.end_mut(id);
        let Some(core) = end.core.as_ref().filter(|_| end.ending.is_none()) else { return };
        if end.sweep_at.is_none() && core.is_untold() && !sleeps {
            end.sweep_at = Some(now + sweep);
        }
        let silent = !core.tx.has_output();
        let flushed = end.standing.is_some() && silent;
        // A server whose last ack may be lost leaves a tombstone to say so; a client has none, and
        // dials again to hear it.
        let over = core.is_over() && silent && (flushed || id.1 == 1);
        let resets = end.resetting && (flushed || id.1 == 1 && end.standing.is_none());
        let ending = if core.reset_by_peer().is_some() {
            Ending::ResetByPeer
        } else if resets {
            Ending::Reset
        } else if over {
            Ending::Done
        } else if end.linger_until.is_some_and(|at| at <= now) {
            return self.reset_now(id, Ending::Lingered);
        } else {
            return;
        };
        self.finish(id, ending);
    }

    /// Tells the peer by a RESET if there is a connection, and ends.
    pub(crate) fn reset_now(&mut self, id: EndId, ending: Ending) {
        if let Some(core) = &mut self.end_mut(id).core {
            core.tx.want_reset(0);
        }
        while self.flush(id) && self.finding.is_none() {}
        self.finish(id, ending);
    }
}
