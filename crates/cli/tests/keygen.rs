//! `evs keygen`: keys that only their owner can read, and who is let in with them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Done, Place};
use eversock_engine::keys;
use eversock_proto::identity::StaticKey;

fn keygen(place: &Place, more: &[&str], name: &str) -> Done {
    let path = place.file(name);
    place.run(&[&["keygen"], more, &[path.to_str().unwrap()]].concat())
}

#[test]
fn a_key_is_made_for_its_owner_alone_and_never_over_another_file() {
    let place = Place::new();
    let done = keygen(&place, &[], "one.key");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{done:?}");
    let path = place.file("one.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let one = keys::read_key(&path).unwrap();
    let done = keygen(&place, &[], "one.key");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("name another file"), "{done:?}");
    assert_eq!(keys::read_key(&path).unwrap(), one);
    assert_eq!(keygen(&place, &[], "two.key").code, Some(0));
    assert_ne!(keys::read_key(&place.file("two.key")).unwrap(), one);
    let nowhere = keygen(&place, &[], "none/such.key");
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("none/such.key"), "{nowhere:?}");
}

#[test]
fn the_public_half_of_a_static_key_is_printed_and_fits_the_lists() {
    let place = Place::new();
    let done = keygen(&place, &["--static"], "host.key");
    assert_eq!(done.code, Some(0), "{done:?}");
    let private = keys::read_key(&place.file("host.key")).unwrap();
    let public = StaticKey::from_bytes(private).public();
    assert_eq!(done.stdout, format!("{public}\n"));
    let known = keys::KnownPeers::parse(&format!("db:1 {}", done.stdout), "known").unwrap();
    assert_eq!(known.key_of("db", 1), Some(&public.0));
    fs::write(place.file("clients"), &done.stdout).unwrap();
    let clients = keys::read_allowed_clients(&place.file("clients")).unwrap();
    assert_eq!(clients, [public.0]);
}

#[test]
fn a_key_that_others_may_read_opens_no_gateway() {
    let place = Place::new();
    assert_eq!(keygen(&place, &[], "one.key").code, Some(0));
    let path = place.file("one.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let args = ["gateway", "--plain", "127.0.0.1:0", "--resilient", "127.0.0.1:1", "--key"];
    let done = place.run(&[&args[..], &[path.to_str().unwrap()]].concat());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains(&format!("chmod 600 {}", path.display())), "{done:?}");
}
