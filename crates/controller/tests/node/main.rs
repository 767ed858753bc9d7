//! Whole controllers in one process, over real virtual sockets.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;
mod door;
mod faults;
mod fleet;
mod parameters;
mod partners;
mod strangers;
