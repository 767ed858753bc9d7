//! The eversock session protocol, sans-io.
//!
//! A *session* is a byte stream in each direction that outlives the TCP connections which carry
//! it. This crate holds everything about it that needs no socket: the wire format, the proofs of
//! identity, the replay log, flow control, and the rules by which a new connection (an *epoch*)
//! takes over from a dead one. `docs/PROTOCOL.md` is normative; the section numbers in comments
//! here refer to it.
//!
//! Bytes, time and randomness are arguments. Nothing here does I/O, reads a clock, draws a random
//! number or starts a thread, so the same inputs always give the same run.
//!
//! * [`wire`]: bytes to types and back: frame headers, handshake messages.
//! * [`open`]: how a session begins; [`resume`]: how a new connection takes it over;
//!   [`identity`]: who the two ends are; [`seal`]: frames that nobody else can read or make.
//! * [`send::Sender`] and [`recv::Receiver`]: the two directions. They are separate values because
//!   a program's reader and writer run in different threads; what one learns for the other is
//!   passed as plain values.
//! * [`control::Control`]: epochs, progress, and what a session does when its connection dies.
//! * [`redial`]: back-off as values; [`snapshot`]: a session as bytes, for another process.
//! * [`session::Session`]: all of it in one value, for those who need no concurrency (simulation,
//!   tests).
//!
//! Not here: sockets, descriptors, dialling, listening (`eversock-engine`).
#![forbid(unsafe_code)]

pub mod control;
pub mod identity;
pub mod limits;
pub mod log;
pub mod open;
pub mod recv;
pub mod redial;
pub mod resume;
pub mod seal;
pub mod secret;
pub mod send;
pub mod session;
pub mod snapshot;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
