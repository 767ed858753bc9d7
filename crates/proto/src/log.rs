//! Byte storage for the two ends of a session: what was sent and may have to be sent again, and
//! what was read ahead of the program.
//!
//! Chunks come from a [`Pool`] that gives the most recently returned one first, so that a log which
//! fits the cache stays in it. An empty log holds no chunk.
//!
//! Invariants: `base <= end`; every offset in `base..end` is in exactly one chunk.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{
    CHUNK_BYTES, CHUNK_SMALL_BYTES, LOG_CAP_DEFAULT_BYTES, LOG_GUARANTEED_BYTES,
    POOL_FREE_MAX_BYTES, POOL_FREE_SMALL_MAX_BYTES,
};

/// Chunks that no log holds, the hottest last.
#[derive(Default)]
pub struct Free {
    large: Vec<Box<[u8]>>,
    small: Vec<Box<[u8]>>,
}

impl std::fmt::Debug for Free {
    /// Without the chunks, which hold what programs once sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Free({} large, {} small)", self.large.len(), self.small.len())
    }
}

/// Free chunks, shared by all the sessions of a process, and the cap on what they hold in all.
pub struct Pool {
    free: Mutex<Free>,
    /// Bytes held by logs beyond each one's guaranteed part.
    shared_used: AtomicU64,
    cap: AtomicU64,
}

impl std::fmt::Debug for Pool {
    /// Without the free chunks, which hold what programs once sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} bytes shared)", self.shared_used())
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            free: Mutex::default(),
            shared_used: AtomicU64::new(0),
            cap: AtomicU64::new(LOG_CAP_DEFAULT_BYTES),
        }
    }
}

impl Pool {
    /// Sets the cap on what all logs may hold beyond their guaranteed parts, in bytes.
    pub fn set_cap(&self, bytes: u64) {
        self.cap.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that logs hold beyond their guaranteed parts.
    pub fn shared_used(&self) -> u64 {
        self.shared_used.load(Ordering::Relaxed)
    }

    /// Holds the pool still, as is needed around a fork: no other thread is inside it meanwhile.
    pub fn hold(&self) -> MutexGuard<'_, Free> {
        // A poisoned lock means that a push or pop panicked; the lists themselves are whole.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room under the cap, in bytes.
    fn shared_room(&self) -> u64 {
        self.cap.load(Ordering::Relaxed).saturating_sub(self.shared_used())
    }

    /// `None` where there is no memory for one.
    fn take(&self, bytes: usize) -> Option<Box<[u8]>> {
        let small = bytes <= CHUNK_SMALL_BYTES;
        let mut free = self.hold();
        let found = if small { free.small.pop() } else { free.large.pop() };
        drop(free);
        let size = if small { CHUNK_SMALL_BYTES } else { CHUNK_BYTES };
        if found.is_some() {
            return found;
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(size).ok()?;
        chunk.resize(size, 0);
        Some(chunk.into_boxed_slice())
    }

    fn give(&self, chunk: Box<[u8]>) {
        let mut free = self.hold();
        let (list, max) = if chunk.len() == CHUNK_BYTES {
            (&mut free.large, POOL_FREE_MAX_BYTES / CHUNK_BYTES)
        } else {
            (&mut free.small, POOL_FREE_SMALL_MAX_BYTES / CHUNK_SMALL_BYTES)
        };
        if list.len() < max {
            list.push(chunk);
        }
    }
}

/// A run of bytes of one direction, by absolute offset.
#[derive(Debug)]
pub struct Log {
    pool: Arc<Pool>,
    chunks: VecDeque<Chunk>,
    base: u64,
    end: u64,
    /// What of ours the pool counts as beyond the guaranteed part.
    shared: u64,
    /// Keeps its last chunk, if it is a small one, for the next bytes, until [`Log::rest`].
    keeps: bool,
}

struct Chunk {
    bytes: Box<[u8]>,
    /// First byte that is still wanted.
    from: usize,
    /// End of the bytes written.
    to: usize,
}

impl std::fmt::Debug for Chunk {
    /// Without the payload, which is the program's own affair.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{} of {}", self.from, self.to, self.bytes.len())
    }
}

impl Log {
    /// An empty log whose next byte has offset `base`.
    pub fn new(pool: Arc<Pool>, base: u64) -> Self {
        Self { pool, chunks: VecDeque::new(), base, end: base, shared: 0, keeps: false }
    }

    /// The same for one that is filled and emptied all the time: it keeps a small chunk when it is
    /// empty, until it is told to [`rest`](Self::rest).
    pub fn busy(pool: Arc<Pool>, base: u64) -> Self {
        let mut log = Self::new(pool, base);
        log.keeps = true;
        log
    }

    /// Nothing has come for a while: an empty log holds no chunk then.
    pub fn rest(&mut self) {
        if self.is_empty() {
            while let Some(chunk) = self.chunks.pop_front() {
                self.pool.give(chunk.bytes);
            }
        }
    }

    /// Offset of the first byte held.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Offset behind the last byte held.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held.
    pub fn len(&self) -> u64 {
        self.end - self.base
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.end == self.base
    }

    /// Bytes that may be appended before the process-wide cap stops it.
    pub fn room(&self) -> u64 {
        LOG_GUARANTEED_BYTES.saturating_sub(self.len()).max(self.pool.shared_room())
    }

    /// Appends all of `bytes`, which cannot be refused: without memory for them the process ends,
    /// as it does wherever else there is none.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.try_append(bytes) < bytes.len() {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; CHUNK_BYTES]>());
        }
    }

    /// Appends as many of `bytes` as there is memory for, and gives their number. Whoever calls has
    /// checked [`Self::room`] as far as the cap matters.
    #[inline]
    pub fn try_append(&mut self, bytes: &[u8]) -> usize {
        if let Some(chunk) = self.chunks.back_mut()
            && let Some(space) = chunk.bytes.get_mut(chunk.to..chunk.to + bytes.len())
        {
            space.copy_from_slice(bytes);
            chunk.to += bytes.len();
            self.end += bytes.len() as u64;
            self.account();
            return bytes.len();
        }
        self.append_to_more(bytes)
    }

    /// The same where the last chunk has no room for all.
    fn append_to_more(&mut self, mut bytes: &[u8]) -> usize {
        let total = bytes.len();
        if total > CHUNK_SMALL_BYTES {
            // Not in two pieces because of what was kept for small ones.
            self.rest();
        }
        while !bytes.is_empty() {
            let has_space = self.chunks.back().is_some_and(|chunk| chunk.to < chunk.bytes.len());
            if !has_space {
                let wanted = if self.chunks.is_empty() { bytes.len() } else { CHUNK_BYTES };
                let Some(bytes) = self.pool.take(wanted) else { break };
                self.chunks.push_back(Chunk { bytes, from: 0, to: 0 });
            }
            let Some(chunk) = self.chunks.back_mut() else { break };
            let n = bytes.len().min(chunk.bytes.len() - chunk.to);
            let (head, rest) = bytes.split_at(n);
            chunk.bytes[chunk.to..chunk.to + n].copy_from_slice(head);
            chunk.to += n;
            bytes = rest;
        }
        let taken = total - bytes.len();
        self.end += taken as u64;
        self.account();
        taken
    }

    /// Takes back what the last [`Self::try_append`] appended: `bytes`, less than it was to append,
    /// which are all in the last chunk.
    pub fn retract(&mut self, bytes: usize) {
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.to -= bytes;
            self.end -= bytes as u64;
        }
        self.account();
    }

    /// Forgets the bytes below `offset`; beyond the end it empties the log and moves both ends
    /// there.
    #[inline]
    pub fn trim(&mut self, offset: u64) {
        if offset > self.base {
            self.trim_to(offset);
        }
    }

    /// Moves both ends of an empty log: the bytes up to `offset` have gone another way.
    #[inline]
    pub fn pass(&mut self, offset: u64) {
        debug_assert!(self.is_empty() && offset >= self.base);
        self.base = offset;
        self.end = offset;
    }

    fn trim_to(&mut self, offset: u64) {
        if offset >= self.end {
            self.base = offset;
            self.end = offset;
            self.empty();
            return self.account();
        }
        let mut left = offset - self.base;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let held = (chunk.to - chunk.from) as u64;
            if held > left {
                chunk.from += left as usize;
                break;
            }
            left -= held;
            if let Some(chunk) = self.chunks.pop_front() {
                self.pool.give(chunk.bytes);
            }
        }
        self.base = offset;
        self.account();
    }

    /// Nothing is held any more: neither are the chunks, but for one that a busy log keeps.
    fn empty(&mut self) {
        if self.keeps
            && self.chunks.len() == 1
            && let Some(chunk) = self.chunks.front_mut()
            && chunk.bytes.len() == CHUNK_SMALL_BYTES
        {
            (chunk.from, chunk.to) = (0, 0);
            return;
        }
        while let Some(chunk) = self.chunks.pop_front() {
            self.pool.give(chunk.bytes);
        }
    }

    /// The bytes from `offset`, at most `limit`, as slices into `out`. Gives the number of slices
    /// and of bytes.
    pub fn gather<'a>(
        &'a self,
        offset: u64,
        limit: usize,
        out: &mut [IoSlice<'a>],
    ) -> (usize, usize) {
        debug_assert!(offset >= self.base && offset <= self.end);
        let mut skip = (offset - self.base) as usize;
        let (mut slices, mut total) = (0, 0);
        for chunk in &self.chunks {
            let held = chunk.to - chunk.from;
            if skip >= held {
                skip -= held;
                continue;
            }
            if slices == out.len() || total == limit {
                break;
            }
            let n = (held - skip).min(limit - total);
            let from = chunk.from + skip;
            out[slices] = IoSlice::new(&chunk.bytes[from..from + n]);
            slices += 1;
            total += n;
            skip = 0;
        }
        (slices, total)
    }

    /// Copies bytes from the front into `out` without forgetting them; gives their number.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for chunk in &self.chunks {
            let n = (chunk.to - chunk.from).min(out.len() - filled);
            out[filled..filled + n].copy_from_slice(&chunk.bytes[chunk.from..chunk.from + n]);
            filled += n;
            if filled == out.len() {
                break;
            }
        }
        filled
    }

    /// Copies bytes from the front into `out` and forgets them; gives their number.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let n = self.peek(out);
        self.trim(self.base + n as u64);
        n
    }

    /// Tells the pool what this log holds beyond its guaranteed part.
    #[inline]
    fn account(&mut self) {
        if self.shared != 0 || self.len() > LOG_GUARANTEED_BYTES {
            self.account_shared();
        }
    }

    fn account_shared(&mut self) {
        let now = self.len().saturating_sub(LOG_GUARANTEED_BYTES);
        if now > self.shared {
            self.pool.shared_used.fetch_add(now - self.shared, Ordering::Relaxed);
        } else if now < self.shared {
            self.pool.shared_used.fetch_sub(self.shared - now, Ordering::Relaxed);
        }
        self.shared = now;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.trim(self.end);
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_appended_in_part_can_be_taken_back() {
        let mut log = Log::new(Arc::default(), 7);
        log.append(b"kept, gone");
        log.retract(6);
        assert_eq!((log.len(), log.end()), (4, 11));
        assert_eq!(log.try_append(b" and on"), 7);
        let mut out = [0; 20];
        assert_eq!(log.read(&mut out), 11);
        assert_eq!(&out[..11], b"kept and on");
    }

    #[test]
    fn a_full_cap_leaves_each_session_its_guaranteed_part() {
        let pool = Arc::new(Pool::default());
        pool.set_cap(1000);
        let mut log = Log::new(Arc::clone(&pool), 0);
        assert_eq!(log.room(), LOG_GUARANTEED_BYTES);
        log.append(&vec![1; LOG_GUARANTEED_BYTES as usize]);
        assert_eq!(log.room(), 1000);
        log.append(&[1; 1000]);
        assert_eq!((log.room(), pool.shared_used()), (0, 1000));
        let other = Log::new(Arc::clone(&pool), 0);
        assert_eq!(other.room(), LOG_GUARANTEED_BYTES);
        drop(log);
        assert_eq!(pool.shared_used(), 0);
    }

    #[test]
    fn a_busy_log_keeps_one_small_chunk_until_it_rests() {
        let mut log = Log::busy(Arc::default(), 0);
        log.append(&[0; 100]);
        log.trim(100);
        let kept: Vec<_> = log.chunks.iter().map(|chunk| chunk.bytes.len()).collect();
        assert_eq!(kept, [CHUNK_SMALL_BYTES]);
        log.append(&[0; 100_000]);
        log.trim(100_100);
        log.rest();
        assert!(log.chunks.is_empty());
    }

    #[test]
    fn an_empty_log_holds_no_chunk() {
        let mut log = Log::new(Arc::default(), 5);
        log.append(&[0; 100_000]);
        log.trim(100_005);
        assert!(log.chunks.is_empty());
    }

    proptest! {
        #[test]
        fn a_log_equals_a_byte_queue(
            base in prop_oneof![
                Just(0u64), Just((1 << 31) - 3), Just((1 << 32) - 3), Just((1 << 63) - 3),
            ],
            ops in proptest::collection::vec((0..3u8, 0usize..70_000), 1..30),
        ) {
            let mut log = Log::new(Arc::default(), base);
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut model_base = base;
            let mut next = 0u8;
            for (op, n) in ops {
                match op {
                    0 => {
                        let mut more = || {
                            next = next.wrapping_mul(5).wrapping_add(3);
                            next
                        };
                        let bytes: Vec<u8> = (0..n).map(|_| more()).collect();
                        log.append(&bytes);
                        model.extend(&bytes);
                    }
                    1 => {
                        let k = n.min(model.len());
                        log.trim(model_base + k as u64);
                        model.drain(..k);
                        model_base += k as u64;
                    }
                    _ => {
                        let mut out = vec![0; n];
                        let k = log.peek(&mut out);
                        prop_assert_eq!(k, n.min(model.len()));
                        prop_assert!(out[..k].iter().eq(model.iter().take(k)));
                    }
                }
                prop_assert_eq!((log.base(), log.len()), (model_base, model.len() as u64));
                let from = model.len() / 2;
                let mut slices = [IoSlice::new(&[]); 64];
                let (count, total) = log.gather(model_base + from as u64, usize::MAX, &mut slices);
                prop_assert_eq!(total, model.len() - from);
                let gathered = slices[..count].iter().flat_map(|s| s.iter());
                prop_assert!(gathered.eq(model.iter().skip(from)));
            }
        }
    }
}
