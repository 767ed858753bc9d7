//! How long something took, of the last ten seconds.

use std::time::{Duration, Instant};

/// Seconds that are looked at.
const SLOTS: usize = 10;
/// Four for each doubling, from a microsecond on: to 2^24 us, about 17 s.
const BUCKETS: usize = 97;

/// Counts of times by their length, in slots of a second.
pub(super) struct Latencies {
    began: Instant,
    slots: Vec<Slot>,
}

struct Slot {
    second: u64,
    counts: [u32; BUCKETS],
}

impl Latencies {
    pub(super) fn new(now: Instant) -> Self {
        let slots = (0..SLOTS).map(|_| Slot { second: u64::MAX, counts: [0; BUCKETS] }).collect();
        Self { began: now, slots }
    }

    pub(super) fn add(&mut self, now: Instant, took: Duration) {
        let second = self.second(now);
        let at = usize::try_from(second).unwrap_or(0) % SLOTS;
        let slot = &mut self.slots[at];
        if slot.second != second {
            *slot = Slot { second, counts: [0; BUCKETS] };
        }
        slot.counts[bucket(took)] += 1;
    }

    /// The 99th of 100; zero if there was none.
    pub(super) fn p99(&self, now: Instant) -> Duration {
        let mut sums = [0_u64; BUCKETS];
        for slot in self.recent(now) {
            for (sum, count) in sums.iter_mut().zip(&slot.counts) {
                *sum += u64::from(*count);
            }
        }
        let all: u64 = sums.iter().sum();
        let mut left = all.div_ceil(100);
        for (at, count) in sums.iter().enumerate().rev() {
            if *count >= left && left > 0 {
                return upper(at);
            }
            left = left.saturating_sub(*count);
        }
        Duration::ZERO
    }

    /// How many there were per second.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let sum: u64 =
            self.recent(now).flat_map(|slot| &slot.counts).map(|count| u64::from(*count)).sum();
        let seconds = (self.second(now) + 1).min(SLOTS as u64);
        #[expect(clippy::cast_precision_loss, reason = "counts of ten seconds")]
        {
            sum as f64 / seconds as f64
        }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    fn recent(&self, now: Instant) -> impl Iterator<Item = &Slot> {
        let second = self.second(now);
        let is_recent =
            move |slot: &&Slot| slot.second <= second && second - slot.second < SLOTS as u64;
        self.slots.iter().filter(is_recent)
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doublings = micros.ilog2();
    // The two bits behind the highest one.
    let quarter = if doublings >= 2 { (micros >> (doublings - 2)) & 3 } else { 0 };
    usize::try_from(u64::from(doublings) * 4 + quarter)
        .map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The longest time that falls into a bucket.
fn upper(at: usize) -> Duration {
    let (doublings, quarter) = (at / 4, at % 4);
    Duration::from_micros(((quarter as u64 + 5) << doublings) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_100_is_found_within_a_quarter() {
        let now = Instant::now();
        let mut latencies = Latencies::new(now);
        assert_eq!(latencies.p99(now), Duration::ZERO);
        for micros in 1..=1000 {
            latencies.add(now, Duration::from_micros(micros));
        }
        let p99 = latencies.p99(now);
        assert!((990..=1280).contains(&p99.as_micros()), "{p99:?}");
        assert!((latencies.rate(now) - 1000.0).abs() < 1.0);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let now = Instant::now();
        let mut latencies = Latencies::new(now);
        latencies.add(now, Duration::from_secs(100_000));
        assert!(latencies.p99(now) >= Duration::from_secs(16));
        let later = now + Duration::from_secs(9);
        latencies.add(later, Duration::from_micros(7));
        assert!(latencies.p99(later) >= Duration::from_secs(16));
        let later = now + Duration::from_secs(10);
        assert!(latencies.p99(later) <= Duration::from_micros(8));
        assert!(latencies.p99(now + Duration::from_secs(100)) == Duration::ZERO);
    }
}
