//! HTTP: the front with ordinary and with bad clients, the adapter with ordinary and with bad
//! services, and the form in which requests lie in the spool.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod client;
mod codec;
mod fake;
mod front;
mod hooks;
mod lock;
mod odd_clients;
mod service;
mod target;
mod through;

use std::time::{Duration, Instant};

/// Longer than anything takes, also on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
