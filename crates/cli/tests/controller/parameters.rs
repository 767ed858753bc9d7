//! The parameters that all controllers share.

use std::fs;

use crate::world::World;

#[test]
fn parameters_are_pushed_to_one_and_known_to_all() {
    let world = World::new();
    let [_a, _b] = world.start_both();
    let devices = world.devices("b", 1);
    world.wait_until_served("b", "b", 1);
    let path = world.place.file("parameters.toml");
    let file = path.to_str().unwrap();
    let text = "lease = \"90s\"\n[env]\ncolour = \"red\"\n";
    fs::write(&path, text).unwrap();
    let done = world.run("a", &["config", "diff", file]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("+lease = \"90s\""), "{done:?}");

    let pushed = world.json("a", &["config", "push", file]);
    let generation = pushed["generation"].as_u64().unwrap();
    assert!(generation >= 1);
    world.wait_for("b", "told of them", |now| now["generation"] == generation);
    let shown = world.json("b", &["config", "show"]);
    assert_eq!(
        (shown["text"].as_str(), shown["generation"].as_u64()),
        (Some(text), Some(generation))
    );
    // The device hears of them at its next handshake.
    loop {
        let event = devices.json("event");
        if event["event"] == "parameters" {
            assert_eq!(
                (event["generation"].as_u64(), event["text"].as_str()),
                (Some(generation), Some(text))
            );
            break;
        }
    }

    let copy = world.place.file("copy.toml");
    world.json("b", &["config", "pull", copy.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), text);
    let done = world.run("b", &["config", "diff", copy.to_str().unwrap()]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{done:?}");
}

#[test]
fn parameters_that_make_no_sense_are_not_pushed() {
    let world = World::new();
    let _a = world.start("a");
    let path = world.place.file("parameters.toml");
    for (text, expected) in [
        ("leese = \"90s\"\n", "leese"),
        ("misses = 1000\n", "misses"),
        ("fail-back = \"soon\"\n", "no way home"),
    ] {
        fs::write(&path, text).unwrap();
        let done = world.run("a", &["config", "push", path.to_str().unwrap()]);
        assert_eq!(done.code, Some(2), "{text}: {done:?}");
        assert!(done.stderr.contains(expected), "{text}: {done:?}");
    }
    // Each for itself makes sense, but not with what the file of the controller says.
    fs::write(&path, "lease = \"1s\"\n").unwrap();
    let done = world.run("a", &["config", "push", path.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("handshakes"), "{done:?}");
    assert_eq!(world.json("a", &["config", "show"])["generation"], 0);
}
