//! Devices over virtual sockets on loopback, and a small controller that plays by the rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod agent;
mod cuts;
mod fake;
mod fleet;

use std::time::{Duration, Instant};

use eversock_controller::device::Policy;
use eversock_controller::wire::Place;
use fake::Fake;

/// Long enough for a machine on which much else runs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not in {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Quick waits.
pub(crate) fn policy(fakes: &[&Fake]) -> Policy {
    policy_at(fakes.iter().map(|fake| fake.place()).collect())
}

pub(crate) fn policy_at(controllers: Vec<Place>) -> Policy {
    Policy {
        base: 50,
        base_all: 200,
        answer_within: 10_000,
        attempt_every: 10,
        attempt_burst: 50,
        start_within: 0,
        handshake_min: 50,
        ..Policy::new(controllers)
    }
}
