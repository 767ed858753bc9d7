//! Commands about the spool of a front that does not run.

use std::fs;

use crate::world::{World, subjects, write};

/// A spool in which six records wait, of a front that was stopped.
fn stopped() -> World {
    let world = World::new();
    let front = world.start();
    world.wait_until_normal();
    world.json(&["hold", "mail"]);
    let sender = front.sender();
    for n in 0..6 {
        write(&sender, "alice", &format!("message-number-{n}"));
    }
    sender.close();
    front.stop();
    world
}

#[test]
fn a_spool_is_looked_at_and_changed_without_a_front() {
    let world = stopped();
    let pair = world.json(&["stat"])[0].clone();
    assert_eq!(
        (pair["state"].as_str(), pair["spool"]["pending"].as_u64()),
        (Some("stopped"), Some(6))
    );
    assert!(pair["live"].is_null());
    let table = world.run(&["stat"]).stdout;
    assert!(table.contains("stopped"), "{table}");
    let rows = world.rows();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row["state"] == "pending" && row["kind"] == "write"));
    let plan = world.json(&["drain", "mail", "--dry-run"]);
    assert_eq!((plan["records"].as_u64(), plan["to"].is_null()), (Some(6), true), "{plan:#}");
    assert_eq!(world.json(&["verify", "--pair", "mail"])[0]["records"], 6);
    let job = world.place.file("offline.job");
    assert_eq!(world.json(&["export", "mail", "--out", job.to_str().unwrap()])["records"], 6);

    for order in [&["switch", "mail"][..], &["suspect", "mail"], &["drain", "mail"]] {
        let refused = world.run(order);
        assert_eq!(refused.code, Some(1), "{order:?}: {refused:?}");
        assert!(refused.stderr.contains("no front runs"), "{refused:?}");
    }
    let first = rows[0]["lsn"].as_u64().unwrap().to_string();
    world.json(&["purge", "mail", &first]);
    world.json(&["retry", "mail", &rows[1]["lsn"].as_u64().unwrap().to_string()]);
    assert_eq!(world.rows().len(), 5);
    world.json(&["release", "mail"]);

    // Released, it drains as soon as it is started.
    let front = world.start();
    let is_over =
        |pair: &serde_json::Value| pair["state"] == "normal" && pair["spool"]["pending"] == 0;
    world.wait_for_pair("drained", is_over);
    let left: Vec<String> = (1..6).map(|n| format!("message-number-{n}")).collect();
    assert_eq!(subjects(&front.sender(), "alice"), left);
    front.stop();
    world.json(&["hold", "mail"]);
    let front = world.start();
    world.wait_for_pair("on hold", |pair| pair["live"]["on_hold"] == true);
    front.stop();
}

#[test]
fn damage_is_found_named_and_set_aside() {
    let world = stopped();
    // Whoever opens it brings its log into the file, where the damage is to be.
    world.json(&["hold", "mail"]);
    let path = world.spool_file();
    let mut bytes = fs::read(&path).unwrap();
    let text = b"what there is to say of message-number-3";
    let places: Vec<usize> = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, w)| *w == text)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "it is in the log still");
    for at in places {
        bytes[at] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
    let lsn = world.rows()[3]["lsn"].as_u64().unwrap();

    let done = world.run(&["verify"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let said = format!("1 of 6 records are damaged: {lsn};");
    assert!(
        done.stderr.contains(&said) && done.stderr.contains("evs spool purge mail"),
        "{done:?}"
    );
    let done = world.run(&["verify", "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains(&format!("\"damaged\":[{lsn}]")), "{done:?}");
    let job = world.place.file("damaged.job");
    let done = world.run(&["export", "mail", "--json", "--out", job.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("\"records\":5"), "{done:?}");
    assert!(done.stderr.contains("1 records are damaged and left out"), "{done:?}");
    assert_eq!(world.json(&["drain", "mail", "--dry-run"])["damaged"], 1);

    // The front goes on without it, and says so.
    world.json(&["release", "mail"]);
    let front = world.start();
    let pair = world.wait_for_pair("drained but for one", |pair| {
        pair["spool"]["pending"] == 0 && pair["spool"]["quarantined"] == 1
    });
    assert!(!pair["live"]["alarms"].as_array().unwrap().is_empty(), "{pair:#}");
    let aside = world.rows();
    assert_eq!((aside.len(), aside[0]["state"].as_str()), (1, Some("quarantined")), "{aside:?}");
    assert!(aside[0]["note"].as_str().unwrap().contains("checksum"), "{aside:?}");
    assert_eq!(subjects(&front.sender(), "alice").len(), 5);

    let unsure = world.run(&["purge", "mail", "--quarantined"]);
    assert_eq!(unsure.code, Some(2), "{unsure:?}");
    world.json(&["purge", "mail", "--quarantined", "--yes"]);
    world.wait_for_pair("without it", |pair| pair["spool"]["quarantined"] == 0);
    assert_eq!(world.rows().len(), 0);
    front.stop();
}
