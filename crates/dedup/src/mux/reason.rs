//! Why a stream was reset, as a reset tells it (docs/DEDUP.md, "The multiplexer").

/// Nothing is said of why: the program wanted it so, or the peer speaks plain yamux.
pub const NONE: u32 = 0;
/// The stream is for another server than this one.
pub const MISDIRECTED: u32 = 1;
/// The server has no service of the name that the stream asks for.
pub const UNKNOWN_SERVICE: u32 = 2;
/// As many streams as there may be are open.
pub const FULL: u32 = 3;
/// Nobody has read it for long, and the memory was needed.
pub const STUCK: u32 = 4;
/// There are to be no new streams in this session.
pub const GONE_AWAY: u32 = 5;
