//! What controllers, devices and third parties say to each other over virtual sockets.
//!
//! * [`client`]: between a controller and devices, or third parties.
//! * [`peer`]: between two controllers that are partners.
//! * [`codes`]: every number that stands for something.
//!
//! A frame is the length of the body as a u32, the type of the message as a u16, and the body,
//! whose fields are those of [`eversock_fields`]. Every length is checked against
//! [`limits`](crate::limits) before memory is taken for it; what stands behind the last field is an
//! error, as is a code that nobody has given a meaning.
//!
//! **Versions.** A hello says which versions its sender speaks, and both go on with the newest that
//! both speak; whoever has that version knows all its types and codes. So a program of a newer
//! version may add to all messages but hello, welcome and bye, which have one form for ever.
//! Besides, types from [`codes::kind::OPTIONAL`] on may be added within a version, and records of
//! any kind are kept and passed on.

pub mod client;
mod client_codec;
pub mod codes;
mod hello;
mod parts;
pub mod peer;
mod peer_codec;

use std::net::SocketAddr;

use eversock_fields::FieldError;

use crate::limits::MESSAGE_MAX;
use crate::model::{ControllerId, NameError};

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

/// Bytes before the body.
pub const HEADER_BYTES: usize = 6;

/// What goes in one frame.
pub trait Message: Sized {
    /// The type's number in the frame: see [`codes::kind`].
    fn kind(&self) -> u16;

    /// Appends the body.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The body is not one of this type, or there is no such type; see
    /// [`WireError::is_ignorable`].
    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError>;
}

/// A message as it goes over the wire, header and body.
#[must_use]
pub fn frame<M: Message>(message: &M) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    message.encode(&mut out);
    let length = out.len() - HEADER_BYTES;
    if length > MESSAGE_MAX {
        log::error!("a message of type {:#06x} has {length} bytes", message.kind());
    }
    // One that is too long for a u32 is refused by whoever reads it.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..HEADER_BYTES].copy_from_slice(&message.kind().to_le_bytes());
    out
}

/// The length of the body and the type of the message that a header tells. The length is whatever
/// the peer says.
#[must_use]
pub fn header(bytes: [u8; HEADER_BYTES]) -> (usize, u16) {
    let [a, b, c, d, e, f] = bytes;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    (length, u16::from_le_bytes([e, f]))
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is wrong, or there are too few or too many.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// The type is none of this protocol.
    #[error("{0:#06x} is no type of a message here; does the peer speak another version?")]
    UnknownType(u16),
    /// The peer speaks something else.
    #[error("the peer begins with {0:#010x}: it does not speak eversock's controller protocol")]
    Magic(u32),
    /// A name is none.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The size of a snapshot and its chunks do not fit together.
    #[error("a snapshot of {bytes} bytes cannot have {chunks} chunks")]
    Chunks {
        /// Its bytes.
        bytes: u64,
        /// Its chunks.
        chunks: u32,
    },
}

impl WireError {
    /// Whether the message is to be thrown away as if it had not come: its type has been added by a
    /// newer program for those who know it.
    #[must_use]
    pub fn is_ignorable(&self) -> bool {
        matches!(self, Self::UnknownType(kind) if *kind >= codes::kind::OPTIONAL)
    }

    fn unknown(what: &'static str, code: u8) -> Self {
        FieldError::UnknownCode { what, code: code.into() }.into()
    }
}
