//! One session's end: the session as `eversock_proto` has it, what of it goes out, and the bugs
//! that are planted in it.

use std::io::IoSlice;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use eversock_proto::control::Role;
use eversock_proto::limits::WINDOW_UNIT_BYTES;
use eversock_proto::log::Pool;
use eversock_proto::open::Opened;
use eversock_proto::recv::Receiver;
use eversock_proto::send::{ClaimError, GATHER_SLICES, Sender};
use eversock_proto::session::{Session, Start};
use eversock_proto::snapshot::{In, Out};
use eversock_proto::wire::frame::{Acks, Kind};

use crate::Bug;

/// One end's half of a session.
#[derive(Debug)]
pub(crate) struct Core {
    session: Session,
    /// Resumes so far; a planted bug takes them back.
    pub(crate) resumed: u64,
    /// The sender says that there is something to send and gives nothing.
    pub(crate) is_stuck: bool,
    /// Where this end goes on in the epoch that stands.
    pub(crate) begun_at: u64,
    /// Frames that were cut in this epoch.
    frames: u64,
    pool: Arc<Pool>,
    bug: Option<Bug>,
}

impl Deref for Core {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Core {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Core {
    /// A session that has just opened; the keys of its first epoch come by `World::seal`.
    pub(crate) fn new(
        role: Role,
        opened: Opened,
        window: u64,
        window_max: u64,
        pool: &Arc<Pool>,
        bug: Option<Bug>,
    ) -> Self {
        let start = Start { send: 0, receive: 0, window, window_max };
        let session = Session::new(role, opened, &start, Arc::clone(pool));
        let pool = Arc::clone(pool);
        Self { session, resumed: 0, is_stuck: false, begun_at: 0, frames: 0, pool, bug }
    }

    pub(crate) fn begin_epoch(&mut self, peer_receive: u64) -> Result<(), ClaimError> {
        self.resumed += 1;
        self.frames = 0;
        let begun = self.session.begin_epoch(peer_receive);
        self.begun_at = self.tx.cursor();
        begun
    }

    /// Frames for the connection that stands, at most `limit` bytes.
    pub(crate) fn transmit(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < limit {
            let begins = !self.tx.is_mid_frame();
            let acks = self.acks();
            if !self.tx.prepare(acks) {
                break;
            }
            self.frames += u64::from(begins);
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, total) = self.session.tx.gather(&mut slices);
            let kind = slices[0].first().copied();
            if begins && self.swallows(kind) {
                self.tx.sent(total);
                continue;
            }
            let before = out.len();
            out.reserve_exact(total.min(limit - before));
            for slice in &slices[..count] {
                let n = slice.len().min(limit - out.len());
                out.extend_from_slice(&slice[..n]);
            }
            let n = out.len() - before;
            if n == 0 {
                // The sender has a frame and nothing to show for it: without an end, if it is asked
                // again.
                self.is_stuck = true;
                break;
            }
            self.tx.sent(n);
        }
        out
    }

    /// What the next frame tells.
    pub(crate) fn acks(&self) -> Acks {
        let acks = self.rx.acks();
        let units = |bytes: u64| (bytes / WINDOW_UNIT_BYTES) as u16;
        match self.bug {
            Some(Bug::TellsNoAcks) => Acks { ack: 0, window: units(acks.edge()) },
            Some(Bug::RetractsEdge) if self.resumed > 0 => {
                let stashed = units(self.rx.stashed() as u64 + WINDOW_UNIT_BYTES - 1);
                Acks { window: acks.window.saturating_sub(stashed), ..acks }
            }
            _ => acks,
        }
    }

    /// Writes both directions and the control part down and reads them back; none when it may not
    /// be done now, false when what was written cannot be read.
    pub(crate) fn hand_over(&mut self) -> Option<bool> {
        let mut out = Out::default();
        if !self.rx.snapshot(&mut out) {
            return None;
        }
        self.tx.snapshot(&mut out);
        self.control.snapshot(&mut out);
        let bytes = out.finish();
        let mut from = In::new(&bytes);
        let read = Receiver::restore(Arc::clone(&self.pool), &mut from)
            .zip(Sender::restore(Arc::clone(&self.pool), &mut from));
        let Some((rx, tx)) = read else { return Some(false) };
        (self.rx, self.tx) = (rx, tx);
        Some(self.control.restore(&mut from) && from.is_empty())
    }

    /// For a planted bug: true for a STOP or RESET that a new epoch says at its begin, as it was
    /// wanted before. Of records none can be left out unseen.
    fn swallows(&self, kind: Option<u8>) -> bool {
        let is_last_word = [Kind::Stop, Kind::Reset].map(|kind| Some(kind as u8)).contains(&kind);
        self.bug == Some(Bug::LastWordsDie)
            && self.resumed > 0
            && is_last_word
            && self.frames <= 3
            && !self.tx.is_sealed()
    }

    /// True when both directions have ended and both ends were told.
    pub(crate) fn is_over(&self) -> bool {
        if self.bug == Some(Bug::LastByteIsEnd) {
            let is_done = self.tx.is_finished() && self.tx.is_drained();
            return is_done && self.rx.is_at_end() && !self.is_untold();
        }
        self.session.is_over()
    }
}

/// The bytes that an end writes, which show where they were torn: a function of the direction and
/// the offset, so that nobody need keep them.
pub(crate) fn pattern(key: u64, offset: u64, out: &mut [u8]) {
    let word = |index: u64| (index ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    let mut at = 0;
    while at < out.len() {
        let position = offset + at as u64;
        let skip = (position % 8) as usize;
        let bytes = word(position / 8).to_le_bytes();
        let n = (8 - skip).min(out.len() - at);
        out[at..at + n].copy_from_slice(&bytes[skip..skip + n]);
        at += n;
    }
}

/// The index of the first byte of `bytes` that is not what [`pattern`] has at `offset`.
pub(crate) fn mismatch(key: u64, offset: u64, bytes: &[u8]) -> Option<usize> {
    let mut expected = [0; 512];
    for (index, part) in bytes.chunks(expected.len()).enumerate() {
        let from = index * expected.len();
        let expected = &mut expected[..part.len()];
        pattern(key, offset + from as u64, expected);
        if expected != part {
            let at = expected.iter().zip(part).position(|(a, b)| a != b).unwrap_or(0);
            return Some(from + at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_in_one_piece_and_in_many() {
        let mut whole = [0; 1500];
        pattern(7, 3, &mut whole);
        let mut parts = [0; 1500];
        for (index, part) in parts.chunks_mut(37).enumerate() {
            pattern(7, 3 + 37 * index as u64, part);
        }
        assert_eq!(whole, parts);
        assert_eq!(mismatch(7, 3, &whole), None);
        whole[1234] ^= 1;
        assert_eq!(mismatch(7, 3, &whole), Some(1234));
        assert!(mismatch(7, 4, &parts).is_some());
    }
}
