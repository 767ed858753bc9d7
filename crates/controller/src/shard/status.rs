//! What a shard tells about itself.

use crate::node::status::{Counts, SyncStatus};
use crate::store::Totals;

/// One partition at one moment.
#[derive(Debug, Clone, Default)]
pub struct ShardStatus {
    /// Devices whose newest registration is here.
    pub owned: u64,
    /// Of them: with a connection that stands.
    pub connected: u64,
    /// What is in the table.
    pub totals: Totals,
    /// The number of the last change.
    pub head: u64,
    /// Where the exchange with each partner stands.
    pub sync: Vec<SyncStatus>,
    /// Requests under way.
    pub requests: usize,
    /// Hand-overs under way.
    pub hand_overs: usize,
    /// Registrations since the start.
    pub registrations: u64,
    /// An operator has set it to maintenance.
    pub maintenance: bool,
    /// Counted since the start, of this partition.
    pub counts: Counts,
}
