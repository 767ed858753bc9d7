//! Every number that stands for something. They stay the same in all versions; new ones are added.

/// The first four bytes of a [`Hello`](super::Hello): `EVCS`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"EVCS");

/// Types of messages.
pub mod kind {
    /// The first message of a connection, from who dialled.
    pub const HELLO: u16 = 0x0001;
    /// The answer to it.
    pub const WELCOME: u16 = 0x0002;
    /// The last message of a connection: why it ends.
    pub const BYE: u16 = 0x0003;

    /// Device to controller.
    pub const REGISTER: u16 = 0x0101;
    /// Controller to device.
    pub const REGISTERED: u16 = 0x0102;
    /// Controller to device.
    pub const RETRY: u16 = 0x0103;
    /// Controller to device.
    pub const JUMP: u16 = 0x0104;
    /// Controller to device.
    pub const REFUSED: u16 = 0x0105;
    /// Device to controller.
    pub const HANDSHAKE: u16 = 0x0106;
    /// Controller to device.
    pub const HANDSHAKE_OK: u16 = 0x0107;
    /// Device to controller.
    pub const DEREGISTER: u16 = 0x0108;
    /// Controller to device.
    pub const DEREGISTERED: u16 = 0x0109;
    /// Controller to device.
    pub const REREGISTER: u16 = 0x010a;
    /// Controller to device.
    pub const HAND_OFF: u16 = 0x010b;
    /// Device to controller.
    pub const HAND_OFF_ANSWER: u16 = 0x010c;
    /// Either way.
    pub const REQUEST: u16 = 0x010d;
    /// Either way.
    pub const RESPONSE: u16 = 0x010e;
    /// Device to controller.
    pub const GET_PARAMETERS: u16 = 0x010f;
    /// Controller to device.
    pub const PARAMETERS: u16 = 0x0110;

    /// Between partners, second.
    pub const INTRODUCTION: u16 = 0x0201;
    /// Between partners.
    pub const PING: u16 = 0x0202;
    /// Between partners.
    pub const PONG: u16 = 0x0203;
    /// Between partners.
    pub const FORWARD: u16 = 0x0204;
    /// Between partners.
    pub const RESULT: u16 = 0x0205;
    /// Between partners.
    pub const MODE: u16 = 0x0206;
    /// Between partners.
    pub const PARTNER_PARAMETERS: u16 = 0x0207;

    /// Between partners, about one partition; so are those that follow.
    pub const SYNC_UPDATE: u16 = 0x0301;
    /// See [`SyncMessage::Taken`](crate::wire::peer::SyncMessage::Taken).
    pub const SYNC_TAKEN: u16 = 0x0302;
    /// See [`SyncMessage::Resync`](crate::wire::peer::SyncMessage::Resync).
    pub const SYNC_RESYNC: u16 = 0x0303;
    /// See [`SyncMessage::Snapshot`](crate::wire::peer::SyncMessage::Snapshot).
    pub const SYNC_SNAPSHOT: u16 = 0x0304;
    /// See [`SyncMessage::Need`](crate::wire::peer::SyncMessage::Need).
    pub const SYNC_NEED: u16 = 0x0305;
    /// See [`SyncMessage::Chunk`](crate::wire::peer::SyncMessage::Chunk).
    pub const SYNC_CHUNK: u16 = 0x0306;
    /// See [`SyncMessage::Gone`](crate::wire::peer::SyncMessage::Gone).
    pub const SYNC_GONE: u16 = 0x0307;
    /// See [`SyncMessage::Loaded`](crate::wire::peer::SyncMessage::Loaded).
    pub const SYNC_LOADED: u16 = 0x0308;

    /// From here on: types that may be added within a version. Who does not know one throws the
    /// message away and goes on.
    pub const OPTIONAL: u16 = 0x8000;
}

/// Who dials.
pub mod role {
    /// [`Role::Device`](crate::wire::Role::Device)
    pub const DEVICE: u8 = 1;
    /// [`Role::ThirdParty`](crate::wire::Role::ThirdParty)
    pub const THIRD_PARTY: u8 = 2;
    /// [`Role::Partner`](crate::wire::Role::Partner)
    pub const PARTNER: u8 = 3;
}

/// Kinds of addresses.
pub mod family {
    /// Four bytes and the port.
    pub const IPV4: u8 = 4;
    /// Sixteen bytes and the port.
    pub const IPV6: u8 = 6;
}

/// What came of a request.
pub mod outcome {
    /// [`Outcome::Done`](crate::wire::client::Outcome::Done)
    pub const DONE: u8 = 1;
    /// [`Outcome::Unknown`](crate::wire::client::Outcome::Unknown)
    pub const UNKNOWN: u8 = 2;
    /// [`Outcome::NotHere`](crate::wire::client::Outcome::NotHere)
    pub const NOT_HERE: u8 = 3;
    /// [`Outcome::Unreachable`](crate::wire::client::Outcome::Unreachable)
    pub const UNREACHABLE: u8 = 4;
    /// [`Outcome::Busy`](crate::wire::client::Outcome::Busy)
    pub const BUSY: u8 = 5;
    /// [`Outcome::TimedOut`](crate::wire::client::Outcome::TimedOut)
    pub const TIMED_OUT: u8 = 6;
    /// [`Outcome::Refused`](crate::wire::client::Outcome::Refused)
    pub const REFUSED: u8 = 7;
}

/// What a device says to a hand-over.
pub mod answer {
    /// [`HandOffAnswer::Goes`](crate::wire::client::HandOffAnswer::Goes)
    pub const GOES: u8 = 1;
    /// [`HandOffAnswer::Busy`](crate::wire::client::HandOffAnswer::Busy)
    pub const BUSY: u8 = 2;
    /// [`HandOffAnswer::Stays`](crate::wire::client::HandOffAnswer::Stays)
    pub const STAYS: u8 = 3;
}

/// Why a connection ends. One that is not known here is shown with its text.
pub mod bye {
    /// The program ends, or needs the connection no more.
    pub const CLOSING: u8 = 1;
    /// A message that is none, or that the other side alone sends.
    pub const MALFORMED: u8 = 2;
    /// No version that both speak.
    pub const VERSION: u8 = 3;
    /// The peer's role, or name, is not the one that is wanted here.
    pub const MISMATCH: u8 = 4;
    /// As many connections as there may be.
    pub const FULL: u8 = 5;
    /// The first message did not come in time, or what was sent was not read.
    pub const SLOW: u8 = 6;
    /// An operator has set the controller to maintenance.
    pub const MAINTENANCE: u8 = 7;
    /// The peer's key, or name, is not one that is let in.
    pub const NOT_LET_IN: u8 = 8;
    /// A newer connection of the same peer has taken its place.
    pub const REPLACED: u8 = 9;
}
