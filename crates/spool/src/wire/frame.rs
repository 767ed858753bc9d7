//! Frames: the length of the body as a u32, the type as a u16, and the body.

use std::io::{self, BufReader, Read};

use super::{Message, WireError};
use crate::limits::MESSAGE_MAX;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 6;
/// Bytes that are read of each body whatever the budget says: enough for the fields before a key.
pub const HEAD_MAX: usize = 8 << 10;
/// The longest body before the greeting is done: strangers can announce no more.
pub const GREETING_MAX: usize = 2 << 10;

/// One message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type of the message.
    pub kind: u16,
    /// The rest.
    pub body: Vec<u8>,
}

impl Frame {
    /// Reads the message.
    ///
    /// # Errors
    ///
    /// Those of [`Message::decode`].
    pub fn decode<M: Message>(&self) -> Result<M, WireError> {
        M::decode(self.kind, &self.body)
    }
}

/// A message that came, or whose body was thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// All of it.
    Whole(Frame),
    /// There was no budget for it. The whole body was read all the same, and this is its beginning.
    Skipped(Frame),
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame.
    #[error("the connection ended {missing} bytes before the end of a message")]
    Cut {
        /// How many did not come, at least.
        missing: usize,
    },
    /// The peer announced more than it may.
    #[error("a message of type {kind:#06x} is {length} bytes long, and may be {limit} at most")]
    TooLong {
        /// The message's type.
        kind: u16,
        /// What was announced, in bytes.
        length: usize,
        /// What may be.
        limit: usize,
    },
}

/// Appends a whole frame.
///
/// # Errors
///
/// The message is longer than [`MESSAGE_MAX`]; then nothing is appended.
pub fn put<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.extend([0; HEADER_BYTES]);
    message.encode(out);
    let length = out.len() - start - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(short) if length <= MESSAGE_MAX => {
            out[start..start + 4].copy_from_slice(&short.to_le_bytes());
            out[start + 4..start + HEADER_BYTES].copy_from_slice(&message.kind().to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(WireError::TooLong {
                what: "the length of a message in bytes",
                came: length as u64,
                limit: MESSAGE_MAX as u64,
            })
        }
    }
}

/// Reads frames. Memory is taken as bytes come: a length alone costs nothing.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: BufReader<R>,
}

impl<R: Read> FrameReader<R> {
    /// Of a stream that stands at the beginning of a frame.
    pub fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(HEAD_MAX, from) }
    }

    /// Reads one frame with a body of at most `limit` bytes; blocks. `None` when the stream has
    /// ended.
    ///
    /// # Errors
    ///
    /// See [`FrameError`]. After one, the reader is of no more use.
    pub fn read(&mut self, limit: usize) -> Result<Option<Frame>, FrameError> {
        Ok(self.read_charged(limit, &mut |_| true)?.map(|incoming| match incoming {
            Incoming::Whole(frame) | Incoming::Skipped(frame) => frame,
        }))
    }

    /// As [`Self::read`], but asks before it takes memory for more than [`HEAD_MAX`] bytes of the
    /// body: `charge` gets the number of bytes. Once it says no, the rest is thrown away as it
    /// comes. What was charged is the caller's to give back.
    ///
    /// # Errors
    ///
    /// See [`FrameError`]. After one, the reader is of no more use.
    pub fn read_charged(
        &mut self,
        limit: usize,
        charge: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Incoming>, FrameError> {
        let mut header = [0; HEADER_BYTES];
        match self.fill(&mut header)? {
            HEADER_BYTES => {}
            0 => return Ok(None),
            n => return Err(FrameError::Cut { missing: HEADER_BYTES - n }),
        }
        let [a, b, c, d, e, f] = header;
        let kind = u16::from_le_bytes([e, f]);
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > limit {
            return Err(FrameError::TooLong { kind, length, limit });
        }
        let mut body = Vec::new();
        self.grow(&mut body, length.min(HEAD_MAX), length)?;
        while body.len() < length {
            let more = body.len().min(length - body.len());
            if !charge(more) {
                let rest = length - body.len();
                body.truncate(HEAD_MAX);
                body.shrink_to_fit();
                return self.skip(Frame { kind, body }, rest);
            }
            self.grow(&mut body, more, length)?;
        }
        Ok(Some(Incoming::Whole(Frame { kind, body })))
    }

    fn grow(&mut self, body: &mut Vec<u8>, more: usize, length: usize) -> Result<(), FrameError> {
        let start = body.len();
        body.reserve_exact(more);
        body.resize(start + more, 0);
        match self.fill(&mut body[start..])? {
            n if n == more => Ok(()),
            n => Err(FrameError::Cut { missing: length - start - n }),
        }
    }

    fn skip(&mut self, head: Frame, rest: usize) -> Result<Option<Incoming>, FrameError> {
        let mut nowhere = [0; HEAD_MAX];
        let mut left = rest;
        while left > 0 {
            let step = left.min(HEAD_MAX);
            match self.fill(&mut nowhere[..step])? {
                n if n == step => left -= n,
                n => return Err(FrameError::Cut { missing: left - n }),
            }
        }
        Ok(Some(Incoming::Skipped(head)))
    }

    /// Reads until `buf` is full or the stream has ended; gives how much came.
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.from.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
