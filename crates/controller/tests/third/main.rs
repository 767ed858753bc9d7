//! A third party and controllers that are not quite real, over real virtual sockets.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;
mod cuts;
mod ends;
mod ways;
