//! The C interface. `include/eversock.h` is generated from these files in the order given here.
//!
//! Each function is a guard (a panic becomes ENOTRECOVERABLE, errno is set last and left alone on
//! success; a call that may sleep is a cancellation point, which no guard may catch), checks (NULL
//! and nonsense become errors), one call into the engine, and the mapping of its result.
//! Descriptors that are not virtual go to libc with the same arguments.
//!
//! Not here: any decision about sockets or sessions, which is the engine's.

#[cfg(any(feature = "controller", feature = "spool"))]
mod edge;
mod guard;
mod plain;
#[cfg(any(feature = "controller", feature = "dedup", feature = "spool"))]
mod sized;
#[cfg(any(feature = "controller", feature = "dedup", feature = "spool"))]
mod strings;

use eversock_engine::cabi::{addr, memory};

// One line between them keeps rustfmt from sorting them: this is the header's table of contents.
pub mod version;

pub mod config;

pub mod keys;

pub mod limits;

pub mod socket;

pub mod io;

pub mod poll;

pub mod option;

pub mod info;

#[cfg(feature = "dedup")]
pub mod pool_config;

#[cfg(feature = "dedup")]
pub mod pool;

#[cfg(feature = "dedup")]
pub mod pool_table;

#[cfg(feature = "dedup")]
pub mod shared;

#[cfg(feature = "spool")]
pub mod spool_outcome;

#[cfg(feature = "spool")]
pub mod spool;

#[cfg(feature = "spool")]
pub mod spool_backend;

#[cfg(feature = "spool")]
pub mod spool_results;

#[cfg(feature = "spool")]
pub mod spool_front;

#[cfg(feature = "controller")]
pub mod controller;

#[cfg(feature = "controller")]
pub mod device;
