//! What the kernel cannot know of a socket's readiness, in one word.

use super::sync::{AtomicU32, Ordering};

/// A word of bits. Whoever changes one looks for sleepers afterwards; who sleeps is on the list
/// before it looks at the word.
#[derive(Debug)]
pub(crate) struct Word(AtomicU32);

impl Word {
    pub(crate) fn new(bits: u32) -> Self {
        Self(AtomicU32::new(bits))
    }

    #[inline]
    pub(crate) fn bits(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Changes bits; gives what the word was if anything has changed: then sleepers are to be told.
    pub(crate) fn change(&self, raise: u32, clear: u32) -> Option<u32> {
        let before = self.0.load(Ordering::SeqCst);
        if before & clear == 0 && !before & raise == 0 {
            return None;
        }
        let before = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |b| Some((b & !clear) | raise))
            .unwrap_or(before);
        ((before & !clear) | raise != before).then_some(before)
    }

    /// Lowers bits of which nobody need be told.
    pub(crate) fn lower(&self, lowered: u32) {
        self.0.fetch_and(!lowered, Ordering::SeqCst);
    }

    /// Raises a bit of which nobody need be told; true if it was raised already.
    pub(crate) fn raise(&self, bit: u32) -> bool {
        self.0.fetch_or(bit, Ordering::SeqCst) & bit != 0
    }
}
