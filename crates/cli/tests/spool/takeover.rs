//! The main dies, and nobody who writes notices.

use crate::world::{World, subjects, write};

#[test]
fn a_main_that_is_killed_costs_no_write() {
    let mut world = World::new();
    let front = world.start();
    let sender = front.sender();
    let before = world.wait_until_normal();
    let holder = usize::try_from(before["live"]["holder"].as_u64().unwrap()).unwrap();
    let epoch = before["live"]["epoch"].as_u64().unwrap();

    let mut sent = Vec::new();
    for n in 0..10 {
        let subject = format!("before {n}");
        write(&sender, "alice", &subject);
        sent.push(subject);
    }
    // By its pid.
    world.servers[holder].child.kill().unwrap();
    for n in 0..20 {
        let subject = format!("after {n}");
        write(&sender, "alice", &subject);
        sent.push(subject);
    }
    let after = world.wait_for_pair("served by the other server", |pair| {
        let live = &pair["live"];
        pair["state"] == "normal" && live["holder"] != holder && pair["spool"]["pending"] == 0
    });
    assert!(after["live"]["epoch"].as_u64().unwrap() > epoch, "{after:#}");
    assert!(after["live"]["counters"]["switched"].as_u64().unwrap() >= 1, "{after:#}");
    assert!(after["live"]["counters"]["spooled"].as_u64().unwrap() >= 1, "{after:#}");
    // Every one, once, in the order in which they were acknowledged.
    assert_eq!(subjects(&sender, "alice"), sent);
    front.stop();
}

#[test]
fn a_front_that_is_killed_has_lost_nothing_that_it_acknowledged() {
    let world = World::new();
    let front = world.start();
    world.wait_until_normal();
    world.json(&["hold", "mail"]);
    let sender = front.sender();
    let sent: Vec<String> = (0..15).map(|n| format!("held {n}")).collect();
    for subject in &sent {
        write(&sender, "bob", subject);
    }
    sender.close();
    let control = front.ready["control"].as_str().unwrap().to_owned();
    front.kill();
    // It has left its socket behind, which is no hindrance for the next.
    assert!(std::path::Path::new(&control).exists());
    assert_eq!(world.json(&["stat"])[0]["state"], "stopped");

    let front = world.start();
    let pair = world.wait_for_pair("on hold still", |pair| pair["live"]["on_hold"] == true);
    assert_eq!(pair["spool"]["pending"], 15, "{pair:#}");
    let done = world.json(&["drain", "mail", "--timeout", "60s"]);
    assert_eq!(done["drained"], 15, "{done}");
    assert_eq!(subjects(&front.sender(), "bob"), sent);
    front.stop();
    assert!(!std::path::Path::new(&control).exists());
}
