//! A device's side: whom it registers with, and when it turns to the backup.
//!
//! * [`machine`]: one device, as a state machine without I/O.
//! * [`policy`]: how it behaves.
//! * [`counter`]: its counter, in a file.

pub mod counter;
pub mod machine;
pub mod policy;
mod rng;

pub use counter::{CounterError, CounterFile};
pub use machine::{Event, Input, Machine, Output, State};
pub use policy::{HandOffs, Policy, PolicyError};
