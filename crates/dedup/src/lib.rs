//! Session dedup: one session per server, whatever address it is called by (EP 2107762).
//!
//! So far the parts that need no socket: no I/O, no clock, no randomness of their own. Times are
//! arguments, in microseconds of any clock that never goes back.
//!
//! * [`mux`]: many logical connections over one session.
//! * [`preface`]: what each of them is for.
#![forbid(unsafe_code)]

pub mod mux;
pub mod preface;
mod wire;
