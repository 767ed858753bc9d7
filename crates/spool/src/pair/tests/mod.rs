//! Pairs in whole small worlds of virtual time: senders, a store, two servers, and everything that
//! can go wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod cases;
mod check;
mod desk;
mod faults;
mod server;
mod store;
mod world;

use super::{DrainMode, InDoubt, PairConfig, Reads};
use crate::target::Class;
use world::{Plan, World};

/// Numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn config(dice: &mut Dice, class: Class) -> PairConfig {
    PairConfig {
        classes: [class; 2],
        reads: [Reads::Wait, Reads::Overlay, Reads::Stale, Reads::Job]
            [usize::try_from(dice.below(4)).unwrap()],
        delete_as_write: !dice.one_in(8),
        drain: if dice.one_in(2) { DrainMode::Before } else { DrainMode::Parallel },
        in_doubt: InDoubt::Retry,
        lease: 2_000_000 + dice.below(4_000_000),
        flap_guard: dice.below(8_000_000),
        call_timeout: 200_000 + dice.below(1_000_000),
        confirm: 200_000 + dice.below(1_000_000),
        probe_every: 200_000 + dice.below(500_000),
        probe_timeout: 300_000,
        quota_records: if dice.one_in(4) { 20 } else { 1_000_000 },
        hold_max: if dice.one_in(4) { 3 } else { 1000 },
        drain_window_max: 1 + usize::try_from(dice.below(64)).unwrap(),
        drain_calls_max: 1 + usize::try_from(dice.below(4)).unwrap(),
        drain_rate: if dice.one_in(6) { 200 } else { 0 },
        freeze: dice.below(300_000),
        ..PairConfig::default()
    }
}

fn run(seed: u64, class: Class, in_doubt: InDoubt) {
    let mut dice = Dice(seed);
    let mut config = config(&mut dice, class);
    config.in_doubt = in_doubt;
    let plan = Plan::of(&mut dice);
    let mut world = World::new(seed, config, plan, dice);
    world.run();
}

/// So many seeds in each run of the suite; `EVERSOCK_SPOOL_SEEDS` asks for more, and
/// `EVERSOCK_SPOOL_SEED` for a single one.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("EVERSOCK_SPOOL_SEED") {
        return seed..seed + 1;
    }
    0..number("EVERSOCK_SPOOL_SEEDS").unwrap_or(default)
}

#[test]
fn with_a_ledger_each_acknowledged_write_takes_effect_once_and_in_order() {
    for seed in seeds(1500) {
        run(seed, Class::Ledger, InDoubt::Retry);
    }
}

#[test]
fn servers_for_which_twice_is_once_end_with_the_newest_write() {
    for seed in seeds(500) {
        run(seed, Class::Idempotent, InDoubt::Retry);
    }
}

#[test]
fn servers_without_either_lose_nothing_when_asked_again() {
    for seed in seeds(300) {
        run(seed, Class::Opaque, InDoubt::Retry);
    }
}

#[test]
fn servers_without_either_do_nothing_twice_when_doubts_are_dropped() {
    for seed in seeds(300) {
        run(seed, Class::Opaque, InDoubt::Skip);
    }
}

#[test]
fn what_waits_for_an_operator_is_done_when_the_operator_says_so() {
    for seed in seeds(300) {
        run(seed, Class::Opaque, InDoubt::Hold);
    }
}
