//! `evs controller` and `evs device`: controllers and devices as real processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "controller/files.rs"]
mod files;
#[path = "controller/operator.rs"]
mod operator;
#[path = "controller/parameters.rs"]
mod parameters;
#[path = "controller/takeover.rs"]
mod takeover;
#[path = "controller/world.rs"]
mod world;
