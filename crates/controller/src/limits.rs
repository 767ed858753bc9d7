//! Every bound of what a peer, a file or a user can ask for.

use std::time::Duration;

/// Bytes of the name of a controller or of a partition: letters, digits, `-`, `_` and `.`.
pub const NAME_MAX: usize = 64;
/// Bytes of the name of a device: printable ASCII without spaces.
pub const DEVICE_MAX: usize = 128;
/// The highest counter of a device; one that has come so far is refused.
pub const SEQ_MAX: u64 = 1 << 62;
/// How far beyond the highest counter that is known a device may jump.
pub const SEQ_JUMP_MAX: u64 = 1 << 40;
/// Bytes of a device's address: its own business.
pub const ADDRESS_MAX: usize = 1024;
/// Bytes of a record's key, rank and body together.
pub const RECORD_MAX: usize = 64 << 10;
/// Bytes of a record's key.
pub const KEY_MAX: usize = 256;
/// Bytes of a record's rank.
pub const RANK_MAX: usize = 256;
/// Records of one update, or of one step of anything.
pub const BATCH_MAX: usize = 512;
/// Bytes of the records of one update, unless a single one is larger.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Bytes of updates to a partner that it has not acknowledged, per partition.
pub const UPDATE_WINDOW: usize = 1 << 20;
/// Bytes of a chunk of a snapshot.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Chunks of a snapshot: 64 GiB.
pub const CHUNKS_MAX: u32 = 1 << 18;
/// Chunks that are asked for and have not come.
pub const CHUNKS_IN_FLIGHT: u32 = 4;
/// Bytes of the payload of a request or of its answer.
pub const PAYLOAD_MAX: usize = 256 << 10;
/// Controllers that a request may pass through after the first.
pub const HOPS_MAX: usize = 4;
/// Other controllers that a device is told of.
pub const ALTERNATES_MAX: usize = 8;
/// Addresses of one of them.
pub const ADDRS_MAX: usize = 8;
/// Partitions of a controller, and so its partners.
pub const PARTITIONS_MAX: usize = 64;
/// Bytes of the shared parameters.
pub const PARAMETERS_MAX: usize = 60 << 10;
/// The highest generation of the shared parameters; a record with more is left out everywhere, so
/// that there always is a next one.
pub const GENERATION_MAX: u64 = 1 << 48;
/// Bytes of one message: the largest is an update with one large record, or a chunk.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Bytes of a message before the greeting is done.
pub const GREETING_MAX: usize = 8 << 10;
/// Bytes of a text that a peer sends along with a refusal.
pub const TEXT_MAX: usize = 1024;
/// The longest lease of a registration.
pub const LEASE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The shortest.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest deadline of a request.
pub const DEADLINE_MAX: Duration = Duration::from_secs(300);
