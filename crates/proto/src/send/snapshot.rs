//! The sending direction as bytes: see [`crate::snapshot`].

use std::io::IoSlice;
use std::sync::Arc;

use super::{Due, Frame, GATHER_SLICES, Seal, Sender};
use crate::limits::{ADDRS_BODY_MAX_BYTES, FRAME_PAYLOAD_MAX_BYTES, HEADER_BYTES};
use crate::log::{Log, Pool};
use crate::snapshot::{In, OFFSET_MAX, Out};
use crate::wire::frame::Acks;

impl Sender {
    /// Writes the whole state, the bytes of the log included. Of a sealed direction neither keys
    /// nor a record that is under way: it goes on in the next epoch.
    pub fn snapshot(&self, out: &mut Out) {
        let frame = if self.is_sealed() { &Frame::default() } else { &self.frame };
        for value in [
            self.cursor,
            self.sent_max,
            self.edge,
            self.acked,
            self.delivered,
            self.replayed,
            self.given,
            self.told.ack,
            u64::from(self.told.window),
            frame.head_sent as u64,
            frame.payload_left as u64,
        ] {
            out.u64(value);
        }
        out.bytes(&frame.head);
        for flag in [self.finished, self.stopped, self.due.ack, self.due.goaway] {
            out.flag(flag);
        }
        for option in [self.due.start, self.due.stop, self.due.reset, self.stop, self.reset] {
            out.option(option);
        }
        out.flag(self.due.addrs);
        out.flag(self.addrs.is_some());
        out.bytes(self.addrs.as_ref().map_or(&[], |addrs| addrs));
        out.u64(self.log.base());
        let mut bytes = Vec::with_capacity(usize::try_from(self.log.len()).unwrap_or(0));
        while (bytes.len() as u64) < self.log.len() {
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let from = self.log.base() + bytes.len() as u64;
            let (count, _) = self.log.gather(from, usize::MAX, &mut slices);
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
        }
        out.bytes(&bytes);
        out.flag(self.is_sealed());
    }

    /// Reads a state back; `None` when it cannot be one.
    pub fn restore(pool: Arc<Pool>, from: &mut In<'_>) -> Option<Self> {
        let (cursor, sent_max, edge, acked) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
        let (delivered, replayed, given) = (from.u64()?, from.u64()?, from.u64()?);
        let told = Acks { ack: from.u64()?, window: from.number()? };
        let (head_sent, payload_left) = (from.number::<usize>()?, from.number::<usize>()?);
        let head = from.bytes()?;
        // An address list is the largest body that a frame's head takes along.
        if head.len() > HEADER_BYTES + ADDRS_BODY_MAX_BYTES || head_sent > head.len() {
            return None;
        }
        let frame = Frame { head: head.to_vec(), head_sent, payload_left };
        let (finished, stopped, ack, goaway) =
            (from.flag()?, from.flag()?, from.flag()?, from.flag()?);
        let (start, due_stop, due_reset) = (from.option()?, from.option()?, from.option()?);
        let (stop, reset) = (from.option()?, from.option()?);
        let (due_addrs, has_addrs) = (from.flag()?, from.flag()?);
        let addrs = from.bytes()?;
        if addrs.len() > ADDRS_BODY_MAX_BYTES || due_addrs && !has_addrs {
            return None;
        }
        let addrs = has_addrs.then(|| Box::from(addrs));
        let due = Due { start, ack, stop: due_stop, reset: due_reset, addrs: due_addrs, goaway };
        let base = from.u64()?;
        let bytes = from.bytes()?;
        let seal = if from.flag()? { Seal::Waiting } else { Seal::Clear };
        let is_sealed = !matches!(seal, Seal::Clear);
        let end = base.checked_add(bytes.len() as u64)?;
        let total = end.checked_add(u64::from(finished))?;
        let sound = base <= cursor.min(acked).min(end)
            && total <= OFFSET_MAX
            && replayed.max(given) <= OFFSET_MAX
            && cursor <= sent_max
            && sent_max <= total
            && acked <= sent_max
            && delivered >= acked
            && delivered <= sent_max
            && payload_left <= FRAME_PAYLOAD_MAX_BYTES
            && payload_left as u64 <= end.saturating_sub(cursor)
            && (payload_left > 0 || head_sent < frame.head.len() || frame.head.is_empty())
            && (!is_sealed || frame.head.is_empty() && payload_left == 0);
        if !sound {
            return None;
        }
        let mut log = Log::busy(pool, base);
        log.append(bytes);
        Some(Self {
            log,
            cursor,
            sent_max,
            edge,
            acked,
            finished,
            stopped,
            told,
            frame,
            due,
            stop,
            reset,
            addrs,
            delivered,
            replayed,
            given,
            seal,
        })
    }
}
