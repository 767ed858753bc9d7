//! Spool failover: how fast a front keeps requests while there is no main server, and gets rid of
//! them when there is one.
//!
//! * [`writes`]: durable writes beside single commits. [`drain`]: from the spool into a server.
//!   [`restart`]: a front that begins with a full spool. [`isolation`]: a pair beside a full one.
//! * [`parts`]: fronts, servers, senders and places on the disk for them. [`cluster`]: a PostgreSQL
//!   of our own. [`worker()`]: a process that is a front or a server.

mod cluster;
pub(crate) mod drain;
pub(crate) mod isolation;
pub(crate) mod parts;
pub(crate) mod restart;
mod worker;
pub(crate) mod writes;

pub(crate) use worker::worker;
