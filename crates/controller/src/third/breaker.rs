//! Keeps from asking a controller that does not answer.

use crate::shard::Millis;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// So many failures in a row open it; at least one.
    pub failures_max: u32,
    /// How long it stays open after the first time; twice as long after each time that follows
    /// without a success in between.
    pub pause: Millis,
    /// How long at most.
    pub pause_max: Millis,
}

impl Default for BreakerConfig {
    /// Three failures; a second to a minute.
    fn default() -> Self {
        Self { failures_max: 3, pause: 1000, pause_max: 60_000 }
    }
}

/// Whether something may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As much as one likes.
    Free,
    /// This one, to see whether it works again. Until it is told what came of it nothing else.
    Probe,
    /// Nothing before then, or before a probe has ended.
    Closed {
        /// When to look again.
        until: Millis,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Works { failures: u32 },
    Pauses { until: Millis },
    Probes,
}

/// Counts failures in a row and opens the circuit when there are too many; after a pause one probe
/// is let through. Pure; pauses are 50 to 100 % of what is due, by the seed, so that many who
/// lost the same controller do not come back at the same time.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    seed: u64,
    state: State,
    /// Pauses since the last success.
    pauses: u32,
}

impl Breaker {
    /// One that lets all through.
    #[must_use]
    pub fn new(config: BreakerConfig, seed: u64) -> Self {
        Self { config, seed, state: State::Works { failures: 0 }, pauses: 0 }
    }

    /// What [`Self::admit`] would say; takes no probe.
    #[must_use]
    pub fn would_admit(&self, now: Millis) -> Admission {
        match self.state {
            State::Works { .. } => Admission::Free,
            State::Pauses { until } if until <= now => Admission::Probe,
            State::Pauses { until } => Admission::Closed { until },
            State::Probes => Admission::Closed { until: now.saturating_add(self.config.pause) },
        }
    }

    /// Whether something may be sent now. After [`Admission::Probe`], [`Self::succeeded`] or
    /// [`Self::failed`] has to be called sometime.
    pub fn admit(&mut self, now: Millis) -> Admission {
        let admission = self.would_admit(now);
        if admission == Admission::Probe {
            self.state = State::Probes;
        }
        admission
    }

    /// It has answered, whatever it said.
    pub fn succeeded(&mut self) {
        self.state = State::Works { failures: 0 };
        self.pauses = 0;
    }

    /// It has not answered. Gives whether that opened the circuit.
    pub fn failed(&mut self, now: Millis) -> bool {
        match self.state {
            State::Works { failures } if failures + 1 < self.config.failures_max => {
                self.state = State::Works { failures: failures + 1 };
                false
            }
            // What was sent before the pause says nothing new.
            State::Pauses { .. } => false,
            State::Works { .. } | State::Probes => {
                self.state = State::Pauses { until: now.saturating_add(self.next_pause()) };
                true
            }
        }
    }

    fn next_pause(&mut self) -> Millis {
        let doubled = self.config.pause.saturating_mul(1 << self.pauses.min(32));
        self.pauses = self.pauses.saturating_add(1);
        let full = doubled.min(self.config.pause_max).max(2);
        full - below(&mut self.seed, full / 2 + 1)
    }
}

/// The next number below a bound, of a row that the seed begins (splitmix64).
pub(super) fn below(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // The high half of the product: below the bound, as the first factor is below 2^64.
    u64::try_from((u128::from(mixed) * u128::from(bound)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig { failures_max: 3, pause: 1000, pause_max: 60_000 };

    fn opened_at(breaker: &Breaker, now: Millis) -> Millis {
        match breaker.would_admit(now) {
            Admission::Closed { until } => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn opens_after_failures_in_a_row() {
        let mut breaker = Breaker::new(CONFIG, 1);
        assert!(!breaker.failed(0) && !breaker.failed(0));
        breaker.succeeded();
        assert!(!breaker.failed(0) && !breaker.failed(0));
        assert_eq!(breaker.admit(0), Admission::Free);
        assert!(breaker.failed(0));
        let until = opened_at(&breaker, 0);
        assert!((500..=1000).contains(&until), "{until}");
        assert!(!breaker.failed(10), "one that was under way does not make it longer");
        assert_eq!(opened_at(&breaker, 10), until);
        assert_eq!(breaker.would_admit(until), Admission::Probe);
    }

    #[test]
    fn lets_one_probe_through() {
        let mut breaker = Breaker::new(BreakerConfig { failures_max: 1, ..CONFIG }, 1);
        breaker.failed(0);
        assert_eq!(breaker.admit(2000), Admission::Probe);
        assert!(matches!(breaker.admit(2000), Admission::Closed { .. }));
        assert!(breaker.failed(2000));
        let until = opened_at(&breaker, 2000);
        assert!((3000..=4000).contains(&until), "twice as long: {until}");
        assert_eq!(breaker.admit(until), Admission::Probe);
        breaker.succeeded();
        assert_eq!(breaker.admit(until), Admission::Free);
        breaker.failed(until);
        assert!(opened_at(&breaker, until) <= until + 1000, "it begins anew");
    }

    proptest! {
        /// At any failure rate, and for any seed: pauses stay within their bounds, spread, and no
        /// more than one probe is under way.
        #[test]
        fn pauses_are_bounded(
            seed in any::<u64>(),
            steps in prop::collection::vec(0..4_u8, 1..200),
        ) {
            let mut breaker = Breaker::new(CONFIG, seed);
            let (mut now, mut probing, mut in_a_row) = (0_u64, false, 0_u32);
            for step in steps {
                match step {
                    0 => now += 700,
                    1 => {
                        let admission = breaker.admit(now);
                        prop_assert!(!probing || admission != Admission::Probe);
                        prop_assert!(!probing || admission != Admission::Free);
                        probing |= admission == Admission::Probe;
                    }
                    2 => {
                        breaker.succeeded();
                        (probing, in_a_row) = (false, 0);
                    }
                    _ => {
                        let opened = breaker.failed(now);
                        in_a_row += 1;
                        prop_assert!(!opened || probing || in_a_row >= 3);
                        if opened {
                            probing = false;
                            let pause = opened_at(&breaker, now) - now;
                            prop_assert!((500..=60_000).contains(&pause), "{pause}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn seeds_spread_pauses() {
        let pauses: std::collections::BTreeSet<_> = (0..100)
            .map(|seed| {
                let mut breaker = Breaker::new(BreakerConfig { failures_max: 1, ..CONFIG }, seed);
                breaker.failed(0);
                opened_at(&breaker, 0)
            })
            .collect();
        assert!(pauses.len() > 60, "{pauses:?}");
    }
}
