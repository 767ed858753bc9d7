//! How many devices may begin to be registered, and when the others come again.

use std::time::{Duration, Instant};

/// The longest that a device is told to stay away.
const AFTER_MAX: Duration = Duration::from_secs(600);
/// The shortest, on average.
const AFTER_MIN: Duration = Duration::from_millis(200);

/// A token bucket of a second's worth, and a row of appointments for those who find it empty.
#[derive(Debug)]
pub(super) struct Admission {
    per_second: f64,
    tokens: f64,
    filled: Instant,
    /// When those who were told to come later have all come, if they come at the rate.
    booked: Instant,
}

impl Admission {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, tokens: per_second, filled: now, booked: now }
    }

    /// Whether one may come in now; if not, after how long it should try again.
    pub(super) fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.book(now, self.per_second))
    }

    /// An appointment behind all others, if they are served at this rate.
    pub(super) fn book(&mut self, now: Instant, per_second: f64) -> Duration {
        let each = Duration::from_secs_f64(1.0 / per_second.max(1.0));
        self.booked = (self.booked.max(now) + each).min(now + AFTER_MAX);
        spread(self.booked.saturating_duration_since(now).max(AFTER_MIN))
    }
}

/// By chance between half of it and all of it, so that those who were sent away together do not
/// come back together.
pub(super) fn spread(whole: Duration) -> Duration {
    use ring::rand::SecureRandom;
    let mut bytes = [0, 128];
    // Without randomness it is three quarters.
    let _none = ring::rand::SystemRandom::new().fill(&mut bytes);
    whole / 2 + whole * u32::from(u16::from_le_bytes(bytes)) / (2 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_them_comes_in_and_the_others_are_spread_over_the_time_that_they_take() {
        let now = Instant::now();
        let mut admission = Admission::new(100, now);
        for _ in 0..100 {
            assert_eq!(admission.ask(now), Ok(()));
        }
        let waits: Vec<_> = (0..1000).map(|_| admission.ask(now).unwrap_err()).collect();
        for (n, wait) in (1_u32..).zip(&waits) {
            let whole = (Duration::from_millis(10) * n).max(AFTER_MIN);
            assert!((whole / 2..=whole).contains(wait), "{n}: {wait:?}");
        }
        let later = now + Duration::from_millis(500);
        let admitted = (0..100).filter(|_| admission.ask(later).is_ok()).count();
        assert_eq!(admitted, 50);
    }

    #[test]
    fn nobody_is_sent_away_for_ever() {
        let now = Instant::now();
        let mut admission = Admission::new(1, now);
        let longest = (0..10_000).filter_map(|_| admission.ask(now).err()).max();
        assert!(longest.is_some_and(|longest| longest <= AFTER_MAX));
    }
}
