//! What all processes of a test know of each other: names, addresses, keys.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::model::{ControllerId, DeviceId};
use eversock_controller::wire::Place;
use eversock_engine::{Config, StaticKey};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const CONTROLLERS: [&str; 3] = ["a", "b", "c"];

/// Fails the test when the condition does not come true in time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    println!("{:.1?}: {what}", began.elapsed());
}

pub(crate) fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

pub(crate) fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// Hosts are letters.
pub(crate) fn ip(host: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, host.as_bytes()[0] - b'a' + 1)
}

/// Where a controller's devices come.
pub(crate) fn door(controller: &str) -> SocketAddr {
    (ip(controller), 7001).into()
}

/// Where its partners come.
pub(crate) fn partner_door(controller: &str) -> SocketAddr {
    (ip(controller), 7002).into()
}

pub(crate) fn place(controller: &str) -> Place {
    Place { controller: id(controller), addrs: vec![door(controller)] }
}

/// A controller's static key.
pub(crate) fn key(controller: &str) -> StaticKey {
    StaticKey::from_bytes([controller.as_bytes()[0]; 32])
}

pub(crate) fn socket() -> Config {
    Config {
        grace: Duration::from_secs(60),
        grace_after_close: Duration::from_secs(5),
        // A session that is closed while it is cut keeps its listener's port that long.
        linger: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(3),
        ..Config::default()
    }
}
