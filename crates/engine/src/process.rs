//! Processes: which one owns a session, and what happens around fork and exit (DESIGN 6).
//!
//! A session has one owner process; nobody else touches its real socket. The owner is a word in
//! memory that children share: nobody's after a fork, until the first program that does I/O claims
//! it. Who finds that another process has it asks there (`family`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::family;
use crate::reactor::{self, Command, Engine, engine_if_running};
use crate::socket::relatives::Relatives;
use crate::socket::{Meta, Place, Rx, Socket, Tx, Watch, bits};
use crate::sys::{self, Fd, fd};
use crate::table;
use crate::wait::epoll::{self, EpollSet};
use crate::wait::kick;

/// What relatives share about one session: state, generation, who gave it up last, and a spare.
type Slot = [AtomicU64; 4];
const STATE: usize = 0;
const GENERATION: usize = 1;
const LAST: usize = 2;

/// Set in an owner's word while only its engine has used the session since it came to it.
const ENGINE_ONLY: u64 = 2;
/// The owner's word in a child that cannot see its parent's: an owner that nobody finds.
const ESTRANGED: u64 = !ENGINE_ONLY;

/// Who owns one session.
///
/// The state is odd when somebody does: the process's instance. It is even when nobody does: a
/// generation, which each giving up raises. A copy of the session is good only for the generation
/// that it has seen given up; a process that slept through another one has an old copy, which must
/// never touch the connection again.
#[derive(Debug)]
pub(crate) struct OwnerWord {
    slot: &'static Slot,
    /// The generation that this process's copy of the session is good for.
    generation: AtomicU64,
    forks: u64,
    /// False when no shared memory could be had: a child then has a word of its own.
    is_shared: bool,
}

/// What a process finds when it wants to use a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This process has it.
    Mine,
    /// Nobody has used it since the fork, and this process's copy is as good as any.
    Nobody,
    /// That process has it, or knows who does.
    Other(u64),
}

static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());
static FORKS: AtomicU64 = AtomicU64::new(0);
/// When this process last forked, in [`crate::clock::millis`]; 0 for never.
static FORKED_AT: AtomicU64 = AtomicU64::new(0);
/// How long after a fork an engine leaves an unclaimed session to the programs: a parent that hands
/// its connection to a child closes its own number in that time.
const CLAIM_AFTER_MS: u64 = 250;

/// A number for this process in owner words and session ids.
pub(crate) fn new_instance() -> u64 {
    (fd::random_u64() | 1) & !ENGINE_ONLY
}

/// A slot of shared memory; if none can be mapped, one of this process alone, and false.
fn take_slot() -> (&'static Slot, bool) {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.is_empty() {
        match sys::process::shared_words() {
            Ok(words) => free.extend(words.as_chunks::<4>().0),
            Err(error) => {
                log::warn!("no memory to share with children, they get no session: {error}")
            }
        }
    }
    free.pop().map_or_else(|| (&*Box::leak(Box::default()), false), |slot| (slot, true))
}

/// Which process serves a listener. Never given back: a listener's children may look for ever.
#[derive(Debug)]
pub(crate) struct ServerWord(&'static Slot, bool);

impl ServerWord {
    pub(crate) fn new(instance: u64) -> Self {
        let (slot, is_shared) = take_slot();
        slot[STATE].store(instance, Ordering::SeqCst);
        Self(slot, is_shared)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0[STATE].load(Ordering::SeqCst)
    }

    /// Takes the place of `dead`; false if another did, or may have.
    pub(crate) fn succeed(&self, dead: u64, us: u64) -> bool {
        let order = Ordering::SeqCst;
        self.1 && self.0[STATE].compare_exchange(dead, us, order, order).is_ok()
    }
}

impl OwnerWord {
    pub(crate) fn new() -> Self {
        Self::of(take_slot())
    }

    fn of((slot, is_shared): (&'static Slot, bool)) -> Self {
        let generation = slot[GENERATION].fetch_add(2, Ordering::SeqCst) + 2;
        slot[STATE].store(generation, Ordering::SeqCst);
        let forks = FORKS.load(Ordering::Relaxed);
        Self { slot, generation: AtomicU64::new(generation), forks, is_shared }
    }

    /// Who gave it up last; 0 if nobody ever did.
    pub(crate) fn last(&self) -> u64 {
        self.slot[LAST].load(Ordering::SeqCst)
    }

    fn state(&self) -> u64 {
        self.slot[STATE].load(Ordering::SeqCst)
    }

    /// True when `instance` owns it, be it only its engine.
    #[inline]
    pub(crate) fn is(&self, instance: u64) -> bool {
        self.slot[STATE].load(Ordering::Relaxed) & !ENGINE_ONLY == instance
    }

    /// True when `instance` owns it and its program has used it.
    #[inline]
    pub(crate) fn is_used_by(&self, instance: u64) -> bool {
        self.slot[STATE].load(Ordering::Relaxed) == instance
    }

    /// Who has it, as `instance` sees it.
    pub(crate) fn holder(&self, instance: u64) -> Holder {
        let state = self.state();
        if state & !ENGINE_ONLY == instance {
            Holder::Mine
        } else if state == self.generation.load(Ordering::SeqCst) {
            Holder::Nobody
        } else if state & 1 == 1 {
            Holder::Other(state & !ENGINE_ONLY)
        } else {
            Holder::Other(self.slot[LAST].load(Ordering::SeqCst))
        }
    }

    /// Takes a session that nobody has; false if somebody has it, or this copy is an old one.
    pub(crate) fn claim(&self, instance: u64, by_program: bool) -> bool {
        let to = if by_program { instance } else { instance | ENGINE_ONLY };
        self.change(self.generation.load(Ordering::SeqCst), to)
    }

    /// The program of the owner uses it.
    fn mark_used(&self, instance: u64) -> bool {
        self.change(instance | ENGINE_ONLY, instance)
    }

    /// The program of the owner has not used it from here on.
    fn mark_unused(&self, instance: u64) {
        self.change(instance, instance | ENGINE_ONLY);
    }

    /// The owner hands it to `to`.
    pub(crate) fn hand_over(&self, from: u64, to: u64) -> bool {
        self.change(from | ENGINE_ONLY, to) || self.change(from, to)
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let order = Ordering::SeqCst;
        self.slot[STATE].compare_exchange(from, to, order, order).is_ok()
    }

    /// The owner gives it up to whoever uses it first: all copies of this moment are good.
    fn release(&self, instance: u64) {
        let generation = self.slot[GENERATION].fetch_add(2, Ordering::SeqCst) + 2;
        self.generation.store(generation, Ordering::SeqCst);
        self.slot[LAST].store(instance, Ordering::SeqCst);
        self.slot[STATE].store(generation, Ordering::SeqCst);
    }

    /// In a child: a word that parent and child do not share says nothing of who has the session,
    /// and two who believe they have it would both write, sealed with one nonce. So the parent has.
    fn estrange(&self) {
        if !self.is_shared {
            self.slot[STATE].store(ESTRANGED, Ordering::SeqCst);
        }
    }
}

impl Drop for OwnerWord {
    fn drop(&mut self) {
        // After a fork a relative may still look at the word.
        if self.is_shared && self.forks == FORKS.load(Ordering::Relaxed) {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        }
    }
}

/// Makes sure that this process owns the session before its program does I/O on it. Afterwards the
/// session may be a pumped one: its owner then is a relative, which goes on using it.
#[inline]
pub(crate) fn claim(socket: &Arc<Socket>) -> io::Result<()> {
    if let Some(engine) = engine_if_running()
        && socket.owner.is_used_by(engine.instance)
        && !socket.has(bits::ASKING)
    {
        return Ok(());
    }
    claim_slowly(socket)
}

#[cold]
fn claim_slowly(socket: &Arc<Socket>) -> io::Result<()> {
    let engine = reactor::engine()?;
    loop {
        if socket.has(bits::ASKING) {
            // The word may say that it is ours while its state is still on the way.
            family::wait_for_other(socket)?;
            if socket.has(bits::PUMPED | bits::FAILED) {
                return Ok(());
            }
        }
        match socket.owner.holder(engine.instance) {
            Holder::Mine => {
                if socket.owner.is_used_by(engine.instance)
                    || socket.owner.mark_used(engine.instance)
                {
                    return Ok(());
                }
            }
            Holder::Nobody => {
                if socket.owner.claim(engine.instance, true) {
                    engine.enroll(socket);
                    engine.command(Command::Adopt { socket: Arc::clone(socket) });
                    // What is unconfirmed is looked after here from now on.
                    socket.list_for_sweep();
                    return Ok(());
                }
            }
            Holder::Other(owner) => return family::ask(socket, engine, owner),
        }
    }
}

/// The same for who only wants to wait for the session: it is claimed when nobody has it, asked for
/// when a relative has.
pub(crate) fn claim_to_wait(socket: &Arc<Socket>) {
    let bits = bits::FRESH | bits::FAILED | bits::PUMPED | bits::CLOSED;
    if socket.has(bits) || is_ours(socket) {
        return;
    }
    let instance = engine_if_running().map_or(0, |engine| engine.instance);
    if matches!(socket.owner.holder(instance), Holder::Other(_))
        && let Err(error) = claim(socket)
    {
        // The call that the wait is for says so.
        log::debug!("session {}: {error}", socket.id);
    }
}

/// True when this process may touch the connection. Under a lock of the socket that holds until the
/// lock is let go, as who gives a session up takes all of them.
#[inline]
pub(crate) fn is_ours(socket: &Socket) -> bool {
    engine_if_running()
        .is_some_and(|engine| socket.owner.is(engine.instance) && !socket.has(bits::ASKING))
}

/// True when this process owns the session and its program has used it.
#[inline]
pub(crate) fn is_used_by_us(socket: &Socket) -> bool {
    engine_if_running().is_some_and(|engine| socket.owner.is_used_by(engine.instance))
}

/// The kernel says that the connection of a session which nobody has is dead: a program that only
/// waits must not be the reason that nobody mends it. True when there is something to wait for.
pub(crate) fn claim_dead(socket: &Arc<Socket>) -> bool {
    let Ok(engine) = reactor::engine() else { return false };
    if socket.owner.holder(engine.instance) != Holder::Nobody {
        return false;
    }
    if let Some(wait) = time_to_claim() {
        epoll::sleep(wait.min(Duration::from_millis(5)));
        return true;
    }
    let Ok(tx) = socket.tx.lock() else { return false };
    let epoch = tx.epoch;
    drop(tx);
    if socket.owner.claim(engine.instance, false) {
        engine.enroll(socket);
        engine.command(Command::Adopt { socket: Arc::clone(socket) });
        let cause = "the connection was closed".to_owned();
        engine.command(Command::Fault { socket: Arc::clone(socket), epoch, cause });
    }
    true
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
    let _caught = std::panic::catch_unwind(reactor::shutdown_to_exit);
}

/// Every lock that a child may need, held while the fork happens, so that none is left locked by a
/// thread that the child does not have.
struct Frozen {
    locks: Vec<Locks>,
    _pool: Option<MutexGuard<'static, eversock_proto::log::Free>>,
    _books: Option<MutexGuard<'static, std::collections::BTreeMap<u64, Weak<Socket>>>>,
    _sweep: MutexGuard<'static, Vec<Weak<Socket>>>,
    _bursts: MutexGuard<'static, Vec<Weak<Socket>>>,
    /// Before the sets, under whose locks these are taken.
    relatives: Vec<MutexGuard<'static, Option<Box<Relatives>>>>,
    _sets: epoll::Held,
    free: MutexGuard<'static, Vec<&'static Slot>>,
    bells: MutexGuard<'static, Vec<Fd>>,
    _lines: MutexGuard<'static, BTreeSet<RawFd>>,
    /// Behind the locks, as fields are dropped in order and these are the sockets'.
    sockets: Vec<Arc<Socket>>,
    _whole: crate::host::Whole,
}

struct Locks {
    _meta: MutexGuard<'static, Meta>,
    place: MutexGuard<'static, Place>,
    _tx: MutexGuard<'static, Tx>,
    _rx: MutexGuard<'static, Rx>,
    watch: MutexGuard<'static, Watch>,
    sleepers: MutexGuard<'static, Vec<RawFd>>,
    _epolls: MutexGuard<'static, Vec<Weak<EpollSet>>>,
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
    // The first of all locks: who has it may take any of ours.
    let whole = crate::host::whole();
    // Before anything is given up: an engine that looks at the time and then waits for a lock must
    // not claim when it gets it.
    FORKED_AT.store(crate::clock::millis().max(1), Ordering::SeqCst);
    let books = freeze(&engine.sockets);
    let sockets: Vec<_> = books.values().filter_map(Weak::upgrade).collect();
    let mut locks = Vec::with_capacity(sockets.len());
    for socket in &sockets {
        let (meta, place) = (freeze(&socket.meta), freeze(&socket.place));
        let mut tx = freeze(&socket.tx);
        // While the session is still ours: who has it next may not look for a while.
        let owes = socket.flush_held_back(&place, &mut tx);
        if owes {
            socket.owe();
        }
        let held = Locks {
            _meta: meta,
            place,
            _tx: tx,
            _rx: freeze(&socket.rx),
            watch: freeze(&socket.watch),
            sleepers: freeze_guard(socket.sleepers.hold()),
            _epolls: freeze(&socket.epolls),
        };
        // From here on nobody does I/O before claiming; but what the engine is busy with stays
        // where the engine is, and a child that wants it asks.
        let busy = bits::FRESH
            | bits::CONNECTING
            | bits::FAILED
            | bits::PUMPED
            | bits::CLOSED
            | bits::GUESTS
            | bits::ORPHAN;
        // A thread that is in the middle of a read is a program that uses the session.
        let may_go = !socket.config.private && !socket.sleepers.is_reading();
        if socket.owner.is(engine.instance) && may_go {
            let is_free = held.place.private.is_none() && !socket.has(busy) && !owes;
            if is_free && socket.owner.is_shared {
                socket.owner.release(engine.instance);
            } else {
                socket.owner.mark_unused(engine.instance);
            }
        }
        locks.push(held);
    }
    FORKS.fetch_add(1, Ordering::SeqCst);
    let sets = epoll::hold();
    let relatives = sockets.iter().map(|socket| freeze(&socket.relatives)).collect();
    // Behind the sets: who forgets a set may drop a socket under its index, and that gives chunks
    // back.
    let pool = freeze_pool(engine);
    let frozen = Frozen {
        sockets,
        locks,
        _pool: Some(pool),
        _books: Some(books),
        _sweep: freeze(engine.sweep_list()),
        _bursts: freeze(engine.bursts.list()),
        relatives,
        _sets: sets,
        free: FREE.lock().unwrap_or_else(PoisonError::into_inner),
        bells: kick::hold(),
        _lines: freeze(&engine.line_numbers),
        _whole: whole,
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
    // Again, as the fork took its time; before the locks are let go.
    FORKED_AT.store(crate::clock::millis().max(1), Ordering::SeqCst);
    drop(thaw());
}

/// True when there may be other processes of the family: heirs of a listener among them, who have
/// not said so yet.
pub(crate) fn has_relatives() -> bool {
    FORKS.load(Ordering::Relaxed) > 0
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
    fd::close_kept();
    // The parent's sleepers share those counters.
    frozen.bells.clear();
    // The words are the parent's to give out: two sessions with one word would have one owner.
    frozen.free.clear();
    let Frozen { locks, sockets, .. } = &mut *frozen;
    for (locks, socket) in locks.iter_mut().zip(sockets.iter()) {
        if socket.config.private {
            leave_numbers(socket, &mut locks.place);
        } else if socket.sleepers.is_reading() {
            leave_the_read(&mut locks.place);
        }
        // The parent's threads sleep, the parent's engine watches; the child has neither. Nor has
        // it the parent's list of the next sweep.
        socket.owner.estrange();
        socket.sleepers.forget(&mut locks.sleepers);
        locks.watch.number = -1;
        socket.shared.in_sweep.store(false, Ordering::SeqCst);
        // Copies of the engine's own descriptors would keep connections open that it closes.
        locks.place.private = None;
    }
    for relatives in frozen.relatives.iter_mut().filter_map(|held| held.as_mut()) {
        relatives.leave_guests();
    }
    for socket in &frozen.sockets {
        // Only of our books: the guests are the parent's.
        socket.forget_guests();
    }
    // Sockets that no number of the child names must not be dropped by the books alone.
    let sockets = std::mem::take(&mut frozen.sockets);
    drop(frozen);
    leave_listeners();
    reactor::after_fork();
    epoll::leave_sets();
    for socket in sockets.iter().filter(|socket| socket.config.private) {
        // For who has it by other ways than a number.
        socket.set_failure(libc::EBADF);
    }
    drop(sockets);
}

/// In a child: listeners that are the parent's alone. Their ports are free when the parent has
/// closed them, and who connects is never left waiting for a process that does not accept.
fn leave_listeners() {
    let mut ours = Vec::new();
    table::for_each_number(|number| {
        if let Some(table::Entry::Listener(listener)) = table::get(number)
            && listener.config.private
        {
            ours.push((number, listener));
        }
    });
    let mut closed = BTreeSet::new();
    for (number, listener) in ours {
        table::take(number);
        fd::close_own(number);
        if closed.insert(listener.id) {
            fd::close_own(listener.real.as_raw_fd());
            fd::close_own(listener.engine_end.as_raw_fd());
        }
        // Its descriptors are closed already: it is never dropped.
        let _stays = std::mem::ManuallyDrop::new(listener);
    }
}

/// In a child: a session that is the parent's alone loses its numbers here. The parent's copies of
/// them, and the connection, stay as they are.
fn leave_numbers(socket: &Arc<Socket>, place: &mut Place) {
    let expected = place.identity;
    for number in std::mem::take(&mut place.numbers) {
        table::take_of(number, socket);
        fd::forget_own(number);
        if fd::identity(number).is_ok_and(|found| found == expected) {
            fd::close_silently(number);
        }
    }
    place.placeholder = None;
}

/// In a child that was forked while a thread was inside a read. If that was the forking thread
/// itself, in a signal handler, the kernel restarts the read here as soon as the handler returns;
/// on the connection, which stays the parent's, it would take bytes from the middle of the stream.
/// So it finds something else there: it comes out with nothing, and asks the owner.
fn leave_the_read(place: &mut Place) {
    let expected = place.identity;
    let mine = |&number: &RawFd| fd::identity(number).is_ok_and(|found| found == expected);
    let numbers: Vec<RawFd> = place.numbers.iter().copied().filter(mine).collect();
    let stand_in = fd::unix_pair(rustix::net::SocketType::STREAM);
    for &number in &numbers {
        let cloexec = fd::is_cloexec(number).unwrap_or(false);
        let replaced = match &stand_in {
            Ok((program_end, _)) => fd::replace(program_end.as_fd(), number, cloexec).is_ok(),
            Err(_) => false,
        };
        if !replaced {
            // An error for the program is better than bytes that are not its own.
            fd::close(number);
        }
    }
    if let Ok((program_end, ours)) = stand_in
        && let Ok(identity) = fd::identity(program_end.as_raw_fd())
    {
        place.identity = identity;
        let byte = [io::IoSlice::new(&[0])];
        let _fits = sys::io::send(ours.as_raw_fd(), &byte, false);
        place.placeholder = Some(ours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Who forgets a set may drop a socket, and that gives chunks to the pool; a fork that held the
    /// pool and waited for the set waited for ever.
    #[test]
    fn a_fork_that_waits_for_the_epoll_sets_leaves_the_pool_to_who_has_them() {
        let engine = reactor::engine().expect("an engine");
        let sets = epoll::hold();
        let forks = FORKS.load(Ordering::SeqCst);
        let (tell, told) = channel();
        let forker = std::thread::spawn(move || {
            // SAFETY: gives a number.
            tell.send(unsafe { libc::gettid() }).expect("somebody hears");
            prepare();
            in_parent();
        });
        let thread = told.recv().expect("a number");
        let is_stuck = || {
            let of = |name: &str| {
                std::fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).expect("a file")
            };
            let waits = of("syscall").starts_with(&format!("{} ", libc::SYS_futex));
            let sleeps = of("stat").rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"));
            FORKS.load(Ordering::SeqCst) > forks && waits && sleeps
        };
        let until = crate::clock::now() + Duration::from_secs(20);
        while !is_stuck() {
            assert!(crate::clock::now() < until, "the fork does not wait for the sets");
            epoll::sleep(Duration::from_millis(1));
        }
        let (free, freed) = channel();
        std::thread::spawn(move || {
            drop(engine.pool.hold());
            free.send(())
        });
        let is_free = freed.recv_timeout(Duration::from_secs(10)).is_ok();
        drop(sets);
        forker.join().expect("the fork goes on");
        assert!(is_free, "the fork has the pool and waits for the sets");
    }

    /// Its watch stayed under the number that was closed; whoever claimed it later took that number
    /// off the watch, by when it was another session's, whose faults nobody saw any more.
    #[test]
    fn a_session_that_nobody_has_is_watched_under_a_number_that_it_still_has() {
        let engine = reactor::engine().expect("an engine");
        let (real, _peer) = sys::tcp::loopback_pair().expect("a connection");
        let copies = [(); 2].map(|()| fd::dup_internal(real.as_raw_fd()).expect("a copy"));
        let [gone, kept] = [copies[0].as_raw_fd(), copies[1].as_raw_fd()];
        let socket = Socket::new(engine.next_id(), Arc::default(), vec![gone, kept], 0);
        let socket = Arc::new(socket);
        socket.adopt_watch();
        let watched = || socket.watch.lock().expect("the lock").number;
        assert_eq!(watched(), gone);
        socket.let_go(gone).expect("let go");
        assert_eq!(watched(), kept);
        socket.let_go(kept).expect("let go");
        assert_eq!(watched(), -1);
    }
}
