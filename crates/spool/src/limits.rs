//! Every bound of what a peer, a file or a user can ask for.

use std::time::Duration;

/// Bytes of a key.
pub const KEY_MAX: usize = 4096;
/// Bytes of a payload or of an answer.
pub const PAYLOAD_MAX: usize = 32 << 20;
/// Items of one call to a backend.
pub const BATCH_MAX: usize = 256;
/// Bytes of keys and payloads in one call to a backend, unless a single item is larger.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes of one message between programs.
pub const MESSAGE_MAX: usize = PAYLOAD_MAX + BATCH_BYTES_MAX + (1 << 20);
/// The longest deadline of a request.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of the name of a pair: letters, digits, `-` and `_`.
pub const PAIR_NAME_MAX: usize = 64;
/// Bytes of a text that a peer sends along with a refusal.
pub const TEXT_MAX: usize = 1024;
