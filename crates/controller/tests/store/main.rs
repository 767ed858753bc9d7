//! Every store: what it promises, what it survives.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod beside;
mod cluster;
mod common;
mod conformance;
mod crash;
mod damage;
mod disk;
mod model;
mod server;
mod writer;
