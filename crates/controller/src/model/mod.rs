//! Who owns a device, and how two opinions of that become one.

mod location;
mod names;
mod record;

pub use location::{Location, LocationError, Standing};
pub use names::{ControllerId, DeviceId, NameError};
pub use record::{Record, kind};
