//! Both stores: what they promise, what they survive.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cluster;
mod committer;
mod common;
mod conformance;
mod crash;
mod damage;
mod disk;
mod front_file;
mod groups;
mod model;
mod server;
mod writer;
