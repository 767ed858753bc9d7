//! A whole controller: its partitions with a thread each, its links to partners, its doors for
//! devices and third parties.

mod config;
mod event;
mod policy;
pub mod status;

pub use config::{
    Dial, DoorConfig, LinkConfig, NodeConfig, PartitionConfig, PartnerConfig, PartnerDoorConfig,
    QueueConfig, SHARED,
};
pub use event::{NodeError, NodeEvent};
pub use policy::{Parameters, Policy, fail_back};
