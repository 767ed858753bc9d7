//! The sending direction: bytes that the program wrote and the peer has not confirmed yet, and the
//! frames that carry them (PROTOCOL 2, 4).
//!
//! Everything that was accepted stays in the log until an ack covers it, so that the next epoch can
//! replay it. Frames are cut from the log at one cursor, never from anywhere else; so a frame on
//! the
//! wire and a replayed one cannot disagree.
//!
//! Invariants: `base <= cursor <= total end`; `cursor` never exceeds the credit edge; an ack beyond
//! what was ever sent is refused.

mod snapshot;

use std::io::IoSlice;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{
    ACK_STEP_MAX_BYTES, CONTROL_BODY_BYTES, FRAME_PAYLOAD_MAX_BYTES, HEADER_BYTES,
    SEALED_PAYLOAD_FIRST_BYTES, SEALED_PAYLOAD_MAX_BYTES,
};
use crate::log::{Log, Pool};
use crate::seal::{Sealer, record_len};
use crate::wire::frame::{Acks, FLAG_BLOCKED, Header, Kind};
use crate::wire::hello::encode_addrs;

/// How far the credit edge of a receiver that gives `window` moves before its peer is told without
/// another frame to carry it, in bytes (PROTOCOL 4.4).
pub fn ack_step(window: u64) -> u64 {
    (window / 4).clamp(1, ACK_STEP_MAX_BYTES)
}

/// Slices that [`Sender::gather`] fills at most: a header and every chunk of a largest frame.
pub const GATHER_SLICES: usize = 2 + FRAME_PAYLOAD_MAX_BYTES / crate::limits::CHUNK_BYTES + 1;

/// The peer claims something about our bytes that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// An ack or a receive offset beyond what was sent.
    #[error("the peer confirms offset {claimed}, but only {sent} were ever sent")]
    BeyondSent {
        /// The peer's offset.
        claimed: u64,
        /// The highest offset put on any wire.
        sent: u64,
    },
}

/// The sending direction of a session.
#[derive(Debug)]
pub struct Sender {
    log: Log,
    /// Next offset to cut into a frame in this epoch.
    cursor: u64,
    /// Highest offset that any epoch has put on a wire.
    sent_max: u64,
    /// Absolute credit edge; never retracted.
    edge: u64,
    acked: u64,
    finished: bool,
    /// The peer's program reads no more: writes fail, what was written still goes out.
    stopped: bool,
    /// What the peer was last told, in any frame of this epoch.
    told: Acks,
    frame: Frame,
    due: Due,
    /// STOP, RESET and the list of ADDRS, once wanted: an epoch that dies may take them along, so
    /// each new one tells them again.
    stop: Option<u64>,
    reset: Option<u64>,
    addrs: Option<Box<[u8]>>,
    /// Highest offset that the peer has quoted or confirmed: what has arrived, read or not.
    delivered: u64,
    replayed: u64,
    /// Bytes that the current connection took.
    given: u64,
    seal: Seal,
}

/// Whether frames go out as records.
#[derive(Debug, Default)]
enum Seal {
    #[default]
    Clear,
    /// Sealed, in an epoch that has no keys yet: nothing goes out.
    Waiting,
    /// Sealed with these.
    Ready(Box<Sealer>),
}

/// A record buffer of more than this is given back when a session rests, in bytes.
const HEAD_KEPT_BYTES: usize = 256;

/// The frame that is on its way: `head` first, then payload from the log. A record is all head: it
/// was sealed once, and its rest is kept as it is.
#[derive(Debug, Default)]
struct Frame {
    head: Vec<u8>,
    head_sent: usize,
    payload_left: usize,
}

/// Control frames to cut before the next payload.
#[derive(Debug, Default)]
struct Due {
    start: Option<u64>,
    ack: bool,
    stop: Option<u64>,
    reset: Option<u64>,
    addrs: bool,
    goaway: bool,
}

impl Due {
    /// An ack goes with any frame; the rest is to be said before payload.
    fn is_more_than_an_ack(&self) -> bool {
        self.start.is_some()
            || self.stop.is_some()
            || self.reset.is_some()
            || self.addrs
            || self.goaway
    }
}

impl Sender {
    /// A direction that starts at `offset` (0 in real life) and may send up to the credit `edge`.
    pub fn new(pool: Arc<Pool>, offset: u64, edge: u64) -> Self {
        Self {
            log: Log::busy(pool, offset),
            cursor: offset,
            sent_max: offset,
            edge,
            acked: offset,
            finished: false,
            stopped: false,
            told: Acks::default(),
            frame: Frame::default(),
            due: Due::default(),
            stop: None,
            reset: None,
            addrs: None,
            delivered: offset,
            replayed: 0,
            given: 0,
            seal: Seal::Clear,
        }
    }

    /// From here on nothing goes out in clear: frames wait until [`Self::seal_with`] has given the
    /// epoch its keys.
    pub fn set_sealed(&mut self) {
        self.seal = Seal::Waiting;
    }

    /// The keys of the epoch that [`Self::begin_epoch`] has begun.
    pub fn seal_with(&mut self, sealer: Sealer) {
        debug_assert!(matches!(self.seal, Seal::Waiting), "keys are those of one epoch");
        self.seal = Seal::Ready(Box::new(sealer));
    }

    /// True when frames go out as records only.
    pub fn is_sealed(&self) -> bool {
        !matches!(self.seal, Seal::Clear)
    }

    /// Takes what the receiving direction has learnt: the highest ack and credit edge.
    pub fn absorb(&mut self, ack: u64, edge: u64) -> Result<(), ClaimError> {
        if ack > self.sent_max {
            return Err(ClaimError::BeyondSent { claimed: ack, sent: self.sent_max });
        }
        self.edge = self.edge.max(edge);
        if ack > self.acked {
            self.acked = ack;
            self.delivered = self.delivered.max(ack);
            // Bytes that this epoch has not put on the wire stay, even if the peer has them: DATA
            // carries no offset, so the wire may not jump.
            self.trim();
        }
        Ok(())
    }

    /// How many bytes [`Self::write`] would take now: what credit and log leave.
    pub fn room(&self) -> usize {
        if self.finished || self.stopped {
            return 0;
        }
        // An ack of the old epoch may run ahead of the cursor; what is still held below it counts,
        // or the log would outgrow the window.
        let behind = self.acked.saturating_sub(self.log.base());
        let credit = self.edge.saturating_sub(self.log.end()).saturating_sub(behind);
        usize::try_from(credit.min(self.log.room())).unwrap_or(usize::MAX)
    }

    /// Takes as many of `bytes` as there is room and memory for, in order; gives their number: less
    /// than [`Self::room`] only for want of memory. What was taken is delivered once, or the
    /// session fails.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.try_write(bytes).unwrap_or(0)
    }

    /// The same; `None` where there is room and no memory for a single byte. Whoever compares with
    /// [`Self::room`] himself may be wrong: other sessions use up what the cap leaves at any time.
    pub fn try_write(&mut self, bytes: &[u8]) -> Option<usize> {
        let n = bytes.len().min(self.room());
        let taken = self.log.try_append(&bytes[..n]);
        (taken > 0 || n == 0).then_some(taken)
    }

    /// Takes bytes that cannot be given back, no more of them than [`Self::room`] has said since
    /// the last call: the cap may leave less by now, as others use it too. Nothing is taken where
    /// the peer reads no more. Without memory the process ends.
    pub fn write_all(&mut self, bytes: &[u8]) {
        if !self.finished && !self.stopped {
            self.log.append(bytes);
        }
    }

    /// No more bytes: the FIN goes out behind what was written.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// True once [`Self::finish`] was called.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The peer's program will read no more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// True when the peer's program will read no more: a write has nobody to go to (EPIPE).
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// True when the FIN and all before it were confirmed.
    pub fn is_done(&self) -> bool {
        self.finished && self.acked > self.log.end()
    }

    /// True when all that was written was confirmed.
    pub fn is_drained(&self) -> bool {
        self.acked >= self.log.end()
    }

    /// Offset behind the last byte, the FIN's own included.
    pub fn total_end(&self) -> u64 {
        self.log.end() + u64::from(self.finished)
    }

    /// Offset behind the last byte that the program wrote.
    pub fn written(&self) -> u64 {
        self.log.end()
    }

    /// Highest offset that the peer has confirmed.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// True when the peer still lacks something of ours, as far as it has quoted or confirmed. What
    /// has arrived but waits for the peer's program is not expected of the connection.
    pub fn is_expecting(&self) -> bool {
        self.delivered < self.total_end()
    }

    /// Highest offset that the peer has quoted in a resume or confirmed: what has arrived.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Offset behind the last byte cut into a frame in this epoch.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The credit edge.
    pub fn edge(&self) -> u64 {
        self.edge
    }

    /// Nothing is outstanding and nothing was written for a while: gives back what is held for
    /// speed.
    pub fn rest(&mut self) {
        self.log.rest();
        if !self.is_mid_frame() && self.frame.head.capacity() > HEAD_KEPT_BYTES {
            self.frame = Frame::default();
        }
    }

    /// Bytes held for replay.
    pub fn log_len(&self) -> u64 {
        self.log.len()
    }

    /// Bytes that later epochs have sent again.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// True when a program that wants to write is held up by credit or cap rather than by the
    /// kernel.
    pub fn is_out_of_room(&self) -> bool {
        !self.finished && !self.stopped && self.room() == 0
    }

    /// A new connection stands. `peer_receive` is the offset that the peer quoted when it resumed;
    /// sending goes on there, or above if an ack of any epoch says so.
    pub fn begin_epoch(&mut self, peer_receive: u64) -> Result<(), ClaimError> {
        if peer_receive > self.sent_max {
            return Err(ClaimError::BeyondSent { claimed: peer_receive, sent: self.sent_max });
        }
        self.frame = Frame::default();
        if self.is_sealed() {
            // The keys of an epoch die with it.
            self.seal = Seal::Waiting;
        }
        let from = peer_receive.max(self.acked);
        self.replayed += self.sent_max.min(self.log.end()).saturating_sub(from);
        self.cursor = from;
        self.delivered = self.delivered.max(from);
        self.trim();
        self.due.ack = false;
        self.due.start = Some(from);
        self.due.stop = self.stop;
        self.due.reset = self.reset;
        self.due.addrs = self.addrs.is_some();
        self.told = Acks::default();
        self.given = 0;
        Ok(())
    }

    /// An ACK frame is wanted even if no payload goes out.
    pub fn want_ack(&mut self) {
        self.due.ack = true;
    }

    /// Tells the peer that nobody will read beyond `offset`.
    pub fn want_stop(&mut self, offset: u64) {
        self.stop = Some(offset);
        self.due.stop = self.stop;
    }

    /// Ends the session at once: the RESET goes out before anything else that is not begun.
    /// Nothing follows it.
    pub fn want_reset(&mut self, code: u64) {
        if self.reset.is_none() {
            self.reset = Some(code);
            self.due.reset = self.reset;
        }
    }

    /// Announces alternative addresses of this side.
    pub fn want_addrs(&mut self, addrs: &[core::net::SocketAddr]) {
        self.addrs = Some(encode_addrs(addrs).into_boxed_slice());
        self.due.addrs = true;
    }

    /// Asks the peer to resume elsewhere or later.
    pub fn want_goaway(&mut self) {
        self.due.goaway = true;
    }

    /// True when the credit edge has moved by [`ack_step`] since the peer was last told, or the
    /// peer's FIN is unconfirmed.
    pub fn ack_is_due(&self, now: Acks, fin_seen: bool) -> bool {
        let window = now.edge() - now.ack;
        now.edge().saturating_sub(self.told.edge()) >= ack_step(window)
            || (fin_seen && now.ack > self.told.ack)
    }

    /// True when the peer has not been told all that the receiver could tell.
    pub fn ack_is_stale(&self, now: Acks) -> bool {
        now != self.told
    }

    /// What the peer was last told.
    pub fn told(&self) -> Acks {
        self.told
    }

    /// True in the middle of a frame: its rest is owed before anything else.
    pub fn is_mid_frame(&self) -> bool {
        self.frame.head_sent < self.frame.head.len() || self.frame.payload_left > 0
    }

    /// True when the session was reset and its RESET was cut in this epoch: nothing follows it.
    pub fn is_reset(&self) -> bool {
        self.reset.is_some() && self.due.reset.is_none()
    }

    /// True when [`Self::prepare`] would find something to send.
    pub fn has_output(&self) -> bool {
        let due = &self.due;
        if matches!(self.seal, Seal::Waiting) {
            return false;
        }
        if self.is_reset() {
            return self.is_mid_frame() || due.start.is_some();
        }
        self.is_mid_frame()
            || due.start.is_some()
            || due.ack
            || due.stop.is_some()
            || due.reset.is_some()
            || due.addrs
            || due.goaway
            || self.payload_waiting() > 0
            || self.fin_is_due()
    }

    /// Cuts the next frame if none is on its way. Gives false when there is nothing to send.
    pub fn prepare(&mut self, acks: Acks) -> bool {
        if self.is_mid_frame() {
            return true;
        }
        if matches!(self.seal, Seal::Waiting) {
            return false;
        }
        self.cut_next(acks) && self.seal_frame()
    }

    /// Cuts the next frame; false when there is none.
    fn cut_next(&mut self, acks: Acks) -> bool {
        if let Some(offset) = self.due.start.take() {
            self.cut_control(Kind::Start, offset, acks);
        } else if self.is_reset() {
            return false;
        } else if let Some(code) = self.due.reset.take() {
            self.cut_control(Kind::Reset, code, acks);
        } else if let Some(offset) = self.due.stop.take() {
            self.cut_control(Kind::Stop, offset, acks);
        } else if self.due.addrs {
            self.due.addrs = false;
            let length = self.addrs.as_ref().map_or(0, |body| body.len());
            self.cut(Kind::Addrs, 0, length, acks);
            self.frame.head.extend(self.addrs.iter().flat_map(|body| body.iter()));
        } else if self.due.goaway {
            self.due.goaway = false;
            self.cut(Kind::Goaway, 0, 0, acks);
        } else if self.payload_waiting() > 0 {
            let n = self.payload_waiting().min(self.payload_max());
            let blocked = self.cursor + n as u64 >= self.edge;
            self.cut(Kind::Data, if blocked { FLAG_BLOCKED } else { 0 }, n, acks);
            self.frame.payload_left = n;
        } else if self.fin_is_due() {
            self.cut_control(Kind::Fin, self.log.end(), acks);
            self.cursor = self.log.end() + 1;
            self.sent_max = self.sent_max.max(self.cursor);
        } else if self.due.ack {
            self.cut(Kind::Ack, 0, 0, acks);
        } else {
            return false;
        }
        true
    }

    /// A small write on a connection that owes nothing, in one step: takes `bytes`, cuts their
    /// frame and lays it out in `out`, whose length is the limit. Gives the frame's, to be put on
    /// the wire at once and answered by [`Self::sent`]; `None`, with nothing changed, where
    /// [`Self::write`] and [`Self::prepare`] are the way, as they are when no room would be left.
    #[inline]
    pub fn write_frame(&mut self, bytes: &[u8], acks: Acks, out: &mut [u8]) -> Option<usize> {
        let n = bytes.len();
        let end = self.log.end();
        if n == 0
            || n + HEADER_BYTES > out.len()
            || self.cursor != end
            || self.is_sealed()
            || self.due.is_more_than_an_ack()
            || self.reset.is_some()
            || self.is_mid_frame()
            || n >= self.room()
        {
            return None;
        }
        match self.log.try_append(bytes) {
            all if all == n => {}
            // What fitted in is there now, and would go out twice.
            some => {
                self.log.retract(some);
                return None;
            }
        }
        let blocked = end + n as u64 >= self.edge;
        self.cut(Kind::Data, if blocked { FLAG_BLOCKED } else { 0 }, n, acks);
        self.frame.payload_left = n;
        let (head, rest) = out.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&self.frame.head);
        rest[..n].copy_from_slice(bytes);
        Some(HEADER_BYTES + n)
    }

    /// The payload of the next DATA frame, at most. A record counts only when all of it has come,
    /// so the first of an epoch are small: a path that breaks again and again still carries some.
    fn payload_max(&self) -> usize {
        if !self.is_sealed() {
            return FRAME_PAYLOAD_MAX_BYTES;
        }
        let proven = usize::try_from(self.given.saturating_mul(4)).unwrap_or(usize::MAX);
        proven.clamp(SEALED_PAYLOAD_FIRST_BYTES, SEALED_PAYLOAD_MAX_BYTES)
    }

    /// Seals the frame that was cut, if frames are sealed. Its payload counts as sent from here on.
    /// False when it cannot be sealed: then this epoch sends nothing more.
    fn seal_frame(&mut self) -> bool {
        let Seal::Ready(sealer) = &mut self.seal else { return true };
        let frame = &mut self.frame;
        frame.head.reserve_exact(record_len(frame.payload_left));
        while frame.payload_left > 0 {
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, n) = self.log.gather(self.cursor, frame.payload_left, &mut slices);
            if n == 0 {
                // A log that lacks what was cut will not have it later: no record is made of it.
                break;
            }
            slices[..count].iter().for_each(|slice| frame.head.extend_from_slice(slice));
            frame.payload_left -= n;
            self.cursor += n as u64;
        }
        self.sent_max = self.sent_max.max(self.cursor);
        if frame.payload_left == 0 && sealer.seal(&mut frame.head) {
            return true;
        }
        self.frame = Frame::default();
        self.seal = Seal::Waiting;
        false
    }

    /// Bytes of the current frame that the connection has not taken.
    pub fn frame_left(&self) -> usize {
        self.frame.head.len() - self.frame.head_sent + self.frame.payload_left
    }

    /// The bytes to put on the wire next: the rest of the current frame. Gives the number of slices
    /// filled and of bytes in them.
    pub fn gather<'a>(&'a self, out: &mut [IoSlice<'a>]) -> (usize, usize) {
        let head = &self.frame.head[self.frame.head_sent..];
        let mut slices = 0;
        if !head.is_empty() && !out.is_empty() {
            out[0] = IoSlice::new(head);
            slices = 1;
        }
        let (more, payload) = if self.frame.payload_left > 0 {
            self.log.gather(self.cursor, self.frame.payload_left, &mut out[slices..])
        } else {
            (0, 0)
        };
        (slices + more, head.len() + payload)
    }

    /// Bytes that this epoch's connection has taken, of whatever kind: to be compared with what the
    /// kernel was given.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// The connection took `n` of the bytes that [`Self::gather`] gave.
    pub fn sent(&mut self, n: usize) {
        self.given += n as u64;
        let head = n.min(self.frame.head.len() - self.frame.head_sent);
        self.frame.head_sent += head;
        let payload = n - head;
        debug_assert!(payload <= self.frame.payload_left);
        self.frame.payload_left -= payload;
        self.cursor += payload as u64;
        self.sent_max = self.sent_max.max(self.cursor);
        if !self.is_mid_frame() {
            self.frame.head.clear();
            self.frame.head_sent = 0;
            self.trim();
        }
    }

    /// Forgets what the peer has and this epoch need not send.
    fn trim(&mut self) {
        self.log.trim(self.acked.min(self.cursor).min(self.log.end()));
    }

    fn payload_waiting(&self) -> usize {
        let to = self.log.end().min(self.edge);
        usize::try_from(to.saturating_sub(self.cursor)).unwrap_or(usize::MAX)
    }

    fn fin_is_due(&self) -> bool {
        self.finished && self.cursor == self.log.end()
    }

    fn cut_control(&mut self, kind: Kind, value: u64, acks: Acks) {
        self.cut(kind, 0, CONTROL_BODY_BYTES, acks);
        self.frame.head.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn cut(&mut self, kind: Kind, flags: u8, length: usize, acks: Acks) {
        debug_assert!(self.frame.head.is_empty());
        let header = Header { kind, flags, length: length as u32, acks };
        if self.frame.head.capacity() == 0 {
            self.frame.head.reserve_exact(HEADER_BYTES + CONTROL_BODY_BYTES);
        }
        self.frame.head.extend_from_slice(&header.encode());
        self.told = acks;
        self.due.ack = false;
    }
}
