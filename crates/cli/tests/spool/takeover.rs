//! The main dies, and nobody who writes notices.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::common::{Place, Running};
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

/// An address that no other process of this test binds: ports can be named before they are bound.
fn own_address() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let nth = COUNT.fetch_add(1, Ordering::Relaxed);
    // Process ids have 22 bits at most.
    format!("127.{}.{middle}.{low}:{}", 64 + high, 20_000 + u16::from(nth))
}

/// Two servers with a directory each, which push what they do to each other.
fn replicas(place: &Place) -> Vec<Running> {
    let pushed_to = [own_address(), own_address()];
    let start = |own: usize| {
        let dir = place.file(["left-mail", "right-mail"][own]);
        place.start(&[
            "spool",
            "backend",
            "mail",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--dir",
            dir.to_str().unwrap(),
            "--replica-listen",
            &pushed_to[own],
            "--replica-peer",
            &pushed_to[1 - own],
            "--in-sync",
            "15s",
            "--watch",
            &pushed_to[1 - own],
        ])
    };
    vec![start(0), start(1)]
}

#[test]
fn a_standby_with_a_directory_of_its_own_has_all_that_was_acknowledged() {
    let mut world = World::of(replicas);
    let front = world.start();
    let sender = front.sender();
    let before = world.wait_for_pair("normal with a standby", |pair| {
        pair["state"] == "normal" && pair["live"]["ready"] == serde_json::json!([true, true])
    });
    let holder = usize::try_from(before["live"]["holder"].as_u64().unwrap()).unwrap();
    let mut sent: Vec<String> = (0..10).map(|n| format!("before {n}")).collect();
    for subject in &sent {
        write(&sender, "alice", subject);
    }
    world.servers[holder].child.kill().unwrap();
    for n in 0..5 {
        let subject = format!("after {n}");
        write(&sender, "alice", &subject);
        sent.push(subject);
    }
    world.wait_for_pair("served by the other server", |pair| {
        let live = &pair["live"];
        pair["state"] == "normal" && live["holder"] != holder && pair["spool"]["pending"] == 0
    });
    assert_eq!(subjects(&sender, "alice"), sent);
    front.stop();
}
