//! When to dial again, as values (PROTOCOL 6).
//!
//! The first try goes out at once, later ones back off with full jitter applied after the cap, so
//! that sessions cut together do not come back together. Progress resets the back-off, a mere
//! resume does not.

use std::time::Duration;

/// How the waits grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait ever.
    pub cap: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(50), cap: Duration::from_secs(10) }
    }
}

/// The state of one session's redialling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redial {
    attempts: u32,
}

impl Redial {
    /// Attempts since the last progress.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts an attempt and gives the wait before it. `random` is uniform over all of `u32`.
    pub fn next(&mut self, back_off: BackOff, random: u32) -> Duration {
        let attempt = self.attempts;
        self.attempts = self.attempts.saturating_add(1);
        if attempt == 0 {
            return Duration::ZERO;
        }
        let doublings = (attempt - 1).min(30);
        let most = back_off.base.saturating_mul(1 << doublings).min(back_off.cap);
        // Never less than a quarter: a refused dial costs nothing, so zero waits would spin.
        let quarter = most / 4;
        quarter + (most - quarter).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// An offset advanced: the next fault is a new one.
    pub fn progress(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_immediate_and_later_ones_stay_within_bounds() {
        let back_off = BackOff::default();
        for random in [0, u32::MAX / 2, u32::MAX] {
            let mut redial = Redial::default();
            assert_eq!(redial.next(back_off, random), Duration::ZERO);
            let mut most = back_off.base;
            for _ in 0..40 {
                let wait = redial.next(back_off, random);
                assert!(wait >= most / 4 && wait <= most, "{wait:?} of {most:?}");
                most = (most * 2).min(back_off.cap);
            }
            redial.progress();
            assert_eq!(redial.next(back_off, random), Duration::ZERO);
        }
    }
}
