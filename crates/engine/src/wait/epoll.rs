//! epoll(7) over virtual sockets.
//!
//! The kernel's set stays the truth for what the kernel knows; this index adds what it cannot know
//! and knows which registrations a swap must move from the old file to the new. Events are matched
//! by the program's own 64-bit data.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{fail, guarded};
use crate::process;
use crate::socket::{Socket, bits, gather};
use crate::sys::process::SignalsHeld;
use crate::sys::{self, Fd, fd};
use crate::table::{self, Entry};
use crate::wait::control::{add_again, control};
use crate::wait::poll::room_if_once;

const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// The virtual sockets of one epoll set.
#[derive(Debug)]
pub(crate) struct EpollSet {
    number: RawFd,
    identity: (u64, u64),
    bell: Fd,
    /// The bell's data in the set; random, so that no program's is the same.
    bell_data: u64,
    index: Mutex<Index>,
    /// False for a set that this process has inherited and not used: it is the parent's.
    used: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    registrations: BTreeMap<RawFd, Registration>,
    by_data: BTreeMap<u64, BTreeSet<RawFd>>,
    by_socket: BTreeMap<u64, BTreeSet<RawFd>>,
    /// Numbers whose user readiness may be worth a report.
    hot: BTreeSet<RawFd>,
    /// Ordinary descriptors that were registered through us, by their data: an event may be theirs.
    plain: BTreeMap<u64, BTreeSet<RawFd>>,
    plain_data: BTreeMap<RawFd, u64>,
    /// Counts what we armed in the program's stead.
    rearmings: u64,
}

#[derive(Debug)]
struct Registration {
    events: u32,
    data: u64,
    socket: Arc<Socket>,
    /// A ONESHOT that was reported and not re-armed.
    fired: bool,
    /// The kernel is not asked for EPOLLOUT: the window is shut, and it would always say yes.
    muted: bool,
    /// [`Index::rearmings`] when we last armed it in the program's stead.
    rearmed: u64,
}

impl Registration {
    /// What the kernel's own registration is to be.
    fn kernel_events(&self) -> u32 {
        // A fired ONESHOT stays disarmed; the kernel adds ERR|HUP, which `merge` swallows.
        match (self.fired, self.muted) {
            (true, _) => ONESHOT,
            (false, true) => self.events & !OUT,
            (false, false) => self.events,
        }
    }
}

static SETS: Mutex<BTreeMap<RawFd, Arc<EpollSet>>> = Mutex::new(BTreeMap::new());

fn sets() -> MutexGuard<'static, BTreeMap<RawFd, Arc<EpollSet>>> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets that hold virtual sockets, or held some: without any a wait costs one load more.
static KNOWN: AtomicBool = AtomicBool::new(false);

/// The index of a set that holds virtual sockets; forgotten when the number names another file.
fn find(epfd: RawFd) -> Option<Arc<EpollSet>> {
    if !KNOWN.load(Ordering::Relaxed) {
        return None;
    }
    let mut sets = sets();
    let set = sets.get(&epfd)?;
    set.used.store(true, Ordering::Relaxed);
    if fd::identity(epfd).is_ok_and(|found| found == set.identity) {
        return Some(Arc::clone(set));
    }
    sets.remove(&epfd);
    None
}

/// In a fork child: the sets are the parent's until the child uses them itself. What it did to its
/// own sockets would show in the parent's waits, as the kernel's sets are shared.
pub(crate) fn leave_sets() {
    for set in sets().values() {
        set.used.store(false, Ordering::Relaxed);
    }
}

/// What [`hold`] keeps still.
pub(crate) struct Held {
    indexes: Vec<MutexGuard<'static, Index>>,
    _sets: MutexGuard<'static, BTreeMap<RawFd, Arc<EpollSet>>>,
    _alive: Vec<Arc<EpollSet>>,
}

/// Holds all sets still around a fork.
pub(crate) fn hold() -> Held {
    let sets = sets();
    let alive: Vec<Arc<EpollSet>> = sets.values().cloned().collect();
    let mut indexes = Vec::with_capacity(alive.len());
    for set in &alive {
        let guard = set.index();
        // SAFETY: `Held` keeps the set alive, and drops the guard before the set.
        indexes.push(unsafe {
            std::mem::transmute::<MutexGuard<'_, Index>, MutexGuard<'static, Index>>(guard)
        });
    }
    Held { indexes, _sets: sets, _alive: alive }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.indexes.clear();
    }
}

/// The program closed a number that may be an epoll set.
pub(crate) fn forget(number: RawFd) {
    if !KNOWN.load(Ordering::Relaxed) {
        return;
    }
    let set = sets().remove(&number);
    if let Some(set) = set {
        let mut index = set.index();
        index.registrations.clear();
        index.by_data.clear();
        index.by_socket.clear();
        index.hot.clear();
        index.plain.clear();
        index.plain_data.clear();
    }
}

fn find_or_new(epfd: RawFd) -> io::Result<Arc<EpollSet>> {
    if let Some(set) = find(epfd) {
        let bell = set.bell.as_raw_fd();
        // All epoll sets share one inode: only the bell tells whether this is still the same one.
        let events = libc::EPOLLIN as u32;
        if control(epfd, libc::EPOLL_CTL_MOD, bell, events, set.bell_data).is_ok() {
            return Ok(set);
        }
        forget(epfd);
    }
    let set = Arc::new(EpollSet {
        number: epfd,
        identity: fd::identity(epfd)?,
        bell: fd::eventfd()?,
        bell_data: fd::random_u64(),
        index: Mutex::default(),
        used: AtomicBool::new(true),
    });
    control(epfd, libc::EPOLL_CTL_ADD, set.bell.as_raw_fd(), libc::EPOLLIN as u32, set.bell_data)?;
    KNOWN.store(true, Ordering::SeqCst);
    sets().insert(epfd, Arc::clone(&set));
    Ok(set)
}

/// epoll_ctl(2).
pub(crate) fn epoll_ctl(
    epfd: RawFd,
    op: i32,
    number: RawFd,
    event: Option<libc::epoll_event>,
) -> io::Result<()> {
    let (events, data) = event.map_or((0, 0), |event| (event.events, event.u64));
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(listener)) => {
            listener.watch_server()?;
            return control_plain(epfd, op, number, events, data);
        }
        None => return control_plain(epfd, op, number, events, data),
    };
    if op != libc::EPOLL_CTL_DEL {
        process::claim_to_wait(&socket);
    }
    if socket.has(bits::PUMPED) {
        if let Some(link) = socket.link().filter(|_| events & libc::EPOLLIN as u32 != 0) {
            link.want_input(true);
        }
        return control_plain(epfd, op, number, events, data);
    }
    // A swap holds the place from DEL to ADD: it must not be seen half done.
    let _place = Socket::lock(&socket.place)?;
    let set = match op {
        libc::EPOLL_CTL_ADD => find_or_new(epfd)?,
        // A registration that is older than the virtual socket.
        libc::EPOLL_CTL_MOD if socket.has(bits::FRESH) => find_or_new(epfd)?,
        _ => match find(epfd) {
            Some(set) => set,
            None => return control(epfd, op, number, events, data),
        },
    };
    // Under the index's lock: a wait that gets the event of the new arming at once must not find
    // the old one, which had fired, and drop it.
    let mut index = set.index();
    control(epfd, op, number, events, data)?;
    index.remove(number);
    if op == libc::EPOLL_CTL_DEL {
        return Ok(());
    }
    let socket_of = Arc::clone(&socket);
    let registration =
        Registration { events, data, socket: socket_of, fired: false, muted: false, rearmed: 0 };
    index.registrations.insert(number, registration);
    index.by_data.entry(data).or_default().insert(number);
    index.by_socket.entry(socket.id).or_default().insert(number);
    index.hot.insert(number);
    drop(index);
    if let Ok(mut epolls) = socket.epolls.lock() {
        epolls.retain(|weak| weak.strong_count() > 0 && weak.as_ptr() != Arc::as_ptr(&set));
        epolls.push(Arc::downgrade(&set));
    }
    // A wait that already sleeps must look at the newcomer.
    if socket.readiness() != 0 {
        fd::notify(set.bell.as_raw_fd());
    }
    Ok(())
}

/// The same for an ordinary descriptor: the kernel's affair, but its data is remembered, as events
/// are matched by it.
fn control_plain(epfd: RawFd, op: i32, number: RawFd, events: u32, data: u64) -> io::Result<()> {
    control(epfd, op, number, events, data)?;
    if let Some(set) = find(epfd) {
        let mut index = set.index();
        index.remove(number);
        if op != libc::EPOLL_CTL_DEL {
            index.plain.entry(data).or_default().insert(number);
            index.plain_data.insert(number, data);
        }
    }
    Ok(())
}

/// epoll_pwait(2); epoll_wait(2) with a null mask.
pub(crate) fn epoll_wait(
    epfd: RawFd,
    out: &mut [libc::epoll_event],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    if out.is_empty() {
        return fail(libc::EINVAL);
    }
    gather::flush_held();
    let until = timeout.and_then(|timeout| clock::now().checked_add(timeout));
    // Before the first set of ours there is nothing that a handler could interrupt.
    let mut held = KNOWN.load(Ordering::Relaxed).then(SignalsHeld::begin);
    let set = match find(epfd) {
        Some(set) => set,
        None => {
            let n = sys::io::epoll_masked(epfd, out, timeout, wait_mask(held.as_ref(), mask))?;
            if n == 0 || !KNOWN.load(Ordering::Relaxed) {
                return Ok(n);
            }
            // A socket of the set may have become virtual meanwhile, and its events are ours to
            // judge.
            held.get_or_insert_with(SignalsHeld::begin);
            let Some(set) = find(epfd) else { return Ok(n) };
            let raw = out[..n].to_vec();
            let count = guarded(|| Ok(set.merge(0, Vec::new(), &raw, out)))?;
            if count > 0 {
                return Ok(count);
            }
            set
        }
    };
    loop {
        // Before the look, not after: what rings from here on is seen by some wait.
        fd::drain_notices(set.bell.as_raw_fd());
        let (ours, since) = guarded(|| Ok(set.collect(out.len())))?;
        let left = if ours.is_empty() { remaining(until) } else { Some(Duration::ZERO) };
        // Never more than there is room for: what is harvested must be told. The bell costs a slot.
        let room = out.len() - ours.len();
        let mut raw = vec![libc::epoll_event { events: 0, u64: 0 }; room];
        let n = match sys::io::epoll_masked(epfd, &mut raw, left, wait_mask(held.as_ref(), mask)) {
            _ if room == 0 => 0,
            Ok(n) => n,
            Err(error) if ours.is_empty() => return Err(error),
            Err(_) => 0,
        };
        let count = guarded(|| Ok(set.merge(since, ours, &raw[..n], out)))?;
        let expired = until.is_some_and(|until| clock::now() >= until);
        if count > 0 || expired {
            return Ok(count);
        }
    }
}

fn wait_mask(held: Option<&SignalsHeld>, mask: *const libc::sigset_t) -> *const libc::sigset_t {
    held.map_or(mask, |held| held.unless(mask))
}

fn remaining(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(clock::now()))
}

fn drop_from(map: &mut BTreeMap<u64, BTreeSet<RawFd>>, key: u64, number: RawFd) {
    if let Some(numbers) = map.get_mut(&key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            map.remove(&key);
        }
    }
}

impl Index {
    fn remove(&mut self, number: RawFd) {
        if let Some(old) = self.registrations.remove(&number) {
            drop_from(&mut self.by_data, old.data, number);
            drop_from(&mut self.by_socket, old.socket.id, number);
        }
        if let Some(data) = self.plain_data.remove(&number) {
            drop_from(&mut self.plain, data, number);
        }
        self.hot.remove(&number);
    }
}

impl EpollSet {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket's bits changed; `opened` when its window did.
    pub(crate) fn note(&self, socket: u64, opened: bool) {
        let mut index = self.index();
        let Index { by_socket, hot, .. } = &mut *index;
        let Some(numbers) = by_socket.get(&socket) else { return };
        let numbers: Vec<RawFd> = numbers.iter().copied().collect();
        hot.extend(&numbers);
        if opened {
            numbers.into_iter().for_each(|number| self.unmute(&mut index, number));
        }
        drop(index);
        fd::notify(self.bell.as_raw_fd());
    }

    /// The window is shut: the kernel is not asked for EPOLLOUT until it opens.
    fn mute(&self, number: RawFd) {
        let mut index = self.index();
        let Some(registration) = index.registrations.get_mut(&number) else { return };
        // Who opens the window notes it under this lock, afterwards.
        if registration.fired || registration.muted || !registration.socket.has(bits::NO_ROOM) {
            return;
        }
        registration.muted = true;
        // The kernel has disarmed a ONESHOT already; `fired` arms it without EPOLLOUT.
        if registration.events & ONESHOT == 0 {
            let (events, data) = (registration.kernel_events(), registration.data);
            let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, events, data);
        }
    }

    /// Asks the kernel again. That is also the edge for an edge-triggered program: the kernel's own
    /// came, or was none to give, while our bits said no.
    fn unmute(&self, index: &mut Index, number: RawFd) {
        let Index { registrations, rearmings, .. } = index;
        let Some(registration) = registrations.get_mut(&number) else { return };
        let edge = registration.events & EDGE != 0;
        if (registration.muted || edge) && !registration.fired {
            registration.muted = false;
            *rearmings += 1;
            registration.rearmed = *rearmings;
            let (events, data) = (registration.kernel_events(), registration.data);
            let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, events, data);
        }
    }

    /// The program closed a number.
    pub(crate) fn closed(&self, number: RawFd) {
        self.index().remove(number);
    }

    /// The number is a plain one from here on: its registration is the kernel's alone. An edge that
    /// was not passed on while our bits still said "connecting" is given again.
    pub(crate) fn hand_over(&self, number: RawFd) {
        let mut index = self.index();
        let again = index.registrations.get(&number).map(|r| (r.fired, r.events, r.data));
        index.remove(number);
        if let Some((false, events, data)) = again {
            let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, events, data);
        }
    }

    /// Takes the registrations of these numbers off the old file.
    pub(crate) fn suspend(&self, numbers: &[RawFd]) {
        if !self.used.load(Ordering::Relaxed) {
            return;
        }
        let index = self.index();
        for &number in numbers {
            if index.registrations.contains_key(&number) {
                let _gone = control(self.number, libc::EPOLL_CTL_DEL, number, 0, 0);
            }
        }
    }

    /// Puts them on the new file: all that can be, whatever becomes of one. Gives the first error,
    /// which fails the session; its end is told through the bits, to all of its numbers.
    pub(crate) fn resume(&self, numbers: &[RawFd]) -> io::Result<()> {
        if !self.used.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut index = self.index();
        let Index { registrations, rearmings, hot, .. } = &mut *index;
        let mut all = Ok(());
        for &number in numbers {
            let Some(registration) = registrations.get_mut(&number) else { continue };
            // If the window is still shut it is muted again, and somebody wants the credit.
            registration.muted = false;
            *rearmings += 1;
            registration.rearmed = *rearmings;
            let (events, data) = (registration.kernel_events(), registration.data);
            match add_again(self.number, number, events, data) {
                // The set was closed behind our back: nobody waits there any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {
                    continue;
                }
                result => all = all.and(result),
            }
            hot.insert(number);
        }
        all
    }

    /// What the sockets' own bits give, at most `limit` events, and how many swaps there were.
    fn collect(&self, limit: usize) -> (Vec<(RawFd, libc::epoll_event)>, u64) {
        let mut index = self.index();
        let mut out = Vec::new();
        let hot: Vec<RawFd> = index.hot.iter().copied().collect();
        for number in hot {
            if out.len() == limit {
                break;
            }
            let Some(registration) = index.registrations.get_mut(&number) else {
                index.hot.remove(&number);
                continue;
            };
            let ready = u32::from(registration.socket.readiness().cast_unsigned());
            let mut ready = ready & (registration.events | ALWAYS);
            if ready == 0 || registration.fired {
                index.hot.remove(&number);
                continue;
            }
            // Of one that fires once: what the kernel would add to it comes no more.
            ready |= room_if_once(registration.events, &registration.socket, number);
            out.push((number, libc::epoll_event { events: ready, u64: registration.data }));
            let once = registration.events & (ONESHOT | EDGE) != 0;
            if registration.events & ONESHOT != 0 {
                registration.fired = true;
                let data = registration.data;
                let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, ONESHOT, data);
            }
            if once {
                index.hot.remove(&number);
            }
        }
        (out, index.rearmings)
    }

    /// The registrations that an event's data may mean, and the ordinary descriptors.
    fn matching(&self, data: u64) -> (Vec<Matched>, Vec<RawFd>) {
        let index = self.index();
        let numbers = index.by_data.get(&data);
        let plain = index.plain.get(&data).into_iter().flatten().copied().collect();
        let matched = numbers
            .into_iter()
            .flatten()
            .filter_map(|&number| {
                let registration = index.registrations.get(&number)?;
                Some(Matched {
                    number,
                    events: registration.events,
                    fired: registration.fired,
                    rearmed: registration.rearmed,
                    socket: Arc::clone(&registration.socket),
                })
            })
            .collect();
        (matched, plain)
    }

    /// The kernel has disarmed a ONESHOT: it stays so if the program is told, and is armed again if
    /// it was for something that the program must not see. False when another thread was told of
    /// this arming already.
    fn fired(&self, number: RawFd, told: bool) -> bool {
        let mut index = self.index();
        let Some(registration) = index.registrations.get_mut(&number) else { return true };
        if told {
            !std::mem::replace(&mut registration.fired, true)
        } else {
            let (armed, data) = (registration.kernel_events(), registration.data);
            let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, armed, data);
            true
        }
    }

    /// Adds the kernel's events to ours, less what is only the real socket's affair. `since` is
    /// what [`Self::collect`] gave before the wait.
    fn merge(
        &self,
        since: u64,
        ours: Vec<(RawFd, libc::epoll_event)>,
        raw: &[libc::epoll_event],
        out: &mut [libc::epoll_event],
    ) -> usize {
        let mut count = 0;
        let mut ours = ours;
        for event in raw {
            let (data, events) = (event.u64, event.events);
            if data == self.bell_data {
                continue;
            }
            let (matched, plain) = self.matching(data);
            let seen = match &matched[..] {
                [] => events,
                [one] if plain.is_empty() => self.see(one, events, since, &mut ours),
                several => self.see_several(several, &plain, events, since, &mut ours),
            };
            if seen != 0 && count < out.len() {
                out[count] = libc::epoll_event { events: seen, u64: data };
                count += 1;
            }
        }
        for (_, event) in ours {
            if count < out.len() {
                out[count] = event;
                count += 1;
            }
        }
        count
    }

    /// What the program sees of an event of one registration.
    fn see(
        &self,
        matched: &Matched,
        events: u32,
        since: u64,
        ours: &mut Vec<(RawFd, libc::epoll_event)>,
    ) -> u32 {
        let once = matched.events & ONESHOT != 0;
        if once && !matched.fired && matched.rearmed > since {
            // We armed it anew while this wait slept: the event may be of the arming before, and
            // another thread may get one of the new. Armed once more, it comes again.
            self.fired(matched.number, false);
            return 0;
        }
        // Not under the index's lock: looking at a socket may ring this very set.
        let mut seen = filter(matched, events);
        if events & !seen & OUT != 0 {
            self.mute(matched.number);
        }
        if let Some(at) = ours.iter().position(|(n, _)| *n == matched.number) {
            seen |= ours.swap_remove(at).1.events;
        }
        if once && !matched.fired && !self.fired(matched.number, seen != 0) {
            // Another thread was told of this arming.
            return 0;
        }
        seen
    }

    /// The same when several registrations have the event's data: whose it is the kernel does not
    /// say, so it goes to those that are ready. Of several ONESHOTs it is one's only.
    fn see_several(
        &self,
        several: &[Matched],
        plain: &[RawFd],
        events: u32,
        since: u64,
        ours: &mut Vec<(RawFd, libc::epoll_event)>,
    ) -> u32 {
        let mut seen = 0;
        for &number in plain {
            seen |= events & ready_now(number, events);
        }
        let mut fired = false;
        for matched in several {
            let once = matched.events & ONESHOT != 0;
            let now = events & ready_now(matched.number, matched.events);
            if matched.fired || now == 0 || once && fired {
                continue;
            }
            let its = self.see(matched, now, since, ours);
            fired |= once && its != 0;
            seen |= its;
        }
        if seen == 0 {
            // Whoever was disarmed for nothing is armed again.
            for matched in several.iter().filter(|m| m.events & ONESHOT != 0 && !m.fired) {
                self.fired(matched.number, false);
            }
        }
        seen
    }
}

/// What poll(2) says of a number at this moment.
fn ready_now(number: RawFd, events: u32) -> u32 {
    let asked = i16::try_from(events & 0x7FFF).unwrap_or(0);
    let mut fds = [libc::pollfd { fd: number, events: asked, revents: 0 }];
    let known = sys::io::poll(&mut fds, Some(Duration::ZERO));
    if known.is_err() || fds[0].revents & libc::POLLNVAL != 0 {
        return 0;
    }
    u32::from(fds[0].revents.cast_unsigned())
}

/// A registration as it was when an event came.
struct Matched {
    number: RawFd,
    events: u32,
    fired: bool,
    rearmed: u64,
    socket: Arc<Socket>,
}

/// What the program may see of the kernel's events for one registration.
fn filter(registration: &Matched, events: u32) -> u32 {
    let socket = &registration.socket;
    if registration.fired {
        return 0;
    }
    let state = socket.bits();
    let mut seen = events & !(ALWAYS | libc::EPOLLRDHUP as u32);
    if events != seen && !process::is_ours(socket) && !process::claim_dead(socket) {
        // A relative has mended it for itself: the program's next call asks.
        return registration.events & (libc::EPOLLIN | libc::EPOLLOUT) as u32;
    }
    if events != seen && state & (bits::DETACHED | bits::FAILED | bits::FRESH) == 0 {
        // A dead real socket is the engine's affair; until it is gone it must not make us spin.
        std::thread::yield_now();
    }
    // A placeholder's input is a nudge of ours; and to a blocking socket only payload is input.
    let blocking = !socket.nonblocking.load(Ordering::Relaxed);
    let is_input = seen & libc::EPOLLIN as u32 != 0
        && state & (bits::DETACHED | bits::DYING | bits::CONNECTING) == 0
        && (!blocking || socket.probe_input());
    if !is_input {
        seen &= !(libc::EPOLLIN as u32);
    }
    if seen & libc::EPOLLOUT as u32 != 0 && state & (bits::NO_ROOM | bits::CONNECTING) != 0 {
        seen &= !(libc::EPOLLOUT as u32);
        socket.want_credit();
    }
    let known = u32::from(socket.readiness().cast_unsigned());
    seen | known & (registration.events | ALWAYS)
}

/// The sets that hold `number`, for a close.
pub(crate) fn closed(socket: &Socket, number: RawFd) {
    if let Ok(epolls) = socket.epolls.lock() {
        for set in epolls.iter().filter_map(std::sync::Weak::upgrade) {
            // The kernel keeps a registration while a dup of the file lives.
            if set.used.load(Ordering::Relaxed) {
                let _gone = control(set.number, libc::EPOLL_CTL_DEL, number, 0, 0);
            }
            set.closed(number);
        }
    }
}

/// A number of the socket was closed past us: its registrations went with the file.
pub(crate) fn lost(socket: &Socket, number: RawFd) {
    if let Ok(epolls) = socket.epolls.lock() {
        for set in epolls.iter().filter_map(std::sync::Weak::upgrade) {
            let mut index = set.index();
            // By now the number may be another socket's in the same set.
            if index.registrations.get(&number).is_some_and(|found| found.socket.id == socket.id) {
                index.remove(number);
            }
        }
    }
}

/// Waits on ordinary descriptors need nothing of this module.
pub(crate) fn is_plain(fds: &[libc::pollfd]) -> bool {
    fds.iter().all(|entry| table::get(entry.fd).is_none())
}

/// For the engine's own short waits.
pub(crate) fn sleep(duration: Duration) {
    let _interrupted = sys::io::poll(&mut [], Some(duration));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use rustix::net::SocketType;

    /// A set that has these numbers of one socket, whose data are 1, 2 and so on.
    fn set_of(numbers: &[RawFd], events: u32) -> (Fd, Arc<EpollSet>) {
        let socket = Arc::new(Socket::new(1, Arc::new(Config::default()), numbers.to_vec(), 0));
        socket.nonblocking.store(true, Ordering::Relaxed);
        let flags = rustix::event::epoll::CreateFlags::CLOEXEC;
        let kernel = rustix::event::epoll::create(flags).expect("a set");
        let set = find_or_new(kernel.as_raw_fd()).expect("an index");
        for (&number, data) in numbers.iter().zip(1..) {
            control(set.number, libc::EPOLL_CTL_ADD, number, events, data).expect("added");
            let socket = Arc::clone(&socket);
            let registration =
                Registration { events, data, socket, fired: false, muted: false, rearmed: 0 };
            let mut index = set.index();
            index.registrations.insert(number, registration);
            index.by_data.entry(data).or_default().insert(number);
        }
        (kernel.into(), set)
    }

    /// A thread that waits over a swap has the old file's event in hand while another is given the
    /// new file's (review of the descriptors, F8).
    #[test]
    fn a_oneshot_event_that_straddles_a_swap_is_dropped_and_comes_again_for_one() {
        let (ours, _theirs) = fd::unix_pair(SocketType::STREAM).expect("a pair");
        let number = ours.as_raw_fd();
        let (events, data) = (OUT | ONESHOT, 1);
        let (_kernel, set) = set_of(&[number], events);
        let epfd = set.number;
        let mut out = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let harvest = || {
            let mut raw = [libc::epoll_event { events: 0, u64: 0 }; 4];
            let n = sys::io::epoll_masked(epfd, &mut raw, Some(Duration::ZERO), std::ptr::null());
            raw[..n.expect("a wait")].to_vec()
        };
        let (_, before) = set.collect(4);
        let old = harvest();
        assert_eq!(old.len(), 1);
        set.suspend(&[number]);
        set.resume(&[number]).expect("put back");
        assert_eq!(set.merge(before, Vec::new(), &old, &mut out), 0, "the old file's event");
        let (_, after) = set.collect(4);
        let new = harvest();
        assert_eq!(set.merge(after, Vec::new(), &new, &mut out), 1);
        assert_eq!(({ out[0].events }, { out[0].u64 }), (OUT, data));
        // Told once, it is disarmed, and whoever has the old one still has nothing.
        assert_eq!(set.merge(before, Vec::new(), &old, &mut out), 0);
        assert!(harvest().is_empty());
        forget(epfd);
    }

    /// The kernel refuses one for want of memory or by `max_user_watches`; here because it has it
    /// still. The others were left off the set, and whoever waited for them slept for ever.
    #[test]
    fn a_registration_that_cannot_be_moved_keeps_no_other_from_being_moved() {
        let (ours, _theirs) = fd::unix_pair(SocketType::STREAM).expect("a pair");
        let copies: Vec<Fd> =
            (0..3).map(|_| fd::dup_internal(ours.as_raw_fd()).expect("a copy")).collect();
        let numbers: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
        let (_kernel, set) = set_of(&numbers, OUT);
        // The first stays in the kernel's set.
        set.suspend(&numbers[1..]);
        let moved = set.resume(&numbers);
        assert_eq!(moved.err().and_then(|error| error.raw_os_error()), Some(libc::EEXIST));
        let mut raw = [libc::epoll_event { events: 0, u64: 0 }; 8];
        let n = sys::io::epoll_masked(set.number, &mut raw, Some(Duration::ZERO), std::ptr::null());
        let mut told: Vec<u64> = raw[..n.expect("a wait")].iter().map(|event| event.u64).collect();
        told.sort_unstable();
        assert_eq!(told, [1, 2, 3], "a writable number is not in the set");
        assert_eq!(set.index().hot.len(), 3, "the failure is told to each");
        forget(set.number);
    }
}
