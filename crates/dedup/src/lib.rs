//! Session dedup: one session per server, whatever address it is called by (EP 2107762).
//!
//! The parts that need no socket have no I/O, no clock, no randomness of their own. Times are
//! arguments, in microseconds of any clock that never goes back.
//!
//! * [`mux`]: many logical connections over one session.
//! * [`key`]: who a server is, and what connections must have in common.
//! * [`ident`]: queries that ask an address which server it is.
//! * [`preface`]: what each connection is for.
//! * [`state`]: which session a connection goes over.
#![forbid(unsafe_code)]

mod config;
mod hub;
pub mod ident;
pub mod key;
mod listener;
pub mod mux;
mod pool;
pub mod preface;
pub mod race;
pub mod score;
pub mod state;
mod table;
mod wire;

pub use config::{ConnectOptions, PoolConfig, SharedConfig};
pub use hub::client::Failed;
pub use listener::{Accepted, SharedListener};
pub use pool::{Pool, PooledStream, TableRow};
