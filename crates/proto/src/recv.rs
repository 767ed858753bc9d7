//! The receiving direction: from the bytes of a connection to the bytes of the session
//! (PROTOCOL 2, 4).
//!
//! Payload goes straight into the program's buffer where it can ([`Receiver::accept`]), and into
//! the stash where it cannot ([`Receiver::feed`]). The parser belongs to one epoch; offsets belong
//! to the session.
//!
//! Invariants: `consumed + stash == next`; `next` never exceeds the credit edge that was given;
//! nothing but a FIN ends the stream.

mod sealed;
mod snapshot;

use core::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{
    CONTROL_BODY_BYTES, HEADER_BYTES, WINDOW_MAX_DEFAULT_BYTES, WINDOW_MIN_BYTES,
    WINDOW_UNIT_BYTES, WINDOW_WIRE_MAX_BYTES,
};
use crate::log::{Log, Pool};
use crate::wire::frame::{Acks, FLAG_BLOCKED, Header, Kind};
use crate::wire::hello::decode_addrs;
use sealed::Records;

/// What the peer sent cannot be. All but [`Violation::DataLost`] condemn the connection, not the
/// session: a broken middlebox is survived like any other fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Not a frame header.
    #[error("bytes that are no frame header")]
    BadHeader,
    /// A frame before START.
    #[error("the epoch did not begin with START")]
    NoStart,
    /// A second START.
    #[error("a second START in one epoch")]
    SecondStart,
    /// START beyond what we have: bytes are missing for good.
    #[error("the peer goes on at offset {start}, but bytes from {have} on are missing")]
    DataLost {
        /// Where the peer goes on.
        start: u64,
        /// What we have.
        have: u64,
    },
    /// Payload beyond the credit given.
    #[error("payload beyond the credit given")]
    BeyondCredit,
    /// Payload behind a FIN, or a FIN at another offset than before.
    #[error("payload or another FIN behind the end of the stream")]
    BehindFin,
    /// An ADDRS body that is none.
    #[error("malformed address list")]
    BadAddrs,
    /// Sealed: bytes that the session's other end has not sealed, or not for this place.
    #[error("a record whose seal is broken: the bytes were changed or made on the way")]
    BrokenSeal,
}

/// What the peer has told besides payload, until taken.
#[derive(Debug, Default)]
pub struct News {
    /// The peer reset the session, with this code.
    pub reset: Option<u64>,
    /// The peer's program reads no more.
    pub stop: bool,
    /// The peer's alternative addresses.
    pub addrs: Option<Vec<SocketAddr>>,
    /// The peer asks to be resumed elsewhere or later.
    pub goaway: bool,
    /// The peer could send more if it had credit.
    pub blocked: bool,
}

/// The receiving direction of a session.
#[derive(Debug)]
pub struct Receiver {
    stash: Log,
    /// Offset of the next byte to come, whether in the stash or in the program before it.
    next: u64,
    window: u64,
    window_max: u64,
    /// Highest credit edge that may have been told.
    edge: u64,
    fin: Option<u64>,
    peer_ack: u64,
    peer_edge: u64,
    parser: Parser,
    /// Bytes of the current connection that were given to the parser.
    taken: u64,
    frames: u64,
    news: Option<Box<News>>,
    /// Only of a sealed session: records that are not whole yet, and what opens them.
    records: Option<Box<Records>>,
}

/// The state of one connection's byte stream.
#[derive(Debug, Default)]
struct Parser {
    state: State,
    header: [u8; HEADER_BYTES],
    have: usize,
    body: Vec<u8>,
    started: bool,
    /// Replayed bytes that we had already.
    skip: u64,
    /// What condemned this connection; told once the payload before it has been delivered.
    broken: Option<Violation>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Header,
    Payload {
        left: usize,
    },
    Body {
        kind: Kind,
        length: usize,
    },
}

/// What [`Receiver::step`] made of the front of its input.
enum Step {
    /// This many bytes were control or known already.
    Eaten(usize),
    /// This many bytes are payload to deliver.
    Payload(usize),
}

impl Receiver {
    /// A direction that starts at `offset` (0 in real life) and gives `window` bytes of credit.
    pub fn new(pool: Arc<Pool>, offset: u64, window: u64) -> Self {
        let window = whole_units(window);
        Self {
            stash: Log::new(pool, offset),
            next: offset,
            window,
            window_max: WINDOW_MAX_DEFAULT_BYTES.max(window),
            edge: offset.saturating_add(window),
            fin: None,
            peer_ack: 0,
            peer_edge: 0,
            parser: Parser::default(),
            taken: 0,
            frames: 0,
            news: None,
            records: None,
        }
    }

    /// Sets the most credit that [`Self::grow_window`] may give, in bytes.
    pub fn set_window_max(&mut self, bytes: u64) {
        self.window_max = whole_units(bytes).max(self.window);
    }

    /// Doubles the credit up to the maximum; true if it changed.
    pub fn grow_window(&mut self) -> bool {
        let grown = (self.window * 2).min(self.window_max);
        let changed = grown > self.window;
        self.window = grown;
        self.edge = self.edge.max(self.acks().edge());
        changed
    }

    /// The credit given beyond what the program has consumed, in bytes.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// A new connection stands: its bytes begin with START. Whoever calls has absorbed what
    /// [`Self::peer`] told; a claim that was refused there dies with the connection that made it.
    pub fn begin_epoch(&mut self) {
        self.parser = Parser::default();
        self.taken = 0;
        self.peer_ack = 0;
        self.peer_edge = 0;
        if let Some(records) = &mut self.records {
            records.begin_epoch();
        }
    }

    /// Offset of the next byte to come: what a RESUME quotes.
    pub fn next(&self) -> u64 {
        self.next + u64::from(self.fin.is_some())
    }

    /// Offset up to which the program has read.
    pub fn consumed(&self) -> u64 {
        self.next - self.stash.len()
    }

    /// What to tell the peer. A FIN counts as consumed once all before it is.
    pub fn acks(&self) -> Acks {
        let consumed = self.consumed();
        let ack = consumed + u64::from(self.fin == Some(consumed));
        Acks { ack, window: (self.window / WINDOW_UNIT_BYTES) as u16 }
    }

    /// Bytes read ahead of the program.
    pub fn stashed(&self) -> usize {
        self.stash.len() as usize
    }

    /// True when the peer's FIN has come, whether the program has read up to it or not.
    pub fn fin_seen(&self) -> bool {
        self.fin.is_some()
    }

    /// True when the program has read all there will ever be.
    pub fn is_at_end(&self) -> bool {
        self.fin.is_some_and(|fin| fin == self.consumed())
    }

    /// The highest ack and credit edge that the peer has told in this epoch; 0 before it has.
    pub fn peer(&self) -> (u64, u64) {
        (self.peer_ack, self.peer_edge)
    }

    /// True when the connection that stands has begun with its START.
    pub fn has_started(&self) -> bool {
        let in_start = matches!(self.parser.state, State::Body { kind: Kind::Start, .. });
        self.parser.started && !in_start
    }

    /// Frames parsed so far, control frames included.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes of this epoch's connection taken so far, of whatever kind: to be compared with what
    /// the kernel has given.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes what the peer has told besides payload.
    pub fn take_news(&mut self) -> News {
        self.news.take().map(|news| *news).unwrap_or_default()
    }

    /// True when there is something to take.
    pub fn has_news(&self) -> bool {
        let Some(news) = &self.news else { return false };
        news.stop || news.goaway || news.blocked || news.reset.is_some() || news.addrs.is_some()
    }

    /// Moves read-ahead bytes to the program.
    pub fn read_stash(&mut self, out: &mut [u8]) -> usize {
        self.stash.read(out)
    }

    /// Shows read-ahead bytes without consuming them.
    pub fn peek_stash(&self, out: &mut [u8]) -> usize {
        self.stash.peek(out)
    }

    /// Consumes read-ahead bytes unseen, as a closed program's engine does; gives their number.
    pub fn discard_stash(&mut self) -> usize {
        let n = self.stashed();
        self.stash.trim(self.next);
        n
    }

    /// True when payload may go straight into the program's buffer: it is not sealed, nothing older
    /// waits in the stash, and no replayed bytes are to be skipped.
    pub fn is_direct(&self) -> bool {
        self.records.is_none()
            && self.stash.is_empty()
            && self.parser.skip == 0
            && !matches!(self.parser.state, State::Body { .. })
            && self.fin.is_none()
    }

    /// True when what comes next on the connection is payload of the current frame, or a header:
    /// then the bytes that are queued can be counted before they are read.
    pub fn is_between_bodies(&self) -> bool {
        self.records.is_none()
            && self.parser.skip == 0
            && !matches!(self.parser.state, State::Body { .. })
    }

    /// Payload bytes of the current frame that are still to come: what a reader may read into the
    /// program's buffer before the next header.
    pub fn payload_left(&self) -> usize {
        match self.parser.state {
            State::Payload { left } => left,
            State::Header | State::Body { .. } => 0,
        }
    }

    /// The part of the next header that is still missing, to be read into. Only between frames or
    /// behind the current payload.
    pub fn header_space(&mut self) -> &mut [u8] {
        let have = if self.payload_left() > 0 { 0 } else { self.parser.have };
        &mut self.parser.header[have..]
    }

    /// The part of the next header that is there.
    pub fn header_so_far(&self) -> &[u8] {
        let have = if self.payload_left() > 0 { 0 } else { self.parser.have };
        &self.parser.header[..have]
    }

    /// Takes the result of one scattered read of `n` bytes: first `front` bytes of payload into
    /// `buf`, then the header space, then the rest of `buf`. `front` is
    /// `min(payload_left, buf.len())`. Compacts in place and gives the number of payload bytes now
    /// at the start of `buf`; the scratch behind them is zeroed.
    #[inline]
    pub fn accept(&mut self, buf: &mut [u8], front: usize, n: usize) -> Result<usize, Violation> {
        debug_assert!(self.is_direct());
        if front == 0
            && let Some(payload) = self.accept_one_frame(n)
        {
            return Ok(payload);
        }
        self.accept_any(buf, front, n)
    }

    /// The usual read of a conversation: one whole DATA frame and no more. `None`, with nothing
    /// changed, for all else.
    #[inline]
    fn accept_one_frame(&mut self, n: usize) -> Option<usize> {
        let payload = n.checked_sub(HEADER_BYTES).filter(|&payload| payload > 0)?;
        let parser = &self.parser;
        let is_between_frames = matches!(parser.state, State::Header)
            && parser.have == 0
            && parser.started
            && parser.broken.is_none();
        if !is_between_frames {
            return None;
        }
        let header = Header::decode(&parser.header)?;
        let next = self.next + payload as u64;
        // A header raises the edge by what was consumed before it.
        let edge = self.edge.max(self.acks().edge());
        if header.kind != Kind::Data
            || header.flags != 0
            || header.length as usize != payload
            || next > edge
        {
            return None;
        }
        self.taken += n as u64;
        self.frames += 1;
        self.peer_ack = self.peer_ack.max(header.acks.ack);
        self.peer_edge = self.peer_edge.max(header.acks.edge());
        self.edge = edge;
        self.next = next;
        self.stash.pass(next);
        Some(payload)
    }

    fn accept_any(&mut self, buf: &mut [u8], front: usize, n: usize) -> Result<usize, Violation> {
        self.taken += n as u64;
        self.check()?;
        let in_front = n.min(front);
        if in_front > 0 {
            self.take_payload(in_front).map_err(|violation| self.condemn(violation))?;
            // Straight to the program: never in the stash.
            self.stash.pass(self.next);
        }
        let rest = n - in_front;
        if rest == 0 {
            return Ok(in_front);
        }
        let in_header = rest.min(HEADER_BYTES - self.parser.have);
        self.parser.have += in_header;
        if self.parser.have == HEADER_BYTES {
            self.parser.have = 0;
            if let Err(violation) = self.on_header() {
                self.condemn(violation);
            }
        }
        let end = front + rest - in_header;
        let (mut at, mut out) = (front, in_front);
        while at < end && self.parser.broken.is_none() {
            match self.step(&buf[at..end]) {
                Ok(Step::Eaten(k)) => at += k,
                Ok(Step::Payload(k)) => {
                    self.stash.pass(self.next);
                    if at != out {
                        buf.copy_within(at..at + k, out);
                    }
                    at += k;
                    out += k;
                }
                Err(violation) => {
                    self.condemn(violation);
                }
            }
        }
        if out < end {
            buf[out..end].fill(0);
        }
        // What came before a violation is good and was counted: it must reach the program first.
        if out == 0 { self.check().map(|()| 0) } else { Ok(out) }
    }

    /// Takes raw bytes of the connection; payload goes to the stash.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        if self.records.is_some() {
            return self.feed_records(bytes);
        }
        self.taken += bytes.len() as u64;
        self.check()?;
        while !bytes.is_empty() {
            let step = self.step(bytes).map_err(|violation| self.condemn(violation))?;
            let n = match step {
                Step::Eaten(n) => n,
                Step::Payload(n) => {
                    self.stash.append(&bytes[..n]);
                    n
                }
            };
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// What condemned this epoch's connection. [`Self::accept`] tells it only once no payload is
    /// left to give; whoever would wait for more bytes asks here first, as none need come.
    pub fn violation(&self) -> Option<Violation> {
        self.parser.broken
    }

    /// Refuses the bytes of a connection that has been condemned.
    fn check(&self) -> Result<(), Violation> {
        self.parser.broken.map_or(Ok(()), Err)
    }

    fn condemn(&mut self, violation: Violation) -> Violation {
        *self.parser.broken.get_or_insert(violation)
    }

    /// Parses the front of `bytes`, which is not empty. Payload is counted in `next` here; whoever
    /// calls puts it into the stash or to the program.
    fn step(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match self.parser.state {
            State::Header => {
                let have = self.parser.have;
                let n = bytes.len().min(HEADER_BYTES - have);
                self.parser.header[have..have + n].copy_from_slice(&bytes[..n]);
                self.parser.have += n;
                if self.parser.have == HEADER_BYTES {
                    self.parser.have = 0;
                    self.on_header()?;
                }
                Ok(Step::Eaten(n))
            }
            State::Payload { left } => {
                let n = bytes.len().min(left);
                let skip = self.parser.skip.min(n as u64) as usize;
                if skip > 0 {
                    self.parser.skip -= skip as u64;
                    self.advance_payload(skip);
                    return Ok(Step::Eaten(skip));
                }
                self.take_payload(n)?;
                Ok(Step::Payload(n))
            }
            State::Body { kind, length } => {
                let n = bytes.len().min(length - self.parser.body.len());
                self.parser.body.extend_from_slice(&bytes[..n]);
                if self.parser.body.len() == length {
                    self.parser.state = State::Header;
                    let body = std::mem::take(&mut self.parser.body);
                    self.on_body(kind, &body)?;
                }
                Ok(Step::Eaten(n))
            }
        }
    }

    fn advance_payload(&mut self, n: usize) {
        if let State::Payload { left } = &mut self.parser.state {
            *left -= n;
            if *left == 0 {
                self.parser.state = State::Header;
            }
        }
    }

    fn take_payload(&mut self, n: usize) -> Result<(), Violation> {
        if self.fin.is_some() {
            return Err(Violation::BehindFin);
        }
        let next = self.next + n as u64;
        if next > self.edge {
            return Err(Violation::BeyondCredit);
        }
        self.next = next;
        self.advance_payload(n);
        Ok(())
    }

    fn on_header(&mut self) -> Result<(), Violation> {
        let header = Header::decode(&self.parser.header).ok_or(Violation::BadHeader)?;
        match (self.parser.started, header.kind) {
            (false, Kind::Start) => self.parser.started = true,
            (false, _) => return Err(Violation::NoStart),
            (true, Kind::Start) => return Err(Violation::SecondStart),
            (true, _) => {}
        }
        self.frames += 1;
        self.peer_ack = self.peer_ack.max(header.acks.ack);
        self.peer_edge = self.peer_edge.max(header.acks.edge());
        // Whatever is told from here on gives at least this much.
        self.edge = self.edge.max(self.acks().edge());
        if header.flags & FLAG_BLOCKED != 0 {
            self.news.get_or_insert_default().blocked = true;
        }
        let length = header.length as usize;
        self.parser.state = match header.kind {
            Kind::Data => State::Payload { left: length },
            Kind::Ack => State::Header,
            Kind::Goaway => {
                self.news.get_or_insert_default().goaway = true;
                State::Header
            }
            Kind::Addrs if length == 0 => {
                self.news.get_or_insert_default().addrs = Some(Vec::new());
                State::Header
            }
            kind => State::Body { kind, length },
        };
        Ok(())
    }

    fn on_body(&mut self, kind: Kind, body: &[u8]) -> Result<(), Violation> {
        if kind == Kind::Addrs {
            self.news.get_or_insert_default().addrs =
                Some(decode_addrs(body).map_err(|_| Violation::BadAddrs)?);
            return Ok(());
        }
        let mut value = [0; CONTROL_BODY_BYTES];
        value.copy_from_slice(body);
        let value = u64::from_le_bytes(value);
        match kind {
            Kind::Start => {
                if value > self.next() {
                    return Err(Violation::DataLost { start: value, have: self.next() });
                }
                self.parser.skip = self.next - value.min(self.next);
            }
            Kind::Fin => {
                if value != self.next || self.parser.skip != 0 {
                    return Err(Violation::BehindFin);
                }
                self.fin = Some(value);
            }
            Kind::Reset => self.news.get_or_insert_default().reset = Some(value),
            Kind::Stop => self.news.get_or_insert_default().stop = true,
            Kind::Data | Kind::Ack | Kind::Addrs | Kind::Goaway => {}
        }
        Ok(())
    }
}

fn whole_units(bytes: u64) -> u64 {
    let bytes = bytes.clamp(WINDOW_MIN_BYTES, WINDOW_WIRE_MAX_BYTES);
    bytes - bytes % WINDOW_UNIT_BYTES
}
