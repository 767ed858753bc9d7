//! Who owns a device, and how two opinions of that become one.

mod dispatch;
mod location;
mod names;
mod record;

pub use dispatch::{Dispatch, DispatchError, DispatchMode, Dispatched, Pattern, RULES_MAX};
pub(crate) use dispatch::{Prefixes, is_prefix};
pub use location::{Location, LocationError, Standing};
pub use names::{ControllerId, DeviceId, NameError};
pub use record::{Record, kind};
