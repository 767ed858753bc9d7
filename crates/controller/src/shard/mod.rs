//! One partition of a controller, as a state machine without I/O, threads, clock or randomness of
//! its own: the devices of one home, their registrations here, what partners tell of them and are
//! told, requests for them, and their way back home.
//!
//! It is driven by [`Input`]s and answers with [`Output`]s. It writes to its [`Store`] in the
//! transaction that is open; whoever drives it commits, and lets no output out before that. After an
//! error of the store the shard is thrown away with what it has put out since the last commit, and
//! a new one begins on the store as it is found then: nothing but the sessions of devices, which
//! register again, lives in memory alone.
//!
//! [`Store`]: crate::store::Store

pub mod input;
pub mod output;
#[allow(dead_code, reason = "the shard drives it once both are merged")]
mod sync;

pub use input::{Input, Millis, Order};
pub use output::{Event, Output};
