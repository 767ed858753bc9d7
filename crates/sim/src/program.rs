//! What the programs do with their sockets.

use eversock_proto::limits::HEADER_BYTES;
use eversock_proto::session::Fault;

use crate::Bug;
use crate::core::{mismatch, pattern};
use crate::end::First;
use crate::net::EndId;
use crate::plan::Then;
use crate::trace::{On, S, Time};
use crate::world::{Event, World};

/// Frames up to this length go out in one step, in bytes.
const FRAME_SPACE: usize = 4096;
/// Rounds of writing and reading in one step.
const ROUNDS: usize = 8;

impl World {
    /// The key of the bytes that this end writes.
    pub(crate) fn pattern_key((link, side): EndId) -> u64 {
        (link as u64 * 2 + side as u64 + 1) << 40
    }

    /// Something may have changed for a program that sleeps until something does.
    pub(crate) fn wake_program(&mut self, id: EndId) {
        let end = self.end(id);
        if end.step_at != Time::MAX || !self.may_step(id) {
            return;
        }
        let at = self.now + self.rng.below(200);
        self.end_mut(id).step_at = at;
        self.push(at, Event::Program(id));
    }

    /// True when a step of the program would do something.
    fn may_step(&self, id: EndId) -> bool {
        let end = self.end(id);
        let Some(core) = &end.core else { return false };
        if end.closed || end.resetting || end.eof && end.finished {
            return false;
        }
        match &end.first {
            First::Server(server) if !server.taken => return !self.is_over(id),
            _ => {}
        }
        if self.is_over(id) {
            let has_more = core.rx.stashed() > 0 || core.rx.is_at_end() && !end.eof;
            return self.wants_read(id) && has_more;
        }
        let script = &end.script;
        let wants_write = end.written < script.writes && !core.tx.is_stopped();
        let ends = !end.finished && (!wants_write || self.closing) && {
            script.then != Then::Hold || self.closing
        };
        let reads = self.wants_read(id);
        let comes = end
            .standing
            .is_some_and(|conn| script.direct && self.conns[conn].unread(id.1) > 0 && reads);
        wants_write && core.tx.room() > 0
            || ends
            || self.closing && !reads
            || comes
            || reads && (core.rx.stashed() > 0 || core.rx.is_at_end() && !end.eof)
    }

    fn wants_read(&self, id: EndId) -> bool {
        let end = self.end(id);
        !end.eof && end.read < end.script.reads
    }

    pub(crate) fn on_program(&mut self, id: EndId) {
        let end = self.end(id);
        if end.step_at > self.now {
            return;
        }
        self.end_mut(id).step_at = Time::MAX;
        if !self.may_step(id) || !self.procs[self.end(id).proc].alive {
            return;
        }
        if !self.end(id).is_taken() {
            return self.take_session(id);
        }
        let mut did = false;
        for round in 0..ROUNDS {
            let wrote = self.write_some(id);
            let read = self.read_some(id);
            did |= wrote || read;
            if self.finding.is_some() || self.end(id).closed || !(wrote || read) {
                break;
            }
            if self.end(id).script.pause > 0 && !self.healed || round + 1 == ROUNDS {
                break;
            }
        }
        self.end_writes(id);
        self.pump(id);
        if did {
            // A read that finds no payload yet, only a part of a frame, waits for more; it does not
            // go about other things first.
            self.rest(id);
        }
    }

    /// The program pauses before its next step.
    fn rest(&mut self, id: EndId) {
        if self.healed || self.end(id).script.pause == 0 {
            return;
        }
        let time = self.rng.below(self.end(id).script.pause) + 1;
        let at = self.now + time;
        let end = self.end_mut(id);
        if end.closed || end.ending.is_some() {
            return;
        }
        end.step_at = at;
        self.push(at, Event::Program(id));
    }

    /// The program of a server takes the session from its listener.
    fn take_session(&mut self, id: EndId) {
        let (now, world_now) = (self.local(id), self.now);
        let end = self.end_mut(id);
        let stands = end.standing.is_some();
        if let Some(server) = end.server() {
            if server.take_at > now {
                let at = world_now + (server.take_at - now);
                self.end_mut(id).step_at = at;
                self.push(at, Event::Program(id));
                return;
            }
            server.taken = true;
        }
        self.note(On::End(id.0, id.1), "is accepted", 0, 0);
        if stands {
            self.end_mut(id).start_by = Some(now + 10 * S);
        }
        self.pump(id);
    }

    fn write_some(&mut self, id: EndId) -> bool {
        if self.is_over(id) {
            return false;
        }
        let key = Self::pattern_key(id);
        let end = self.end_mut(id);
        let Some(core) = &mut end.core else { return false };
        if end.finished || core.tx.is_stopped() {
            return false;
        }
        if end.script.reset_at.is_some_and(|at| end.written >= at) {
            self.reset(id);
            return false;
        }
        let most = end.script.writes - end.written;
        let n = most.min(end.script.chunk as u64) as usize;
        let mut bytes = vec![0; n];
        pattern(key, end.written, &mut bytes);
        if end.script.direct && self.write_frame(id, &bytes) {
            return true;
        }
        let Some(core) = &mut self.end_mut(id).core else { return false };
        let taken = core.tx.write(&bytes);
        let end = self.end_mut(id);
        end.written += taken as u64;
        self.stats.written += taken as u64;
        taken > 0
    }

    /// The short way of a small write on a connection that owes nothing; false when it is not open.
    fn write_frame(&mut self, id: EndId, bytes: &[u8]) -> bool {
        let Some(conn) = self.end(id).standing else { return false };
        let total = HEADER_BYTES + bytes.len();
        if total > FRAME_SPACE || total > self.room(conn, id.1) {
            return false;
        }
        let end = self.end_mut(id);
        let Some(core) = &mut end.core else { return false };
        let mut frame = vec![0; total];
        let acks = core.acks();
        let Some(n) = core.tx.write_frame(bytes, acks, &mut frame) else { return false };
        core.tx.sent(n);
        end.written += bytes.len() as u64;
        self.stats.written += bytes.len() as u64;
        self.stats.short_writes += 1;
        let words = self.read_along(id, conn, &frame);
        self.send(conn, id.1, frame, false);
        self.strike(id, conn, &words);
        true
    }

    fn reset(&mut self, id: EndId) {
        self.note(On::End(id.0, id.1), "its program resets", 0, 0);
        let until = self.local(id) + self.plan.linger;
        let end = self.end_mut(id);
        end.resetting = true;
        end.linger_until.get_or_insert(until);
        if let Some(core) = &mut end.core {
            core.tx.want_reset(0);
        }
    }

    /// What the program does when it has written all, or is asked to end.
    fn end_writes(&mut self, id: EndId) {
        let closing = self.closing;
        let end = self.end_mut(id);
        let Some(core) = &mut end.core else { return };
        if end.resetting || end.closed || end.ending.is_some() {
            return;
        }
        let has_written = end.written >= end.script.writes || core.tx.is_stopped();
        let over_reads = end.read >= end.script.reads && end.script.reads > 0;
        if over_reads || closing && end.script.reads == 0 {
            return self.close_session(id);
        }
        let holds = end.script.then == Then::Hold || !has_written;
        if holds && !closing {
            return;
        }
        if end.script.then == Then::Close {
            return self.close_session(id);
        }
        if !end.finished {
            end.finished = true;
            core.tx.finish();
            self.note(On::End(id.0, id.1), "its program has written all", 0, 0);
        }
        if self.end(id).eof {
            self.close_session(id);
        }
    }

    fn close_session(&mut self, id: EndId) {
        self.note(On::End(id.0, id.1), "its program closes", 0, 0);
        let until = self.local(id) + self.plan.linger;
        let end = self.end_mut(id);
        end.closed = true;
        end.finished = true;
        end.linger_until.get_or_insert(until);
        if let Some(core) = &mut end.core {
            core.tx.finish();
            end.discarded += core.discard() as u64;
        }
    }

    fn read_some(&mut self, id: EndId) -> bool {
        if !self.wants_read(id) {
            return false;
        }
        let end = self.end(id);
        let most = (end.script.reads - end.read).min(end.script.read_chunk as u64) as usize;
        let mut buf = vec![0xA5; most];
        let mut n = self.read_into(id, &mut buf);
        if n > 1 && self.has_bug(Bug::DropsByteAtResume) && self.takes_first_since_resume(id) {
            buf.copy_within(1..n, 0);
            n -= 1;
        }
        if n > 0 && self.has_bug(Bug::DeliversTwice) && self.takes_first_since_resume(id) {
            self.check_read(id, &buf[..1]);
        }
        self.check_read(id, &buf[..n]);
        self.stats.read += n as u64;
        let end = self.end(id);
        let at_end = end.core.as_ref().is_some_and(|core| core.rx.is_at_end());
        if n == 0 && at_end && !end.eof {
            self.note(On::End(id.0, id.1), "its program reads the end", end.read, 0);
            self.end_mut(id).eof = true;
            self.check_eof(id);
            return true;
        }
        n > 0
    }

    /// For planted bugs: true for the first read behind each resume.
    fn takes_first_since_resume(&mut self, id: EndId) -> bool {
        let Some(core) = &mut self.end_mut(id).core else { return false };
        std::mem::take(&mut core.resumed) > 0
    }

    /// From the stash, else straight from the connection as a direct descriptor's reader does.
    fn read_into(&mut self, id: EndId, buf: &mut [u8]) -> usize {
        for _ in 0..64 {
            let end = self.end_mut(id);
            let Some(core) = &mut end.core else { return 0 };
            let n = core.read(buf);
            if n > 0 {
                return n;
            }
            let Some(conn) = end.standing.filter(|_| end.script.direct) else { return 0 };
            if core.rx.is_sealed() {
                match self.read_records(id, conn, buf) {
                    Some(0) => continue,
                    read => return read.unwrap_or(0),
                }
            }
            if !core.rx.is_direct() {
                let Some(bytes) = self.take(conn, id.1, 16 * 1024) else { return 0 };
                self.hear(id, conn, &bytes);
                continue;
            }
            let left = core.rx.payload_left();
            let front = left.min(buf.len());
            let is_short = left > buf.len();
            let space = if is_short { 0 } else { core.rx.header_space().len() };
            let rest = if is_short { 0 } else { buf.len() - front };
            let Some(bytes) = self.take(conn, id.1, front + space + rest) else { return 0 };
            let now = self.local(id);
            self.check_delivery(id, conn);
            let n = bytes.len();
            let (first, behind) = bytes.split_at(n.min(front));
            let (middle, last) = behind.split_at(behind.len().min(space));
            buf[..first.len()].copy_from_slice(first);
            buf[front..front + last.len()].copy_from_slice(last);
            let end = self.end_mut(id);
            end.last_heard = now;
            let Some(core) = &mut end.core else { return 0 };
            core.rx.header_space()[..middle.len()].copy_from_slice(middle);
            match core.accept(buf, front, n) {
                Ok(0) => self.direct_heard(id, conn),
                Ok(n) => {
                    let violation = core.rx.violation();
                    self.direct_heard(id, conn);
                    if let Some(violation) = violation {
                        self.fault(id, conn, violation.into());
                    }
                    return n;
                }
                Err(fault) => {
                    self.fault(id, conn, fault);
                    return 0;
                }
            }
        }
        0
    }

    /// Records are read whole and opened into the program's buffer; none when nothing has come, or
    /// the connection is condemned.
    fn read_records(&mut self, id: EndId, conn: usize, buf: &mut [u8]) -> Option<usize> {
        let core = self.end_mut(id).core.as_mut()?;
        let most = core.rx.record_space().len();
        let bytes = self.take(conn, id.1, most)?;
        self.check_delivery(id, conn);
        let now = self.local(id);
        let end = self.end_mut(id);
        end.last_heard = now;
        let core = end.core.as_mut()?;
        core.rx.record_space()[..bytes.len()].copy_from_slice(&bytes);
        let taken = core.accept_records(bytes.len(), buf);
        let violation = core.rx.violation().map(Fault::from);
        self.direct_heard(id, conn);
        if let Some(fault) = taken.err().or(violation) {
            self.fault(id, conn, fault);
        }
        taken.ok()
    }

    fn direct_heard(&mut self, id: EndId, conn: usize) {
        let end = self.end_mut(id);
        if end.core.as_ref().is_some_and(|core| core.rx.has_started()) {
            end.heard_start = true;
            end.start_by = None;
        }
        if id.1 == 0 {
            self.client_heard(id, conn);
        }
    }

    /// Where these bytes differ from what the peer wrote, if they do.
    pub(crate) fn torn_at(&self, (link, side): EndId, bytes: &[u8]) -> Option<usize> {
        let read = self.end((link, side)).read;
        mismatch(Self::pattern_key((link, 1 - side)), read, bytes)
    }
}
