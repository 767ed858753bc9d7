//! Spool failover: a front that never refuses a write while main and standby change places
//! (EP 1622307).
//!
//! * [`request`]: what a sender asks for and is told.
//! * [`record`]: a request as it lies in the spool and goes to a backend.
//! * [`store`]: where records lie: SQLite, or PostgreSQL.
//! * [`submit`]: where fronts of every language hand in what they were asked.
//! * [`target`]: a server of a pair, as the front sees it.
//! * `http` (feature `http`): the front that speaks HTTP, and servers that speak it.
//! * `smtp` (feature `smtp`): the front that accepts mail.
//! * [`failpoint`]: places at which tests let the process die.
#![forbid(unsafe_code)]

pub mod failpoint;
#[cfg(feature = "http")]
pub mod http;
pub mod limits;
pub mod record;
pub mod request;
#[cfg(feature = "smtp")]
pub mod smtp;
pub mod store;
pub mod submit;
pub mod target;

pub use request::{Kind, Outcome, Reason, Request, RequestId};
