//! A whole controller: its partitions with a thread each, its links to partners, its doors for
//! devices and third parties.

mod admission;
mod bulk;

mod config;
mod environment;
mod event;
mod front;
mod hub;
mod latency;
mod machine;
mod policy;
mod queue;
mod running;
mod start;
pub mod status;
mod worker;

pub use config::{
    Dial, DoorConfig, LinkConfig, NodeConfig, PartitionConfig, PartnerConfig, PartnerDoorConfig,
    QueueConfig, SHARED,
};
pub use event::{NodeError, NodeEvent};
pub use policy::{Parameters, Policy, fail_back};
pub use running::Node;
