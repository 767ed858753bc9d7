//! One connection: lines and mails in, replies out, each within its time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::lines::{Content, Line, Lines, Part};

const READ: usize = 16 << 10;
/// A client that does not read its replies.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The content of a mail counts in steps of this.
const STEP: usize = 64 << 10;

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The client has gone, or does not read.
    Gone,
    /// It has said nothing for too long.
    Silent,
    /// It goes on and on with a mail that was too long long ago.
    Endless,
}

/// What came after DATA.
#[derive(Debug)]
pub(super) enum Body {
    /// As it is to be delivered.
    Whole(Vec<u8>, Share),
    /// With a CR or LF alone.
    Torn,
    /// Longer than allowed.
    TooLong,
    /// Too many mails are on their way for it to be kept.
    NoMemory,
}

/// Memory that all connections share.
#[derive(Debug)]
pub(super) struct Memory {
    left: AtomicUsize,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }
}

/// What one mail has of it.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Share {
    fn none(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Makes it enough for `bytes`, if that much is left.
    fn cover(&mut self, bytes: usize) -> bool {
        let more = bytes.next_multiple_of(STEP).saturating_sub(self.bytes);
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        let taken = self.memory.left.fetch_update(set, get, |left| left.checked_sub(more)).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// One connection.
pub(super) struct Talk {
    stream: Arc<TcpStream>,
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    lines: Lines,
    out: Vec<u8>,
}

impl Talk {
    pub(super) fn new(stream: Arc<TcpStream>) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let buffer = vec![0; READ].into_boxed_slice();
        Ok(Self { stream, buffer, from: 0, to: 0, lines: Lines::default(), out: Vec::new() })
    }

    /// One line of a reply, or, with `more`, one that others follow. Sent when the client has to
    /// hear it: before the next wait.
    pub(super) fn say(&mut self, code: u16, more: bool, text: &str) {
        let dash = if more { '-' } else { ' ' };
        self.out.extend_from_slice(format!("{code}{dash}{text}\r\n").as_bytes());
    }

    /// Whether the client has already sent what comes next.
    pub(super) fn is_ahead(&self) -> bool {
        self.from < self.to
    }

    pub(super) fn flush(&mut self) -> Result<(), Over> {
        let sent = (&*self.stream).write_all(&self.out);
        self.out.clear();
        sent.map_err(|_| Over::Gone)
    }

    /// The next line, within `patience`.
    pub(super) fn line(&mut self, patience: Duration) -> Result<Line, Over> {
        let until = Instant::now() + patience;
        loop {
            let (taken, line) = self.lines.take(&self.buffer[self.from..self.to]);
            self.from += taken;
            if let Some(line) = line {
                return Ok(line);
            }
            self.fill(until)?;
        }
    }

    /// What comes after DATA, each piece of it within `patience` and all within `whole`.
    pub(super) fn body(
        &mut self,
        max: usize,
        memory: &Arc<Memory>,
        patience: Duration,
        whole: Duration,
    ) -> Result<Body, Over> {
        let until = Instant::now() + whole;
        let (mut content, mut bytes, mut share) =
            (Content::default(), Vec::new(), Share::none(memory));
        let (mut came, mut too_long, mut no_memory) = (0_usize, false, false);
        loop {
            let (taken, part) = content.take(&self.buffer[self.from..self.to], &mut bytes);
            self.from += taken;
            came = came.saturating_add(taken);
            too_long |= bytes.len() > max;
            no_memory |= !too_long && !share.cover(bytes.len());
            if too_long || no_memory {
                // Read to its end, or the client takes the rest of it for refused commands.
                (bytes, share) = (Vec::new(), Share::none(memory));
            }
            match part {
                Part::End { .. } if too_long => return Ok(Body::TooLong),
                Part::End { .. } if no_memory => return Ok(Body::NoMemory),
                Part::End { torn: true } => return Ok(Body::Torn),
                Part::End { torn: false } => return Ok(Body::Whole(bytes, share)),
                Part::More if came / 4 > max.max(READ) => return Err(Over::Endless),
                Part::More => self.fill(until.min(Instant::now() + patience))?,
            }
        }
    }

    /// Reads more; all that was there has been taken.
    fn fill(&mut self, until: Instant) -> Result<(), Over> {
        self.flush()?;
        let patience = until.saturating_duration_since(Instant::now());
        if patience.is_zero() {
            return Err(Over::Silent);
        }
        self.stream.set_read_timeout(Some(patience)).map_err(|_| Over::Gone)?;
        match (&*self.stream).read(&mut self.buffer) {
            Ok(0) => Err(Over::Gone),
            Ok(count) => {
                (self.from, self.to) = (0, count);
                Ok(())
            }
            Err(error) => match error.kind() {
                // The caller comes again, and its time goes on.
                io::ErrorKind::Interrupted => {
                    (self.from, self.to) = (0, 0);
                    Ok(())
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Over::Silent),
                _ => Err(Over::Gone),
            },
        }
    }
}
