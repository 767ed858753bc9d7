//! How devices go home when their home is back.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::controller::{Happened, What};
use crate::lab::{Lab, PARAMETERS};
use crate::site::wait_for;

/// Of [`PARAMETERS`].
const PER_SECOND: u64 = 20;
const COUNT: usize = 67;

/// All devices of `a` are at `b`, and `a` is back and knows it.
fn taken_over(name: &str, policy: &str) -> Option<Lab> {
    let mut lab = Lab::new(name)?;
    for controller in ["a", "b", "c"] {
        lab.setup(controller).parameters = format!("{PARAMETERS}fail-back = \"{policy}\"\n");
    }
    lab.start_all();
    lab.fleet("d", &crate::lab::groups(0..COUNT));
    lab.settle(200);
    lab.assert_at_home();
    lab.kill("a");
    wait_for("the devices of a are at b", || lab.at("a", "b") == COUNT);
    lab.events("b");
    lab.start("a");
    Some(lab)
}

/// The milliseconds at which devices were seen to move to `a`, and what was ordered before.
struct Moves {
    ordered: Option<u64>,
    home: Vec<u64>,
    failed: u64,
}

fn moves(events: &[Happened]) -> Moves {
    let ordered = events.iter().filter(|one| one.what == What::Ordered).map(|one| one.at).next();
    let is_home = |one: &&Happened| matches!(&one.what, What::Owner { now, .. } if now == "a");
    let home = events.iter().filter(is_home).map(|one| one.at).collect();
    let failed = events.iter().map(|one| match one.what {
        What::HandedOver { failed, .. } => failed,
        _ => 0,
    });
    Moves { ordered, home, failed: failed.sum() }
}

/// Never above the rate: what has arrived by any time has begun by then. The pace holds for any
/// second, so that in `t` seconds that began `t + 1` times as many may have begun.
fn assert_paced(moves: &Moves) {
    assert_eq!(moves.failed, 0);
    assert_eq!(moves.home.len(), COUNT, "each has moved once");
    let begin = moves.ordered.unwrap_or_else(|| {
        // What was under way at the first arrival began before it; the rest may have been noted
        // a while late.
        moves.home[0].saturating_sub(1_500)
    });
    for (arrived, at) in (1..).zip(&moves.home) {
        let most = PER_SECOND * ((at - begin) / 1_000 + 1);
        assert!(arrived <= most, "{arrived} within {} ms: {:?}", at - begin, moves.home);
    }
}

/// It comes to rest with the devices of `a` at that controller.
fn rests_with(lab: &mut Lab, controller: &str) {
    let table = lab.settle(200);
    assert!(table.iter().filter(|e| e.home == "a").all(|entry| entry.owner == controller));
    assert!(table.iter().filter(|e| e.home != "a").all(|entry| entry.owner == entry.home));
    lab.request_all();
}

#[test]
fn recovery_policy_manual() {
    let Some(mut lab) = taken_over("manual", "manual") else { return };
    lab.wait_linked();
    rests_with(&mut lab, "b");
    let forwarded = lab.status("a").counts.requests_forwarded;
    assert!(forwarded >= COUNT as u64, "what is asked of a goes to b");
    // Somebody says so.
    lab.ask("b", "fail-back a");
    wait_for("all are home", || lab.at("a", "a") == COUNT);
    rests_with(&mut lab, "a");
    assert_paced(&moves(&lab.events("b")));
    lab.close("recovery_policy_manual");
}

/// A window around so many minutes from now.
fn window(minutes: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let time = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    format!("window {}-{}", time(now + minutes - 60), time(now + minutes + 60))
}

#[test]
fn recovery_policy_window() {
    let Some(mut lab) = taken_over("window", &window(12 * 60)) else { return };
    lab.wait_linked();
    rests_with(&mut lab, "b");
    // The window is now, by the parameters that all share.
    let text = format!("{PARAMETERS}fail-back = \"{}\"\n", window(0));
    lab.set_parameters("b", &text);
    wait_for("all have them", || {
        ["a", "b", "c"].iter().all(|name| lab.status(name).generation == 1)
    });
    wait_for("all are home", || lab.at("a", "a") == COUNT);
    rests_with(&mut lab, "a");
    assert_paced(&moves(&lab.events("b")));
    lab.close("recovery_policy_window");
}

#[test]
fn recovery_policy_automatic() {
    let Some(mut lab) = taken_over("automatic", "auto 2s") else { return };
    wait_for("all are home", || lab.at("a", "a") == COUNT);
    rests_with(&mut lab, "a");
    let events = lab.events("b");
    assert_paced(&moves(&events));
    // Not before it has been in sync for so long.
    let is_in_sync = |one: &&Happened| {
        matches!(&one.what, What::Sync { partition, partner, state }
            if (partition.as_str(), partner.as_str(), state.as_str()) == ("a", "a", "in-sync"))
    };
    let in_sync = events.iter().find(is_in_sync).map(|one| one.at).unwrap();
    let first = moves(&events).home[0];
    assert!(first + 100 >= in_sync + 2_000, "in sync at {in_sync}, the first at {first}");
    lab.close("recovery_policy_automatic");
}

/// The home comes back and dies again and again, each time before it has been there for as long as
/// it takes to be trusted.
#[test]
fn home_flapping() {
    let Some(mut lab) = taken_over("flapping", "auto 5s") else { return };
    let mut is_swift = true;
    for _ in 0..4 {
        let began = Instant::now();
        wait_for("b and c are linked to a", || {
            ["b", "c"]
                .iter()
                .all(|name| lab.status(name).partners.iter().all(|link| link.state == "up"))
        });
        lab.kill("a");
        // Should the machine have stood still for so long, this is another test.
        is_swift &= began.elapsed().as_secs() < 5;
        assert!(!is_swift || lab.at("a", "b") == COUNT, "nobody moves");
        lab.start("a");
    }
    wait_for("all are home in the end", || lab.at("a", "a") == COUNT);
    rests_with(&mut lab, "a");
    // Once from b to a, and nothing else.
    let events = lab.events("b");
    let moved = events.iter().filter(|one| matches!(one.what, What::Owner { .. })).count();
    assert!(!is_swift || moved == COUNT, "{moved} moves");
    if is_swift {
        assert_paced(&moves(&events));
    }
    lab.close("home_flapping");
}
