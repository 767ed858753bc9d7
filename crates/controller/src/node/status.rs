//! What a controller tells about itself.

use std::time::Duration;

use crate::model::{ControllerId, Location};
use crate::shard::output::SyncState;

/// The whole controller at one moment.
#[derive(Debug, Clone, Default)]
pub struct NodeStatus {
    /// Its name; empty in a default.
    pub controller: String,
    /// How long its process runs.
    pub up: Duration,
    /// Why it carries no connections any more, and has to be started anew; empty if it does.
    pub failure: String,
    /// An operator has set it to maintenance.
    pub maintenance: bool,
    /// The generation of the parameters in use.
    pub generation: u64,
    /// Why a newer generation is refused; empty if none is.
    pub generation_refused: String,
    /// The generation of the dispatch table.
    pub dispatch_generation: u64,
    /// Connections of devices and third parties.
    pub connections: usize,
    /// Each partition.
    pub partitions: Vec<PartitionStatus>,
    /// Each partner.
    pub partners: Vec<PartnerStatus>,
    /// Counted since the start.
    pub counts: Counts,
}

/// One partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionStatus {
    /// Its name: the home of its devices.
    pub name: String,
    /// Why it does not work now; empty if it does.
    pub error: String,
    /// Records in its table.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Devices whose newest registration is here.
    pub owned: u64,
    /// Of them: with a connection that stands.
    pub connected: u64,
    /// Inputs that wait.
    pub queued: usize,
    /// The number of the last change.
    pub head: u64,
    /// Where the exchange with each partner stands.
    pub sync: Vec<SyncStatus>,
    /// Requests under way.
    pub requests: usize,
    /// Hand-overs under way.
    pub hand_overs: usize,
    /// Registrations, since the start.
    pub registrations: u64,
    /// Time from when a registration came until it was on disk, the 99th of 100, of the last 10 s.
    pub registration_p99: Duration,
}

/// The exchange of one partition with one partner.
#[derive(Debug, Clone)]
pub struct SyncStatus {
    /// Whom.
    pub partner: ControllerId,
    /// Where it stands.
    pub state: SyncState,
    /// Changes that the partner has not confirmed, counted up to 100,000.
    pub lag: u64,
    /// How long the oldest of those that went has waited.
    pub lag_time: Duration,
    /// Chunks of a snapshot that went or came, and how many there are.
    pub chunks: Option<(u32, u32)>,
}

/// One link.
#[derive(Debug, Clone)]
pub struct PartnerStatus {
    /// Whom.
    pub partner: ControllerId,
    /// "down", "connecting", "greeting", "up", "version mismatch", "not let in".
    pub state: &'static str,
    /// Why it is not up; empty if it is.
    pub error: String,
    /// How long it is in this state.
    pub since: Duration,
    /// The last round trip of a ping.
    pub round_trip: Option<Duration>,
    /// Its connection is cut right now, and is being resumed.
    pub is_cut: bool,
    /// Its operator has set it to maintenance.
    pub maintenance: bool,
    /// Its generation of parameters.
    pub generation: u64,
    /// Why it refuses a newer one; empty if it does not.
    pub generation_refused: String,
    /// How far its wall clock is ahead of this one's, in milliseconds, as far as is known.
    pub clock_ahead_ms: i64,
    /// Bytes that wait to be written to it.
    pub queued_bytes: usize,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registrations that were told to come later.
    pub retries: u64,
    /// Registrations that were refused.
    pub refused: u64,
    /// Registrations that took over a device from another controller.
    pub take_overs: u64,
    /// Requests answered here.
    pub requests_served: u64,
    /// Requests passed on.
    pub requests_forwarded: u64,
    /// Requests answered with the owner's name.
    pub requests_not_here: u64,
    /// Devices that were handed over.
    pub handed_over: u64,
    /// Hand-overs that failed.
    pub hand_overs_failed: u64,
    /// Changes told to partners.
    pub updates_sent: u64,
    /// Changes that partners told.
    pub updates_received: u64,
    /// Snapshots sent whole.
    pub snapshots_sent: u64,
    /// Snapshots received whole.
    pub snapshots_received: u64,
    /// Clashes of counters.
    pub clashes: u64,
}

/// A line of a list of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its home.
    pub home: ControllerId,
    /// What stands.
    pub location: Location,
    /// Whether it is connected here now.
    pub is_connected: bool,
}
