//! What the programs of a pair say to each other over virtual sockets.
//!
//! * [`frame`]: where one message ends and the next begins.
//! * [`hello`]: how a connection begins and how it is refused.
//! * [`sender`]: between senders and a front.
//! * [`server`]: between a front and a server.
//! * [`codes`]: every number that stands for something.
//!
//! Fields are those of [`eversock_fields`]. Every length is checked against
//! [`limits`](crate::limits) before memory is taken for it; what stands behind the last field is an
//! error, as is a code that nobody has given a meaning.

use eversock_fields::FieldError;

pub mod codes;
pub mod frame;
pub mod hello;
mod parts;
pub mod sender;
pub mod server;

pub use frame::{Frame, FrameError, FrameReader, Incoming};
pub use hello::{Bye, Hello, Role};
pub use sender::SenderMessage;
pub use server::ServerMessage;

/// The newest version of both protocols that this program speaks.
pub const VERSION: u16 = 1;
/// The oldest.
pub const VERSION_OLDEST: u16 = 1;

/// One side of a protocol: its messages.
pub trait Message: Sized {
    /// The type's number in the frame.
    fn kind(&self) -> u16;

    /// Appends the body.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a body.
    ///
    /// # Errors
    ///
    /// The body is not one of this type, or there is no such type.
    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError>;
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("the message ends before {0}")]
    Short(&'static str),
    /// It goes on behind its last field.
    #[error("{count} bytes stand behind the end of a message of type {kind:#06x}")]
    Trailing {
        /// The message's type.
        kind: u16,
        /// How many.
        count: usize,
    },
    /// The type is none of this protocol.
    #[error("{0:#06x} is no type of a message here; does the peer speak another version?")]
    UnknownType(u16),
    /// A code without a meaning.
    #[error("{code} means nothing as {what}; does the peer speak another version?")]
    UnknownCode {
        /// Of what.
        what: &'static str,
        /// Which.
        code: u64,
    },
    /// A length or a number that is larger than it may be.
    #[error("{what} is {came}, and may be {limit} at most")]
    TooLong {
        /// Of what, with its unit.
        what: &'static str,
        /// What came.
        came: u64,
        /// What may be.
        limit: u64,
    },
    /// Bytes that should be text.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// The peer speaks something else.
    #[error("the peer begins with {0:#010x}: it does not speak eversock's spool protocol")]
    Magic(u32),
    /// The name of a pair is none.
    #[error("{0:?} cannot be the name of a pair: 1 to 64 letters, digits, `-` and `_`")]
    PairName(String),
}

impl From<FieldError> for WireError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Short(what) => Self::Short(what),
            // Whoever knows the type says it with this error.
            FieldError::Trailing { count } => Self::Trailing { kind: 0, count },
            FieldError::UnknownCode { what, code } => Self::UnknownCode { what, code },
            FieldError::TooLong { what, came, limit } => Self::TooLong { what, came, limit },
            FieldError::NotText(what) => Self::NotText(what),
        }
    }
}

/// Whether a pair can have this name: 1 to [`PAIR_NAME_MAX`](crate::limits::PAIR_NAME_MAX) ASCII
/// letters, digits, `-` and `_`.
#[must_use]
pub fn is_pair_name(name: &str) -> bool {
    (1..=crate::limits::PAIR_NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
