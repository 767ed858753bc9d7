//! What a controller tells about itself, in a form that goes through JSON: for the control socket,
//! for figures, for programs in other languages. Members are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Standing;
use crate::node::status::{
    Counts, DeviceRow, NodeStatus, PartitionStatus, PartnerStatus, SyncStatus,
};
use crate::shard::output::SyncState;
use crate::wire::client::Outcome;

/// The whole controller; times are in milliseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Its name.
    pub controller: String,
    /// How long its process runs.
    pub up_ms: u64,
    /// Why it carries no connections any more; empty if it does.
    #[serde(default)]
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
    pub connections: u64,
    /// Each partition.
    pub partitions: Vec<PartitionReport>,
    /// Each partner.
    pub partners: Vec<PartnerReport>,
    /// Counted since the start.
    pub counts: CountsReport,
}

/// One partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionReport {
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
    pub queued: u64,
    /// The number of the last change.
    pub head: u64,
    /// Where the exchange with each partner stands.
    pub sync: Vec<SyncReport>,
    /// Requests under way.
    pub requests: u64,
    /// Hand-overs under way.
    pub hand_overs: u64,
    /// Registrations, since the start.
    pub registrations: u64,
    /// Microseconds from when a registration came until it was on disk, the 99th of 100.
    pub registration_p99_us: u64,
}

/// The exchange of one partition with one partner.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncReport {
    /// Whom.
    pub partner: String,
    /// "queueing", "overflowed", "bulk", "catch-up", "in-sync" or "paused".
    pub state: String,
    /// Changes that the partner has not confirmed, counted up to 100,000.
    pub lag: u64,
    /// How long the oldest of those that went has waited.
    pub lag_ms: u64,
    /// Chunks of a snapshot that went or came, and how many there are.
    pub chunks: Option<(u32, u32)>,
}

/// One link.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PartnerReport {
    /// Whom.
    pub partner: String,
    /// "down", "connecting", "greeting", "up", "version mismatch" or "not let in".
    pub state: String,
    /// Why it is not up; empty if it is.
    pub error: String,
    /// How long it is in this state.
    pub since_ms: u64,
    /// The last round trip of a ping, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Its connection is cut right now, and is being resumed.
    pub is_cut: bool,
    /// Its operator has set it to maintenance.
    pub maintenance: bool,
    /// Its generation of parameters.
    pub generation: u64,
    /// Why it refuses a newer one; empty if it does not.
    pub generation_refused: String,
    /// How far its wall clock is ahead of this one's.
    pub clock_ahead_ms: i64,
    /// Bytes that wait to be written to it.
    pub queued_bytes: u64,
}

/// Counted since the start; see [`Counts`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each is the member of `Counts` that has its name")]
pub struct CountsReport {
    pub retries: u64,
    pub refused: u64,
    pub take_overs: u64,
    pub requests_served: u64,
    pub requests_forwarded: u64,
    pub requests_not_here: u64,
    pub handed_over: u64,
    pub hand_overs_failed: u64,
    pub updates_sent: u64,
    pub updates_received: u64,
    pub snapshots_sent: u64,
    pub snapshots_received: u64,
    pub clashes: u64,
}

/// A line of a list of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceReport {
    /// Which.
    pub device: String,
    /// Its home.
    pub home: String,
    /// Who has it, or had it last.
    pub owner: String,
    /// The counter of its registration.
    pub seq: u64,
    /// The owner's counter of changes within it.
    pub version: u64,
    /// "registered", "deregistered" or "expired".
    pub standing: String,
    /// How long it stands without a word of the device.
    pub lease_ms: u64,
    /// The generation of parameters that the device has.
    pub generation: u64,
    /// Whether it is connected here now.
    pub connected: bool,
    /// How to reach it: its own business; what is no text is escaped.
    pub address: String,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum OutcomeReport {
    /// The device answered.
    Done {
        /// What; bytes that are no text are escaped.
        answer: String,
    },
    /// Nobody has heard of the device, or it has deregistered.
    Unknown,
    /// Another controller has it, as far as is known.
    NotHere {
        /// Who.
        owner: String,
        /// The counter of the registration that says so.
        seq: u64,
    },
    /// The device or the controller on the way to it cannot be reached now.
    Unreachable {
        /// Why.
        why: String,
    },
    /// Too much is under way.
    Busy {
        /// When to come again.
        after_ms: u64,
    },
    /// No answer in time; it may still take effect.
    TimedOut,
    /// The device will not do it.
    Refused {
        /// Why.
        why: String,
    },
}

impl From<NodeStatus> for Report {
    fn from(status: NodeStatus) -> Self {
        Self {
            controller: status.controller,
            up_ms: millis(status.up),
            failure: status.failure,
            maintenance: status.maintenance,
            generation: status.generation,
            generation_refused: status.generation_refused,
            dispatch_generation: status.dispatch_generation,
            connections: status.connections as u64,
            partitions: status.partitions.into_iter().map(Into::into).collect(),
            partners: status.partners.into_iter().map(Into::into).collect(),
            counts: status.counts.into(),
        }
    }
}

impl From<PartitionStatus> for PartitionReport {
    fn from(status: PartitionStatus) -> Self {
        Self {
            name: status.name,
            error: status.error,
            records: status.records,
            bytes: status.bytes,
            owned: status.owned,
            connected: status.connected,
            queued: status.queued as u64,
            head: status.head,
            sync: status.sync.into_iter().map(Into::into).collect(),
            requests: status.requests as u64,
            hand_overs: status.hand_overs as u64,
            registrations: status.registrations,
            registration_p99_us: micros(status.registration_p99),
        }
    }
}

impl From<SyncStatus> for SyncReport {
    fn from(status: SyncStatus) -> Self {
        Self {
            partner: status.partner.to_string(),
            state: sync_state(status.state).to_owned(),
            lag: status.lag,
            lag_ms: millis(status.lag_time),
            chunks: status.chunks,
        }
    }
}

impl From<PartnerStatus> for PartnerReport {
    fn from(status: PartnerStatus) -> Self {
        Self {
            partner: status.partner.to_string(),
            state: status.state.to_owned(),
            error: status.error,
            since_ms: millis(status.since),
            round_trip_us: status.round_trip.map(micros),
            is_cut: status.is_cut,
            maintenance: status.maintenance,
            generation: status.generation,
            generation_refused: status.generation_refused,
            clock_ahead_ms: status.clock_ahead_ms,
            queued_bytes: status.queued_bytes as u64,
        }
    }
}

impl From<Counts> for CountsReport {
    fn from(counts: Counts) -> Self {
        Self {
            retries: counts.retries,
            refused: counts.refused,
            take_overs: counts.take_overs,
            requests_served: counts.requests_served,
            requests_forwarded: counts.requests_forwarded,
            requests_not_here: counts.requests_not_here,
            handed_over: counts.handed_over,
            hand_overs_failed: counts.hand_overs_failed,
            updates_sent: counts.updates_sent,
            updates_received: counts.updates_received,
            snapshots_sent: counts.snapshots_sent,
            snapshots_received: counts.snapshots_received,
            clashes: counts.clashes,
        }
    }
}

impl From<DeviceRow> for DeviceReport {
    fn from(row: DeviceRow) -> Self {
        let location = row.location;
        Self {
            device: location.device.to_string(),
            home: row.home.to_string(),
            owner: location.owner.to_string(),
            seq: location.seq,
            version: location.version,
            standing: match location.standing {
                Standing::Registered => "registered",
                Standing::Deregistered => "deregistered",
                Standing::Expired => "expired",
                Standing::Other(_) => "ended",
            }
            .to_owned(),
            lease_ms: millis(location.lease),
            generation: location.generation,
            connected: row.is_connected,
            address: printable(&location.address),
        }
    }
}

impl From<Outcome> for OutcomeReport {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done(answer) => Self::Done { answer: printable(&answer) },
            Outcome::Unknown => Self::Unknown,
            Outcome::NotHere { owner, seq, place: _ } => {
                Self::NotHere { owner: owner.to_string(), seq }
            }
            Outcome::Unreachable(why) => Self::Unreachable { why },
            Outcome::Busy { after } => Self::Busy { after_ms: millis(after) },
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Refused(why) => Self::Refused { why },
        }
    }
}

/// The name of a state, as reports have it.
#[must_use]
pub fn sync_state(state: SyncState) -> &'static str {
    match state {
        SyncState::Queueing => "queueing",
        SyncState::Overflowed => "overflowed",
        SyncState::Bulk => "bulk",
        SyncState::CatchUp => "catch-up",
        SyncState::InSync => "in-sync",
        SyncState::Paused => "paused",
    }
}

/// Bytes as people can read them: what is text stays, the rest is escaped.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
