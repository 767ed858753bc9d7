//! Controller sync: controllers in different places serve their own devices and stand in for each
//! other (WO 2005/055517).
//!
//! * [`conn`]: connections: one thread that reads and writes all of them.
//! * [`model`]: who owns a device, and how two opinions of that become one.
//! * [`shard`]: one partition of a controller, as a state machine without I/O.
//! * [`snapshot`]: copies of a table as files, for partners that lack too much.
//! * [`store`]: where a partition's records lie.
//! * [`wire`]: what controllers, devices and third parties say to each other.
//! * [`device`]: a device's side: whom it registers with, and when it turns to the backup.
//! * [`third`]: whoever else has requests for devices.
//! * [`node`]: a whole controller: its partitions, its links, its doors.
#![forbid(unsafe_code)]

pub mod conn;
pub mod device;
pub mod limits;
pub mod model;
pub mod node;
pub mod shard;
pub mod snapshot;
pub mod store;
pub mod third;
pub mod wire;
