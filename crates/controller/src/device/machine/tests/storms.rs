//! Controllers that fail, and controllers that lie.

use super::world::{Manner, World};
use super::*;

fn quick(controllers: &[&str]) -> Policy {
    Policy { cap: 60_000, handshake_min: 500, ..policy(controllers) }
}

/// Not more than 8 and one in 2 s, in any time. An attempt may be sent up to `lag` after it began,
/// as a connection is made first.
fn assert_paced(times: &[Millis], lag: Millis) {
    for (i, begin) in times.iter().enumerate() {
        for (j, end) in times.iter().enumerate().skip(i) {
            let count = (j - i + 1) as u64;
            assert!(count <= 8 + (end - begin + lag) / 2_000, "{count} in {} ms", end - begin);
        }
    }
}

fn manner(rng: &mut Rng) -> Manner {
    match rng.upto(14) {
        0 | 1 => Manner::Away,
        2 => Manner::Silent,
        3 => Manner::Retries([0, 500, 30_000, u64::MAX][rng.upto(3) as usize]),
        4 => Manner::Refuses,
        5 => Manner::JumpsTo([u64::MAX, 1 << 62, 1 << 41, 0][rng.upto(3) as usize]),
        6 => Manner::JumpsOn,
        7 => Manner::Storms,
        8 => Manner::HandsOn,
        9 => Manner::Hangs([0, 1_000, u64::MAX][rng.upto(2) as usize]),
        10 => Manner::Lies,
        _ => Manner::Honest,
    }
}

/// Whatever happens for ten minutes: when a controller works, the device is registered; its
/// counters grow all the time (the world checks each), and its attempts are paced.
#[test]
fn it_always_ends_registered() {
    for seed in 0..2_000 {
        let mut rng = Rng::new(seed);
        let names = &["home", "b1", "b2", "b3"][..1 + rng.upto(3) as usize];
        let counter = [None, Some(0), Some(1 << 20)][rng.upto(2) as usize];
        let mut world = World::new(quick(names), counter, seed);
        let end = 600_000;
        while world.now < end {
            for i in 0..names.len() {
                world.manners[i] = manner(&mut rng);
            }
            world.losses = [0, 0, 5, 30][rng.upto(3) as usize];
            world.delay = [10, 200, 20_000][rng.upto(2) as usize];
            world.linked = rng.upto(3) > 0;
            if rng.upto(9) == 0 {
                let seed = rng.next();
                world.restart(rng.upto(1) == 0, seed);
                // A new process has its burst again.
                world.begun.clear();
            }
            let time = 100 + rng.upto(60_000);
            world.run(time);
            assert_paced(&world.begun, 15_000);
        }
        (world.losses, world.delay, world.linked) = (0, 50, true);
        // One that works is enough.
        world.manners.fill(Manner::Away);
        let one = rng.upto(names.len() as u64 - 1) as usize;
        world.manners[one] = Manner::Honest;
        // Waits of a minute for each, and what a controller has said of coming again.
        world.run(600_000);
        let registered = world.machine.registered().map(|(controller, _)| controller.as_str());
        assert_eq!(registered, Some(names[one]), "seed {seed}");
        world.manners.fill(Manner::Honest);
        world.exchange();
        world.run(60_000);
        world.assert_agreed();
        assert_paced(&world.begun, 15_000);
        assert!(world.sent.len() <= 6 * world.begun.len() + 300, "seed {seed}");
    }
}

/// Each bad manner, alone and for long: few attempts.
#[test]
fn attempts_are_bounded_whatever_controllers_say() {
    let manners = [
        (Manner::Away, 60),
        (Manner::Silent, 130),
        (Manner::Retries(0), 700),
        (Manner::Retries(u64::MAX), 130),
        (Manner::Refuses, 400),
        (Manner::JumpsTo(u64::MAX), 400),
        (Manner::JumpsOn, 800),
        (Manner::Storms, 1_810),
        (Manner::HandsOn, 1_810),
        (Manner::Hangs(0), 130),
        (Manner::Lies, 1_810),
    ];
    for (manner, most) in manners {
        let mut world = World::new(quick(&["home", "b1"]), Some(0), 5);
        world.manners.fill(manner);
        world.run(3_600_000);
        let begun = world.begun.len();
        assert_paced(&world.begun, 200);
        assert!(begun <= most, "{manner:?}: {begun} registrations in an hour");
        assert!(world.sent.len() <= 3 * begun + 3, "{manner:?}: {}", world.sent.len());
        assert!(world.opens.len() <= 2_000, "{manner:?}: {} connections", world.opens.len());
    }
}

#[test]
fn only_a_device_that_lost_its_home_moves_and_it_comes_back_only_when_told() {
    let mut world = World::new(quick(&["home", "b1"]), None, 3);
    world.run(10_000);
    assert_eq!(world.machine.state(), State::Home);
    world.manners[0] = Manner::Silent;
    world.run(20_000);
    assert_eq!(world.machine.state(), State::Backup);
    world.manners[0] = Manner::Honest;
    world.run(3_600_000);
    assert_eq!(world.machine.state(), State::Backup);
    world.assert_agreed();
    let lost = |event: &&Event| matches!(event, Event::Lost { .. });
    assert_eq!(world.events_seen.iter().filter(lost).count(), 1);
}
