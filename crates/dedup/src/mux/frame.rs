//! The twelve bytes before everything, as the yamux specification lays them out.

use super::Violation;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;

/// The one version there is.
const VERSION: u8 = 0;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `length` bytes of a stream follow.
    Data,
    /// The sender of this takes `length` more bytes of the stream.
    WindowUpdate,
    /// A question with SYN, its answer with ACK; `length` is what the answer repeats.
    Ping,
    /// No new streams; `length` says why.
    GoAway,
}

/// Marks of a frame, to be ORed.
pub(super) mod flags {
    /// The stream begins.
    pub(in crate::mux) const SYN: u16 = 1;
    /// The stream was accepted; the answer to a ping.
    pub(in crate::mux) const ACK: u16 = 1 << 1;
    /// The sender's direction ends.
    pub(in crate::mux) const FIN: u16 = 1 << 2;
    /// The stream ends at once.
    pub(in crate::mux) const RST: u16 = 1 << 3;
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the frame is about.
    pub(super) kind: Kind,
    /// Of [`flags`].
    pub(super) flags: u16,
    /// The stream; 0 for what is about the session.
    pub(super) stream: u32,
    /// Length of what follows, or a number.
    pub(super) length: u32,
}

impl Header {
    /// As bytes, big-endian.
    pub(super) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1] = match self.kind {
            Kind::Data => 0,
            Kind::WindowUpdate => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        bytes[2..4].copy_from_slice(&self.flags.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// Another version, or a kind that there is not.
    pub(super) fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, Violation> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            other => return Err(Violation::Kind(other)),
        };
        Ok(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's field table, worked out by hand.
    #[test]
    fn a_header_has_the_specifications_bytes() {
        let header = Header {
            kind: Kind::WindowUpdate,
            flags: flags::SYN | flags::FIN,
            stream: 0x0102_0304,
            length: 0x0004_0000,
        };
        let bytes = [0, 1, 0, 5, 1, 2, 3, 4, 0, 4, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(bytes), Ok(header));
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        let mut bytes = [0; HEADER_BYTES];
        bytes[1] = 4;
        assert_eq!(Header::decode(bytes), Err(Violation::Kind(4)));
        bytes[0] = 1;
        assert_eq!(Header::decode(bytes), Err(Violation::Version(1)));
    }
}
