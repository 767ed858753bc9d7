//! What goes to the peer: whole frames, a turn for each stream.

use super::frame::{Header, Kind, flags};
use super::stream::{Stream, news};
use super::{Mux, PAYLOAD_MAX_BYTES};

impl Mux {
    /// True when [`Self::fill`] has something to give.
    pub fn has_output(&self) -> bool {
        let is_ready = |number| self.streams.get(number).is_some_and(Stream::has_output);
        self.goaway_due.is_some()
            || self.pong.is_some()
            || !self.resets.is_empty()
            || self.ready.iter().any(is_ready)
    }

    /// True when something was written, or ended, that has not gone out yet: there may be no
    /// credit for it now.
    pub fn has_unsent(&self) -> bool {
        self.has_output() || self.streams.values().any(Stream::has_unsent)
    }

    /// Appends whole frames to `out` until it has `enough` bytes or there are none: a frame of each
    /// stream in turn, of at most [`PAYLOAD_MAX_BYTES`].
    pub fn fill(&mut self, out: &mut Vec<u8>, enough: usize) {
        let session = |kind, flags, length| Header { kind, flags, stream: 0, length };
        if let Some(number) = self.pong.take() {
            out.extend(session(Kind::Ping, flags::ACK, number).encode());
        }
        if let Some(code) = self.goaway_due.take() {
            out.extend(session(Kind::GoAway, 0, code).encode());
            self.goaway_sent = true;
        }
        while out.len() < enough {
            let Some((stream, length)) = self.resets.pop_front() else { break };
            let header = Header { kind: Kind::WindowUpdate, flags: flags::RST, stream, length };
            out.extend(header.encode());
        }
        while out.len() < enough {
            let Some(number) = self.ready.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(&number) else { continue };
            stream.is_ready = false;
            if stream.has_output() {
                self.cut(number, out);
                self.note_ready(number);
                self.remove_if_over(number);
            }
        }
    }

    fn cut(&mut self, number: u32, out: &mut Vec<u8>) {
        let max = self.limits.queue_max;
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let mut marks = 0;
        if std::mem::take(&mut stream.syn_due) {
            marks |= flags::SYN;
        }
        if std::mem::take(&mut stream.ack_due) {
            marks |= flags::ACK;
        }
        if std::mem::take(&mut stream.grant_due) {
            let length = std::mem::take(&mut stream.read);
            stream.granted += length;
            let kind = Kind::WindowUpdate;
            out.extend(Header { kind, flags: marks, stream: number, length }.encode());
            return;
        }
        let room = PAYLOAD_MAX_BYTES.min(stream.credit as usize);
        let length = room.min(stream.queue.len());
        if stream.finished && length == stream.queue.len() && !stream.fin_sent {
            stream.fin_sent = true;
            marks |= flags::FIN;
        }
        let is_bare = length == 0 && marks & flags::FIN == 0;
        let kind = if is_bare { Kind::WindowUpdate } else { Kind::Data };
        // At most `PAYLOAD_MAX_BYTES`.
        let wire = u32::try_from(length).unwrap_or(0);
        out.extend(Header { kind, flags: marks, stream: number, length: wire }.encode());
        stream.put(length, out);
        stream.credit -= wire;
        if stream.wants_room && stream.queue.len() <= max / 2 {
            stream.wants_room = false;
            self.tell(number, news::ROOM);
        }
    }
}
