//! What happens to a shard.

use std::sync::Arc;

use crate::model::{ControllerId, DeviceId};
use crate::wire::client::{HandOffAnswer, Outcome, Register, Request};
use crate::wire::peer::{Forward, Manifest, Mode, SyncMessage};
use crate::wire::{Place, client::Terms};

/// Milliseconds of a clock that never goes back and that stands for nothing else.
pub type Millis = u64;

/// The number of a connection of devices or third parties, never used twice in a process.
pub type ConnId = u64;

/// Who waits for what came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A connection, and its own number of the request.
    Conn(ConnId, u64),
    /// A partner, and its own number.
    Partner(ControllerId, u64),
    /// This process itself, under a number.
    Local(u64),
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Hand these devices over to that controller, paced as ever.
    Move {
        /// Which; empty: all of this partition that are served here.
        devices: Vec<DeviceId>,
        /// Where to.
        target: ControllerId,
    },
    /// Hand all devices of this partition that are served here back to their home now.
    FailBack,
    /// Stop handing over.
    StopHandOver,
    /// Exchange no changes with this partner (or all), until told otherwise.
    Pause {
        /// Which; `None`: all.
        partner: Option<ControllerId>,
        /// Or go on.
        paused: bool,
    },
    /// Take no registrations and hand the devices over to where they may go.
    Maintenance(bool),
    /// Exchange everything anew with this partner.
    Resync(ControllerId),
}

/// See the module.
#[derive(Debug, Clone)]
pub enum Input {
    /// A device asks to be served.
    Register {
        /// On which connection.
        conn: ConnId,
        /// What it says.
        register: Register,
    },
    /// A device is there.
    Handshake {
        /// On which connection.
        conn: ConnId,
        /// Which.
        device: DeviceId,
        /// The counter of its registration.
        seq: u64,
    },
    /// A device leaves.
    Deregister {
        /// On which connection.
        conn: ConnId,
        /// Which.
        device: DeviceId,
        /// The counter of its registration.
        seq: u64,
    },
    /// What a device says to its hand-over.
    HandOffAnswer {
        /// On which connection.
        conn: ConnId,
        /// Which.
        device: DeviceId,
        /// Of which hand-over.
        token: u64,
        /// What.
        answer: HandOffAnswer,
    },
    /// A device has answered a request; the number is the one of
    /// [`Output::Ask`](super::Output::Ask).
    Answer {
        /// On which connection.
        conn: ConnId,
        /// The request's number.
        id: u64,
        /// What it says.
        outcome: Outcome,
    },
    /// A connection is over: none of its devices can be reached by it any more. They stay
    /// registered until their lease is over.
    ConnLost {
        /// Which.
        conn: ConnId,
    },
    /// Somebody wants something of a device.
    Request {
        /// Who.
        origin: Origin,
        /// What; its `id` is the origin's and not looked at.
        request: Request,
    },
    /// A partner passes on a request.
    Forward {
        /// Who.
        partner: ControllerId,
        /// What.
        forward: Forward,
    },
    /// A partner answers one that this shard passed on; the number is that of the output's
    /// [`Forward`].
    ForwardResult {
        /// Who.
        partner: ControllerId,
        /// The number.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The link to a partner stands, and the introductions are done.
    LinkUp {
        /// Who.
        partner: ControllerId,
        /// Where its devices find it.
        place: Place,
        /// The position of its table of this partition; `None`: it has none.
        head: Option<crate::store::Position>,
        /// How far it has taken over the changes of this shard.
        taken: Option<crate::store::Position>,
    },
    /// The link is gone. It says nothing of whether the partner is.
    LinkDown {
        /// Who.
        partner: ControllerId,
    },
    /// A partner says something about this partition's table.
    Sync {
        /// Who.
        partner: ControllerId,
        /// What.
        message: SyncMessage,
    },
    /// A partner's operator has set this.
    PartnerMode {
        /// Who.
        partner: ControllerId,
        /// What.
        mode: Mode,
    },
    /// [`Output::BuildSnapshot`](super::Output::BuildSnapshot) is done.
    SnapshotBuilt {
        /// For whom.
        partner: ControllerId,
        /// The snapshot; `None`: it could not be made, and is tried again later.
        manifest: Option<Manifest>,
    },
    /// A chunk that was asked for with [`Output::ReadChunk`](super::Output::ReadChunk).
    ChunkRead {
        /// For whom.
        partner: ControllerId,
        /// Of which snapshot.
        snapshot: u128,
        /// Which.
        index: u32,
        /// Its data; `None`: the snapshot is gone.
        data: Option<Vec<u8>>,
    },
    /// [`Output::ReceiveSnapshot`](super::Output::ReceiveSnapshot) is done: these chunks are here
    /// already.
    SnapshotOpened {
        /// From whom.
        partner: ControllerId,
        /// Which.
        snapshot: u128,
        /// The first chunk that is missing; `None`: it cannot be received now, try later.
        next: Option<u32>,
    },
    /// [`Output::WriteChunk`](super::Output::WriteChunk) is done.
    ChunkWritten {
        /// From whom.
        partner: ControllerId,
        /// Of which snapshot.
        snapshot: u128,
        /// Which.
        index: u32,
        /// Whether it is kept. If not it is asked for again later.
        kept: bool,
    },
    /// The next records of a snapshot that is here whole
    /// ([`Output::ReadSnapshot`](super::Output::ReadSnapshot)).
    SnapshotRecords {
        /// From whom.
        partner: ControllerId,
        /// Which.
        snapshot: u128,
        /// What was read; empty at the end. `Err`: it is not what the manifest says, and thrown
        /// away.
        records: Result<Vec<crate::model::Record>, String>,
    },
    /// An operator's order.
    Order(Order),
    /// Parameters, the partition's policy, or the places of controllers have changed.
    Settings(Arc<Settings>),
    /// Time has come; also sent regularly.
    Tick,
}

/// What a shard is to do where its task leaves a choice.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What devices are told, but for their own lease.
    pub terms: Terms,
    /// Where the devices of this partition may go besides, best first; and where all controllers
    /// that are known have their doors.
    pub places: Vec<Place>,
    /// How its devices go home, if this is not their home.
    pub fail_back: FailBackPolicy,
    /// The pace of all hand-overs.
    pub pace: Pace,
    /// Ends of registrations are kept at least so long.
    pub keep_ends: Millis,
    /// A partner that lacks more records than this gets a snapshot.
    pub snapshot_from: u64,
    /// Devices of this partition that may be registered here, at most.
    pub devices_max: usize,
    /// Requests under way, at most.
    pub requests_max: usize,
}

/// When devices go home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailBackPolicy {
    /// When an operator says so.
    Manual,
    /// Each day between these two, in seconds after midnight UTC; over midnight if the first is
    /// larger. The home has to be in sync.
    Window {
        /// From.
        from: u32,
        /// Until.
        until: u32,
    },
    /// When the home has been in sync for so long without a break.
    Auto {
        /// How long.
        after: Millis,
    },
}

/// How fast devices are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Begun per second, at most.
    pub per_second: u32,
    /// Begun and not ended, at most.
    pub in_flight_max: u32,
    /// How long one may take.
    pub deadline: Millis,
    /// Failures in a hundred of a batch (of at least 20) that end the batch.
    pub failures_max_percent: u8,
}
