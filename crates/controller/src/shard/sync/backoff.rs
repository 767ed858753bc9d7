//! Waiting longer each time, so that no fault makes one snapshot after the other.

use crate::shard::Millis;

/// The first wait.
const FIRST: Millis = 1_000;
/// The longest. Who has kept quiet for so long beyond its wait begins with the first again.
const LONGEST: Millis = 300_000;

/// When something may be tried again. The first time at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
    not_before: Millis,
}

impl Backoff {
    /// When the next try is to be; it counts from now on.
    pub(super) fn next(&mut self, now: Millis) -> Millis {
        if now >= self.not_before.saturating_add(LONGEST) {
            self.tries = 0;
        }
        let at = now.max(self.not_before);
        let wait = FIRST.checked_shl(self.tries.min(16)).unwrap_or(LONGEST).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        self.not_before = at.saturating_add(wait);
        at
    }

    /// Somebody has seen to the cause.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew_after_quiet() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(5), 5);
        assert_eq!(backoff.next(6), 5 + FIRST);
        assert_eq!(backoff.next(6), 5 + 3 * FIRST);
        let mut at = 0;
        for _ in 0..100 {
            let next = backoff.next(at);
            assert!(next - at <= LONGEST);
            at = next;
        }
        let quiet = at + 2 * LONGEST;
        assert_eq!(backoff.next(quiet), quiet);
        assert_eq!(backoff.next(quiet), quiet + FIRST);
    }
}
