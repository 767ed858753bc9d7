//! Session dedup: one session per server, whatever address it is called by (EP 2107762).
//!
//! So far the part that needs no socket: [`mux`], many logical connections over one session.
#![forbid(unsafe_code)]

pub mod mux;
