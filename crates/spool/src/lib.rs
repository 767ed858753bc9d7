//! Spool failover: a front that never refuses a write while main and standby change places
//! (EP 1622307).
//!
//! * [`request`]: what a sender asks for and is told.
//! * [`pair`]: one pair of servers, and what becomes of its requests.
//! * [`record`]: a request as it lies in the spool and goes to a backend.
//! * [`store`]: where records lie: SQLite, or PostgreSQL.
//! * [`submit`]: where fronts of every language hand in what they were asked.
//! * [`target`]: a server of a pair, as the front sees it.
//! * [`wire`]: what they say to each other over virtual sockets.
//! * [`door`]: a front's end for senders.
//! * [`sender`]: the sender's side of it.
//! * [`link`]: a server at the other end of a virtual socket.
//! * [`serve`]: a server's end of the link to fronts.
//! * [`backend`]: what runs inside a server.
//! * [`config`]: a front as a file says it.
//! * [`job`]: a spool as a file, for a server to work off.
//! * `http` (feature `http`): the front that speaks HTTP, and servers that speak it.
//! * `smtp` (feature `smtp`): the front that accepts mail.
//! * [`failpoint`]: places at which tests let the process die.
#![forbid(unsafe_code)]

pub mod backend;
pub mod config;
mod conn;
pub mod door;
pub mod failpoint;
pub mod front;
#[cfg(feature = "http")]
pub mod http;
pub mod job;
pub mod limits;
pub mod link;
pub mod pair;
pub mod record;
pub mod request;
pub mod sender;
pub mod serve;
#[cfg(feature = "smtp")]
pub mod smtp;
pub mod store;
pub mod submit;
pub mod target;
pub mod wire;

pub use request::{Kind, Outcome, Reason, Request, RequestId};
