//! One direction of a connection: what was read and not yet written, and what is done to it.

use std::collections::VecDeque;
use std::io::Read;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::ring::Ring;
use crate::rng::Rng;
use crate::schedule::later;
use crate::shape::{Bucket, Latency, Setting, Spell};
use crate::side::{Moved, Side};

/// With a delay the buffer is also the wire: it may hold so many times its normal size.
const WIRE: usize = 8;
/// Limit of pieces on the wire, so that single bytes do not cost more memory than they are worth.
const PIECES: usize = 4096;
/// Bytes moved so recently are a sign that data flows.
const RECENT: Duration = Duration::from_millis(100);

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Rst,
}

#[derive(Debug)]
pub(crate) struct Link {
    ring: Ring,
    capacity: usize,
    /// Bytes at the front of the ring that have arrived; the rest is on the wire.
    arrived: usize,
    wire: VecDeque<(Instant, usize)>,
    last_arrival: Instant,
    delay: Setting<Latency>,
    rate: Setting<Option<NonZeroU64>>,
    bucket: Bucket,
    stall: Spell,
    blackhole: Spell,
    then_reset: bool,
    flips: VecDeque<u8>,
    /// The end of the source's stream, and when the destination may learn of it.
    end: Option<(End, Instant)>,
    /// The destination knows of the end.
    end_delivered: bool,
    last_moved: Option<Instant>,
    rng: Rng,
    pub(crate) swallowed: u64,
    pub(crate) flipped: u64,
}

impl Link {
    pub(crate) fn new(capacity: usize, history: usize, seed: u64, now: Instant) -> Self {
        Self {
            ring: Ring::new(capacity, history),
            capacity,
            arrived: 0,
            wire: VecDeque::new(),
            last_arrival: now,
            delay: Setting::new(Latency::default()),
            rate: Setting::new(None),
            bucket: Bucket::new(now),
            stall: Spell::Off,
            blackhole: Spell::Off,
            then_reset: false,
            flips: VecDeque::new(),
            end: None,
            end_delivered: false,
            last_moved: None,
            rng: Rng::new(seed),
            swallowed: 0,
            flipped: 0,
        }
    }

    /// Takes on a fault that leaves the connection open; cuts are no matter of a single link.
    pub(crate) fn apply(&mut self, fault: &Fault, now: Instant) {
        match fault {
            Fault::Stall { lasting, .. } => self.stall = Spell::lasting(now, *lasting),
            Fault::Blackhole { lasting, then_reset, .. } => {
                self.blackhole = Spell::lasting(now, *lasting);
                self.then_reset = *then_reset;
            }
            Fault::Flip { bit, .. } => self.flips.push_back(*bit),
            Fault::Delay { delay, jitter, lasting, .. } => {
                self.delay.set(Latency { delay: *delay, jitter: *jitter }, now, *lasting);
            }
            Fault::Rate { bytes_per_second, lasting, .. } => {
                self.rate.set(*bytes_per_second, now, *lasting);
            }
            Fault::Heal => {
                self.stall = Spell::Off;
                self.blackhole = Spell::Off;
                self.delay = Setting::new(Latency::default());
                self.rate = Setting::new(None);
            }
            _ => {}
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn is_flowing(&self, now: Instant) -> bool {
        !self.ring.is_empty()
            || self.last_moved.is_some_and(|at| now.saturating_duration_since(at) <= RECENT)
    }

    pub(crate) fn is_dark_forever(&self) -> bool {
        self.blackhole == Spell::Forever
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(crate) fn end_delivered(&self) -> bool {
        self.end_delivered
    }

    /// Ends a black hole whose time is over; whether the connection is to be reset for it.
    pub(crate) fn blackhole_over(&mut self, now: Instant) -> bool {
        let over = self.blackhole != Spell::Off && !self.blackhole.is_on(now);
        if over {
            self.blackhole = Spell::Off;
        }
        over && self.then_reset
    }

    /// The source is gone: what it sent last is an RST, which overtakes a FIN that still waits.
    pub(crate) fn source_died(&mut self, now: Instant) {
        if !matches!(self.end, Some((End::Rst, _))) {
            let latency = self.delay.get(now).draw(&mut self.rng);
            self.end = Some((End::Rst, later(now, latency).max(self.last_arrival)));
            self.end_delivered = false;
        }
    }

    /// Reads once from the source. Whether anything happened.
    pub(crate) fn fill(&mut self, src: &mut Side, to_nobody: bool, now: Instant) -> bool {
        let reset = matches!(self.end, Some((End::Rst, _)));
        // After a FIN nothing is read any more, so an RST shows as an error or a failed write.
        if !reset && (src.is_dead() || (src.failed && self.end.is_some())) {
            src.reset();
            self.source_died(now);
            return true;
        }
        if self.end.is_some() {
            return false;
        }
        if to_nobody || self.blackhole.is_on(now) {
            self.discard();
            // Into the empty ring and out of it again: no second buffer is needed.
            let moved = self.read(src);
            self.discard();
            return self.note(moved, now);
        }
        let latency = self.delay.get(now);
        if !latency.is_none() {
            self.ring.grow(self.capacity * WIRE);
        }
        let limit = if latency.is_none() { self.capacity } else { self.capacity * WIRE };
        if self.ring.len() >= limit || self.ring.room() == 0 || self.wire.len() >= PIECES {
            // Bytes that can still be read are lost with a real RST too.
            if src.failed {
                src.reset();
                self.source_died(now);
            }
            return src.failed;
        }
        let moved = self.read(src);
        if let Moved::Bytes(n) = moved
            && n > 0
        {
            if latency.is_none() && self.wire.is_empty() {
                self.arrived += n;
            } else {
                let at = later(now, latency.draw(&mut self.rng)).max(self.last_arrival);
                self.last_arrival = at;
                self.wire.push_back((at, n));
            }
        }
        self.note(moved, now)
    }

    fn read(&mut self, src: &mut Side) -> Moved {
        if !src.readable {
            return Moved::Blocked;
        }
        let ring = &mut self.ring;
        src.read(|stream| ring.read_from(stream))
    }

    fn note(&mut self, moved: Moved, now: Instant) -> bool {
        match moved {
            Moved::Bytes(_) => {}
            Moved::Blocked => return false,
            Moved::End => {
                let latency = self.delay.get(now).draw(&mut self.rng);
                self.end = Some((End::Fin, later(now, latency).max(self.last_arrival)));
            }
            Moved::Dead => self.source_died(now),
        }
        true
    }

    /// Writes once to the destination, at most `limit` bytes; how many went.
    pub(crate) fn drain(&mut self, dst: &mut Side, limit: usize, now: Instant) -> usize {
        if self.blackhole.is_on(now) || dst.is_dead() {
            self.discard();
            return 0;
        }
        while let Some((at, n)) = self.wire.front().copied()
            && at <= now
        {
            self.wire.pop_front();
            self.arrived += n;
        }
        if self.stall.is_on(now) || !dst.writable {
            return 0;
        }
        let rate = self.rate.get(now);
        let mut ready = self.arrived.min(limit);
        if let Some(rate) = rate {
            ready = ready.min(self.bucket.permits(rate, now));
        }
        if ready == 0 {
            return 0;
        }
        while let Some(bit) = self.flips.pop_front() {
            self.ring.flip_first(bit);
            self.flipped += 1;
        }
        let ring = &mut self.ring;
        let Moved::Bytes(n) = dst.write(|stream| ring.write_to(stream, ready)) else { return 0 };
        self.arrived -= n;
        if rate.is_some() {
            self.bucket.take(n);
        }
        self.last_moved = Some(now);
        n
    }

    /// Loses what waits in the proxy.
    pub(crate) fn discard(&mut self) {
        self.swallowed += self.ring.discard() as u64;
        self.arrived = 0;
        self.wire.clear();
    }

    /// Puts the last forwarded bytes in the place of those that wait; how many.
    pub(crate) fn rewind(&mut self, bytes: u64) -> usize {
        self.discard();
        self.ring.rewind(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Writes what [`Link::rewind`] put there, past all limits. Whether all of it is out, or
    /// nobody is there to take it.
    pub(crate) fn replay(&mut self, dst: &mut Side) -> bool {
        while !self.ring.is_empty() && dst.writable {
            let ring = &mut self.ring;
            if dst.write(|stream| ring.write_to(stream, usize::MAX)) == Moved::Dead {
                return true;
            }
        }
        self.ring.is_empty()
    }

    /// The end of the stream, once, when it is the destination's turn to learn of it.
    pub(crate) fn take_end(&mut self, dst: &Side, now: Instant) -> Option<End> {
        let (end, at) = self.end?;
        let held = self.blackhole.is_on(now) || self.stall.is_on(now) || now < at;
        // An RST does not wait for a receiver who does not read.
        let waits = !self.ring.is_empty() && (end == End::Fin || dst.writable);
        if self.end_delivered || held || waits {
            return None;
        }
        self.end_delivered = true;
        Some(end)
    }

    /// When something changes without any news from the sockets.
    pub(crate) fn wake(&mut self, dst: &Side, now: Instant) -> Option<Instant> {
        let rate = self.rate.get(now);
        let narrow = rate
            .filter(|_| self.arrived > 0 && dst.writable && !self.stall.is_on(now))
            .map(|rate| self.bucket.ready(rate, self.arrived));
        let limited = narrow.and_then(|ready| Some(self.rate.end()?.min(ready))).or(narrow);
        let end = self.end.filter(|(_, at)| !self.end_delivered && now < *at).map(|(_, at)| at);
        let arrival = self.wire.front().map(|(at, _)| *at);
        [limited, end, arrival, self.stall.end(now), self.blackhole.end(now)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Reads and forgets; whether the stream goes on.
pub(crate) fn swallow(side: &mut Side, scratch: &mut [u8], total: &mut u64) -> bool {
    // Bounded, so that a fast sender cannot hold the thread.
    for _ in 0..16 {
        if !side.readable {
            return !side.is_dead();
        }
        match side.read(|stream| stream.read(scratch)) {
            Moved::Bytes(n) => *total += n as u64,
            Moved::Blocked => {}
            Moved::End | Moved::Dead => return false,
        }
    }
    true
}
