//! Figures: times, what a process holds, and the summary of a run.

use std::fs;
use std::io::{self, Read as _};

use serde::{Deserialize, Serialize};

/// Sub-buckets of each power of two: what is read from the table is at most 1/64 too large.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = SUB * (64 - SUB_BITS as usize + 1);

/// How often each time was met, in bounded memory.
#[derive(Debug)]
pub(super) struct Times {
    counts: Box<[u64]>,
    count: u64,
    most: u64,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, most: 0 }
    }

    fn bucket(value: u64) -> usize {
        let Some(shift) = (u64::BITS - value.leading_zeros()).checked_sub(SUB_BITS + 1) else {
            return value as usize;
        };
        SUB * shift as usize + (value >> shift) as usize
    }

    /// The greatest value of a bucket.
    fn top(bucket: usize) -> u64 {
        let Some(shift) = (bucket / SUB).checked_sub(1) else { return bucket as u64 };
        let low = (bucket - SUB * shift) as u64;
        (low << shift) + ((1_u64 << shift) - 1)
    }

    pub(super) fn add(&mut self, value: u64) {
        self.counts[Self::bucket(value)] += 1;
        self.count += 1;
        self.most = self.most.max(value);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// The value that so many thousandths do not exceed.
    pub(super) fn per_mille(&self, thousandths: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(thousandths);
        let rank = u64::try_from(rank.div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Self::top(bucket).min(self.most);
            }
        }
        self.most
    }
}

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Anonymous memory that is resident.
    pub(super) memory_bytes: u64,
    pub(super) descriptors: u64,
}

impl Held {
    /// By this process, now.
    pub(super) fn now() -> io::Result<Self> {
        let mut status = String::new();
        fs::File::open("/proc/self/status")?.read_to_string(&mut status)?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        // The listing has a descriptor of its own.
        let descriptors = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64;
        Ok(Self { memory_bytes: kib.unwrap_or(0) * 1024, descriptors })
    }
}

/// One process of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) name: String,
    /// When a quarter of the time was over; none if the run ended sooner.
    pub(super) first_quarter: Option<Held>,
    /// When the time was over, with all sessions still there.
    pub(super) end: Option<Held>,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Trips {
    pub(super) count: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
}

impl Trips {
    pub(super) fn of(times: &Times) -> Self {
        let at = |thousandths| if times.count() == 0 { 0 } else { times.per_mille(thousandths) };
        Self {
            count: times.count(),
            p50_us: at(500),
            p99_us: at(990),
            p999_us: at(999),
            max_us: times.most(),
        }
    }
}

/// What the side that connects has to say at the end.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Every byte was what it should be, and no session failed.
    pub(super) ok: bool,
    pub(super) ended_by: &'static str,
    pub(super) elapsed_ms: u64,
    pub(super) mode: &'static str,
    pub(super) seed: u64,
    /// As many were to be open at one time.
    pub(super) sessions: usize,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
    /// Sessions whose open broke off; each was tried anew.
    pub(super) unopened: u64,
    /// Sessions that carried a wrong byte, at either end.
    pub(super) mismatches: u64,
    pub(super) sent_bytes: u64,
    /// Compared with what they should be, at this side.
    pub(super) verified_bytes: u64,
    /// The same at the far side, if that is our own process.
    pub(super) verified_bytes_far: Option<u64>,
    pub(super) round_trips: Trips,
    pub(super) resumes: u64,
    pub(super) replayed_bytes: u64,
    /// Connections that the proxy has cut; none without a proxy.
    pub(super) cuts: Option<u64>,
    /// Round trips that took more than 20 ms and had a change of connection in them.
    pub(super) stalls: u64,
    /// The longest of these.
    pub(super) stall_max_ms: u64,
    pub(super) processes: Vec<Process>,
    /// The first things that went wrong.
    pub(super) errors: Vec<String>,
}

/// What the far side has to say at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Far {
    pub(super) accepted: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
    /// Ended before they had said what they are to carry.
    pub(super) unused: u64,
    pub(super) mismatches: u64,
    pub(super) sent_bytes: u64,
    pub(super) verified_bytes: u64,
    pub(super) errors: Vec<String>,
    pub(super) process: Process,
}

/// So many errors are kept; the rest is counted.
pub(super) const ERRORS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_from_the_table_is_what_was_put_in_to_a_sixty_fourth() {
        for value in [0, 1, 63, 64, 127, 128, 1000, 123_456_789, u64::MAX] {
            let mut times = Times::new();
            times.add(value);
            times.add(u64::MAX);
            let top = times.per_mille(500);
            assert!(top >= value && top - value <= value / 64, "{value} {top}");
        }
    }

    #[test]
    fn per_milles_are_ranks() {
        let mut times = Times::new();
        (1..=1000).for_each(|value| times.add(value));
        let near = |value: u64, wanted: u64| value >= wanted && value <= wanted + wanted / 64;
        assert!(near(times.per_mille(500), 500), "{}", times.per_mille(500));
        assert!(near(times.per_mille(990), 990) && near(times.per_mille(999), 999));
        assert_eq!((times.per_mille(1000), times.most(), times.count()), (1000, 1000, 1000));
    }

    #[test]
    fn the_descriptors_of_this_process_are_counted() {
        // Other tests open some meanwhile, but never so many.
        let files: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let held = Held::now().unwrap();
        assert!(held.descriptors >= files.len() as u64 && held.memory_bytes > 0, "{held:?}");
    }
}
