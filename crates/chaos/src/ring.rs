//! The bytes of one direction: those that wait, and behind them some that have gone already.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

/// A ring in which the newest forwarded bytes stay readable, so that they can be sent again
/// without a copy on the fast path.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    /// Where the first waiting byte is.
    head: usize,
    /// How many wait.
    len: usize,
    /// How many before `head` are forwarded bytes; never more than `keep`.
    past: usize,
    keep: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize, keep: usize) -> Self {
        // Zeroed memory is not touched by the kernel until it is used: idle links cost little.
        let bytes = vec![0; capacity + keep].into_boxed_slice();
        Self { bytes, head: 0, len: 0, past: 0, keep }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room that does not depend on how much of the past is kept already.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() - self.keep - self.len
    }

    /// Makes room for at least `capacity` waiting bytes. What is kept of the past is forgotten.
    pub(crate) fn grow(&mut self, capacity: usize) {
        if capacity + self.keep > self.bytes.len() {
            let mut grown = Self::new(capacity, self.keep);
            let (first, second) = self.waiting(self.len);
            grown.bytes[..first.len()].copy_from_slice(first);
            grown.bytes[first.len()..self.len].copy_from_slice(second);
            grown.len = self.len;
            *self = grown;
        }
    }

    fn waiting(&self, limit: usize) -> (&[u8], &[u8]) {
        let len = self.len.min(limit);
        let first = len.min(self.bytes.len() - self.head);
        (&self.bytes[self.head..self.head + first], &self.bytes[..len - first])
    }

    /// One vectored read into all the room. `Ok(0)` is the end of the stream only if there was
    /// room.
    pub(crate) fn read_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let (room, size) = (self.room(), self.bytes.len());
        let tail = (self.head + self.len) % size;
        let first = room.min(size - tail);
        let (low, high) = self.bytes.split_at_mut(tail);
        let mut parts =
            [IoSliceMut::new(&mut high[..first]), IoSliceMut::new(&mut low[..room - first])];
        let n = source.read_vectored(&mut parts)?;
        self.len += n;
        Ok(n)
    }

    /// One vectored write of at most `limit` waiting bytes.
    pub(crate) fn write_to(&mut self, sink: &mut impl Write, limit: usize) -> io::Result<usize> {
        let (first, second) = self.waiting(limit);
        let n = sink.write_vectored(&[IoSlice::new(first), IoSlice::new(second)])?;
        self.head = (self.head + n) % self.bytes.len();
        self.len -= n;
        self.past = (self.past + n).min(self.keep);
        Ok(n)
    }

    /// Forgets what waits; returns how much that was.
    pub(crate) fn discard(&mut self) -> usize {
        std::mem::take(&mut self.len)
    }

    /// Forgets what waits and puts the last `count` forwarded bytes, or as many as are kept, in
    /// its place; returns how many.
    pub(crate) fn rewind(&mut self, count: usize) -> usize {
        let count = count.min(self.past);
        self.head = (self.head + self.bytes.len() - count) % self.bytes.len();
        self.len = count;
        self.past -= count;
        count
    }

    /// Inverts a bit of the first waiting byte; there must be one.
    pub(crate) fn flip_first(&mut self, bit: u8) {
        self.bytes[self.head] ^= 1 << (bit & 7);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;

    fn push(ring: &mut Ring, mut bytes: &[u8]) -> usize {
        ring.read_from(&mut bytes).unwrap()
    }

    fn pop(ring: &mut Ring, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        ring.write_to(&mut out, limit).unwrap();
        out
    }

    #[test]
    fn goes_round_and_round() {
        let mut ring = Ring::new(5, 3);
        for start in 0..50_u8 {
            let bytes = [start, start + 1, start + 2, start + 3];
            assert_eq!(push(&mut ring, &bytes), 4);
            assert_eq!(pop(&mut ring, 3), bytes[..3]);
            assert_eq!(pop(&mut ring, 3), bytes[3..]);
        }
        assert_eq!(push(&mut ring, &[9; 100]), 5);
        assert_eq!(ring.room(), 0);
        assert_eq!(ring.discard(), 5);
        assert!(ring.is_empty());
    }

    #[test]
    fn the_past_can_be_sent_again() {
        let mut ring = Ring::new(4, 3);
        assert_eq!(ring.rewind(2), 0);
        for pair in [[1, 2], [3, 4], [5, 6]] {
            push(&mut ring, &pair);
            pop(&mut ring, 2);
        }
        push(&mut ring, &[7, 8, 9, 10]);
        assert_eq!(ring.rewind(2), 2);
        assert_eq!(pop(&mut ring, 9), [5, 6]);
        assert_eq!(ring.rewind(100), 3);
        assert_eq!(pop(&mut ring, 9), [4, 5, 6]);
    }

    #[test]
    fn growing_keeps_what_waits() {
        let mut ring = Ring::new(4, 2);
        push(&mut ring, &[0; 4]);
        pop(&mut ring, 4);
        push(&mut ring, &[1, 2, 3, 4]);
        ring.grow(8);
        assert_eq!(push(&mut ring, &[5, 6, 7, 8, 9]), 4);
        ring.flip_first(1);
        assert_eq!(pop(&mut ring, 99), [3, 2, 3, 4, 5, 6, 7, 8]);
    }
}
