//! A controller dies, its partner takes its devices over, and gives them back when it is told to.

use serde_json::json;

use crate::common::Place;
use crate::world::{World, partition};

#[test]
fn a_controller_that_is_killed_is_stood_in_for_until_it_gets_its_devices_back() {
    let world = World::new();
    let [a, b] = world.start_both();
    let _lamps = world.devices("a", 3);
    let _pumps = world.devices("b", 2);
    world.wait_until_served("a", "a", 3);
    world.wait_until_served("b", "b", 2);

    a.kill();
    let now = world.wait_until_served("b", "a", 3);
    assert_eq!(partition(&now, "b")["owned"], 2, "{now:#}");
    assert!(now["counts"]["take_overs"].as_u64().unwrap() >= 3, "{now:#}");
    // The link has no say in who serves a device; it is given up when it has been silent.
    world.wait_for("b", "without a link", |now| now["partners"][0]["state"] != "up");
    let (door_a, door_b) = (world.door("a"), world.door("b"));
    let (door_a, door_b) = (format!("a={door_a}"), format!("b={door_b}"));
    let ask = ["controller", "request", "a-1", "hello", "--door", &door_a, "--door", &door_b];
    let done = world.place.run(&[&ask[..], &["--deadline", "60s"]].concat());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "hello\n"), "{done:?}");

    let a = world.start("a");
    world.wait_for("a", "linked", |now| now["partners"][0]["state"] == "up");
    world.wait_until_in_sync();
    // It knows where its devices are, and leaves them there.
    let row = world.json("a", &["devices", "a-1"]);
    assert_eq!((row[0]["owner"].as_str(), row[0]["connected"].as_bool()), (Some("b"), Some(false)));
    let before = row[0]["seq"].as_u64().unwrap();
    let done = world.json("a", &["request", "a-1", "by way of b"]);
    assert_eq!(done, json!({ "outcome": "done", "answer": "by way of b" }));

    let came = world.json("b", &["failback", "a", "--wait", "--timeout", "60s"]);
    assert_eq!((came["done"].as_u64(), came["failed"].as_u64()), (Some(3), Some(0)), "{came}");
    world.wait_until_served("a", "a", 3);
    world.wait_until_in_sync();
    let row = world.json("b", &["devices", "a-1"]);
    assert_eq!(row[0]["owner"], "a");
    assert!(row[0]["seq"].as_u64().unwrap() > before, "{row}");
    let now = world.json("b", &["status"]);
    assert_eq!(partition(&now, "a")["owned"], 0, "{now:#}");
    assert_eq!(now["counts"]["handed_over"], 3, "{now:#}");
    a.stop();
    b.stop();
}

#[test]
fn the_demo_ends_well() {
    let place = Place::new();
    let done = place.run(&["controller", "demo", "--json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let steps: Vec<String> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line))
        .map(|step| step["kind"].as_str().unwrap().to_owned())
        .collect();
    let wanted = [
        "start",
        "register",
        "request",
        "kill",
        "take-over",
        "request",
        "return",
        "fail-back",
        "request",
        "end",
    ];
    assert_eq!(steps, wanted);
}
