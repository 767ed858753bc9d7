//! Bursts: many small writes right behind each other go out together.
//!
//! Who writes and does nothing else for a while pays a system call and a segment for each write.
//! From the [`BURST_WRITES`]th write on, each within [`APART_MAX_NS`] of the one before, writes are
//! only put into the log, and go to the kernel when [`HELD_MAX_BYTES`] have come together or
//! [`HELD_MAX_NS`] have passed. A write that stands alone goes out at once, as ever; so does what
//! is held whenever the thread that wrote it reads, waits for a descriptor, forks, or runs a
//! program. Whoever does none of that is helped by the engine, which looks every [`LOOK_EVERY`]
//! while there are bursts.
//!
//! Nothing else knows of it: bytes of the log that no frame has taken yet are what every flush
//! takes, and they are in the log before the write returns. Only the death of the whole process
//! by a signal (or an `_exit` or exec past our own) in those microseconds takes them along.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use super::send::Flushed;
use super::{Place, Socket, Tx, bits};
use crate::clock;
use crate::error::{caught, guarded};
use crate::meet::{credit, wish};
use crate::process;
use crate::reactor::engine_if_running;
use crate::sys::process::Uncancelled;
use crate::sys::{Fd, fd};
use crate::wait::epoll;

/// Longest write that may wait for others.
pub(super) const GATHERED_MAX_BYTES: usize = 16 * 1024;
/// Writes behind each other before the first that may wait.
const BURST_WRITES: u32 = 10;
/// Writes that are counted without a look at the clock, which costs a lone write too much.
const UNTIMED_WRITES: u32 = 4;
/// Writes further apart than this are no burst.
const APART_MAX_NS: u64 = 20_000;
/// So much is held at most.
const HELD_MAX_BYTES: u64 = 64 * 1024;
/// What is held this long goes out with the next write.
const HELD_MAX_NS: u64 = 100_000;
/// How often the engine looks for what is held too long.
pub(crate) const LOOK_EVERY: Duration = Duration::from_micros(200);
/// A socket without a write for this long is looked at no more.
const OVER_AFTER_NS: u64 = 1_000_000;

thread_local! {
    // Without a destructor, so that it may be asked at any time.
    static MINE: Mine = const { Mine { holds: Cell::new(false), turns: Cell::new(0) } };
}

/// What a thread knows of its own writes.
struct Mine {
    /// The last one left bytes to be sent.
    holds: Cell<bool>,
    /// Counts what the thread does besides writing.
    turns: Cell<u16>,
}

/// What the sending direction of who writes much knows of its writes; times in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How much had been written when the program's thread last looked for acks.
    pub(super) looked: u64,
    /// When the last write came, of those that were timed.
    last: u64,
    /// Since when bytes are held; 0 when none are.
    since: u64,
    /// When bytes were last put off.
    held_at: u64,
    /// The instance of the engine that looks at this socket; a fork's child has another.
    looked_at_by: u64,
}

impl Tx {
    pub(super) fn pace(&mut self) -> &mut Pace {
        self.pace.get_or_insert_default()
    }

    /// Since when bytes are held; 0 when none are.
    pub(super) fn held_since(&self) -> u64 {
        self.pace.as_ref().map_or(0, |pace| pace.since)
    }

    /// Everything goes out now, or is owed.
    pub(super) fn holds_no_more(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.since = 0;
        }
    }

    /// Nothing was written for a while: `instance` is the engine that says so.
    pub(crate) fn rest(&mut self, instance: u64) {
        let is_idle = |pace: &Pace| pace.since == 0 && pace.looked_at_by != instance;
        if self.pace.as_ref().is_some_and(|pace| is_idle(pace)) {
            self.pace = None;
        }
    }
}

/// How many writes one thread has made right behind each other, behind what tells that thread and
/// its turn ([`turn`]): a guess, which two writers may spoil.
#[derive(Debug, Default)]
pub(crate) struct Row(AtomicU32);

const COUNT_BITS: u32 = 8;

/// The sockets that the engine looks at while they hold bytes.
#[derive(Debug)]
pub(crate) struct Bursts {
    /// None where it could not be had: then nothing is ever held.
    timer: Option<Fd>,
    is_armed: AtomicBool,
    sockets: Mutex<Vec<Weak<Socket>>>,
}

/// What a write in a burst came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Nothing has changed: the other ways.
    NotHere,
    /// It is taken.
    Taken,
    /// It is taken, and the kernel lacks a part of it or of what came before.
    Owed,
    /// So many bytes of it are taken.
    Part(usize),
}

/// Sends what this thread's writes have left to be sent: before it reads, or waits.
#[inline]
pub(crate) fn flush_held() {
    MINE.with(|mine| {
        mine.turns.set(mine.turns.get().wrapping_add(1));
        if mine.holds.replace(false) {
            flush_listed();
        }
    });
}

#[cold]
fn flush_listed() {
    let Some(engine) = engine_if_running() else { return };
    // Whoever has the list is about to be done, or is the thread that this signal handler runs in.
    let Ok(listed) = engine.bursts.sockets.try_lock() else { return };
    let sockets: Vec<_> = listed.iter().filter_map(Weak::upgrade).collect();
    drop(listed);
    sockets.iter().for_each(|socket| {
        let _given_up = socket.flush_burst();
    });
}

/// Gives the kernel what it lacks of all sessions, before this process becomes another program and
/// its engine ends; waits a while for kernels that are full, as the writers would have. May be
/// called by a signal handler, so no lock is waited for.
pub(crate) fn flush_before_exec() {
    let Some(engine) = engine_if_running() else { return };
    let until = clock::now() + EXEC_WAIT_MAX;
    let mut tries = EXEC_TRIES;
    let sockets: Vec<_> = loop {
        if let Ok(sockets) = engine.sockets.try_lock() {
            break sockets.values().filter_map(Weak::upgrade).collect();
        }
        tries -= 1;
        if tries == 0 {
            return;
        }
        epoll::sleep(EXEC_STEP);
    };
    for socket in sockets {
        let mut tries = EXEC_TRIES;
        while tries > 0 {
            let once = || {
                let once = socket.flush_once();
                if matches!(once, Once::Done) {
                    // What lies unread when the kernel closes it makes that a reset, which takes
                    // along what the peer has not read yet.
                    socket.eat_control_frames();
                }
                Ok(once)
            };
            match guarded(once).unwrap_or(Once::Done) {
                Once::Done => break,
                Once::Full if clock::now() >= until => break,
                Once::Full => {}
                Once::Busy => tries -= 1,
            }
            epoll::sleep(EXEC_STEP);
        }
    }
}

/// How often a lock is tried before an exec: its holder may be the interrupted thread itself.
const EXEC_TRIES: usize = 50;
const EXEC_STEP: Duration = Duration::from_micros(200);
/// How long an exec waits for kernels to take the last bytes.
const EXEC_WAIT_MAX: Duration = Duration::from_secs(5);

/// What one try to give the kernel what it lacks came to.
enum Once {
    /// It lacks nothing, or it is not for us to give, or not to wait for.
    Done,
    Full,
    /// Another thread has the locks.
    Busy,
}

impl Bursts {
    pub(crate) fn new() -> Self {
        let timer = fd::timer().inspect_err(|error| log::debug!("no timer for bursts: {error}"));
        Self { timer: timer.ok(), is_armed: AtomicBool::new(false), sockets: Mutex::default() }
    }

    pub(crate) fn number(&self) -> Option<RawFd> {
        self.timer.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// For the hooks around fork.
    pub(crate) fn list(&self) -> &Mutex<Vec<Weak<Socket>>> {
        &self.sockets
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the engine look at this socket; false if that cannot be.
    fn add(&self, socket: &Arc<Socket>) -> bool {
        let Some(timer) = self.number() else { return false };
        let Ok(mut listed) = self.sockets.try_lock() else { return false };
        if !self.is_armed.load(Ordering::SeqCst) {
            if let Err(error) = fd::set_timer(timer, LOOK_EVERY) {
                log::debug!("no timer for bursts: {error}");
                return false;
            }
            self.is_armed.store(true, Ordering::SeqCst);
        }
        listed.push(Arc::downgrade(socket));
        true
    }

    /// In the engine's thread, every [`LOOK_EVERY`] while there are bursts. Gives those whose bytes
    /// cannot go out by the number that they have.
    pub(crate) fn look(&self, instance: u64) -> Vec<Arc<Socket>> {
        if let Some(timer) = self.number() {
            // It goes on when its count was taken (timerfd_create(2)).
            fd::drain_notices(timer);
        }
        // Not under the list's lock, behind which a fork may wait with all of the sockets'. The
        // last of a socket takes some of them too.
        let mut sockets: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let now = clock::nanos();
        let mut lost = sockets.clone();
        lost.retain(|socket| !socket.look_at_burst(now));
        let mut listed = self.lock();
        listed.retain(|socket| {
            let Some(socket) = socket.upgrade() else { return false };
            let is_over = socket.is_burst_over(now, instance);
            sockets.push(socket);
            !is_over
        });
        if listed.is_empty()
            && let Some(timer) = self.number()
            && fd::set_timer(timer, Duration::ZERO).is_ok()
        {
            self.is_armed.store(false, Ordering::SeqCst);
        }
        drop(listed);
        // Who found a direction taken by a look has left its wish to us.
        let is_lost = |socket: &Arc<Socket>| lost.iter().any(|lost| Arc::ptr_eq(lost, socket));
        sockets.iter().filter(|socket| !is_lost(socket)).for_each(Socket::honour_wishes);
        lost
    }
}

/// What tells this thread from others, and one stretch of writes from the next; both may come
/// round, as the time is looked at too.
#[inline]
fn turn() -> u32 {
    MINE.with(|mine| {
        // Threads lie pages apart.
        let thread = (std::ptr::from_ref(mine).addr() >> 12) as u32;
        (thread ^ u32::from(mine.turns.get()) << 8) << COUNT_BITS
    })
}

impl Socket {
    /// Takes a write that is one of many, if it is.
    #[inline]
    pub(super) fn send_in_burst(self: &Arc<Self>, bytes: &[u8]) -> io::Result<Gathered> {
        let (turn, row) = (turn(), self.row.0.load(Ordering::Relaxed));
        // The difference is the count where the turn is the same, and else no small number.
        let writes = if row.wrapping_sub(turn) <= BURST_WRITES { row - turn } else { 0 };
        if writes < UNTIMED_WRITES {
            self.row.0.store(turn + writes + 1, Ordering::Relaxed);
            return Ok(Gathered::NotHere);
        }
        self.gather(bytes, turn, writes)
    }

    fn gather(self: &Arc<Self>, bytes: &[u8], turn: u32, writes: u32) -> io::Result<Gathered> {
        let shared = &self.shared;
        let count = |writes| self.row.0.store(turn + writes, Ordering::Relaxed);
        let now = clock::nanos();
        let (mut is_first, mut looks) = (false, false);
        let gathered = caught(|| {
            let Ok(mut tx) = self.tx.try_lock() else { return Ok(Gathered::NotHere) };
            let apart = now.saturating_sub(std::mem::replace(&mut tx.pace().last, now));
            if apart > APART_MAX_NS {
                // The first timed one of a row has none before it.
                count(UNTIMED_WRITES + u32::from(writes == UNTIMED_WRITES));
                return Ok(Gathered::NotHere);
            }
            if writes < BURST_WRITES {
                count(writes + 1);
                return Ok(Gathered::NotHere);
            }
            if self.bits() & !bits::STASH != 0 || !process::is_ours(self) || tx.number < 0 {
                return Ok(Gathered::NotHere);
            }
            let Some(taken) = self.put_off(&mut tx, bytes) else { return Ok(Gathered::NotHere) };
            let held = tx.sender.as_ref().map_or(0, |sender| sender.written() - sender.cursor());
            let instance = engine_if_running().map_or(0, |engine| engine.instance);
            let pace = tx.pace();
            is_first = std::mem::replace(&mut pace.looked_at_by, instance) != instance;
            pace.held_at = now;
            if pace.since == 0 {
                pace.since = now;
            }
            let waits = held < HELD_MAX_BYTES && now.saturating_sub(pace.since) < HELD_MAX_NS;
            let mut flushed = Flushed::All;
            if waits {
                MINE.with(|mine| mine.holds.set(true));
            } else {
                let _whole = Uncancelled::begin();
                flushed = self.flush(&mut tx, false);
                looks = tx.is_to_look();
            }
            Ok(match flushed {
                _ if taken < bytes.len() => Gathered::Part(taken),
                Flushed::All => Gathered::Taken,
                Flushed::Owed => Gathered::Owed,
            })
        })?;
        if gathered == Gathered::NotHere {
            return Ok(gathered);
        }
        // As `finish_tx` does: whoever could not have the lock has set the flag.
        let wanted = wish::is_left(&shared.ack_wanted);
        if is_first || looks || wanted || !shared.in_sweep.load(Ordering::Relaxed) {
            guarded(|| {
                if is_first && !engine_if_running().is_some_and(|e| e.bursts.add(self)) {
                    self.leave_burst();
                }
                if looks {
                    self.eat_control_frames();
                }
                self.honour_wishes();
                self.list_for_sweep();
                Ok(())
            })?;
        }
        Ok(gathered)
    }

    /// Puts a write into the log and leaves it there: how much of it. `None`, with nothing changed,
    /// where that is not for a burst to do.
    fn put_off(self: &Arc<Self>, tx: &mut Tx, bytes: &[u8]) -> Option<usize> {
        let shared = &self.shared;
        let ack = shared.peer_ack.load(Ordering::SeqCst);
        let edge = credit::edge(&shared.peer_edge);
        let sender = tx.sender.as_deref_mut()?;
        // In the middle of a frame the kernel was full: who writes must be told, or wait.
        if sender.is_mid_frame() {
            return None;
        }
        let acked = sender.acked();
        // What the peer cannot have meant is the general way's to answer.
        sender.absorb(ack, edge).ok()?;
        if sender.acked() > acked {
            shared.count_progress();
        }
        // Who takes the last of the room must say so: the general way does.
        if sender.room() <= bytes.len() {
            return None;
        }
        let taken = sender.try_write(bytes).filter(|&taken| taken > 0)?;
        shared.written.store(sender.written(), Ordering::Release);
        Some(taken)
    }

    /// The engine does not look at it: what is held goes out now.
    #[cold]
    fn leave_burst(self: &Arc<Self>) {
        // Poisoned: the next call says so, this one has taken its bytes.
        let Ok(mut tx) = self.lock_tx() else { return };
        tx.pace().looked_at_by = 0;
        let flushed = self.flush(&mut tx, false);
        self.finish_tx(tx);
        if flushed == Flushed::Owed {
            self.owe();
        }
    }

    fn flush_once(self: &Arc<Self>) -> Once {
        let Ok(place) = self.place.try_lock() else { return Once::Busy };
        let Ok(mut tx) = self.tx.try_lock() else { return Once::Busy };
        let lacks = tx.sender.as_ref().is_some_and(|sender| sender.has_output());
        if !lacks || tx.number < 0 || !place.is_still(tx.number) {
            return Once::Done;
        }
        match self.flush(&mut tx, false) {
            Flushed::Owed if !self.nonblocking.load(Ordering::Relaxed) => Once::Full,
            _ => Once::Done,
        }
    }

    /// Sends what is held, as far as the kernel takes it, by who has the locks of the place and of
    /// this direction: true if it lacks something. Takes only locks that come behind these.
    pub(crate) fn flush_held_back(self: &Arc<Self>, place: &Place, tx: &mut Tx) -> bool {
        let holds = tx.held_since() != 0 && (tx.number < 0 || place.is_still(tx.number));
        holds && self.flush(tx, false) == Flushed::Owed
    }

    /// Sends what is held. Where another thread has a lock the engine's look does it. False when it
    /// cannot go out by the number that the socket has.
    fn flush_burst(self: &Arc<Self>) -> bool {
        let flush = || {
            let Ok(place) = self.place.try_lock() else { return Ok(true) };
            let Ok(mut tx) = self.tx.try_lock() else { return Ok(true) };
            let holds = tx.held_since() != 0;
            // A number that was closed past us may be another file's by now.
            let is_lost = holds && tx.number >= 0 && !place.is_still(tx.number);
            let mut flushed = Flushed::All;
            if is_lost {
                // Nor is an ACK to go there.
                return Ok(false);
            }
            if holds {
                flushed = self.flush(&mut tx, false);
            }
            drop(place);
            self.finish_tx(tx);
            if flushed == Flushed::Owed {
                self.owe();
            }
            Ok(true)
        };
        guarded(flush).unwrap_or_else(|error| {
            log::debug!("session {}: {error}", self.id);
            true
        })
    }

    fn honour_wishes(self: &Arc<Self>) {
        if wish::is_left(&self.shared.ack_wanted) {
            self.send_ack();
        }
    }

    /// The engine's look: sends what is held too long. False when it cannot go out by the number
    /// that the socket has.
    fn look_at_burst(self: &Arc<Self>, now: u64) -> bool {
        let is_due = |since: u64| since != 0 && now.saturating_sub(since) >= HELD_MAX_NS;
        !self.tx.try_lock().is_ok_and(|tx| is_due(tx.held_since())) || self.flush_burst()
    }

    /// True, and known to the direction, when nothing is held and nothing was for a while. Takes no
    /// lock that anybody waits for.
    fn is_burst_over(&self, now: u64, instance: u64) -> bool {
        let mut tx = match self.tx.try_lock() {
            Ok(tx) => tx,
            Err(TryLockError::WouldBlock) => return false,
            Err(TryLockError::Poisoned(_)) => return true,
        };
        let Some(pace) = &mut tx.pace else { return true };
        if pace.looked_at_by != instance {
            return true;
        }
        let is_over = pace.since == 0 && now.saturating_sub(pace.held_at) >= OVER_AFTER_NS;
        if is_over {
            pace.looked_at_by = 0;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use eversock_proto::limits::HEADER_BYTES;
    use eversock_proto::send::Sender;

    use super::*;
    use crate::socket::send::SendMode;
    use crate::sys;

    const SMALL: [u8; 64] = [7; 64];
    /// Of a condition that comes as soon as this thread is let run for some microseconds.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A session of this process with `credit`, over a connection whose far end is a plain one.
    fn session(credit: u64) -> (Arc<Socket>, Fd, Fd) {
        let engine = crate::reactor::engine().expect("an engine");
        let (near, far) = sys::tcp::loopback_pair().expect("a pair");
        let socket = Arc::new(Socket::new(engine.next_id(), Arc::default(), Vec::new(), 0));
        assert!(socket.owner.claim(engine.instance, true));
        // No sweep, which would find that it has no number.
        socket.shared.in_sweep.store(true, Ordering::SeqCst);
        let mut sender = Sender::new(Arc::default(), 0, 0);
        sender.begin_epoch(0).expect("nothing was sent");
        socket.shared.peer_edge.store(credit, Ordering::SeqCst);
        let identity = fd::identity(near.as_raw_fd()).expect("a file");
        socket.place.lock().expect("the lock").identity = identity;
        let mut tx = socket.lock_tx().expect("the lock");
        (tx.sender, tx.number, tx.epoch) = (Some(Box::new(sender)), near.as_raw_fd(), 1);
        drop(tx);
        (socket, near, far)
    }

    fn send(socket: &Arc<Socket>, bytes: &[u8]) -> io::Result<usize> {
        socket.send(&[IoSlice::new(bytes)], SendMode { dont_wait: true, ..SendMode::default() })
    }

    fn holds(socket: &Arc<Socket>) -> bool {
        socket.lock_tx().expect("the lock").held_since() != 0
    }

    /// Nothing of what was written is left to be sent.
    fn has_sent_all(socket: &Arc<Socket>) -> bool {
        let tx = socket.lock_tx().expect("the lock");
        tx.held_since() == 0 && tx.sender.as_ref().is_some_and(|sender| !sender.has_output())
    }

    /// Listed, but looked at only if others wake the engine for it.
    fn list_quietly(socket: &Arc<Socket>) {
        let engine = crate::reactor::engine().expect("an engine");
        socket.lock_tx().expect("the lock").pace().looked_at_by = engine.instance;
        engine.bursts.lock().push(Arc::downgrade(socket));
    }

    /// Writes until something is held.
    fn hold(socket: &Arc<Socket>) {
        let until = clock::now() + PATIENCE;
        while !holds(socket) {
            assert!(clock::now() < until, "no burst in {PATIENCE:?}");
            for _ in 0..=BURST_WRITES {
                assert_eq!(send(socket, &SMALL).expect("room"), SMALL.len());
            }
        }
    }

    #[test]
    fn a_write_that_stands_alone_goes_out_at_once_however_soon_it_comes() {
        let (socket, _near, far) = session(1 << 30);
        for round in 1..=1000 {
            // As a read, or a wait, does.
            flush_held();
            assert_eq!(send(&socket, &SMALL).expect("room"), SMALL.len());
            assert!(!holds(&socket), "write {round}");
        }
        let start = HEADER_BYTES + 8;
        let frames = 1000 * (HEADER_BYTES + SMALL.len());
        let until = clock::now() + PATIENCE;
        while sys::io::queued(far.as_raw_fd()) < start + frames {
            let queued = sys::io::queued(far.as_raw_fd());
            assert!(clock::now() < until, "{queued} of {} bytes", start + frames);
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_burst_has_left_goes_out_before_its_thread_reads_or_waits() {
        let (socket, _near, _far) = session(1 << 30);
        list_quietly(&socket);
        hold(&socket);
        flush_held();
        assert!(has_sent_all(&socket));
    }

    #[test]
    fn what_a_burst_has_left_goes_out_although_its_thread_does_nothing_more() {
        let (socket, _near, _far) = session(1 << 30);
        let until = clock::now() + PATIENCE;
        hold(&socket);
        while !has_sent_all(&socket) {
            assert!(clock::now() < until, "the engine has not looked");
            std::thread::yield_now();
        }
        // The looks end with the bursts.
        while socket.lock_tx().expect("the lock").pace().looked_at_by != 0 {
            assert!(clock::now() < until, "the engine goes on looking");
            std::thread::yield_now();
        }
    }

    /// The lock that a look tries may be what somebody wanted at that moment for an ACK.
    #[test]
    fn a_look_at_a_burst_does_what_was_wished_of_the_direction_meanwhile() {
        let (socket, _near, _far) = session(1 << 30);
        list_quietly(&socket);
        socket.shared.ack_wanted.store(true, Ordering::SeqCst);
        let engine = crate::reactor::engine().expect("an engine");
        engine.bursts.look(engine.instance);
        assert!(!socket.shared.ack_wanted.load(Ordering::SeqCst), "the wish was not seen");
    }

    #[test]
    fn a_burst_takes_all_of_the_credit_and_no_byte_more() {
        const CREDIT: usize = 30_003;
        let (socket, _near, _far) = session(CREDIT as u64);
        let mut written = 0;
        let refused = loop {
            match send(&socket, &SMALL) {
                Ok(n) => written += n,
                Err(error) => break error,
            }
        };
        assert!(crate::error::would_block(&refused), "{refused}");
        assert_eq!(written, CREDIT);
        assert!(has_sent_all(&socket), "who is told that there is no room has nothing held back");
        assert!(socket.has(bits::NO_ROOM), "nor is he told of room otherwise");
    }

    /// Writes until the kernel is full, which the far end, who never reads, sees to.
    fn fill(socket: &Arc<Socket>) -> usize {
        let mut written = 0;
        loop {
            match send(socket, &SMALL) {
                Ok(n) => written += n,
                Err(error) if crate::error::would_block(&error) => return written,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A burst went on into the log, to the end of the credit.
    #[test]
    fn a_burst_is_told_that_the_kernel_is_full() {
        let (socket, _near, _far) = session(1 << 30);
        let written = fill(&socket);
        assert!(written < 256 << 20, "{written} bytes");
        assert!(!socket.has(bits::NO_ROOM), "the credit is not what is missing");
    }

    #[test]
    fn bytes_of_a_burst_are_sent_before_a_fork_and_who_lacks_some_is_told_so() {
        let (socket, _near, _far) = session(1 << 30);
        list_quietly(&socket);
        hold(&socket);
        let flush = || {
            let place = socket.place.lock().expect("the lock");
            let mut tx = socket.lock_tx().expect("the lock");
            socket.flush_held_back(&place, &mut tx)
        };
        assert!(!flush(), "the kernel takes all");
        assert!(has_sent_all(&socket));
        fill(&socket);
        socket.lock_tx().expect("the lock").pace().since = 1;
        assert!(flush(), "the kernel is full");
    }

    /// A whole burst was lost with the engine when another thread had a lock at that moment, and
    /// all that a full kernel had not taken.
    #[test]
    fn an_exec_waits_for_locks_and_for_a_kernel_that_is_full() {
        let (socket, _near, far) = session(1 << 30);
        fill(&socket);
        let nonblocking = |on| socket.nonblocking.store(on, Ordering::SeqCst);
        nonblocking(true);
        assert!(matches!(socket.flush_once(), Once::Done), "its writer would not wait");
        nonblocking(false);
        assert!(matches!(socket.flush_once(), Once::Full));
        let tx = socket.lock_tx().expect("the lock");
        assert!(matches!(socket.flush_once(), Once::Busy));
        drop(tx);
        let mut buf = vec![0; 1 << 20];
        let until = clock::now() + PATIENCE;
        while !matches!(socket.flush_once(), Once::Done) {
            assert!(clock::now() < until, "the kernel takes no more");
            let _empty = rustix::io::read(fd::borrow(far.as_raw_fd()), &mut buf);
        }
        assert!(has_sent_all(&socket));
    }

    /// Whoever tried for the lock meanwhile has left his wish to its holder.
    #[test]
    fn who_finds_nothing_to_send_does_what_was_wished_of_the_direction() {
        let (socket, _near, _far) = session(1 << 30);
        socket.shared.ack_wanted.store(true, Ordering::SeqCst);
        assert!(socket.flush_burst());
        assert!(!socket.shared.ack_wanted.load(Ordering::SeqCst), "the wish was not seen");
    }

    /// It went into the file that had got the number meanwhile.
    #[test]
    fn bytes_of_a_burst_are_not_sent_by_a_number_that_is_another_file() {
        let (socket, near, _far) = session(1 << 30);
        list_quietly(&socket);
        hold(&socket);
        let (other, end) = fd::unix_pair(rustix::net::SocketType::STREAM).expect("a pair");
        fd::replace(std::os::fd::AsFd::as_fd(&other), near.as_raw_fd(), true).expect("replaced");
        // Nor does an ACK that somebody wants take it along.
        socket.shared.ack_wanted.store(true, Ordering::SeqCst);
        assert!(!socket.flush_burst(), "it cannot go out");
        assert!(matches!(socket.flush_once(), Once::Done), "nor before an exec");
        assert_eq!(sys::io::queued(end.as_raw_fd()), 0);
    }

    /// The last flush of one socket made the thread forget that another one still holds bytes.
    #[test]
    fn what_one_socket_holds_goes_out_although_the_thread_has_flushed_another_since() {
        let (one, _near, _far) = session(1 << 30);
        let (other, _other_near, _other_far) = session(1 << 30);
        list_quietly(&one);
        list_quietly(&other);
        hold(&one);
        hold(&other);
        // By its length.
        for _ in 0..=HELD_MAX_BYTES as usize / SMALL.len() {
            send(&other, &SMALL).expect("room");
        }
        flush_held();
        assert!(has_sent_all(&one));
    }

    /// One burst, and then a write now and then, kept the engine awake.
    #[test]
    fn a_burst_is_over_when_nothing_was_held_for_a_while_whatever_is_written() {
        let (socket, _near, _far) = session(1 << 30);
        let now = clock::nanos();
        let mut tx = socket.lock_tx().expect("the lock");
        *tx.pace() = Pace { last: now, looked_at_by: 5, held_at: now, ..Pace::default() };
        drop(tx);
        assert!(!socket.is_burst_over(now, 5));
        assert!(socket.is_burst_over(now + OVER_AFTER_NS, 5));
    }
}
