//! `evs spool`: fronts and servers as real processes, and what an operator does with them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "spool/offline.rs"]
mod offline;
#[path = "spool/operator.rs"]
mod operator;
#[path = "spool/starts.rs"]
mod starts;
#[path = "spool/takeover.rs"]
mod takeover;
#[path = "spool/world.rs"]
mod world;
