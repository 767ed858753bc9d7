//! Times, counted in buckets that are an eighth wide.

use std::time::Duration;

/// Buckets of one power of two.
const PARTS: u64 = 8;
const PARTS_LOG: u32 = 3;
const BUCKETS: usize = 64 * 8;

/// How long things took. What is read from it is at most an eighth too long.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    longest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0, longest: 0 }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("median", &self.quantile(50.0))
            .field("longest", &self.longest())
            .finish()
    }
}

impl Histogram {
    /// One more, in milliseconds.
    pub fn add(&mut self, millis: u64) {
        self.counts[bucket(millis)] += 1;
        self.count += 1;
        self.longest = self.longest.max(millis);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.longest)
    }

    /// So many of 100 took this long at most; zero if there is none.
    #[must_use]
    pub fn quantile(&self, percent: f64) -> Duration {
        let mut left = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        for (i, count) in self.counts.iter().enumerate() {
            if left <= *count {
                return Duration::from_millis(last_of(i).min(self.longest));
            }
            left -= count;
        }
        self.longest()
    }
}

fn bucket(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let power = value.ilog2();
    let part = (value >> (power - PARTS_LOG)) & (PARTS - 1);
    ((u64::from(power - PARTS_LOG + 1) * PARTS) + part) as usize
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let power = bucket / PARTS + u64::from(PARTS_LOG) - 1;
    let first = (PARTS + bucket % PARTS) << (power - u64::from(PARTS_LOG));
    first + ((1 << (power - u64::from(PARTS_LOG))) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bucket() {
        let near = (0..64).flat_map(|power| {
            let value = 1u64 << power;
            [value - 1, value, value + value / 3, value + (value - 1)]
        });
        for value in near.chain(0..5_000) {
            let bucket = bucket(value);
            assert!(last_of(bucket) >= value, "{value}");
            assert!(last_of(bucket) - value <= value / 8, "{value}");
            assert!(bucket == 0 || last_of(bucket - 1) < value, "{value}");
        }
    }

    #[test]
    fn quantiles_are_as_they_should() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(99.0), Duration::ZERO);
        (1..=1_000).for_each(|millis| histogram.add(millis));
        let near = |percent, millis: u64| {
            let found = histogram.quantile(percent).as_millis() as u64;
            assert!((millis..=millis + millis / 8).contains(&found), "{percent}: {found}");
        };
        near(50.0, 500);
        near(99.0, 990);
        assert_eq!(histogram.quantile(100.0), Duration::from_millis(1_000));
        assert_eq!(histogram.longest(), Duration::from_millis(1_000));
    }
}
