//! Processes: which one owns a session, and what happens around fork and exit (DESIGN 6).
//!
//! A session has one owner process; nobody else touches its real socket. The owner is a word in
//! memory that children share: zero after a fork, until the first program that does I/O claims it.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::reactor::{self, Command, Engine, engine_if_running};
use crate::socket::{Meta, Place, Rx, Socket, Tx, Watch};
use crate::sys::{self, Fd};
use crate::table;
use crate::wait::epoll;
use crate::wait::kick;

/// Who owns one session: a process's instance number, or 0 for nobody yet.
#[derive(Debug)]
pub(crate) struct OwnerWord {
    word: &'static AtomicU64,
    forks: u64,
}

static FREE: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());
static FORKS: AtomicU64 = AtomicU64::new(0);
/// When this process last forked, in [`crate::clock::millis`]; 0 for never.
static FORKED_AT: AtomicU64 = AtomicU64::new(0);
/// How long after a fork an engine leaves an unclaimed session to the programs: a parent that hands
/// its connection to a child closes its own number in that time.
const CLAIM_AFTER_MS: u64 = 250;
/// What a word falls back to when no shared memory is to be had: then children cannot take over.
static UNSHARED: AtomicU64 = AtomicU64::new(0);

impl OwnerWord {
    pub(crate) fn new() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.is_empty()
            && let Ok(words) = sys::process::shared_words()
        {
            free.extend(words);
        }
        let word = free.pop().unwrap_or(&UNSHARED);
        word.store(0, Ordering::SeqCst);
        Self { word, forks: FORKS.load(Ordering::Relaxed) }
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is(&self, instance: u64) -> bool {
        self.get() == instance
    }

    /// Takes the session for `instance` if it is `from`'s.
    pub(crate) fn claim(&self, from: u64, instance: u64) -> bool {
        self.word.compare_exchange(from, instance, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn release(&self) {
        self.word.store(0, Ordering::SeqCst);
    }
}

impl Drop for OwnerWord {
    fn drop(&mut self) {
        // After a fork a relative may still look at the word.
        if self.forks == FORKS.load(Ordering::Relaxed)
            && !std::ptr::eq(self.word, &raw const UNSHARED)
        {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.word);
        }
    }
}

/// This process's number in owner words.
pub(crate) fn instance(engine: &Engine) -> u64 {
    engine.instance
}

/// Makes sure that this process owns the session before its program does I/O on it.
#[inline]
pub(crate) fn claim(socket: &Arc<Socket>) -> io::Result<()> {
    if let Some(engine) = engine_if_running()
        && socket.owner.is(engine.instance)
    {
        return Ok(());
    }
    claim_slowly(socket)
}

#[cold]
fn claim_slowly(socket: &Arc<Socket>) -> io::Result<()> {
    let engine = reactor::engine()?;
    if socket.owner.is(engine.instance) {
        return Ok(());
    }
    if socket.owner.claim(0, engine.instance) {
        engine.enroll(socket);
        engine.command(Command::Adopt { socket: Arc::clone(socket) });
        return Ok(());
    }
    // A relative has it: two programs on one stream were never told apart by TCP either, but here
    // only one can hold the log.
    log::error!("session {}: another process took it over after a fork", socket.id);
    crate::error::fail(libc::EBADFD)
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Installs the hooks around fork and exit, once.
pub(crate) fn install_hooks() -> io::Result<()> {
    if !INSTALLED.swap(true, Ordering::SeqCst) {
        sys::process::at_fork(prepare, in_parent, in_child)?;
        sys::process::at_exit(at_exit);
    }
    Ok(())
}

extern "C" fn at_exit() {
    let _caught = std::panic::catch_unwind(reactor::shutdown);
}

/// Every lock that a child may need, held while the fork happens, so that none is left locked by a
/// thread that the child does not have.
struct Frozen {
    locks: Vec<Locks>,
    _pool: Option<MutexGuard<'static, eversock_proto::log::Free>>,
    _books: Option<MutexGuard<'static, std::collections::BTreeMap<u64, Weak<Socket>>>>,
    _sweep: MutexGuard<'static, Vec<Weak<Socket>>>,
    _sets: epoll::Held,
    free: MutexGuard<'static, Vec<&'static AtomicU64>>,
    bells: MutexGuard<'static, Vec<Fd>>,
    /// Last, as fields are dropped in order and the locks are the sockets'.
    sockets: Vec<Arc<Socket>>,
}

struct Locks {
    _meta: MutexGuard<'static, Meta>,
    place: MutexGuard<'static, Place>,
    _tx: MutexGuard<'static, Tx>,
    _rx: MutexGuard<'static, Rx>,
    watch: MutexGuard<'static, Watch>,
    sleepers: MutexGuard<'static, Vec<RawFd>>,
}

static FROZEN: AtomicPtr<Frozen> = AtomicPtr::new(std::ptr::null_mut());

fn freeze<T>(mutex: &Mutex<T>) -> MutexGuard<'static, T> {
    freeze_guard(mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

fn freeze_guard<T>(guard: MutexGuard<'_, T>) -> MutexGuard<'static, T> {
    // SAFETY: `Frozen` keeps the sockets (or the leaked engine) alive longer than the guards.
    unsafe { std::mem::transmute::<MutexGuard<'_, T>, MutexGuard<'static, T>>(guard) }
}

extern "C" fn prepare() {
    let Some(engine) = engine_if_running() else { return };
    let books = freeze(&engine.sockets);
    let sockets: Vec<_> = books.values().filter_map(Weak::upgrade).collect();
    let mut locks = Vec::with_capacity(sockets.len());
    for socket in &sockets {
        let held = Locks {
            _meta: freeze(&socket.meta),
            place: freeze(&socket.place),
            _tx: freeze(&socket.tx),
            _rx: freeze(&socket.rx),
            watch: freeze(&socket.watch),
            sleepers: freeze_guard(socket.sleepers.hold()),
        };
        // From here on nobody does I/O before claiming; but a real socket of the engine's own
        // stays where its engine is.
        // A thread that is in the middle of a read is a program that uses the session.
        let used = held.place.private.is_some() || socket.sleepers.is_reading();
        if socket.owner.is(engine.instance) && !used {
            socket.owner.release();
        }
        locks.push(held);
    }
    FORKS.fetch_add(1, Ordering::SeqCst);
    let pool = freeze_pool(engine);
    let frozen = Frozen {
        sockets,
        locks,
        _pool: Some(pool),
        _books: Some(books),
        _sweep: freeze(engine.sweep_list()),
        _sets: epoll::hold(),
        free: FREE.lock().unwrap_or_else(PoisonError::into_inner),
        bells: kick::hold(),
    };
    FROZEN.store(Box::into_raw(Box::new(frozen)), Ordering::SeqCst);
}

fn freeze_pool(engine: &'static Engine) -> MutexGuard<'static, eversock_proto::log::Free> {
    engine.pool.hold()
}

fn thaw() -> Option<Box<Frozen>> {
    let frozen = FROZEN.swap(std::ptr::null_mut(), Ordering::SeqCst);
    if frozen.is_null() {
        return None;
    }
    // SAFETY: from `Box::into_raw` in `prepare`, by this very thread.
    Some(unsafe { Box::from_raw(frozen) })
}

extern "C" fn in_parent() {
    // Before the locks are let go, so that the engine cannot have looked.
    FORKED_AT.store(crate::clock::millis().max(1), Ordering::SeqCst);
    drop(thaw());
}

/// How long an engine still has to wait before it may claim a session that no program has.
pub(crate) fn time_to_claim() -> Option<Duration> {
    let forked = FORKED_AT.load(Ordering::SeqCst);
    let since = crate::clock::millis().saturating_sub(forked);
    (forked != 0 && since < CLAIM_AFTER_MS).then(|| Duration::from_millis(CLAIM_AFTER_MS - since))
}

extern "C" fn in_child() {
    let Some(mut frozen) = thaw() else { return };
    table::unlock_all();
    // The parent's sleepers share those counters.
    frozen.bells.clear();
    // The words are the parent's to give out: two sessions with one word would have one owner.
    frozen.free.clear();
    let Frozen { locks, sockets, .. } = &mut *frozen;
    for (locks, socket) in locks.iter_mut().zip(sockets.iter()) {
        // The parent's threads sleep, the parent's engine watches; the child has neither.
        socket.sleepers.forget(&mut locks.sleepers);
        locks.watch.number = -1;
        // Copies of the engine's own descriptors would keep connections open that it closes.
        locks.place.private = None;
    }
    reactor::after_fork();
    // Sockets that no number of the child names must not be dropped by the books alone.
    let sockets = std::mem::take(&mut frozen.sockets);
    drop(frozen);
    drop(sockets);
}
