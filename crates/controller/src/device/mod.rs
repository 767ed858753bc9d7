//! A device's side: whom it registers with, and when it turns to the backup.
//!
//! * [`machine`]: one device, as a state machine without I/O.
//! * [`policy`]: how it behaves.
//! * [`counter`]: its counter, in a file.
//! * [`agent`]: a device in a program.
//! * [`fleet`]: many devices in one process.

pub mod agent;
pub mod counter;
pub mod fleet;
mod histogram;
mod host;
pub mod machine;
pub mod policy;
mod rng;

pub use agent::{DeviceAgent, DeviceConfig, DeviceError, DeviceEvent, DeviceState, socket_config};
pub use counter::{CounterError, CounterFile};
pub use fleet::{Fleet, FleetConfig, FleetStatus};
pub use histogram::Histogram;
pub use machine::{Event, Input, Machine, Output, State};
pub use policy::{HandOffs, Policy, PolicyError};
