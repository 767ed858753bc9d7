//! One virtual socket.
//!
//! Its two directions have a lock each, held for one non-blocking system call at most; what one
//! learns for the other passes through atomics ([`Shared`]). Everything that is not needed to move
//! bytes is in [`Meta`].
//!
//! Lock order: `meta`, `place`, `tx`, `rx`, `watch`, `sleepers`. A holder of `rx` only ever *tries*
//! `tx`. The lock of `relatives` is taken last.

pub(crate) mod gather;
pub(crate) mod guests;
pub(crate) mod lead;
pub(crate) mod link;
mod quick;
mod reads;
pub(crate) mod recv;
pub(crate) mod relatives;
pub(crate) mod route;
pub(crate) mod send;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, Instant};

use eversock_proto::control::Control;
use eversock_proto::identity::PublicKey;
use eversock_proto::recv::Receiver;
use eversock_proto::resume::Reason;
use eversock_proto::send::Sender;

use crate::config::Config;
use crate::error::{errno, fail, poisoned};
use crate::event::{Event, EventKind, Subscriber};
use crate::listener::Listener;
use crate::meet::sleepers::Sleepers;
use crate::meet::word::Word;
use crate::options::Options;
use crate::process::OwnerWord;
use crate::sys::Fd;
use crate::sys::tcp::Traffic;
use crate::wait::epoll::EpollSet;

/// What the kernel cannot know about a socket's readiness.
pub(crate) mod bits {
    /// Bytes were read ahead.
    pub(crate) const STASH: u32 = 1;
    /// The peer's FIN was reached, or the program shut its reading side.
    pub(crate) const EOF: u32 = 1 << 1;
    /// The session has failed.
    pub(crate) const FAILED: u32 = 1 << 2;
    /// The program shut its writing side.
    pub(crate) const WRITE_SHUT: u32 = 1 << 3;
    /// No credit or no log space: not writable, whatever the kernel says.
    pub(crate) const NO_ROOM: u32 = 1 << 4;
    /// No connection stands.
    pub(crate) const DETACHED: u32 = 1 << 5;
    /// The first connection is being made.
    pub(crate) const CONNECTING: u32 = 1 << 6;
    /// The peer reads no more: a write fails with EPIPE.
    pub(crate) const STOPPED: u32 = 1 << 7;
    /// `connect` was not called yet.
    pub(crate) const FRESH: u32 = 1 << 8;
    /// The engine copies; the kernel's readiness is all there is.
    pub(crate) const PUMPED: u32 = 1 << 9;
    /// The last number was closed.
    pub(crate) const CLOSED: u32 = 1 << 10;
    /// Waiting for credit: the engine reads in the program's stead.
    pub(crate) const WANTS_CREDIT: u32 = 1 << 11;
    /// Both directions have ended.
    pub(crate) const OVER: u32 = 1 << 12;
    /// A program's thread has found the connection dead; the engine has yet to take it away.
    pub(crate) const DYING: u32 = 1 << 13;
    /// Relatives use the session too, by way of pumps.
    pub(crate) const GUESTS: u32 = 1 << 14;
    /// Our program has closed it; relatives go on.
    pub(crate) const ORPHAN: u32 = 1 << 15;
    /// Bytes were taken back from relatives.
    pub(crate) const RETURNED: u32 = 1 << 16;
    /// A thread asks a relative for the session.
    pub(crate) const ASKING: u32 = 1 << 17;
    /// The session is a relative's; this process has the end of a pump.
    pub(crate) const GUEST: u32 = 1 << 18;
}

/// How often the engine tries a direction lock before it does something else first.
const TURNS: usize = 32;

/// What the directions tell each other without a lock.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) peer_ack: AtomicU64,
    pub(crate) peer_edge: AtomicU64,
    /// The next byte of the peer's that we lack; a resume may quote one that is a little old, as
    /// the receiver skips what it has.
    pub(crate) receive: AtomicU64,
    pub(crate) ack: AtomicU64,
    pub(crate) window: AtomicU32,
    pub(crate) fin_seen: AtomicBool,
    /// Edge that the peer was last told.
    pub(crate) told_edge: AtomicU64,
    /// Ack that the peer was last told.
    pub(crate) told_ack: AtomicU64,
    /// Offset behind the last byte written.
    pub(crate) written: AtomicU64,
    /// Payload consumed or confirmed since the last look: progress.
    pub(crate) progress: AtomicU64,
    /// An ACK is wanted by someone who could not have the lock.
    pub(crate) ack_wanted: AtomicBool,
    pub(crate) peer_stopped: AtomicBool,
    /// On the list of the next sweep.
    pub(crate) in_sweep: AtomicBool,
}

impl Shared {
    /// The peer has confirmed more. Only under the sending lock, which makes this one writer's.
    pub(crate) fn count_progress(&self) {
        let count = self.progress.load(Ordering::Relaxed);
        self.progress.store(count.wrapping_add(1), Ordering::Relaxed);
    }
}

/// The sending direction.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    pub(crate) sender: Option<Box<Sender>>,
    /// Where to write; -1 when no connection stands.
    pub(crate) number: RawFd,
    pub(crate) epoch: u64,
    /// Of who writes much.
    pub(crate) pace: Option<Box<gather::Pace>>,
}

/// The receiving direction.
#[derive(Debug, Default)]
pub(crate) struct Rx {
    pub(crate) receiver: Option<Box<Receiver>>,
    /// Where to read; -1 when no connection stands.
    pub(crate) number: RawFd,
    pub(crate) epoch: u64,
    /// The last read found the kernel's queue empty: one that may block need not ask first.
    pub(crate) drained: bool,
    /// What had gone through the connection when its epoch began, if this process began it.
    pub(crate) counted: Option<Counted>,
}

/// Where the count of a connection's bytes began: whatever goes through it later goes through us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// The process that counts; another one, after a fork, cannot know what this one has read.
    pub(crate) by: u64,
    pub(crate) from: Traffic,
}

/// Where the real socket or its stand-in is.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The program's numbers; all of them name one file.
    pub(crate) numbers: Vec<RawFd>,
    /// Device and inode of that file.
    pub(crate) identity: (u64, u64),
    /// A real socket of the engine's own: pumped, or closed by the program.
    pub(crate) private: Option<Fd>,
    /// The engine's end of the placeholder that stands in for a real socket.
    pub(crate) placeholder: Option<Fd>,
}

/// What the engine's fault watch looks for on the real socket.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) number: RawFd,
    pub(crate) wants_out: bool,
    pub(crate) wants_in: bool,
}

/// Everything that is not needed to move bytes.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    pub(crate) control: Option<Box<Control>>,
    pub(crate) options: Options,
    /// The peer as the program knows it; stays through redials.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// Where the session may be found, best first.
    pub(crate) candidates: Vec<SocketAddr>,
    pub(crate) peer_grace: Duration,
    pub(crate) attached_since: Option<Instant>,
    /// The listener that a session was born of: it must go on listening for the resumes.
    pub(crate) born_of: Option<Arc<Listener>>,
    pub(crate) ended: Option<Reason>,
    rare: Option<Box<Rare>>,
}

/// What few sessions have, or only those that were cut once: made at its first use.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// A name to be resolved again at each redial.
    pub(crate) host: Option<(String, u16)>,
    /// The source address that the program bound.
    pub(crate) bound: Option<SocketAddr>,
    pub(crate) detached_since: Option<Instant>,
    pub(crate) next_try: Option<Instant>,
    pub(crate) last_error: Option<String>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) asking: bool,
    /// The static key that the peer has proven to have.
    pub(crate) peer_key: Option<PublicKey>,
    /// Both ends would carry several logical connections over the session.
    pub(crate) shares: bool,
    /// Those of the candidates that only the peer has named.
    pub(crate) announced: Vec<SocketAddr>,
    /// The two ends of the last connection, if it was not the first: the peer's and ours.
    pub(crate) route: Option<(SocketAddr, SocketAddr)>,
}

impl Meta {
    /// To be read.
    pub(crate) fn rare(&self) -> &Rare {
        static NONE: Rare = Rare {
            host: None,
            bound: None,
            detached_since: None,
            next_try: None,
            last_error: None,
            subscribers: Vec::new(),
            asking: false,
            peer_key: None,
            shares: false,
            announced: Vec::new(),
            route: None,
        };
        self.rare.as_deref().unwrap_or(&NONE)
    }

    /// To be changed, if there is anything yet.
    pub(crate) fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// To be set.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// One virtual socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) id: u64,
    pub(crate) config: Arc<Config>,
    bits: Word,
    pub(crate) nonblocking: AtomicBool,
    /// The program wants more than a byte at a time (SO_RCVLOWAT).
    pub(crate) low_water: AtomicBool,
    pub(crate) recv_timeout_us: AtomicU64,
    pub(crate) send_timeout_us: AtomicU64,
    failure: AtomicI32,
    failure_told: AtomicBool,
    row: gather::Row,
    pub(crate) shared: Shared,
    pub(crate) tx: Mutex<Tx>,
    pub(crate) rx: Mutex<Rx>,
    pub(crate) place: Mutex<Place>,
    pub(crate) watch: Mutex<Watch>,
    pub(crate) sleepers: Sleepers,
    pub(crate) epolls: Mutex<Vec<Weak<EpollSet>>>,
    pub(crate) meta: Mutex<Meta>,
    pub(crate) owner: OwnerWord,
    pub(crate) relatives: Mutex<Option<Box<relatives::Relatives>>>,
}

// What every idle session costs. A field more is a decision: the sum is told by
// `cargo bench -- --only memory`, and is to stay below 2 KiB for a client.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Socket>() <= 632);

impl Socket {
    pub(crate) fn new(id: u64, config: Arc<Config>, numbers: Vec<RawFd>, first_bits: u32) -> Self {
        Self {
            id,
            config,
            bits: Word::new(first_bits),
            nonblocking: AtomicBool::new(false),
            low_water: AtomicBool::new(false),
            recv_timeout_us: AtomicU64::new(0),
            send_timeout_us: AtomicU64::new(0),
            failure: AtomicI32::new(0),
            failure_told: AtomicBool::new(false),
            row: gather::Row::default(),
            shared: Shared::default(),
            tx: Mutex::new(Tx { number: -1, ..Tx::default() }),
            rx: Mutex::new(Rx { number: -1, ..Rx::default() }),
            place: Mutex::new(Place { numbers, ..Place::default() }),
            watch: Mutex::new(Watch { number: -1, wants_out: false, wants_in: false }),
            sleepers: Sleepers::default(),
            epolls: Mutex::default(),
            meta: Mutex::default(),
            owner: OwnerWord::new(),
            relatives: Mutex::default(),
        }
    }

    /// Takes a lock that is held for one call that does not block; gives up after a few turns, as
    /// its holder may have been preempted.
    pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> io::Result<Option<MutexGuard<'_, T>>> {
        for _ in 0..TURNS {
            match mutex.try_lock() {
                Ok(guard) => return Ok(Some(guard)),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
                Err(TryLockError::Poisoned(_)) => return Err(poisoned()),
            }
        }
        Ok(None)
    }

    /// Takes a lock; a holder that panicked has poisoned the socket.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> io::Result<MutexGuard<'_, T>> {
        mutex.lock().map_err(|_| poisoned())
    }

    pub(crate) fn bits(&self) -> u32 {
        self.bits.bits()
    }

    pub(crate) fn has(&self, wanted: u32) -> bool {
        self.bits() & wanted != 0
    }

    /// Changes bits; rings whoever sleeps if anything changed.
    pub(crate) fn change(&self, raise: u32, clear: u32) {
        if let Some(before) = self.bits.change(raise, clear) {
            self.kick_for(before & clear & bits::NO_ROOM != 0);
        }
    }

    /// Lowers bits without ringing anybody.
    fn lower_quietly(&self, lowered: u32) {
        self.bits.lower(lowered);
    }

    /// Raises a bit; true if it was raised already.
    pub(crate) fn raise(&self, bit: u32) -> bool {
        self.bits.raise(bit)
    }

    /// Wakes whoever waits for this socket, in whatever call.
    pub(crate) fn kick(&self) {
        self.kick_for(false);
    }

    /// The same; `opened` when the kernel may have been ready already while our bits said no: an
    /// edge-triggered set then asks it again.
    #[cold]
    pub(crate) fn kick_for(&self, opened: bool) {
        self.sleepers.ring();
        if let Ok(epolls) = self.epolls.lock() {
            for set in epolls.iter().filter_map(Weak::upgrade) {
                set.note(self.id, opened);
            }
        }
    }

    /// What the program can do now as far as we know: poll(2) bits. The kernel may know more.
    pub(crate) fn readiness(&self) -> i16 {
        let bits = self.bits();
        if bits & bits::FAILED != 0 {
            return libc::POLLIN | libc::POLLOUT | libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP;
        }
        if bits & bits::FRESH != 0 {
            return libc::POLLOUT | libc::POLLHUP;
        }
        let mut out = 0;
        if bits & (bits::STASH | bits::EOF | bits::RETURNED) != 0
            || bits & bits::GUESTS != 0 && self.is_left_unread()
        {
            out |= libc::POLLIN;
        }
        if bits & bits::EOF != 0 {
            out |= libc::POLLRDHUP;
            if bits & bits::WRITE_SHUT != 0 {
                out |= libc::POLLHUP;
            }
        }
        let writable = bits & (bits::NO_ROOM | bits::CONNECTING) == 0;
        if bits & bits::DETACHED != 0 && writable
            || bits & (bits::STOPPED | bits::WRITE_SHUT) != 0 && bits & bits::CONNECTING == 0
        {
            out |= libc::POLLOUT;
        }
        out
    }

    /// The errno of a failed session: once the honest one, then `afterwards`.
    pub(crate) fn failure(&self, afterwards: Option<i32>) -> io::Result<()> {
        let number = self.failure.load(Ordering::SeqCst);
        if number == 0 {
            return Ok(());
        }
        if !self.failure_told.swap(true, Ordering::SeqCst) {
            return fail(number);
        }
        afterwards.map_or(Ok(()), fail)
    }

    /// A call returns what it has moved instead of this error: if it is the failure it is still to
    /// be told. Gives how much that was.
    pub(crate) fn untold(&self, error: &io::Error, done: usize) -> usize {
        if crate::error::number(error) == self.failure_number() {
            self.failure_told.store(false, Ordering::SeqCst);
        }
        done
    }

    /// SO_ERROR: the pending error, told once.
    pub(crate) fn take_error(&self) -> i32 {
        match self.failure(None) {
            Ok(()) => 0,
            Err(error) => crate::error::number(&error),
        }
    }

    /// The error that ended the session, told or not; 0 if none.
    pub(crate) fn failure_number(&self) -> i32 {
        self.failure.load(Ordering::SeqCst)
    }

    /// Records the failure; the first one stays.
    pub(crate) fn set_failure(&self, number: i32) -> bool {
        let first =
            self.failure.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        self.change(bits::FAILED, bits::CONNECTING | bits::WANTS_CREDIT);
        first
    }

    /// The moment at which a call that starts now must give up.
    pub(crate) fn deadline(timeout_us: &AtomicU64) -> Option<Instant> {
        match timeout_us.load(Ordering::Relaxed) {
            0 => None,
            us => crate::clock::now().checked_add(Duration::from_micros(us)),
        }
    }

    /// Tells subscribers; those that are gone are forgotten, those that are full miss it.
    pub(crate) fn tell(&self, meta: &mut Meta, kind: EventKind) {
        let epoch = meta.control.as_ref().map_or(0, |control| control.epoch());
        let Some(rare) = meta.rare_if_any() else { return };
        let event = Event { local_id: self.id, epoch, kind };
        rare.subscribers.retain(|subscriber| subscriber.tell(&event));
    }

    /// Checks that the socket is a connected one, for calls that need it.
    pub(crate) fn check_connected(&self) -> io::Result<()> {
        if self.has(bits::FRESH | bits::CONNECTING) {
            self.failure(None)?;
            return Err(errno(libc::ENOTCONN));
        }
        Ok(())
    }
}
