//! The receiving direction as bytes: see [`crate::snapshot`].

use std::sync::Arc;

use super::{Parser, Receiver, State};
use crate::limits::{
    FRAME_PAYLOAD_MAX_BYTES, HEADER_BYTES, WINDOW_MIN_BYTES, WINDOW_WIRE_MAX_BYTES,
};
use crate::log::{Log, Pool};
use crate::snapshot::{In, OFFSET_MAX, Out};
use crate::wire::frame::Kind;

impl Receiver {
    /// Writes the whole state, the bytes of the stash included. False, and nothing written, while
    /// news wait to be taken or the connection is condemned: whoever knows of that goes first. Of a
    /// sealed direction neither keys nor a record that is not whole: it goes on in the next epoch.
    pub fn snapshot(&self, out: &mut Out) -> bool {
        if self.has_news() || self.parser.broken.is_some() {
            return false;
        }
        let fresh = Parser::default();
        let parser = if self.is_sealed() { &fresh } else { &self.parser };
        let (state, kind, length) = match parser.state {
            State::Header => (0, 0, 0),
            State::Payload { left } => (1, 0, left),
            State::Body { kind, length } => (2, kind as u8, length),
        };
        for value in [
            self.next,
            self.window,
            self.window_max,
            self.edge,
            self.peer_ack,
            self.peer_edge,
            self.frames,
            self.taken,
            parser.skip,
            parser.have as u64,
            state,
            u64::from(kind),
            length as u64,
        ] {
            out.u64(value);
        }
        out.option(self.fin);
        out.flag(parser.started);
        out.bytes(&parser.header);
        out.bytes(&parser.body);
        let mut stash = vec![0; self.stashed()];
        self.stash.peek(&mut stash);
        out.bytes(&stash);
        out.flag(self.is_sealed());
        true
    }

    /// Reads a state back; `None` when it cannot be one.
    pub fn restore(pool: Arc<Pool>, from: &mut In<'_>) -> Option<Self> {
        let (next, window, window_max) = (from.u64()?, from.u64()?, from.u64()?);
        let (edge, peer_ack, peer_edge) = (from.u64()?, from.u64()?, from.u64()?);
        let (frames, taken) = (from.u64()?, from.u64()?);
        let (skip, have) = (from.u64()?, from.number::<usize>()?);
        let state = (from.u64()?, from.number::<u8>()?, from.number::<usize>()?);
        let (fin, started) = (from.option()?, from.flag()?);
        let header = *from.bytes()?.first_chunk::<HEADER_BYTES>()?;
        let body = from.bytes()?.to_vec();
        let stash = from.bytes()?;
        let records = from.flag()?.then(Box::default);
        let state = match state {
            (0, 0, 0) => State::Header,
            (1, 0, left) if left <= FRAME_PAYLOAD_MAX_BYTES => State::Payload { left },
            (2, kind, length) => State::Body { kind: Kind::from_wire(kind)?, length },
            _ => return None,
        };
        let consumed = next.checked_sub(stash.len() as u64)?;
        let window_is_sound = (WINDOW_MIN_BYTES..=WINDOW_WIRE_MAX_BYTES).contains(&window)
            && (window..=WINDOW_WIRE_MAX_BYTES).contains(&window_max);
        let body_is_sound = match state {
            State::Body { kind, length } => {
                let has_body = !matches!(kind, Kind::Data | Kind::Ack | Kind::Goaway);
                has_body && kind.length_is_valid(length) && body.len() < length
            }
            State::Header | State::Payload { .. } => body.is_empty(),
        };
        if !window_is_sound
            || !body_is_sound
            || have >= HEADER_BYTES
            || next > edge
            || edge > OFFSET_MAX
            || frames.max(taken) > OFFSET_MAX
            || skip > next
            || fin.is_some_and(|fin| fin != next)
            || records.is_some() && (started || have > 0 || !matches!(state, State::Header))
        {
            return None;
        }
        let mut log = Log::new(pool, consumed);
        log.append(stash);
        let parser = Parser { state, header, have, body, started, skip, broken: None };
        Some(Self {
            stash: log,
            next,
            window,
            window_max,
            edge,
            fin,
            peer_ack,
            peer_edge,
            parser,
            frames,
            taken,
            news: None,
            records,
        })
    }
}
