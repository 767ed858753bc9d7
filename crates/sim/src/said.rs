//! What an end says over its connections, read along on its way to the kernel.
//!
//! Much of what a peer must not say is forgiven by the one who hears it: who takes credit back is
//! not believed, who forgets to say STOP again is told so a second time. So the rules about what is
//! said are held here, by a reader of its own that knows both ends.

use eversock_proto::limits::{CONTROL_BODY_BYTES, HEADER_BYTES, TAG_BYTES};
use eversock_proto::wire::frame::{Acks, Header, Kind};

use crate::core::mismatch;
use crate::net::{ConnId, EndId};
use crate::world::World;

/// What somebody on the path may wait for before the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Start,
    Fin,
    Stop,
    Reset,
    /// The first ack that covers the peer's FIN.
    AckOfFin,
}

/// A rule that was broken: which invariant, and how.
type Broken = (u32, &'static str);

/// What the two ends know of themselves at the moment.
struct Facts {
    is_sealed: bool,
    /// The pattern of what is written here.
    key: u64,
    written: u64,
    finished: bool,
    closed: bool,
    acks: Acks,
    /// Where this end goes on in the epoch that stands.
    begun_at: u64,
    /// What the peer has.
    peer_next: u64,
    /// What the peer has given, by all that it has said.
    credit: u64,
    /// Where the peer's FIN ends, once its program has ended.
    peer_end: Option<u64>,
}

/// What one end has said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The highest that was told in any epoch.
    ack: u64,
    edge: u64,
    /// STOP and RESET, once begun: each later epoch begins with them.
    stop: bool,
    reset: bool,
    /// Where it has said that its direction ends.
    fin: Option<u64>,
    line: Line,
}

/// One connection's worth of it.
#[derive(Debug, Default)]
struct Line {
    conn: Option<ConnId>,
    head: [u8; HEADER_BYTES],
    have: usize,
    kind: Option<Kind>,
    /// Bytes of the body that are still to come, and of a control frame those that came.
    left: usize,
    body: Vec<u8>,
    frames: u64,
    /// Offset of the next byte of payload.
    offset: u64,
    owes_stop: bool,
    owes_reset: bool,
    has_reset: bool,
}

impl Said {
    /// True when a RESET has gone out whole over `conn`.
    pub(crate) fn has_reset(&self, conn: ConnId) -> bool {
        self.line.conn == Some(conn) && self.line.has_reset
    }

    /// Takes bytes of frames that go out over `conn`; gives the words in them.
    fn take(&mut self, conn: ConnId, mut bytes: &[u8], facts: &Facts) -> Result<Vec<Word>, Broken> {
        if self.line.conn != Some(conn) {
            let (owes_stop, owes_reset) = (self.stop, self.reset);
            let offset = facts.begun_at;
            self.line = Line { conn: Some(conn), offset, owes_stop, owes_reset, ..Line::default() };
        }
        let mut words = Vec::new();
        while !bytes.is_empty() {
            let line = &mut self.line;
            if line.left == 0 {
                let n = bytes.len().min(HEADER_BYTES - line.have);
                line.head[line.have..line.have + n].copy_from_slice(&bytes[..n]);
                line.have += n;
                bytes = &bytes[n..];
                if line.have == HEADER_BYTES {
                    line.have = 0;
                    self.begin(facts, &mut words)?;
                }
                continue;
            }
            let n = bytes.len().min(line.left);
            line.left -= n;
            self.go_on(&bytes[..n], facts)?;
            bytes = &bytes[n..];
        }
        Ok(words)
    }

    /// A header is whole.
    fn begin(&mut self, facts: &Facts, words: &mut Vec<Word>) -> Result<(), Broken> {
        let line = &mut self.line;
        let header = Header::decode(&line.head).ok_or((1, "says what is no frame"))?;
        let (kind, acks) = (header.kind, header.acks);
        let length = header.length as usize;
        line.frames += 1;
        line.kind = Some(kind);
        line.left = length + if facts.is_sealed { TAG_BYTES } else { 0 };
        line.body.clear();
        if (line.frames == 1) != (kind == Kind::Start) {
            return Err((1, "does not begin an epoch with START, or says it twice"));
        }
        if line.has_reset {
            return Err((1, "says more behind its RESET"));
        }
        if acks.edge() < self.edge {
            return Err((2, "takes credit back that it has announced"));
        }
        if acks.ack < self.ack {
            return Err((1, "takes an ack back"));
        }
        if acks.ack > facts.acks.ack {
            return Err((1, "acknowledges what its program has not consumed"));
        }
        if facts.peer_end.is_some_and(|end| acks.ack >= end && self.ack < end) {
            words.push(Word::AckOfFin);
        }
        (self.ack, self.edge) = (acks.ack, acks.edge());
        if line.frames > 1 && line.owes_reset && kind != Kind::Reset {
            return Err((1, "has said RESET and goes on in the next epoch"));
        }
        let is_last_word = matches!(kind, Kind::Stop | Kind::Reset);
        if line.frames > 1 && line.owes_stop && !is_last_word {
            return Err((1, "has said STOP and does not say it again in the next epoch"));
        }
        match kind {
            Kind::Start => {
                words.push(Word::Start);
                if facts.begun_at > facts.peer_next {
                    return Err((1, "goes on beyond what its peer has"));
                }
            }
            Kind::Data => {
                let end = line.offset + u64::from(header.length);
                if end > facts.credit {
                    return Err((2, "sends beyond the credit that its peer has announced"));
                }
                if end > facts.written || self.fin.is_some_and(|fin| end > fin) {
                    return Err((1, "sends more than was written"));
                }
            }
            Kind::Fin => {
                words.push(Word::Fin);
                if !facts.finished || line.offset != facts.written {
                    return Err((1, "says FIN where its bytes do not end"));
                }
                self.fin = Some(line.offset);
            }
            Kind::Stop => {
                words.push(Word::Stop);
                if !facts.closed {
                    return Err((1, "says STOP although its program has not closed"));
                }
                (self.stop, line.owes_stop) = (true, false);
            }
            Kind::Reset => {
                words.push(Word::Reset);
                (self.reset, line.owes_reset) = (true, false);
            }
            Kind::Ack | Kind::Addrs | Kind::Goaway => {}
        }
        Ok(())
    }

    /// More of a body has come.
    fn go_on(&mut self, bytes: &[u8], facts: &Facts) -> Result<(), Broken> {
        let line = &mut self.line;
        let Some(kind) = line.kind else { return Ok(()) };
        if kind == Kind::Data {
            if !facts.is_sealed {
                if mismatch(facts.key, line.offset, bytes).is_some() {
                    return Err((1, "sends other bytes than were written"));
                }
                line.offset += bytes.len() as u64;
            } else if line.left == 0 {
                line.offset += u64::from(u32::from_le_bytes([
                    line.head[4],
                    line.head[5],
                    line.head[6],
                    line.head[7],
                ]));
            }
            return Ok(());
        }
        if line.body.len() < CONTROL_BODY_BYTES {
            line.body.extend_from_slice(bytes);
        }
        if line.left > 0 {
            return Ok(());
        }
        line.has_reset |= kind == Kind::Reset;
        let value = line.body.first_chunk().map(|body| u64::from_le_bytes(*body));
        let Some(value) = value.filter(|_| !facts.is_sealed) else { return Ok(()) };
        match kind {
            Kind::Start if value != facts.begun_at => Err((1, "goes on elsewhere than it says")),
            Kind::Fin if value != facts.written => Err((1, "says FIN for another offset")),
            _ => Ok(()),
        }
    }
}

impl World {
    /// Frames go out; somebody on the path may have waited for one of them.
    pub(crate) fn read_along(&mut self, id: EndId, conn: ConnId, bytes: &[u8]) -> Vec<Word> {
        let (link, side) = id;
        let (end, peer) = (self.end(id), self.end((link, 1 - side)));
        let Some(core) = end.core.as_ref().filter(|_| !self.links[link].tainted) else {
            return Vec::new();
        };
        let facts = Facts {
            is_sealed: core.tx.is_sealed(),
            key: Self::pattern_key(id),
            written: end.written,
            finished: end.finished,
            closed: end.closed,
            acks: core.rx.acks(),
            begun_at: core.begun_at,
            // A server that has not heard CONFIRM yet has nothing.
            peer_next: peer.core.as_ref().map_or(0, |core| core.rx.next()),
            credit: peer.said.edge.max(self.plan.links[link].window[1 - side]),
            peer_end: peer.finished.then_some(peer.written + 1),
        };
        let said = &mut self.end_mut(id).said;
        match said.take(conn, bytes, &facts) {
            Ok(words) => words,
            Err((invariant, what)) => {
                self.find_at(invariant, id, what);
                Vec::new()
            }
        }
    }
}
