//! Between two controllers that are partners.

use std::time::Duration;

use super::client::Outcome;
use super::{Bye, Hello, Place, Welcome};
use crate::model::{ControllerId, DeviceId, Record};
use crate::store::Position;

/// Where one partition stands, at the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standpoint {
    /// Which partition.
    pub partition: ControllerId,
    /// The position of the sender's own table.
    pub head: Position,
    /// How far the sender has taken over the receiver's changes.
    pub taken: Option<Position>,
}

/// What each side tells after the greeting, first of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Who it is.
    pub controller: ControllerId,
    /// Random at each start of its process.
    pub boot: u128,
    /// Where devices and third parties find it.
    pub place: Place,
    /// The partitions that it has.
    pub partitions: Vec<Standpoint>,
    /// Its wall clock in milliseconds since 1970: for a warning in the log, and nothing else.
    pub wall_ms: u64,
}

/// A snapshot of a partition, in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its number (random).
    pub snapshot: u128,
    /// The position of the table in it.
    pub at: Position,
    /// Its bytes.
    pub bytes: u64,
    /// Its chunks: all but the last have [`CHUNK_BYTES`](crate::limits::CHUNK_BYTES).
    pub chunks: u32,
    /// Its records.
    pub records: u64,
    /// The SHA-256 of the whole.
    pub digest: [u8; 32],
}

/// What is said about one partition. All of it is about the tables of both ends and none of it is
/// about who serves whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncMessage {
    /// Changes; all there are up to `upto` but those that the receiver told itself.
    Update {
        /// Up to here.
        upto: Position,
        /// The records.
        records: Vec<Record>,
    },
    /// They are on disk.
    Taken {
        /// Up to here.
        upto: Position,
    },
    /// Send me everything: what I have does not fit to what you have.
    Resync,
    /// A snapshot is to be had: the receiver lacks too much, or things that no update has.
    Snapshot(Manifest),
    /// Send me these chunks.
    Need {
        /// Of which snapshot.
        snapshot: u128,
        /// From this one on.
        first: u32,
        /// So many.
        count: u32,
    },
    /// One of them.
    Chunk {
        /// Of which snapshot.
        snapshot: u128,
        /// Which, from 0.
        index: u32,
        /// The CRC-32 of the data.
        crc: u32,
        /// Itself.
        data: Vec<u8>,
    },
    /// The sender has that snapshot no more: ask anew.
    Gone {
        /// Which.
        snapshot: u128,
    },
    /// All of it is in the receiver's table.
    Loaded {
        /// Which.
        snapshot: u128,
        /// Its position: updates go on from here.
        at: Position,
    },
}

/// A request on its way to the controller that has the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The sender's number, unique on the link until it is answered.
    pub id: u64,
    /// For whom.
    pub device: DeviceId,
    /// Controllers it has passed through; at most [`HOPS_MAX`](crate::limits::HOPS_MAX).
    pub visited: Vec<ControllerId>,
    /// The counter of the registration that the sender knows; 0 for none.
    pub seq: u64,
    /// How long an answer is of use.
    pub deadline: Duration,
    /// What.
    pub payload: Vec<u8>,
}

/// What an operator has done to a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// It takes no registrations, and its devices are handed over.
    pub maintenance: bool,
    /// It does not exchange changes.
    pub paused: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerMessage {
    /// First, from who dialled.
    Hello(Hello),
    /// First, from who was dialled.
    Welcome(Welcome),
    /// Last, from either.
    Bye(Bye),
    /// Second, from both.
    Introduction(Introduction),
    /// Are you there?
    Ping {
        /// A number for the answer.
        n: u64,
    },
    /// Yes.
    Pong {
        /// The number.
        n: u64,
    },
    /// About one partition's table.
    Sync {
        /// Which.
        partition: ControllerId,
        /// What.
        message: SyncMessage,
    },
    /// A request.
    Forward(Forward),
    /// What came of it.
    Result {
        /// The asker's number.
        id: u64,
        /// What.
        outcome: Outcome,
    },
    /// What the operator of the sender has set.
    Mode(Mode),
    /// Which generation of parameters the sender has, and why it has refused a newer one.
    Parameters {
        /// What it uses.
        generation: u64,
        /// The newest that it refused, and why.
        refused: Option<(u64, String)>,
    },
}

/// How urgent a message is on a link: what is less urgent waits for all that is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Greetings, pings, requests.
    Control,
    /// Changes.
    Updates,
    /// Snapshots.
    Bulk,
}

impl PeerMessage {
    /// The lane it goes in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Sync { message: SyncMessage::Chunk { .. }, .. } => Lane::Bulk,
            Self::Sync { .. } => Lane::Updates,
            _ => Lane::Control,
        }
    }
}
