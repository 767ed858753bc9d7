//! Files of controllers and devices.

use std::fs;

use crate::common::Place;
use crate::world::World;

#[test]
fn a_file_is_checked_as_a_whole() {
    let world = World::new();
    let done = world.run("a", &["check"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("the controller a, with partners: b"), "{done:?}");
    let config = world.config("a");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("name = \"a\"", "nome = \"a\"").replace("lease", "leese"))
        .unwrap();
    for command in ["check", "run", "status"] {
        let done = world.run("a", &[command]);
        assert_eq!(done.code, Some(2), "{command}: {done:?}");
        for word in ["`name`: it is missing", "unknown key `nome`", "unknown key `leese`"] {
            assert!(done.stderr.contains(word), "{command}, {word}: {done:?}");
        }
    }
    let done = world.run("a", &["check", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.code, said["ok"].as_bool()), (Some(2), Some(false)));
    assert!(said["problems"].as_array().unwrap().len() >= 3, "{said}");
}

#[test]
fn the_examples_are_sound() {
    let place = Place::new();
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let names = [
        "controller.toml",
        "device.toml",
        "controllers/north.toml",
        "controllers/south.toml",
        "controllers/lamp.toml",
        "controllers/pump.toml",
    ];
    for name in names {
        let path = examples.join(name);
        let done = place.run(&["controller", "check", "--config", path.to_str().unwrap()]);
        assert_eq!(done.code, Some(0), "{name}: {done:?}");
    }
}

#[test]
fn a_device_without_a_controller_is_refused() {
    let place = Place::new();
    for args in [
        &["device", "lamp"][..],
        &["device", "--home", "a=127.0.0.1:1"],
        &["device", "lamp", "--home", "127.0.0.1:1"],
        &["device", "a b", "--home", "a=127.0.0.1:1"],
    ] {
        let done = place.run(args);
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
    }
}
