//! What controllers, devices and third parties say to each other over virtual sockets.
//!
//! * [`client`]: between a controller and devices, or third parties.
//! * [`peer`]: between two controllers that are partners.

pub mod client;
pub mod peer;

use std::net::SocketAddr;

use crate::model::ControllerId;

/// The newest version that this program speaks.
pub const VERSION: u16 = 1;
/// The oldest.
pub const VERSION_OLDEST: u16 = 1;

/// A controller and where it listens for devices and third parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub controller: ControllerId,
    /// Where; at most [`ADDRS_MAX`](crate::limits::ADDRS_MAX).
    pub addrs: Vec<SocketAddr>,
}

/// Who dials a controller's door for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One device or many.
    Device,
    /// Somebody who has requests for devices: a controller of another kind.
    ThirdParty,
    /// Another controller (at the door for partners).
    Partner,
}

/// The first message of a connection, from who dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that it speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// Who it is.
    pub role: Role,
}

/// The answer: the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The newest version that both speak.
    pub version: u16,
    /// Who answers.
    pub controller: ControllerId,
}

/// The last message of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bye {
    /// For programs; see the codes.
    pub code: u8,
    /// How long to stay away, at least, in milliseconds; 0: no matter.
    pub after_ms: u32,
    /// For people.
    pub text: String,
}
