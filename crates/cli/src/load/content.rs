//! What a session carries: a stream for each direction in which every byte is known by its offset,
//! behind a few bytes that tell the far side which streams these are.

/// One direction of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream(u64);

/// Which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the side that connects.
    Up,
    Down,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const WORD_BYTES: usize = 8;

impl Stream {
    /// The streams of sessions with different seeds differ, and so do the two of one session.
    pub(super) fn new(seed: u64, way: Way) -> Self {
        Self(mix(seed ^ if way == Way::Up { 0 } else { u64::MAX }))
    }

    fn word(self, index: u64) -> [u8; WORD_BYTES] {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))).to_le_bytes()
    }

    /// Calls `piece` with the parts of `length` bytes from `offset` on, and where each begins.
    fn pieces(self, offset: u64, length: usize, mut piece: impl FnMut(usize, &[u8]) -> bool) {
        let mut index = offset / WORD_BYTES as u64;
        let mut from = (offset % WORD_BYTES as u64) as usize;
        let mut at = 0;
        while at < length {
            let n = (WORD_BYTES - from).min(length - at);
            if !piece(at, &self.word(index)[from..from + n]) {
                return;
            }
            (at, index, from) = (at + n, index + 1, 0);
        }
    }

    /// The bytes from `offset` on.
    pub(super) fn fill(self, offset: u64, buf: &mut [u8]) {
        self.pieces(offset, buf.len(), |at, piece| {
            buf[at..at + piece.len()].copy_from_slice(piece);
            true
        });
    }

    /// Compares what came at `offset`; gives the offset of the first byte that is wrong.
    pub(super) fn check(self, offset: u64, bytes: &[u8]) -> Result<(), u64> {
        let mut wrong = None;
        self.pieces(offset, bytes.len(), |at, piece| {
            let came = &bytes[at..at + piece.len()];
            if came != piece {
                let same = came.iter().zip(piece).take_while(|(came, own)| came == own).count();
                wrong = Some(offset + (at + same) as u64);
            }
            wrong.is_none()
        });
        wrong.map_or(Ok(()), Err)
    }
}

/// The first bytes of a session, from the side that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The session's number at the side that connects, for messages.
    pub(super) number: u64,
    pub(super) seed: u64,
}

const MAGIC: [u8; 8] = *b"EVSLOAD1";
pub(super) const HELLO_BYTES: usize = 24;

impl Hello {
    pub(super) fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..].copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }

    /// `None` if this is none.
    pub(super) fn from_bytes(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        (bytes[..8] == MAGIC).then(|| Self { number: number(8), seed: number(16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_known_by_its_offset_however_the_stream_is_cut() {
        let stream = Stream::new(7, Way::Up);
        let mut whole = [0; 100];
        stream.fill(3, &mut whole);
        for cut in 0..100 {
            let mut parts = [0; 100];
            let (left, right) = parts.split_at_mut(cut);
            stream.fill(3, left);
            stream.fill(3 + cut as u64, right);
            assert_eq!(parts, whole, "{cut}");
        }
        assert_eq!(stream.check(3, &whole), Ok(()));
        for other in [Stream::new(7, Way::Down), Stream::new(8, Way::Up)] {
            assert!(other.check(3, &whole).is_err());
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let stream = Stream::new(7, Way::Down);
        for at in 0..50 {
            let mut bytes = [0; 50];
            stream.fill(1_000_003, &mut bytes);
            bytes[at] ^= 1;
            bytes[49] ^= 2;
            assert_eq!(stream.check(1_000_003, &bytes), Err(1_000_003 + at as u64));
        }
        // One byte too few, and all behind it is wrong.
        let mut bytes = [0; 50];
        stream.fill(11, &mut bytes);
        assert_eq!(stream.check(10, &bytes), Err(10));
    }

    #[test]
    fn a_hello_is_read_as_it_was_written() {
        let hello = Hello { number: 5, seed: u64::MAX - 1 };
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
        assert_eq!(Hello::from_bytes(b"GET / HTTP/1.1\r\nHost: a\n"), None);
    }
}
