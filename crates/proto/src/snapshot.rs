//! The state of a session as bytes, for a hand-over to another process of the same host.
//!
//! Each part writes and reads its own state: [`crate::send::Sender::snapshot`],
//! [`crate::recv::Receiver::snapshot`], [`crate::control::Control::snapshot`]. A hand-over may come
//! in the middle of a frame, in either direction: what is under way is part of the state. What is
//! read back is checked against the invariants of the part, so that bytes from anywhere give a
//! sound value or none.

/// Offsets above this are nothing that a real session can reach; refused, so that none overflows.
pub(crate) const OFFSET_MAX: u64 = 1 << 62;

/// Collects the fields of a snapshot.
#[derive(Debug, Default)]
pub struct Out(Vec<u8>);

impl Out {
    /// The bytes so far.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// One number.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A truth value.
    pub fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// A number that may be missing.
    pub fn option(&mut self, value: Option<u64>) {
        self.flag(value.is_some());
        self.u64(value.unwrap_or(0));
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Reads the fields of a snapshot; nothing once they do not add up.
#[derive(Debug)]
pub struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// One number.
    pub fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    }

    /// A number that must fit.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.u64()?).ok()
    }

    /// A truth value.
    pub fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// A number that may be missing.
    pub fn option(&mut self) -> Option<Option<u64>> {
        let is_there = self.flag()?;
        let value = self.u64()?;
        Some(is_there.then_some(value))
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.number()?;
        self.take(n)
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
