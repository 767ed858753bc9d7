//! What a sender asks for and what it is told.

use std::fmt;
use std::time::Duration;

/// Names one request for ever: a sender that has no answer asks again under the same number, and
/// the request takes effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl RequestId {
    /// A number that nobody else has: 128 random bits.
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        use ring::rand::SecureRandom;
        let mut bytes = [0; 16];
        ring::rand::SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| std::io::Error::other("the system has no randomness to give"))?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// The number of what a sender calls by a name of its own (an idempotency key, a Message-ID):
    /// the same name gives the same number.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, name);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_ref()[..16]);
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a request does to the data of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Stores something under a key.
    Write,
    /// Gives back what is under a key.
    Read,
    /// Takes away what is under a key.
    Delete,
    /// Gives back what fits, whatever its key.
    Search,
    /// Something of the backend's own that changes data: treated as a write.
    Custom(u16),
}

impl Kind {
    /// Whether it leaves the data as it is.
    #[must_use]
    pub fn only_looks(self) -> bool {
        matches!(self, Self::Read | Self::Search)
    }

    /// As a number that stays the same in messages and stores.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Write => 1,
            Self::Read => 2,
            Self::Delete => 3,
            Self::Search => 4,
            Self::Custom(code) => 0x1_0000 | u32::from(code),
        }
    }

    /// Back from [`Kind::code`].
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Write),
            2 => Some(Self::Read),
            3 => Some(Self::Delete),
            4 => Some(Self::Search),
            0x1_0000..=0x1_ffff => u16::try_from(code & 0xffff).ok().map(Self::Custom),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write => f.write_str("write"),
            Self::Read => f.write_str("read"),
            Self::Delete => f.write_str("delete"),
            Self::Search => f.write_str("search"),
            Self::Custom(code) => write!(f, "custom {code}"),
        }
    }
}

/// One request of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The same in each retry.
    pub id: RequestId,
    /// What it does.
    pub kind: Kind,
    /// What it does it to; requests of one key take effect in the order of their acknowledgement.
    /// At most [`KEY_MAX`](crate::limits::KEY_MAX) bytes.
    pub key: Vec<u8>,
    /// The backend's own. At most [`PAYLOAD_MAX`](crate::limits::PAYLOAD_MAX) bytes.
    pub payload: Vec<u8>,
    /// From its acceptance by the front on; an answer comes within it, whatever happens.
    pub deadline: Duration,
}

/// What a sender is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The main server did it, and this is what it said.
    Applied {
        /// The backend's answer.
        answer: Vec<u8>,
    },
    /// It is on disk under this number and will be done by the new main.
    Spooled {
        /// The place in the spool: numbers of one pair only grow.
        lsn: u64,
    },
    /// It stands in the job of this diversion (`reads = "job"`): ask for its result by its id.
    Held {
        /// The place in the spool.
        lsn: u64,
    },
    /// Writes of this key wait in the spool, and the pair answers no read before them.
    Stale,
    /// Nobody can say whether it took effect: the server that had it is gone, and keeps no ledger.
    /// Ask again under the same id.
    InDoubt,
    /// It did not take effect. Ask again after this time, under the same id.
    Rejected {
        /// Why.
        reason: Reason,
        /// When to come back; zero if it is no use.
        retry_after: Duration,
    },
}

/// Why a request was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The spool of the pair is full, or its disk.
    #[error("the spool of the pair is full")]
    SpoolFull,
    /// As many reads wait as may.
    #[error("too many requests wait for the pair")]
    HoldFull,
    /// Not done within the request's deadline, and surely without effect.
    #[error("not done within its deadline")]
    Deadline,
    /// No server of the pair can be asked, and the request is none that can be spooled.
    #[error("no server of the pair can be asked")]
    Unavailable,
    /// The front ends.
    #[error("the front ends")]
    Closing,
    /// Longer than what is allowed, or not what it should be.
    #[error("not a request: {0}")]
    Malformed(String),
    /// The id was used before for another request.
    #[error("the id was used for another request")]
    IdReused,
    /// The backend refuses it for good, with its own code.
    #[error("refused by the backend with code {code}: {text}")]
    Refused {
        /// The backend's own.
        code: u32,
        /// What it said.
        text: String,
    },
}
