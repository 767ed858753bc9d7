//! What an operator sees and does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::world::{World, partition};

#[test]
fn devices_are_listed_page_by_page_and_by_what_they_are() {
    let world = World::new();
    let [_a, _b] = world.start_both();
    let _lamps = world.devices("a", 5);
    world.wait_until_served("a", "a", 5);
    world.wait_until_in_sync();
    let names = |args: &[&str]| {
        let rows = world.json("b", &[&["devices"], args].concat());
        let rows = rows.as_array().unwrap();
        rows.iter().map(|row| row["device"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["a-1", "a-2", "a-3", "a-4", "a-5"]);
    assert_eq!(names(&["--partition", "a", "--after", "a-2", "--limit", "2"]), ["a-3", "a-4"]);
    assert_eq!(names(&["--owner", "b"]), Vec::<String>::new());
    assert_eq!(names(&["--connected"]), Vec::<String>::new());
    assert_eq!(names(&["--prefix", "a-3", "--standing", "registered"]), ["a-3"]);
    let done = world.run("b", &["devices", "a-9"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("nobody has heard of a-9"), "{done:?}");
    let table = world.run("a", &["devices"]);
    assert!(table.stdout.lines().next().unwrap().starts_with("DEVICE"), "{table:?}");
    assert_eq!(table.stdout.lines().count(), 6, "{table:?}");
}

#[test]
fn devices_are_moved_and_a_controller_in_maintenance_keeps_none() {
    let world = World::new();
    let [a, _b] = world.start_both();
    let _lamps = world.devices("a", 3);
    world.wait_until_served("a", "a", 3);
    world.wait_until_in_sync();
    let came = world.json("a", &["move", "b", "a-2", "--wait", "--timeout", "60s"]);
    assert_eq!((came["done"].as_u64(), came["failed"].as_u64()), (Some(1), Some(0)), "{came}");
    world.wait_until_served("b", "a", 1);
    let done = world.run("a", &["move", "b", "a-9"]);
    assert_eq!(done.code, Some(1), "{done:?}");

    let said = world.json("a", &["maintenance", "on"]);
    assert!(said["done"].as_str().unwrap().contains("no new ones"), "{said}");
    world.wait_until_served("b", "a", 3);
    let now = world.wait_for("a", "in maintenance", |now| now["maintenance"] == true);
    assert_eq!(partition(&now, "a")["owned"], 0, "{now:#}");
    world.wait_for("b", "told of it", |now| now["partners"][0]["maintenance"] == true);
    world.json("a", &["maintenance", "off"]);
    world.json("b", &["failback", "--stop"]);
    a.stop();
    let done = world.run("a", &["status"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("no controller runs"), "{done:?}");
}

#[test]
fn an_exchange_that_is_paused_goes_on_when_it_is_told_to() {
    let world = World::new();
    let [_a, _b] = world.start_both();
    world.wait_until_in_sync();
    world.json("a", &["pause", "b"]);
    let _lamps = world.devices("a", 2);
    world.wait_until_served("a", "a", 2);
    let now = world.wait_for("a", "paused", |now| {
        let sync = &partition(now, "a")["sync"][0];
        sync["state"] == "paused" && sync["lag"] == 2
    });
    assert_eq!(now["partners"][0]["state"], "up", "{now:#}");
    assert_eq!(partition(&world.json("b", &["status"]), "a")["records"], 0);
    world.json("a", &["resume", "b"]);
    world.wait_for("b", "told of both", |now| partition(now, "a")["records"] == 2);
    world.json("b", &["resync", "a"]);
    world.wait_until_in_sync();
    let done = world.run("a", &["pause", "c"]);
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn figures_are_told_by_http_and_on_a_terminal() {
    let world = World::new();
    let [a, _b] = world.start_both();
    let _lamps = world.devices("a", 2);
    world.wait_until_served("a", "a", 2);
    let mut stream = TcpStream::connect(a.ready["metrics"].as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    for line in [
        "controller_owned{controller=\"a\",partition=\"a\"} 2",
        "controller_connected{controller=\"a\",partition=\"a\"} 2",
        "controller_link_up{controller=\"a\",partner=\"b\"} 1",
        "controller_partition_up{controller=\"a\",partition=\"b\"} 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
    }
    let done = world.run("a", &["top", "--once"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for word in ["PARTNER", "PARTITION", "a: up", "q quits"] {
        assert!(done.stdout.contains(word), "{word}: {done:?}");
    }
    let table = world.run("a", &["status"]);
    assert!(table.stdout.contains("HAND-OVERS"), "{table:?}");
}

#[test]
fn the_control_socket_is_its_users_alone() {
    let world = World::new();
    let a = world.start("a");
    let control = std::path::PathBuf::from(a.ready["control"].as_str().unwrap());
    let mode = std::fs::metadata(&control).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let second = world.run("a", &["run"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("a controller runs here already"), "{second:?}");
    a.stop();
    assert!(!control.exists());
}

#[test]
fn many_devices_share_connections_and_say_how_many_are_where() {
    let world = World::new();
    let _a = world.start("a");
    let config = world.place.file("a-device.toml");
    let config = config.to_str().unwrap();
    let args = ["--prefix", "a-", "--count", "200", "--interval", "100ms", "--config", config];
    let devices = world.place.start(&[&["device", "--json"], &args[..]].concat());
    assert_eq!(devices.json("ready")["devices"], 200);
    while devices.json("status")["served"]["a"] != 200 {}
    let now = world.wait_until_served("a", "a", 200);
    assert!(now["connections"].as_u64().unwrap() < 200, "{now:#}");
    let done = world.run("a", &["request", "a-77", "echo"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "echo\n"), "{done:?}");
    let done = world.run("a", &["request", "a-777", "echo"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("nobody has heard of it"), "{done:?}");
}

#[test]
fn a_device_that_is_told_to_end_deregisters() {
    let world = World::new();
    let _a = world.start("a");
    let config = world.place.file("a-device.toml");
    let args = ["device", "a-1", "--json", "--deregister", "--with-input", "--config"];
    let mut device = world.place.start(&[&args[..], &[config.to_str().unwrap()]].concat());
    world.wait_until_served("a", "a", 1);
    device.close_input();
    let (code, _) = device.wait();
    assert_eq!(code, Some(0));
    let row = world.json("a", &["devices", "a-1"]);
    assert_eq!(row[0]["standing"], "deregistered", "{row}");
}
