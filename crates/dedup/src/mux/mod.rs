//! Many byte streams over one, sans-io, in the frames of yamux
//! (<https://github.com/hashicorp/yamux/blob/master/spec.md>).
//!
//! Each stream has flow control, half-close and reset of its own. [`Mux::feed`] takes the bytes
//! that came, [`Mux::fill`] gives those that are to go, [`Mux::next_news`] says whose turn it is.
//! Nothing here does I/O, reads a clock or waits: times are arguments, in microseconds of any clock
//! that never goes back.
//!
//! Bounds: what lies unread is bounded by the windows that were granted (each at most
//! [`Limits::window_max`], their sum beyond the first 256 KiB each by [`Limits::extra_max`]), what
//! lies unsent by [`Limits::queue_max`] for each stream, and streams by [`Limits::streams_max`].
//! A peer that breaks a rule ends the session ([`Violation`]); a frame for a stream that is gone is
//! no breach, as it may have crossed our reset, and is dropped.
//!
//! One thing is beyond the specification: the window update that resets a stream has a [`reason`]
//! where its credit would be. Others send 0 there, and add what they get to a stream that is gone.

mod frame;
mod incoming;
mod outgoing;
pub mod reason;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use frame::HEADER_BYTES;
use stream::Stream;
pub use stream::{WINDOW_INITIAL_BYTES, news};

/// Most payload that is sent in one frame, so that streams take turns often.
pub const PAYLOAD_MAX_BYTES: usize = 16 * 1024;

/// Most bytes of one stream that wait to be sent, by default.
pub const QUEUE_MAX_BYTES: usize = 256 * 1024;

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd numbers.
    Client,
    /// Opens streams with even numbers.
    Server,
}

/// What a [`Mux`] holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at a time, of both ends; more of the peer's are reset, of ours refused.
    pub streams_max: usize,
    /// Streams of ours that the peer has not accepted yet.
    pub unacked_max: usize,
    /// Window of one stream, in bytes, at least [`WINDOW_INITIAL_BYTES`].
    pub window_max: u32,
    /// What all windows together may be beyond the initial ones, in bytes.
    pub extra_max: u64,
    /// Bytes of one stream that wait to be sent.
    pub queue_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            unacked_max: 256,
            window_max: 8 * 1024 * 1024,
            extra_max: 64 * 1024 * 1024,
            queue_max: QUEUE_MAX_BYTES,
        }
    }
}

/// The peer has broken a rule: the session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// A version that is not 0.
    #[error("a frame of version {0}, which there is not")]
    Version(u8),
    /// A kind of frame that there is not.
    #[error("a frame of kind {0}, which there is not")]
    Kind(u8),
    /// A stream whose number is not the peer's to give, or was given before.
    #[error("stream {0} is opened, whose number the peer may not give")]
    Number(u32),
    /// More payload than was granted.
    #[error("{length} bytes for stream {stream}, of which {granted} were granted")]
    Credit {
        /// The stream.
        stream: u32,
        /// What came.
        length: u32,
        /// What was granted.
        granted: u32,
    },
    /// Payload behind a FIN.
    #[error("more for stream {0}, which the peer has ended")]
    BehindEnd(u32),
    /// A credit beyond what can be counted.
    #[error("the credit of stream {0} overflows")]
    CreditOverflow(u32),
    /// Stream 0 carries no payload and no credit.
    #[error("payload or credit for the session itself")]
    Session,
}

/// Why no stream can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// [`Limits::streams_max`] are open.
    #[error("all streams of the session are in use")]
    Full,
    /// [`Limits::unacked_max`] have not been accepted yet.
    #[error("too many streams wait to be accepted")]
    Backlog,
    /// One of the two has said that there are to be no more, or the numbers are used up.
    #[error("the session takes no more streams")]
    GoneAway,
}

/// Why a write, or a read, has nobody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The peer has reset it, or there never was one of this number.
    #[error("the stream was reset")]
    Reset,
    /// This direction has been ended by its own program.
    #[error("the stream was ended")]
    Finished,
}

/// What is being read of a frame.
#[derive(Debug)]
enum Input {
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Payload { stream: u32, left: usize, ends: bool },
}

/// Many streams over one session.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    limits: Limits,
    streams: BTreeMap<u32, Stream>,
    next: u32,
    /// The highest number that the peer has opened.
    last_peer: u32,
    input: Input,
    /// Streams with something to send, each once.
    ready: VecDeque<u32>,
    /// Streams with news, each once.
    told: VecDeque<u32>,
    /// Resets for streams that are gone already, each with its reason.
    resets: VecDeque<(u32, u32)>,
    /// The stream whose reset was told last, and its reason.
    last_reset: Option<(u32, u32)>,
    /// The last ping's number; older ones that were not answered in time are not.
    pong: Option<u32>,
    goaway_due: Option<u32>,
    goaway_sent: bool,
    goaway_received: Option<u32>,
    unacked: usize,
    extra: u64,
    /// The session's round trip as far as it is known, in microseconds.
    rtt: u64,
}

impl Mux {
    /// One end of a session that carries nothing yet.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            streams: BTreeMap::new(),
            next: if role == Role::Client { 1 } else { 2 },
            last_peer: 0,
            input: Input::Header { bytes: [0; HEADER_BYTES], have: 0 },
            ready: VecDeque::new(),
            told: VecDeque::new(),
            resets: VecDeque::new(),
            last_reset: None,
            pong: None,
            goaway_due: None,
            goaway_sent: false,
            goaway_received: None,
            unacked: 0,
            extra: 0,
            rtt: 0,
        }
    }

    /// The session's round trip in microseconds: a reader that empties a whole window within two of
    /// them gets a larger one.
    pub fn set_rtt(&mut self, micros: u64) {
        self.rtt = micros;
    }

    /// Streams that are not over.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// True when there are no streams.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// True when no new stream can begin, by the wish of either end.
    pub fn is_going_away(&self) -> bool {
        self.goaway_sent || self.goaway_due.is_some() || self.goaway_received.is_some()
    }

    /// What the peer has said of why, once it has.
    pub fn peer_goes_away(&self) -> Option<u32> {
        self.goaway_received
    }

    // ---------------------------------------------------------------------------------------------
    // What a program does

    /// Begins a stream. Bytes may be written at once.
    ///
    /// # Errors
    /// When there can be no more now, or ever.
    pub fn open(&mut self, now: u64) -> Result<u32, OpenError> {
        if self.is_going_away() || self.next > u32::MAX - 2 {
            return Err(OpenError::GoneAway);
        }
        if self.streams.len() >= self.limits.streams_max {
            return Err(OpenError::Full);
        }
        if self.unacked >= self.limits.unacked_max {
            return Err(OpenError::Backlog);
        }
        let number = self.next;
        self.next += 2;
        self.unacked += 1;
        self.streams.insert(number, Stream::new(true, now));
        self.note_ready(number);
        Ok(number)
    }

    /// Says to the peer that its stream is served.
    ///
    /// # Errors
    /// When it is gone.
    pub fn accept(&mut self, number: u32) -> Result<(), StreamError> {
        self.live(number)?.ack_due = true;
        self.note_ready(number);
        Ok(())
    }

    /// Takes as many bytes as the stream's queue has room for; [`news::ROOM`] tells of more where
    /// that were not all.
    ///
    /// # Errors
    /// When nobody will get them.
    pub fn write(&mut self, number: u32, bytes: &[u8]) -> Result<usize, StreamError> {
        let max = self.limits.queue_max;
        let stream = self.live(number)?;
        if stream.finished {
            return Err(StreamError::Finished);
        }
        let n = bytes.len().min(max.saturating_sub(stream.queue.len()));
        stream.queue.extend(&bytes[..n]);
        stream.wants_room |= n < bytes.len();
        self.note_ready(number);
        Ok(n)
    }

    /// How many bytes [`Self::write`] would take; 0 for a stream that takes none any more.
    pub fn room(&self, number: u32) -> usize {
        let stream = self.streams.get(&number).filter(|stream| !stream.finished);
        stream.map_or(0, |stream| self.limits.queue_max.saturating_sub(stream.queue.len()))
    }

    /// [`news::ROOM`] will tell of room for more, for who has found none.
    pub fn want_room(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.wants_room = true;
        }
    }

    /// Takes what has come; 0 when there is nothing now, or the peer's direction is at its end
    /// ([`Self::is_at_end`]).
    ///
    /// # Errors
    /// When the stream was reset: what was unread is gone with it.
    pub fn read(&mut self, number: u32, out: &mut [u8], now: u64) -> Result<usize, StreamError> {
        let (rtt, limits, extra) = (self.rtt, self.limits, self.extra);
        let stream = self.live(number)?;
        let n = stream.take(out);
        if n == 0 {
            return Ok(0);
        }
        stream.read_at = now;
        // No more than a window, which is a u32.
        stream.read = stream.read.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        let mut grown = 0;
        if stream.read >= stream.window / 2 && !stream.ended {
            let quick = now.saturating_sub(stream.window_since) <= 2 * rtt;
            let more = stream.window.min(limits.window_max - stream.window.min(limits.window_max));
            if quick && more > 0 && extra + u64::from(more) <= limits.extra_max {
                stream.window += more;
                stream.read += more;
                grown = u64::from(more);
            }
            stream.window_since = now;
            stream.grant_due = true;
        }
        self.extra += grown;
        self.note_ready(number);
        Ok(n)
    }

    /// Bytes that can be read.
    pub fn readable(&self, number: u32) -> usize {
        self.streams.get(&number).map_or(0, |stream| stream.received.len())
    }

    /// True when the peer's direction has ended, and what is left of it is here.
    pub fn has_all(&self, number: u32) -> bool {
        let stream = self.streams.get(&number).filter(|stream| stream.news & news::RESET == 0);
        stream.is_some_and(|stream| stream.ended)
    }

    /// True when the peer's direction has ended and all of it was read.
    pub fn is_at_end(&self, number: u32) -> bool {
        let stream = self.streams.get(&number).filter(|stream| stream.news & news::RESET == 0);
        stream.is_some_and(|stream| stream.ended && stream.received.is_empty())
    }

    /// Ends this direction behind what was written.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn finish(&mut self, number: u32) -> Result<(), StreamError> {
        self.live(number)?.finished = true;
        self.note_ready(number);
        Ok(())
    }

    /// The program leaves the stream: what it has written still goes out, what it has not read, or
    /// comes later, resets the stream.
    pub fn close(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.news & news::RESET != 0 {
            self.forget(number);
            return;
        }
        stream.closed = true;
        stream.finished = true;
        stream.news = 0;
        if !stream.received.is_empty() {
            return self.reset(number);
        }
        self.note_ready(number);
        self.remove_if_over(number);
    }

    /// Ends the stream at once, both ways; what was not sent is dropped.
    pub fn reset(&mut self, number: u32) {
        self.reset_with(number, reason::NONE);
    }

    /// As [`Self::reset`], and says to the peer why, as one of [`reason`]'s.
    pub fn reset_with(&mut self, number: u32, reason: u32) {
        let Some(stream) = self.forget(number) else { return };
        // One that was opened and never told of needs no reset, nor does one that the peer has.
        if !stream.syn_due && stream.reset_reason.is_none() {
            self.owe_reset(number, reason);
        }
    }

    /// Why the peer has reset the stream: one of [`reason`]'s, or a number that it alone knows.
    /// Known from when the reset has come until the call of [`Self::next_news`] after the one that
    /// has told of it; `None` for a stream that the peer has not reset.
    pub fn reset_reason(&self, number: u32) -> Option<u32> {
        match self.last_reset {
            Some((of, reason)) if of == number => Some(reason),
            _ => self.streams.get(&number)?.reset_reason,
        }
    }

    /// True when [`Self::next_news`] may have something to tell.
    pub fn has_news(&self) -> bool {
        !self.told.is_empty()
    }

    /// No new streams, of either end; those that there are go on. `code` says why.
    pub fn go_away(&mut self, code: u32) {
        if !self.goaway_sent {
            self.goaway_due = Some(code);
        }
    }

    /// The stream with the most unread bytes among those that nobody has read since `before`: what
    /// to give up when memory is short.
    pub fn most_stuck(&self, before: u64) -> Option<u32> {
        let stuck = self.streams.iter().filter(|(_, stream)| stream.read_at < before);
        let held = stuck.map(|(number, stream)| (stream.received.len(), *number));
        held.filter(|(held, _)| *held > 0).max().map(|(_, number)| number)
    }

    /// The next stream of which there is something to say, with its [`news`]. One that was reset by
    /// the peer is gone after this.
    pub fn next_news(&mut self) -> Option<(u32, u8)> {
        self.last_reset = None;
        while let Some(number) = self.told.pop_front() {
            let Some(stream) = self.streams.get_mut(&number) else { continue };
            let news = std::mem::take(&mut stream.news);
            if news & news::RESET != 0 {
                self.last_reset = stream.reset_reason.map(|reason| (number, reason));
                self.forget(number);
            }
            if news != 0 {
                return Some((number, news));
            }
        }
        None
    }

    // ---------------------------------------------------------------------------------------------
    // Books

    /// The stream, unless it was reset.
    fn live(&mut self, number: u32) -> Result<&mut Stream, StreamError> {
        let stream = self.streams.get_mut(&number);
        stream.filter(|stream| stream.news & news::RESET == 0).ok_or(StreamError::Reset)
    }

    fn note_ready(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number)
            && !stream.is_ready
            && stream.has_output()
        {
            stream.is_ready = true;
            self.ready.push_back(number);
        }
    }

    fn tell(&mut self, number: u32, more: u8) {
        let Some(stream) = self.streams.get_mut(&number).filter(|stream| !stream.closed) else {
            return;
        };
        if stream.news == 0 {
            self.told.push_back(number);
        }
        stream.news |= more;
    }

    fn remove_if_over(&mut self, number: u32) {
        if self.streams.get(&number).is_some_and(Stream::is_over) {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) -> Option<Stream> {
        let stream = self.streams.remove(&number)?;
        self.unacked -= usize::from(stream.is_unacked);
        self.extra -= u64::from(stream.window - WINDOW_INITIAL_BYTES);
        Some(stream)
    }

    /// Those that a flood makes us owe are not all told of: a peer that fills the queue harms
    /// itself.
    fn owe_reset(&mut self, number: u32, reason: u32) {
        if self.resets.len() < RESETS_MAX {
            self.resets.push_back((number, reason));
        }
    }
}

/// Resets that wait to be sent.
const RESETS_MAX: usize = 4096;
