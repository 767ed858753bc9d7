//! Names of controllers and devices.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{DEVICE_MAX, NAME_MAX};

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Of a controller.
    #[error(
        "{0:?} cannot be the name of a controller: 1 to {NAME_MAX} letters, digits, `-`, `_`, `.`"
    )]
    Controller(String),
    /// Of a device.
    #[error(
        "{0:?} cannot be the name of a device: 1 to {DEVICE_MAX} printable ASCII characters, no \
         spaces"
    )]
    Device(String),
}

/// The name of a controller, and of the partition for its devices. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControllerId(Arc<str>);

impl ControllerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ControllerId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_part) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Controller(text.chars().take(NAME_MAX).collect()))
        }
    }
}

impl fmt::Display for ControllerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a device. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if (1..=DEVICE_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Device(text.chars().take(DEVICE_MAX).collect()))
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
