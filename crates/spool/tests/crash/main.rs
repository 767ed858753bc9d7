//! A front, its main and its standby as processes of their own, killed again and again under load;
//! and an oracle outside of them that knows what was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

#[path = "../store/cluster.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest")]
mod cluster;
#[path = "../store/common.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest")]
mod common;
mod oracle;
mod procs;
mod roles;
mod senders;

use std::time::Duration;

use oracle::Oracle;
use procs::{Dice, Place, is_within};
use senders::Senders;

/// Every step on the way of a request: accept, append, commit, acknowledge, apply, note its end.
const STEPS: [&str; 13] = [
    "front.before_append",
    "store.begin",
    "store.before_commit",
    "store.after_commit",
    "front.after_append",
    "front.before_reply",
    "front.after_reply",
    "front.before_call",
    "front.after_call",
    "front.before_write",
    "store.finish.before_commit",
    "store.finish.after_commit",
    "front.after_write",
];

/// Not a test of its own: what the processes run.
#[test]
fn role() {
    roles::run();
}

fn kills(default: u64) -> u64 {
    let asked = std::env::var("EVERSOCK_SPOOL_KILLS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(default)
}

/// Lets a front live for a moment and die: at a step, or anywhere. While it lives, an operator
/// holds the pair and lets it go, so that all ways are taken.
fn one_life(place: &Place, dice: &mut Dice, step: Option<&str>) {
    let plan = step.map(|step| format!("{step}:{}", 1 + dice.below(12)));
    let mut front = place.front(plan.as_deref());
    for _ in 0..2 + dice.below(4) {
        let command = if dice.below(4) == 0 { "hold" } else { "release" };
        if !front.say(command) {
            break;
        }
        // It ends by itself at the step; the time only bounds how long one that is not come to is
        // waited for.
        let span = Duration::from_millis(5 + dice.below(40));
        if front.ends_within(span) {
            break;
        }
    }
    front.kill();
}

#[test]
fn a_front_that_is_killed_at_every_step_loses_nothing_and_doubles_nothing() {
    let place = Place::new("steps");
    let mut dice = Dice::new(7);
    let mut servers = [place.server(0), place.server(1)];
    let oracle = Oracle::new();
    let senders = Senders::start(&place, &oracle, 6);
    for life in 0..kills(500) {
        let step = usize::try_from(life).unwrap() % (STEPS.len() + 3);
        one_life(&place, &mut dice, STEPS.get(step).copied());
        // Servers die as well, main and standby alike, in the middle of drains.
        if life % 12 == 11 {
            let side = usize::try_from(dice.below(2)).unwrap();
            servers[side].kill();
            servers[side] = place.server(side);
        }
    }
    finish(&place, senders, &oracle);
}

/// Lets everything come to rest, and looks at what the servers have.
fn finish(place: &Place, senders: Senders, oracle: &Oracle) {
    let mut front = place.front(None);
    assert!(front.say("release"));
    senders.finish();
    place.await_drained(&mut front);
    front.kill();
    let effects = place.effects();
    let counts = oracle.check(&effects);
    println!("{counts}");
    assert!(counts.acknowledged > 100, "there was hardly any load: {counts}");
    assert!(counts.spooled > 20, "hardly anything was spooled: {counts}");
}

#[test]
fn a_main_that_is_killed_under_load_is_replaced_and_nothing_is_lost() {
    let place = Place::new("main");
    let oracle = Oracle::new();
    let mut servers = [place.server(0), place.server(1)];
    let mut front = place.front(None);
    assert!(front.say("release"));
    let senders = Senders::start(&place, &oracle, 4);
    for _ in 0..4 {
        oracle.await_more(50);
        let holder = front.holder();
        servers[holder].kill();
        // Writes are acknowledged while there is no main.
        oracle.await_more(50);
        let before = place.epoch();
        place.await_until("the other server is main", || place.epoch() > before);
        servers[holder] = place.server(holder);
        oracle.await_more(50);
    }
    front.kill();
    finish(&place, senders, &oracle);
}

#[test]
fn a_main_that_is_stopped_for_longer_than_its_lease_cannot_write_when_it_wakes() {
    let place = Place::new("stop");
    let oracle = Oracle::new();
    let servers = [place.server(0), place.server(1)];
    let mut front = place.front(None);
    assert!(front.say("release"));
    let senders = Senders::start(&place, &oracle, 4);
    let mut switches = 0;
    for _ in 0..20 {
        oracle.await_more(50);
        let main = front.holder();
        servers[main].stop();
        let before = place.epoch();
        // One that is stopped in the middle of its transaction holds the lock of the database that
        // both share: until it is fenced or wakes, nobody can take over.
        let switched = is_within(Duration::from_secs(8), || place.epoch() > before);
        if switched {
            oracle.await_more(50);
        }
        // With calls in its buffers that were sent before it was stopped.
        servers[main].go_on();
        oracle.await_more(50);
        switches += u32::from(switched);
        if switches == 3 {
            break;
        }
    }
    assert_eq!(switches, 3, "a main that is stopped is not replaced");
    let effects = place.effects();
    let mut highest = 0;
    for effect in &effects {
        assert!(effect.epoch >= highest, "epoch {} after {highest}", effect.epoch);
        highest = effect.epoch;
    }
    front.kill();
    finish(&place, senders, &oracle);
    drop(servers);
}

#[test]
fn a_front_on_postgresql_is_killed_and_so_is_postgresql() {
    let Some(cluster) = cluster::Cluster::new() else { return };
    let mut place = Place::new("postgresql");
    place.postgres = Some(cluster.params());
    let mut dice = Dice::new(11);
    let mut servers = [place.server(0), place.server(1)];
    let oracle = Oracle::new();
    let senders = Senders::start(&place, &oracle, 4);
    for life in 0..kills(500) / 10 {
        let step = usize::try_from(life).unwrap() % (STEPS.len() + 3);
        one_life(&place, &mut dice, STEPS.get(step).copied());
        if life % 6 == 5 {
            // In the middle of what the next front does.
            let mut front = place.front(None);
            assert!(front.say("release"));
            oracle.await_more(5);
            cluster.kill();
            cluster.start();
            oracle.await_more(5);
            front.kill();
        }
        if life % 12 == 11 {
            let side = usize::try_from(dice.below(2)).unwrap();
            servers[side].kill();
            servers[side] = place.server(side);
        }
    }
    finish(&place, senders, &oracle);
}
