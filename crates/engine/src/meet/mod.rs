//! Where threads meet: what is as small as it is so that it can be tried in every interleaving.
//!
//! The files here name atomics and locks by way of `sync` alone and make no system call.
//! `crates/models` builds these same files over a checker's atomics and locks.

pub(crate) mod credit;
pub(crate) mod sleepers;
pub(crate) mod slot;
pub(crate) mod sync;
pub(crate) mod wish;
pub(crate) mod word;
