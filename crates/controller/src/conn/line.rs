//! One connection: what has come of the next message, and what waits to be written.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use eversock_engine::{Event, EventKind};

use super::shared::Gauge;
use super::{ConnId, Handler, Lane};
use crate::limits::{GREETING_MAX, MESSAGE_MAX};
use crate::wire::codes::bye;
use crate::wire::{Bye, HEADER_BYTES, header};

/// Messages that are written with one call.
const SLICES: usize = 16;
/// Bytes that are written with one call, if so many wait: what comes meanwhile and is more urgent
/// waits for no more.
const WRITE_BYTES: usize = 64 << 10;
/// Bytes that a connection may write in a turn.
const WRITE_BUDGET: usize = 1 << 20;
/// The reason of a server that does not know a session (PROTOCOL 3.3): it was started anew.
const UNKNOWN_SESSION: u8 = 1;
/// A read buffer that has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// See the module.
pub(super) struct Line {
    pub(super) gauge: Arc<Gauge>,
    /// Which listener it comes from.
    pub(super) door: Option<usize>,
    /// When it is ended: for a greeting that does not come, or an end that takes too long.
    pub(super) deadline: Option<Instant>,
    /// What is told of the session while a connection that this side dialled is cut.
    pub(super) events: Option<Receiver<Event>>,
    /// Why it is being closed, if it is.
    pub(super) closing: Option<String>,
    /// What it is waited for.
    pub(super) interest: i32,
    /// It is in the list of those to be written.
    pub(super) is_dirty: bool,
    /// It is in the list of those to be read again.
    pub(super) is_again: bool,
    /// What came and was not given to the handler.
    inbox: Vec<u8>,
    lanes: [VecDeque<Vec<u8>>; 3],
    /// A message of which so many bytes are written.
    begun: Option<(Vec<u8>, usize)>,
}

/// What to do after messages were given to the handler.
pub(super) enum Given {
    /// All that were whole; read on.
    All,
    /// Nothing is to be read for now.
    Stopped,
    /// The connection has had its share of the turn, and more is there.
    Share,
    /// The peer is told this and the connection is closed.
    Bye(Bye),
}

/// How far writing came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits.
    All,
    /// Something waits.
    Some,
}

impl Line {
    pub(super) fn new(gauge: Arc<Gauge>, door: Option<usize>, deadline: Instant) -> Self {
        Self {
            gauge,
            door,
            deadline: Some(deadline),
            events: None,
            closing: None,
            interest: libc::EPOLLIN,
            is_dirty: false,
            is_again: false,
            inbox: Vec::new(),
            lanes: Default::default(),
            begun: None,
        }
    }

    pub(super) fn push(&mut self, lane: Lane, frame: Vec<u8>) {
        self.lanes[match lane {
            Lane::Control => 0,
            Lane::Updates => 1,
            Lane::Bulk => 2,
        }]
        .push_back(frame);
    }

    /// Throws away what waits but for messages of control and the rest of one that is begun.
    pub(super) fn drop_the_less_urgent(&mut self) {
        for lane in &mut self.lanes[1..] {
            let bytes = lane.drain(..).map(|frame| frame.len()).sum();
            self.gauge.written(bytes);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.begun.is_none() && self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Bytes of what came and was not given to the handler: of a message that is not whole, mostly.
    pub(super) fn kept(&self) -> usize {
        self.inbox.len()
    }

    /// Throws that away.
    pub(super) fn drop_kept(&mut self) {
        self.inbox = Vec::new();
    }

    /// Of a connection that this side dialled and that is cut: whether the peer has said that it
    /// does not know the session, so that there is no use in redialling. To be asked now and then.
    pub(super) fn is_unknown(&mut self) -> bool {
        if !self.gauge.is_cut() {
            self.events = None;
            return false;
        }
        let Some(events) = &self.events else {
            self.events = self.gauge.stream.events().ok();
            return false;
        };
        events
            .try_iter()
            .any(|event| matches!(event.kind, EventKind::Refused { reason: UNKNOWN_SESSION, .. }))
    }

    /// Gives what is there to the handler, `share` messages at most.
    pub(super) fn give_kept<H: Handler>(
        &mut self,
        conn: ConnId,
        handler: &mut H,
        share: &mut usize,
    ) -> Given {
        if self.inbox.is_empty() {
            return if self.gauge.reads() { Given::All } else { Given::Stopped };
        }
        let mut kept = std::mem::take(&mut self.inbox);
        let (used, given) = self.give(conn, handler, &kept, share);
        kept.drain(..used);
        if kept.is_empty() && kept.capacity() > KEPT_BYTES_MAX {
            kept = Vec::new();
        }
        self.inbox = kept;
        given
    }

    /// The same with what has just come.
    pub(super) fn give_new<H: Handler>(
        &mut self,
        conn: ConnId,
        handler: &mut H,
        came: &[u8],
        share: &mut usize,
    ) -> Given {
        if !self.inbox.is_empty() {
            self.inbox.extend(came);
            return self.give_kept(conn, handler, share);
        }
        let (used, given) = self.give(conn, handler, came, share);
        self.inbox.extend(&came[used..]);
        given
    }

    /// Gives how many bytes were whole messages, too.
    fn give<H: Handler>(
        &self,
        conn: ConnId,
        handler: &mut H,
        bytes: &[u8],
        share: &mut usize,
    ) -> (usize, Given) {
        let mut at = 0;
        let given = loop {
            if !self.gauge.reads() {
                break Given::Stopped;
            }
            let Some((head, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() else {
                break Given::All;
            };
            let (length, kind) = header(*head);
            let limit = if self.gauge.is_greeted() { MESSAGE_MAX } else { GREETING_MAX };
            if length > limit {
                let text = format!(
                    "a message of type {kind:#06x} is {length} bytes long, and may be {limit} at \
                     most now"
                );
                break Given::Bye(Bye::new(bye::MALFORMED, text));
            }
            let Some(body) = rest.get(..length) else { break Given::All };
            if *share == 0 {
                break Given::Share;
            }
            *share -= 1;
            if let Err(bye) = handler.frame(conn, kind, body) {
                break Given::Bye(bye);
            }
            at += HEADER_BYTES + length;
        };
        (at, given)
    }

    /// Writes what waits, the most urgent first, as far as the connection takes it and its share of
    /// the turn goes.
    pub(super) fn write(&mut self) -> io::Result<Written> {
        let mut done = 0;
        while done < WRITE_BUDGET {
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(SLICES);
            let begun = self.begun.iter().map(|(frame, at)| &frame[*at..]);
            let rest = self.lanes.iter().flatten().map(Vec::as_slice);
            let mut bytes = 0;
            for slice in begun.chain(rest) {
                slices.push(IoSlice::new(slice));
                bytes += slice.len();
                if slices.len() == SLICES || bytes >= WRITE_BYTES {
                    break;
                }
            }
            if slices.is_empty() {
                return Ok(Written::All);
            }
            match (&self.gauge.stream).write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    drop(slices);
                    self.advance(n);
                    self.gauge.written(n);
                    done += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if self.is_idle() { Written::All } else { Written::Some })
    }

    /// Takes off what was written, in the order in which it was.
    fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let next = self
                .begun
                .take()
                .or_else(|| Some((self.lanes.iter_mut().find_map(VecDeque::pop_front)?, 0)));
            let Some((frame, at)) = next else { return };
            let left = frame.len() - at;
            if n < left {
                self.begun = Some((frame, at + n));
                return;
            }
            n -= left;
        }
    }
}
