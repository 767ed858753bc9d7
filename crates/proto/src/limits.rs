//! Every bound of the protocol, each with its unit in its name.

use std::time::Duration;

/// The unit of the `window` field of a frame header, in bytes.
pub const WINDOW_UNIT_BYTES: u64 = 4096;
/// The credit that a receiver gives at first, in bytes.
pub const WINDOW_INITIAL_BYTES: u64 = 256 * 1024;
/// The credit that a receiver gives at most by default, in bytes.
pub const WINDOW_MAX_DEFAULT_BYTES: u64 = 8 * 1024 * 1024;
/// How far the credit edge moves, at most, before the peer is told, in bytes.
pub const ACK_STEP_MAX_BYTES: u64 = 128 * 1024;
/// The least credit that a receiver may be configured to give, in bytes.
pub const WINDOW_MIN_BYTES: u64 = 16 * 1024;
/// The most credit that the header's 16-bit window can express, in bytes.
pub const WINDOW_WIRE_MAX_BYTES: u64 = (u16::MAX as u64) * WINDOW_UNIT_BYTES;
/// The payload of one DATA frame, at most, in bytes.
pub const FRAME_PAYLOAD_MAX_BYTES: usize = 1024 * 1024;
/// The payload of one DATA frame of a sealed session, at most, in bytes.
pub const SEALED_PAYLOAD_MAX_BYTES: usize = 64 * 1024;
/// The payload of the first DATA frame of a sealed epoch, at most, in bytes.
pub const SEALED_PAYLOAD_FIRST_BYTES: usize = 1024;
/// The tag behind a sealed frame, in bytes.
pub const TAG_BYTES: usize = 16;
/// What each record adds to the weight on a key besides its body, in bytes.
pub const RECORD_WEIGHT_BYTES: u64 = 64;
/// The weight at which a key gives way to the next, in bytes.
pub const KEY_WEIGHT_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The length of a frame header, in bytes.
pub const HEADER_BYTES: usize = 16;
/// The body of START, FIN, STOP and RESET, in bytes.
pub const CONTROL_BODY_BYTES: usize = 8;
/// The body of ADDRS, at most, in bytes.
pub const ADDRS_BODY_MAX_BYTES: usize = 512;
/// A handshake message with its envelope, at most, in bytes.
pub const HELLO_MAX_BYTES: usize = 1024;
/// The length of a handshake message's envelope, in bytes.
pub const HELLO_ENVELOPE_BYTES: usize = 8;
/// Alternative addresses that a peer may announce, at most.
pub const ADDRS_MAX: usize = 16;
/// How long an unproven connection may take for its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a record may be cut short without another byte of it.
pub const RECORD_DEADLINE: Duration = Duration::from_secs(10);
/// Resumes in a row that may bring no progress before the session is given up.
pub const STALE_RESUMES_MAX: u32 = 16;
/// A payload chunk of the log for ordinary traffic, in bytes.
pub const CHUNK_BYTES: usize = 32 * 1024;
/// A payload chunk of the log for a few small messages, in bytes.
pub const CHUNK_SMALL_BYTES: usize = 2 * 1024;
/// Free chunks that a pool keeps, at most, in bytes.
pub const POOL_FREE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of free small chunks that the pool keeps, at most.
pub const POOL_FREE_SMALL_MAX_BYTES: usize = 128 * 1024;
/// Log space that each session has outside the process-wide cap, in bytes.
pub const LOG_GUARANTEED_BYTES: u64 = 64 * 1024;
/// The process-wide cap on log space beyond the guaranteed part, by default, in bytes.
pub const LOG_CAP_DEFAULT_BYTES: u64 = 256 * 1024 * 1024;
/// Control frames that a non-blocking receive may eat before it returns.
pub const CONTROL_FRAMES_PER_CALL_MAX: u32 = 64;

const _: () = assert!(WINDOW_MIN_BYTES.is_multiple_of(WINDOW_UNIT_BYTES));
const _: () = assert!(WINDOW_INITIAL_BYTES.is_multiple_of(WINDOW_UNIT_BYTES));
const _: () = assert!(WINDOW_MAX_DEFAULT_BYTES <= WINDOW_WIRE_MAX_BYTES);
const _: () = assert!(LOG_GUARANTEED_BYTES >= CHUNK_BYTES as u64);
const _: () = assert!(WINDOW_MIN_BYTES <= LOG_GUARANTEED_BYTES);
