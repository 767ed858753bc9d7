//! Messages between senders, fronts and servers, over real virtual sockets on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod codec;
mod common;
mod door;
mod ends;
mod link;
mod sender;
mod serve;
