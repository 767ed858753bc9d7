//! One logical connection: what waits to be sent, what waits to be read, and the credit of both.

use std::collections::VecDeque;

/// What has become of a stream since it was last asked about; marks to be ORed.
pub mod news {
    /// The peer has opened it.
    pub const OPENED: u8 = 1;
    /// The peer has accepted it.
    pub const ACCEPTED: u8 = 1 << 1;
    /// Bytes can be read.
    pub const READABLE: u8 = 1 << 2;
    /// More can be written.
    pub const ROOM: u8 = 1 << 3;
    /// The peer's direction has ended; what is unread can still be read.
    pub const ENDED: u8 = 1 << 4;
    /// The peer has reset it; nothing of it is left.
    pub const RESET: u8 = 1 << 5;
}

/// Credit of a new stream in each direction, in bytes: the specification's.
pub const WINDOW_INITIAL_BYTES: u32 = 256 * 1024;

#[derive(Debug)]
pub(super) struct Stream {
    /// A SYN is to be sent.
    pub(super) syn_due: bool,
    /// An ACK is to be sent.
    pub(super) ack_due: bool,
    /// Opened by us, and not yet accepted.
    pub(super) is_unacked: bool,
    /// Our direction ends behind what is queued.
    pub(super) finished: bool,
    pub(super) fin_sent: bool,
    /// The peer's direction has ended.
    pub(super) ended: bool,
    /// The program uses it no more.
    pub(super) closed: bool,
    /// Stands in the queue of those with something to send.
    pub(super) is_ready: bool,
    /// [`news`] that nobody has asked for yet.
    pub(super) news: u8,
    /// What the peer's reset has said of why.
    pub(super) reset_reason: Option<u32>,
    /// Who found no room wants to be told of some.
    pub(super) wants_room: bool,
    pub(super) queue: VecDeque<u8>,
    /// How much more the peer takes.
    pub(super) credit: u32,
    pub(super) received: VecDeque<u8>,
    /// How much more the peer may send.
    pub(super) granted: u32,
    /// What was read and not granted again.
    pub(super) read: u32,
    pub(super) window: u32,
    /// A window update is to be sent.
    pub(super) grant_due: bool,
    /// When the current window began to be read, in microseconds of the caller's clock.
    pub(super) window_since: u64,
    /// When something was last read.
    pub(super) read_at: u64,
}

impl Stream {
    pub(super) fn new(is_ours: bool, now: u64) -> Self {
        Self {
            syn_due: is_ours,
            ack_due: false,
            is_unacked: is_ours,
            finished: false,
            fin_sent: false,
            ended: false,
            closed: false,
            is_ready: false,
            news: 0,
            reset_reason: None,
            wants_room: false,
            queue: VecDeque::new(),
            credit: WINDOW_INITIAL_BYTES,
            received: VecDeque::new(),
            granted: WINDOW_INITIAL_BYTES,
            read: 0,
            window: WINDOW_INITIAL_BYTES,
            grant_due: false,
            window_since: now,
            read_at: now,
        }
    }

    /// True when there is a frame to be cut.
    pub(super) fn has_output(&self) -> bool {
        let fin_is_due = self.finished && !self.fin_sent && self.queue.is_empty();
        self.syn_due
            || self.ack_due
            || self.grant_due
            || fin_is_due
            || !self.queue.is_empty() && self.credit > 0
    }

    /// True when there is more to be sent, now or when there is credit.
    pub(super) fn has_unsent(&self) -> bool {
        !self.queue.is_empty() || self.finished && !self.fin_sent
    }

    /// After a reset there is nothing to be sent, and nothing to be read.
    pub(super) fn forget_all(&mut self) {
        (self.queue, self.received) = (VecDeque::new(), VecDeque::new());
        (self.syn_due, self.ack_due, self.grant_due) = (false, false, false);
        (self.finished, self.fin_sent) = (true, true);
    }

    /// True when nothing of it will come or go any more and its program has left it.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.ended && self.fin_sent
    }

    /// Takes what has been read, in order; gives its length.
    pub(super) fn take(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.received.len());
        let (front, back) = self.received.as_slices();
        let from_front = n.min(front.len());
        out[..from_front].copy_from_slice(&front[..from_front]);
        out[from_front..n].copy_from_slice(&back[..n - from_front]);
        self.received.drain(..n);
        give_back(&mut self.received);
        n
    }

    /// Moves up to `max` bytes of the queue to `out`.
    pub(super) fn put(&mut self, max: usize, out: &mut Vec<u8>) {
        let n = max.min(self.queue.len());
        let (front, back) = self.queue.as_slices();
        let from_front = n.min(front.len());
        out.extend_from_slice(&front[..from_front]);
        out.extend_from_slice(&back[..n - from_front]);
        self.queue.drain(..n);
        give_back(&mut self.queue);
    }
}

/// An idle stream has no buffer.
fn give_back(queue: &mut VecDeque<u8>) {
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
}
