//! For whoever has requests for devices and is no controller of this kind: third-party controllers,
//! and tools.
//!
//! * [`Routes`]: which controllers to ask for which device, best first; it learns where devices
//!   are.
//! * [`Breaker`]: keeps from asking a controller that does not answer.
//! * [`Router`]: the life of a request, without I/O.
//! * [`ThirdParty`]: all of it over virtual sockets.

mod breaker;
mod client;
mod routes;
mod runtime;

pub use breaker::{Admission, Breaker, BreakerConfig};
pub use client::{Action, Ask, Router, RouterConfig};
pub use routes::{Routes, RoutesError};
pub use runtime::{Reply, ThirdParty, ThirdPartyConfig};
