//! Every store: what it promises, what it survives.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;
mod conformance;
mod model;
