//! The parts of one session's end, put together as the engine does it.
//!
//! `eversock_proto::session::Session` does the same for two ends that never move; here addresses
//! and GOAWAY of the peer are wanted too.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use eversock_proto::control::{Control, Offsets, Role};
use eversock_proto::log::Pool;
use eversock_proto::open::Opened;
use eversock_proto::recv::Receiver;
use eversock_proto::seal::EpochKeys;
use eversock_proto::send::{ClaimError, GATHER_SLICES, Sender};
use eversock_proto::session::Fault;

/// One end's half of a session.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) tx: Sender,
    pub(crate) rx: Receiver,
    pub(crate) control: Control,
    pub(crate) reset_by_peer: Option<u64>,
    pub(crate) goaway: bool,
    pub(crate) addrs: Option<Vec<SocketAddr>>,
    /// What this end has sent again, and what it has received again and thrown away.
    pub(crate) resumed: u64,
    /// The sender says that there is something to send and gives nothing.
    pub(crate) is_stuck: bool,
    /// A planted bug: acks of the peer are forgotten.
    pub(crate) forgets_acks: bool,
}

impl Core {
    pub(crate) fn new(
        role: Role,
        opened: Opened,
        window: u64,
        window_max: u64,
        pool: &Arc<Pool>,
    ) -> Self {
        let mut rx = Receiver::new(Arc::clone(pool), 0, window);
        rx.set_window_max(window_max);
        let mut tx = Sender::new(Arc::clone(pool), 0, opened.window);
        let mut control = Control::new(role, opened.id, opened.secret);
        if let Some(cipher) = opened.cipher {
            control.cipher = Some(cipher);
            tx.set_sealed();
            rx.set_sealed();
        }
        rx.begin_epoch();
        // Nothing was sent yet, so nothing can be quoted beyond it.
        let begun = tx.begin_epoch(0);
        debug_assert!(begun.is_ok());
        Self {
            tx,
            rx,
            control,
            reset_by_peer: None,
            goaway: false,
            addrs: None,
            resumed: 0,
            is_stuck: false,
            forgets_acks: false,
        }
    }

    pub(crate) fn begin_epoch(&mut self, peer_receive: u64) -> Result<(), ClaimError> {
        self.resumed += 1;
        self.rx.begin_epoch();
        self.tx.begin_epoch(peer_receive)
    }

    /// The keys of the epoch that has just begun; a sealed session is silent and deaf before.
    pub(crate) fn seal_with(&mut self, keys: EpochKeys) {
        let (sealer, opener) = keys.split(self.control.role);
        self.tx.seal_with(sealer);
        self.rx.open_with(opener);
    }

    pub(crate) fn offsets(&self) -> Offsets {
        Offsets {
            acked: self.tx.delivered(),
            receive: self.rx.next(),
            expecting: self.tx.is_expecting(),
        }
    }

    /// Bytes of the connection go to the stash.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let fed = self.rx.feed(bytes);
        self.digest()?;
        Ok(fed?)
    }

    /// The result of one scattered read goes to the program.
    pub(crate) fn accept(
        &mut self,
        buf: &mut [u8],
        front: usize,
        n: usize,
    ) -> Result<usize, Fault> {
        let taken = self.rx.accept(buf, front, n);
        if taken.is_ok_and(|payload| payload > 0) {
            self.control.progress();
        }
        self.digest()?;
        Ok(taken?)
    }

    /// The same for a sealed session, whose records are opened before the program gets them.
    pub(crate) fn accept_records(&mut self, n: usize, buf: &mut [u8]) -> Result<usize, Fault> {
        let taken = self.rx.accept_records(n, buf);
        if taken.is_ok_and(|payload| payload > 0) {
            self.control.progress();
        }
        self.digest()?;
        Ok(taken?)
    }

    fn digest(&mut self) -> Result<(), Fault> {
        let (ack, edge) = self.rx.peer();
        let before = self.tx.acked();
        let ack = if self.forgets_acks { ack.min(before) } else { ack };
        self.tx.absorb(ack, edge)?;
        if self.tx.acked() > before {
            self.control.progress();
        }
        let news = self.rx.take_news();
        if news.stop {
            self.tx.stop();
        }
        if news.blocked || self.tx.is_out_of_room() {
            self.rx.grow_window();
        }
        self.reset_by_peer = self.reset_by_peer.or(news.reset);
        self.goaway |= news.goaway;
        if news.addrs.is_some() {
            self.addrs = news.addrs;
        }
        self.note_acks();
        Ok(())
    }

    /// Frames for the connection that stands, at most `limit` bytes.
    pub(crate) fn transmit(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < limit && self.tx.prepare(self.rx.acks()) {
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, total) = self.tx.gather(&mut slices);
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

    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let n = self.rx.read_stash(out);
        if n > 0 {
            self.control.progress();
            self.note_acks();
        }
        n
    }

    /// What came is consumed unread, as the program has closed; gives the number of bytes.
    pub(crate) fn discard(&mut self) -> usize {
        let n = self.rx.discard_stash();
        if n > 0 {
            self.tx.want_stop(self.rx.consumed());
        }
        self.note_acks();
        n
    }

    /// The lazy sweep.
    pub(crate) fn sweep(&mut self) {
        if self.is_untold() {
            self.tx.want_ack();
        }
    }

    /// True when the peer could be told more than it was.
    pub(crate) fn is_untold(&self) -> bool {
        self.tx.ack_is_stale(self.rx.acks())
    }

    /// True when both directions have ended and both ends were told.
    pub(crate) fn is_over(&self) -> bool {
        self.tx.is_done() && self.rx.is_at_end() && !self.is_untold()
    }

    fn note_acks(&mut self) {
        if self.tx.ack_is_due(self.rx.acks(), self.rx.fin_seen()) {
            self.tx.want_ack();
        }
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
