//! What a controller tells as it happens, and what can go wrong with it.

use crate::model::ControllerId;
use crate::shard::Event;

/// Something that people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// Of one partition's devices.
    Partition {
        /// Which.
        partition: ControllerId,
        /// What.
        event: Event,
    },
    /// A partition does not work; it is tried again.
    Fault {
        /// Which.
        partition: ControllerId,
        /// Why.
        error: String,
    },
    /// A partition works again.
    Recovered {
        /// Which.
        partition: ControllerId,
    },
    /// A link has changed.
    Link {
        /// To whom.
        partner: ControllerId,
        /// What it is now: see [`PartnerStatus::state`](super::status::PartnerStatus::state).
        state: &'static str,
        /// Why it is not up; empty if it is.
        error: String,
    },
    /// A partner's wall clock is far from this one's. It does no harm but to logs.
    Skew {
        /// Whose.
        partner: ControllerId,
        /// How far it is ahead, in milliseconds.
        ahead_ms: i64,
    },
    /// New parameters are in use.
    Parameters {
        /// Their generation.
        generation: u64,
    },
    /// New parameters are not used, here.
    ParametersRefused {
        /// Their generation.
        generation: u64,
        /// Why.
        error: String,
    },
    /// A partner does not use the newest parameters.
    PartnerRefused {
        /// Who.
        partner: ControllerId,
        /// The generation that it refuses.
        generation: u64,
        /// Why.
        error: String,
    },
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// A door cannot be opened.
    #[error("cannot listen on {addr}: {cause}")]
    Listen {
        /// Where.
        addr: std::net::SocketAddr,
        /// What was said.
        cause: String,
    },
    /// The system lacks something.
    #[error("the controller cannot start: {0}")]
    System(String),
    /// A store is in use, or not one that this program can use.
    #[error("partition {partition}: {cause}")]
    Store {
        /// Of which partition.
        partition: ControllerId,
        /// What is wrong with it.
        cause: String,
    },
    /// There is no such partition here.
    #[error("there is no partition {0} here")]
    NoPartition(ControllerId),
    /// There is no such partner.
    #[error("there is no partner {0} here: see `evs controller status`")]
    NoPartner(ControllerId),
    /// The partition does not work now.
    #[error("partition {partition} does not work now: {cause}")]
    Down {
        /// Which.
        partition: ControllerId,
        /// Why.
        cause: String,
    },
    /// The partition has too much to do to answer.
    #[error("partition {0} does not answer in time: try again")]
    Late(ControllerId),
    /// The parameters are not what they should be.
    #[error("the parameters are refused: {0}")]
    Parameters(String),
    /// The dispatch table is not what it should be.
    #[error("the dispatch table is refused: {0}")]
    Dispatch(String),
    /// The controller is closed.
    #[error("the controller is closed")]
    Closed,
}
