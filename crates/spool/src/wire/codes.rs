//! Every number that stands for something. They stay the same in all versions; new ones are added.

/// The first four bytes of a [`Hello`](super::Hello): `EVSP`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"EVSP");

/// Types of messages.
pub mod kind {
    /// The first message of a connection, from who dialled.
    pub const HELLO: u16 = 0x0001;
    /// The answer to it.
    pub const WELCOME: u16 = 0x0002;
    /// The last message of a connection: why it ends.
    pub const BYE: u16 = 0x0003;
    /// Sender to front.
    pub const REQUEST: u16 = 0x0101;
    /// Front to sender.
    pub const OUTCOME: u16 = 0x0102;
    /// Sender to front.
    pub const FETCH: u16 = 0x0103;
    /// Front to sender.
    pub const FETCHED: u16 = 0x0104;
    /// Front to server.
    pub const EXECUTE: u16 = 0x0201;
    /// Server to front.
    pub const RESULTS: u16 = 0x0202;
    /// Server to front.
    pub const FENCED: u16 = 0x0203;
    /// Front to server.
    pub const PROBE: u16 = 0x0204;
    /// Server to front.
    pub const REPORT: u16 = 0x0205;
    /// Front to server.
    pub const GRANT: u16 = 0x0206;
    /// Server to front.
    pub const GRANTED: u16 = 0x0207;
    /// Front to server.
    pub const RELEASE: u16 = 0x0208;
    /// Server to front.
    pub const RELEASED: u16 = 0x0209;
}

/// Who dials.
pub mod role {
    /// A sender, to a front.
    pub const SENDER: u8 = 1;
    /// A front, to a server.
    pub const FRONT: u8 = 2;
}

/// What a server promises.
pub mod class {
    /// [`Class::Ledger`](crate::target::Class::Ledger)
    pub const LEDGER: u8 = 1;
    /// [`Class::Idempotent`](crate::target::Class::Idempotent)
    pub const IDEMPOTENT: u8 = 2;
    /// [`Class::Opaque`](crate::target::Class::Opaque)
    pub const OPAQUE: u8 = 3;
}

/// What a sender is told.
pub mod outcome {
    /// [`Outcome::Applied`](crate::Outcome::Applied)
    pub const APPLIED: u8 = 1;
    /// [`Outcome::Spooled`](crate::Outcome::Spooled)
    pub const SPOOLED: u8 = 2;
    /// [`Outcome::Held`](crate::Outcome::Held)
    pub const HELD: u8 = 3;
    /// [`Outcome::Stale`](crate::Outcome::Stale)
    pub const STALE: u8 = 4;
    /// [`Outcome::InDoubt`](crate::Outcome::InDoubt)
    pub const IN_DOUBT: u8 = 5;
    /// [`Outcome::Rejected`](crate::Outcome::Rejected)
    pub const REJECTED: u8 = 6;
}

/// Why a request was rejected.
pub mod reason {
    /// [`Reason::SpoolFull`](crate::Reason::SpoolFull)
    pub const SPOOL_FULL: u8 = 1;
    /// [`Reason::HoldFull`](crate::Reason::HoldFull)
    pub const HOLD_FULL: u8 = 2;
    /// [`Reason::Deadline`](crate::Reason::Deadline)
    pub const DEADLINE: u8 = 3;
    /// [`Reason::Unavailable`](crate::Reason::Unavailable)
    pub const UNAVAILABLE: u8 = 4;
    /// [`Reason::Closing`](crate::Reason::Closing)
    pub const CLOSING: u8 = 5;
    /// [`Reason::Malformed`](crate::Reason::Malformed)
    pub const MALFORMED: u8 = 6;
    /// [`Reason::IdReused`](crate::Reason::IdReused)
    pub const ID_REUSED: u8 = 7;
    /// [`Reason::Refused`](crate::Reason::Refused)
    pub const REFUSED: u8 = 8;
}

/// What became of an item of a call.
pub mod item {
    /// [`ItemResult::Done`](crate::target::ItemResult::Done)
    pub const DONE: u8 = 1;
    /// [`ItemResult::Refused`](crate::target::ItemResult::Refused)
    pub const REFUSED: u8 = 2;
    /// [`ItemResult::Later`](crate::target::ItemResult::Later)
    pub const LATER: u8 = 3;
}

/// Why a connection ends.
pub mod bye {
    /// No version that both speak.
    pub const VERSION: u8 = 1;
    /// As many connections as there may be.
    pub const FULL: u8 = 2;
    /// A message that is none.
    pub const MALFORMED: u8 = 3;
    /// The program ends.
    pub const CLOSING: u8 = 4;
    /// The peer's role, or class, is not the one that is wanted here.
    pub const MISMATCH: u8 = 5;
    /// The first message did not come in time.
    pub const SLOW: u8 = 6;
}
