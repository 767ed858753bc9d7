//! The form of a link that lasts: settings with a time limit, and the bucket behind a rate.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::schedule::later;

/// Off, on until a moment, or on for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spell {
    Off,
    Until(Instant),
    Forever,
}

impl Spell {
    pub(crate) fn lasting(now: Instant, time: Option<Duration>) -> Self {
        time.map_or(Self::Forever, |time| Self::Until(later(now, time)))
    }

    pub(crate) fn is_on(self, now: Instant) -> bool {
        match self {
            Self::Off => false,
            Self::Until(end) => now < end,
            Self::Forever => true,
        }
    }

    /// The end, as long as it is to come.
    pub(crate) fn end(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Until(end) if now < end => Some(end),
            _ => None,
        }
    }
}

/// A setting, and another one that replaces it for a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<T> {
    base: T,
    passing: Option<(T, Instant)>,
}

impl<T: Copy> Setting<T> {
    pub(crate) fn new(base: T) -> Self {
        Self { base, passing: None }
    }

    pub(crate) fn set(&mut self, value: T, now: Instant, lasting: Option<Duration>) {
        match lasting {
            Some(time) => self.passing = Some((value, later(now, time))),
            None => *self = Self::new(value),
        }
    }

    pub(crate) fn get(&mut self, now: Instant) -> T {
        if self.passing.is_some_and(|(_, end)| end <= now) {
            self.passing = None;
        }
        self.passing.map_or(self.base, |(value, _)| value)
    }

    pub(crate) fn end(&self) -> Option<Instant> {
        self.passing.map(|(_, end)| end)
    }
}

/// One-way latency.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
}

impl Latency {
    pub(crate) fn is_none(self) -> bool {
        self.delay.is_zero() && self.jitter.is_zero()
    }

    pub(crate) fn draw(self, rng: &mut Rng) -> Duration {
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX);
        self.delay.saturating_add(Duration::from_nanos(rng.below(jitter.saturating_add(1))))
    }
}

/// How much of a second may be sent in one go: enough to make up for a late timer, too little to
/// be seen as a burst.
const BURST: f64 = 0.02;
/// How much of a second must have gathered before it is worth waking up.
const QUANTUM: f64 = 0.002;

/// Permits to send, which gather with time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    permits: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self { permits: 0.0, filled: now }
    }

    /// How many bytes may go now.
    pub(crate) fn permits(&mut self, rate: NonZeroU64, now: Instant) -> usize {
        let rate = rate.get() as f64;
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.permits = (self.permits + gained).min((rate * BURST).max(1.0));
        self.filled = now;
        self.permits as usize
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.permits -= bytes as f64;
    }

    /// When it is worth trying again with so many bytes waiting.
    pub(crate) fn ready(&self, rate: NonZeroU64, waiting: usize) -> Instant {
        let rate = rate.get() as f64;
        let wanted = (waiting as f64).min((rate * QUANTUM).max(1.0));
        let seconds = ((wanted - self.permits) / rate).max(0.0);
        // A hair later, so that rounding does not leave the permit just short of whole.
        later(self.filled, Duration::from_secs_f64(seconds) + Duration::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;

    #[test]
    fn a_passing_setting_passes() {
        let now = Instant::now();
        let mut setting = Setting::new(1);
        setting.set(2, now, Some(Duration::from_secs(1)));
        assert_eq!(setting.get(now), 2);
        assert_eq!(setting.get(now + Duration::from_secs(1)), 1);
        setting.set(3, now, None);
        assert_eq!(setting.get(now), 3);
    }

    #[test]
    fn a_bucket_keeps_its_rate_and_wakes_in_time() {
        for rate in [1_u64, 3, 1000, 1 << 20, 1 << 30] {
            let rate = NonZeroU64::new(rate).unwrap();
            let start = Instant::now();
            let (mut now, mut sent) = (start, 0);
            let mut bucket = Bucket::new(start);
            while now < start + Duration::from_secs(5) {
                let n = bucket.permits(rate, now);
                bucket.take(n);
                sent += n;
                let next = bucket.ready(rate, usize::MAX);
                assert!(next > now);
                now = next;
            }
            let expected = rate.get() as f64 * 5.0;
            assert!((sent as f64 - expected).abs() <= expected * 0.01 + 1.0, "{rate}: {sent}");
        }
    }
}
