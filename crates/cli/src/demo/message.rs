//! What one end of the demo tells the process that started it: JSON, one message a line.

use std::fmt;
use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// A TCP connection, for comparison.
    Plain,
    /// A session whose descriptor is the real socket.
    Direct,
    /// A session whose descriptor is a pair that the engine copies from and to.
    Pumped,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Direct => "direct",
            Self::Pumped => "pumped",
        })
    }
}

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// The server can be connected to.
    Listening { addr: SocketAddr },
    /// Bytes so far.
    Progress { received: u64 },
    /// A new connection carries the session: the one with this number within it.
    Resumed { epoch: u64, replayed: u64, stalled_ms: u64 },
    /// This end has nothing left to do.
    Done(Outcome),
}

/// What one end saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Bytes written.
    pub(crate) sent: u64,
    /// Bytes read.
    pub(crate) received: u64,
    /// The digest of the bytes written.
    pub(crate) sha256_sent: String,
    /// The digest of the bytes read.
    pub(crate) sha256_received: String,
    /// The longest time without a byte to read, while bytes were missing.
    pub(crate) longest_stall_ms: u64,
    /// How often the session was resumed.
    pub(crate) resumes: u64,
    /// Bytes that were sent again.
    pub(crate) replayed: u64,
    /// What went wrong, with what it happened to.
    pub(crate) error: Option<String>,
}
