//! How many devices may begin to be registered, and when the others come again.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest that a device is told to stay away.
const AFTER_MAX: Duration = Duration::from_secs(600);
/// The appointments of one connection put off those of others by so much at most: what comes in
/// within so many seconds.
const APPOINTMENT_SECONDS: f64 = 10.0;
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
    pub(super) fn ask(&mut self, now: Instant, who: &mut Appointments) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.book(now, self.per_second, who))
    }

    /// An appointment behind all others, if they are served at this rate. One that has too many
    /// already comes with the last of the others, and puts nobody off.
    pub(super) fn book(
        &mut self,
        now: Instant,
        per_second: f64,
        who: &mut Appointments,
    ) -> Duration {
        if who.may_have_one_more(now, per_second) {
            let each = Duration::from_secs_f64(1.0 / per_second.max(1.0));
            self.booked = (self.booked.max(now) + each).min(now + AFTER_MAX);
            who.last = Some(who.last.map_or(self.booked, |last| last.max(self.booked)));
        }
        spread(self.booked.saturating_duration_since(now).max(AFTER_MIN))
    }
}

/// How many of those that came on one connection were told to come later, and have not come yet if
/// they do as they were told.
#[derive(Debug, Default)]
pub(super) struct Appointments {
    count: u32,
    last: Option<Instant>,
}

impl Appointments {
    fn may_have_one_more(&mut self, now: Instant, per_second: f64) -> bool {
        if self.last.is_some_and(|last| last <= now) {
            *self = Self::default();
        }
        if f64::from(self.count) >= APPOINTMENT_SECONDS * per_second.max(1.0) {
            return false;
        }
        self.count += 1;
        true
    }
}

/// By chance between half of it and all of it, so that those who were sent away together do not
/// come back together.
pub(super) fn spread(whole: Duration) -> Duration {
    whole / 2 + whole * u32::from(random_u16()) / (2 << 16)
}

/// Not a secret, and asked for with each refusal: the system is asked once.
fn random_u16() -> u16 {
    static STATE: LazyLock<AtomicU64> = LazyLock::new(|| {
        use ring::rand::SecureRandom;
        let mut bytes = [0; 8];
        // Without randomness all controllers have the same row of numbers.
        let _none = ring::rand::SystemRandom::new().fill(&mut bytes);
        AtomicU64::new(u64::from_le_bytes(bytes))
    });
    // Splitmix64.
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let [low, high, ..] = (mixed ^ (mixed >> 31)).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_them_comes_in_and_the_others_are_spread_over_the_time_that_they_take() {
        let now = Instant::now();
        let mut admission = Admission::new(100, now);
        let mut who = Appointments::default();
        for _ in 0..100 {
            assert_eq!(admission.ask(now, &mut who), Ok(()));
        }
        let waits: Vec<_> = (0..1000).map(|_| admission.ask(now, &mut who).unwrap_err()).collect();
        for (n, wait) in (1_u32..).zip(&waits) {
            let whole = (Duration::from_millis(10) * n).max(AFTER_MIN);
            assert!((whole / 2..=whole).contains(wait), "{n}: {wait:?}");
        }
        let later = now + Duration::from_millis(500);
        let admitted = (0..100).filter(|_| admission.ask(later, &mut who).is_ok()).count();
        assert_eq!(admitted, 50);
    }

    #[test]
    fn nobody_is_sent_away_for_ever() {
        let now = Instant::now();
        let mut admission = Admission::new(1, now);
        let ask = |_| admission.ask(now, &mut Appointments::default()).err();
        let longest = (0..10_000).filter_map(ask).max();
        assert!(longest.is_some_and(|longest| longest <= AFTER_MAX));
    }

    #[test]
    fn one_connection_does_not_put_off_all_others() {
        let now = Instant::now();
        let mut admission = Admission::new(100, now);
        let (mut flood, mut other) = (Appointments::default(), Appointments::default());
        for _ in 0..100_000 {
            let _later = admission.ask(now, &mut flood);
        }
        let wait = admission.ask(now, &mut other).unwrap_err();
        assert!(wait <= Duration::from_millis(10_010), "{wait:?}");
        // Once its appointments are over it may have some again.
        let later = now + Duration::from_secs(60);
        for _ in 0..200 {
            let _later = admission.ask(later, &mut flood);
        }
        assert_eq!(flood.count, 100);
    }

    #[test]
    fn waits_are_spread_over_the_whole_second_half() {
        let waits: Vec<_> = (0..1000).map(|_| spread(Duration::from_secs(100))).collect();
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!((50..53).contains(&least.as_secs()), "{least:?}");
        assert!((97..100).contains(&most.as_secs()), "{most:?}");
    }
}
