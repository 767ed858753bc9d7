//! The 16-byte frame header (PROTOCOL 2).

use crate::limits::{
    ADDRS_BODY_MAX_BYTES, CONTROL_BODY_BYTES, FRAME_PAYLOAD_MAX_BYTES, HEADER_BYTES,
    WINDOW_UNIT_BYTES,
};

/// What a frame is. The value is the first byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame of each direction in an epoch: body is the offset at which the sender goes on.
    Start = 1,
    /// Payload.
    Data = 2,
    /// Nothing but the header's ack and window.
    Ack = 3,
    /// End of this direction: body is the final offset. Occupies one offset itself.
    Fin = 4,
    /// The session ends at once: body is a code.
    Reset = 5,
    /// The peer's program will read no more: body is the offset up to which it has read.
    Stop = 6,
    /// Alternative addresses of the sender.
    Addrs = 7,
    /// The sender asks to be resumed elsewhere or later; carries no body.
    Goaway = 8,
}

impl Kind {
    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Start,
            2 => Self::Data,
            3 => Self::Ack,
            4 => Self::Fin,
            5 => Self::Reset,
            6 => Self::Stop,
            7 => Self::Addrs,
            8 => Self::Goaway,
            _ => return None,
        })
    }

    pub(crate) fn length_is_valid(self, length: usize) -> bool {
        match self {
            Self::Data => (1..=FRAME_PAYLOAD_MAX_BYTES).contains(&length),
            Self::Ack | Self::Goaway => length == 0,
            Self::Start | Self::Fin | Self::Reset | Self::Stop => length == CONTROL_BODY_BYTES,
            Self::Addrs => length <= ADDRS_BODY_MAX_BYTES,
        }
    }
}

/// Header flag: the sender has more to send than its credit allows.
pub const FLAG_BLOCKED: u8 = 0x01;

/// What a receiver tells about itself in every header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    /// Offset that the program has consumed (a consumed FIN counts one).
    pub ack: u64,
    /// Credit beyond `ack`, in units of [`WINDOW_UNIT_BYTES`].
    pub window: u16,
}

impl Acks {
    /// The absolute offset up to which the peer may send.
    pub fn edge(self) -> u64 {
        self.ack.saturating_add(u64::from(self.window) * WINDOW_UNIT_BYTES)
    }
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// [`FLAG_BLOCKED`] or 0.
    pub flags: u8,
    /// Length of the payload or body, in bytes.
    pub length: u32,
    /// The sender's ack and window.
    pub acks: Acks,
}

impl Header {
    /// The header's bytes, little-endian.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = self.kind as u8;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&self.acks.window.to_le_bytes());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..16].copy_from_slice(&self.acks.ack.to_le_bytes());
        out
    }

    /// Reads a header; `None` for an unknown kind, an unknown flag or a length that the kind
    /// cannot have.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let kind = Kind::from_wire(bytes[0])?;
        let flags = bytes[1];
        if flags & !FLAG_BLOCKED != 0 {
            return None;
        }
        let window = u16::from_le_bytes([bytes[2], bytes[3]]);
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if !kind.length_is_valid(length as usize) {
            return None;
        }
        let mut ack = [0; 8];
        ack.copy_from_slice(&bytes[8..16]);
        Some(Self { kind, flags, length, acks: Acks { ack: u64::from_le_bytes(ack), window } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_sides_of_every_length_limit() {
        let header = |kind, length| Header { kind, flags: 0, length, acks: Acks::default() };
        let valid =
            |kind, length: usize| Header::decode(&header(kind, length as u32).encode()).is_some();
        assert!(!valid(Kind::Data, 0));
        assert!(valid(Kind::Data, 1));
        assert!(valid(Kind::Data, FRAME_PAYLOAD_MAX_BYTES));
        assert!(!valid(Kind::Data, FRAME_PAYLOAD_MAX_BYTES + 1));
        assert!(valid(Kind::Ack, 0));
        assert!(!valid(Kind::Ack, 1));
        for kind in [Kind::Start, Kind::Fin, Kind::Reset, Kind::Stop] {
            assert!(!valid(kind, 7));
            assert!(valid(kind, 8));
            assert!(!valid(kind, 9));
        }
        assert!(valid(Kind::Addrs, ADDRS_BODY_MAX_BYTES));
        assert!(!valid(Kind::Addrs, ADDRS_BODY_MAX_BYTES + 1));
    }

    proptest! {
        #[test]
        fn a_decoded_header_encodes_to_the_same_bytes(bytes: [u8; 16]) {
            if let Some(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
