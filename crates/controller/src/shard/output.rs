//! What a shard wants done.

use super::input::{ConnId, Millis, Origin};
use crate::model::{ControllerId, DeviceId, Record};
use crate::wire::client::{ClientMessage, Outcome, Request};
use crate::wire::peer::{Forward, Manifest, SyncMessage};

/// See the module. None of it may happen before the transaction is committed in which it was made.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Say this to a device or a third party.
    Say {
        /// On which connection.
        conn: ConnId,
        /// What.
        message: ClientMessage,
    },
    /// Ask a device. The request's id is the shard's, for [`Input::Answer`](super::Input::Answer).
    Ask {
        /// On which connection.
        conn: ConnId,
        /// What.
        request: Request,
    },
    /// A request is answered.
    Answered {
        /// Whom to tell.
        origin: Origin,
        /// What.
        outcome: Outcome,
    },
    /// Pass a request on.
    Forward {
        /// To whom. If there is no link, answer with `Unreachable`.
        partner: ControllerId,
        /// What.
        forward: Forward,
    },
    /// Tell a partner about this partition's table.
    Sync {
        /// Whom.
        partner: ControllerId,
        /// What.
        message: SyncMessage,
    },
    /// Make a snapshot of what is committed, for this partner, and say
    /// [`Input::SnapshotBuilt`](super::Input::SnapshotBuilt).
    BuildSnapshot {
        /// For whom.
        partner: ControllerId,
    },
    /// Read a chunk of a snapshot made before; say [`Input::ChunkRead`](super::Input::ChunkRead).
    ReadChunk {
        /// For whom.
        partner: ControllerId,
        /// Of which snapshot.
        snapshot: u128,
        /// Which.
        index: u32,
    },
    /// The partner needs its snapshot no more.
    DropSnapshot {
        /// Which.
        snapshot: u128,
    },
    /// Give this snapshot to nobody who asks for one anew; whoever is receiving it goes on.
    RetireSnapshot {
        /// Which.
        snapshot: u128,
    },
    /// Make ready to keep a partner's snapshot, or find what is kept of it already; say
    /// [`Input::SnapshotOpened`](super::Input::SnapshotOpened).
    ReceiveSnapshot {
        /// From whom.
        partner: ControllerId,
        /// What it will be.
        manifest: Manifest,
    },
    /// Keep a chunk; say [`Input::ChunkWritten`](super::Input::ChunkWritten).
    WriteChunk {
        /// From whom.
        partner: ControllerId,
        /// Of which snapshot.
        snapshot: u128,
        /// Which.
        index: u32,
        /// Its data, whose sum is right.
        data: Vec<u8>,
    },
    /// Check the whole of a received snapshot, the first time; then read some of its records on
    /// from where the last reading ended. Say
    /// [`Input::SnapshotRecords`](super::Input::SnapshotRecords).
    ReadSnapshot {
        /// From whom.
        partner: ControllerId,
        /// Which.
        snapshot: u128,
    },
    /// A received snapshot is in the table, or useless: remove it.
    ForgetSnapshot {
        /// From whom.
        partner: ControllerId,
        /// Which.
        snapshot: u128,
    },
    /// A record that is no location has become the one that stands.
    Changed {
        /// Itself.
        record: Record,
    },
    /// Something that people should hear of.
    Event(Event),
    /// Nothing happens before then; say [`Input::Tick`](super::Input::Tick) at that time.
    Wake {
        /// When.
        at: Millis,
    },
}

/// What people may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A device is served by somebody else than before, as far as is known here.
    Owner {
        /// Which.
        device: DeviceId,
        /// By whom before; `None`: by nobody.
        before: Option<ControllerId>,
        /// By whom now.
        now: ControllerId,
        /// The counter of the registration.
        seq: u64,
    },
    /// Two controllers have one device under one counter: it is asked to register again.
    Clash {
        /// Which.
        device: DeviceId,
        /// The counter.
        seq: u64,
    },
    /// Where the exchange with a partner stands now.
    Sync {
        /// Whom.
        partner: ControllerId,
        /// Its state.
        state: SyncState,
    },
    /// A batch of hand-overs has ended.
    HandedOver {
        /// To whom.
        target: ControllerId,
        /// Devices that went.
        done: u64,
        /// Devices that did not.
        failed: u64,
        /// Devices that were busy and stay for now.
        skipped: u64,
        /// Why it ended early; empty if it did not.
        stopped: String,
    },
    /// A partner has sent something that makes no sense; what was done about it.
    Odd {
        /// Who.
        partner: ControllerId,
        /// What.
        text: String,
    },
}

/// Where the exchange of one partition with one partner stands. It never decides who serves a
/// device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncState {
    /// There is no link; changes wait in the table.
    Queueing,
    /// There is no link, and so much has changed that a snapshot will be needed.
    Overflowed,
    /// A snapshot goes to the partner, or comes from it.
    Bulk,
    /// Changes go, and there are more than fit into one step.
    CatchUp,
    /// The partner has all, or all but what is on its way.
    InSync,
    /// An operator has stopped the exchange.
    Paused,
}
