//! Session dedup: one session per server, whatever address it is called by (EP 2107762).
//!
//! The parts that need no socket have no I/O, no clock, no randomness of their own. Times are
//! arguments, in microseconds of any clock that never goes back.
//!
//! * [`mux`]: many logical connections over one session.
//! * [`key`]: who a server is, and what connections must have in common.
//! * [`preface`]: what each of them is for.
//! * [`state`]: which session a connection goes over.
#![forbid(unsafe_code)]

pub mod key;
pub mod mux;
pub mod preface;
pub mod state;
mod wire;
