//! Shards: registrations case by case, and whole worlds of controllers, devices and links in
//! virtual time with everything that can go wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod registrations;
mod world;

use world::{Plan, World};

/// Numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// So many seeds in each run of the suite; `EVERSOCK_SEEDS` asks for more, and `EVERSOCK_SEED` for
/// a single one, whose steps are printed.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("EVERSOCK_SEED") {
        return seed..seed + 1;
    }
    0..number("EVERSOCK_SEEDS").unwrap_or(default)
}

fn run(seeds: std::ops::Range<u64>, plan: impl Fn(&mut Dice) -> Plan) {
    for seed in seeds {
        let mut dice = Dice(seed);
        let plan = plan(&mut dice);
        World::new(seed, plan, dice).run();
    }
}

#[test]
fn controllers_that_keep_their_disks_end_with_all_that_was_ever_said() {
    run(seeds(2500), |dice| Plan { is_lossy: false, ..Plan::any(dice) });
}

#[test]
fn controllers_that_lose_their_disks_or_come_back_from_backups_agree_again() {
    run(seeds(2500), |dice| Plan { is_lossy: true, ..Plan::any(dice) });
}

#[test]
fn devices_whose_counters_go_back_are_served_by_one_controller_in_the_end() {
    run(seeds(1200), |dice| Plan { is_unreliable: true, ..Plan::any(dice) });
}

#[test]
fn large_tables_go_in_several_chunks_and_within_the_window() {
    run(seeds(100), |dice| {
        let snapshot_from = if dice.one_in(2) { 1000 } else { 5 };
        Plan { is_bulky: true, slow: 1500, snapshot_from, ..Plan::any(dice) }
    });
}

#[test]
fn one_seed_is_one_world() {
    let world = |seed| {
        let mut dice = Dice(seed);
        let plan = Plan::any(&mut dice);
        World::new(seed, plan, dice).run()
    };
    assert_eq!(world(7), world(7));
    assert_ne!(world(7), world(8));
}
