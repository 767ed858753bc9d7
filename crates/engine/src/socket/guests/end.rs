//! One guest's pump, as the owner has it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CHUNK_BYTES;
use crate::clock;
use crate::error::would_block;
use crate::sys::{self, Fd};

/// Turns are numbered from here upwards as guests ask or come, and downwards as they give way.
pub(super) const FIRST_TURN: u64 = 1 << 32;
static NEXT_TURN: AtomicU64 = AtomicU64::new(FIRST_TURN);
/// Who has read nothing for so long of what it has gives way to others.
const UNTOUCHED: Duration = Duration::from_millis(100);
/// What is on its way for so long does not come.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// The owner's end of one guest's pump.
#[derive(Debug)]
pub(crate) struct End {
    /// Where the guest's bytes come out.
    pub(super) far: Fd,
    /// The guest's own end, so that what it leaves unread is not lost.
    pub(super) near: Fd,
    /// Closed by the kernel when the guest is gone.
    pub(crate) line: Fd,
    /// When it asked last, or has come if it cannot ask; 0 if it does not read.
    pub(super) turn: AtomicU64,
    /// It has found nothing to read, and got nothing since.
    asks: AtomicBool,
    /// What the pair had no room for, and what was taken back while more was on its way.
    pub(super) rest: Mutex<Rest>,
    /// The bytes of both, for those who must not wait for the lock.
    pub(super) rest_bytes: AtomicUsize,
    /// Bytes that were put into the pair.
    pushed: AtomicU64,
    /// What it had read in all when it was looked at, and since when it has read no more.
    seen: Mutex<Option<(u64, Instant)>>,
    pub(super) shut: AtomicBool,
    pub(super) told: AtomicBool,
    /// The guest has ended its pair: nothing can be put there any more.
    broken: AtomicBool,
}

/// What is a guest's and is not in its pair.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Older than what lies in the pair.
    taken: Vec<u8>,
    /// Younger.
    pub(super) pending: Vec<u8>,
    /// So many bytes are on their way since then.
    late: Option<(usize, Instant)>,
}

/// What a guest has done with what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// It has read since it was looked at last.
    Read,
    /// It has not read for so long.
    Not(Duration),
}

impl End {
    /// A program that knows nothing of us cannot ask: it may read at any time.
    pub(crate) fn new(far: Fd, near: Fd, line: Fd, can_ask: bool) -> Arc<Self> {
        let turn = if can_ask { 0 } else { NEXT_TURN.fetch_add(1, Ordering::SeqCst) };
        Arc::new(Self {
            far,
            near,
            line,
            turn: AtomicU64::new(turn),
            asks: AtomicBool::new(false),
            rest: Mutex::default(),
            rest_bytes: AtomicUsize::new(0),
            pushed: AtomicU64::new(0),
            seen: Mutex::default(),
            shut: AtomicBool::new(false),
            told: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Gives the guest its end of the pair.
    pub(crate) fn send_to_guest(&self, answer: &[u8]) -> io::Result<()> {
        sys::pass::send(self.line.as_raw_fd(), answer, &[self.near.as_fd()])
    }

    /// The numbers of both its files.
    pub(crate) fn pair(&self) -> [RawFd; 2] {
        [self.far.as_raw_fd(), self.near.as_raw_fd()]
    }

    /// The guest wants to read and has nothing there.
    pub(crate) fn ask(&self) {
        self.turn.store(NEXT_TURN.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        // It may have been answered while it asked.
        self.asks.store(self.unread() == 0, Ordering::SeqCst);
    }

    /// The guest may read from now on, and cannot say when.
    pub(crate) fn may_read(&self) {
        let next = NEXT_TURN.fetch_add(1, Ordering::SeqCst);
        let _has_one = self.turn.compare_exchange(0, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The guest has gone.
    pub(crate) fn reads_no_more(&self) {
        self.turn.store(0, Ordering::SeqCst);
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    pub(super) fn wants(&self) -> bool {
        self.turn() > 0 && !self.told.load(Ordering::SeqCst) && !self.is_broken()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::SeqCst)
    }

    pub(super) fn note_served(&self) {
        self.asks.store(false, Ordering::SeqCst);
    }

    /// What the guest could read at this moment.
    pub(super) fn in_pair(&self) -> usize {
        sys::io::queued(self.near.as_raw_fd())
    }

    /// What has left one end of the pair and is not at the other yet.
    pub(super) fn in_flight(&self) -> usize {
        let pushed = self.pushed.load(Ordering::SeqCst);
        // A pair that the guest has ended has lost what was on its way, as any connection has.
        let came = sys::tcp::bytes_received(self.near.as_raw_fd()).unwrap_or(pushed);
        usize::try_from(pushed.saturating_sub(came)).unwrap_or(usize::MAX)
    }

    pub(super) fn in_pair_or_flight(&self) -> usize {
        // In this order: what arrives in between is counted twice rather than not at all.
        self.in_flight() + self.in_pair()
    }

    /// All that was given to the guest and not read by it.
    pub(super) fn unread(&self) -> usize {
        self.rest_bytes.load(Ordering::SeqCst) + self.in_pair_or_flight()
    }

    /// A part of what it had was taken back, and the rest is on its way.
    pub(super) fn gives_way(&self) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        !rest.taken.is_empty()
    }

    pub(super) fn note_rest(&self, rest: &Rest) {
        self.rest_bytes.store(rest.taken.len() + rest.pending.len(), Ordering::SeqCst);
    }

    /// Looks at what the guest does with what it has.
    pub(super) fn touch(&self) -> Touch {
        let left = self.in_pair_or_flight() as u64;
        let consumed = self.pushed.load(Ordering::SeqCst).saturating_sub(left);
        let now = clock::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((before, since)) if before == consumed => {
                Touch::Not(now.saturating_duration_since(since))
            }
            before => {
                *seen = Some((consumed, now));
                if before.is_some() { Touch::Read } else { Touch::Not(Duration::ZERO) }
            }
        }
    }

    /// True if it has read nothing of what it has for a while.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.touch(), Touch::Not(time) if time >= UNTOUCHED)
    }

    /// What it has is another's from now on.
    pub(super) fn begin_anew(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Moves all that is unread behind `back`, of a guest that may be reading: in one piece, or it
    /// would get what lies behind one that is on its way back. False where it is not all in one
    /// place.
    pub(super) fn take_whole(&self, back: &mut Vec<u8>) -> bool {
        if self.rest_bytes.load(Ordering::SeqCst) > 0 || self.in_flight() > 0 {
            return false;
        }
        let mut all = vec![0; self.in_pair()];
        if let Ok(n) = sys::io::recv_one(self.near.as_raw_fd(), &mut all) {
            back.extend_from_slice(&all[..n]);
        }
        self.begin_anew();
        true
    }

    /// Moves all that is unread behind `back`. False, with nothing moved there, if a part of it is
    /// still on its way from one end of the pair to the other after so long: to be tried again.
    pub(super) fn take_unread(&self, back: &mut Vec<u8>, patience: Duration) -> bool {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.near.as_raw_fd();
        let mut buf = [0; CHUNK_BYTES];
        let mut until = None;
        let whole = loop {
            // Nobody puts more there meanwhile: what is not on its way now is all that comes.
            let in_flight = self.in_flight();
            let end = loop {
                match sys::io::recv_one(number, &mut buf) {
                    Ok(n) if n > 0 => {
                        rest.taken.extend_from_slice(&buf[..n]);
                        rest.late = None;
                    }
                    end => break end,
                }
            };
            let now = clock::now();
            let since = match rest.late {
                Some((late, since)) if late == in_flight => since,
                _ => now,
            };
            rest.late = Some((in_flight, since));
            if in_flight == 0 || now >= since + LOST_AFTER {
                break true;
            }
            if now >= *until.get_or_insert(now + patience) {
                break false;
            }
            if end.is_ok() {
                // It has shut its pair for reading, which is no end of what comes.
                crate::wait::epoll::sleep(Duration::from_millis(1));
            } else {
                let mut fds = [libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 }];
                let _late = sys::io::poll(&mut fds, Some(Duration::from_millis(1)));
            }
        };
        if whole {
            back.append(&mut rest.taken);
            back.append(&mut rest.pending);
            *rest = Rest::default();
            self.begin_anew();
        }
        self.note_rest(&rest);
        whole
    }

    /// Puts what is pending into the pair; false when it has no room.
    pub(super) fn push(&self, rest: &mut Rest) -> bool {
        let mut all = true;
        while !rest.pending.is_empty() {
            match sys::io::send(self.far.as_raw_fd(), &[IoSlice::new(&rest.pending)], false) {
                Ok(n) => {
                    self.pushed.fetch_add(n as u64, Ordering::SeqCst);
                    drop(rest.pending.drain(..n));
                    rest.late = None;
                }
                Err(error) => {
                    if !would_block(&error) {
                        self.broken.store(true, Ordering::SeqCst);
                    }
                    all = false;
                    break;
                }
            }
        }
        self.note_rest(rest);
        all
    }
}
