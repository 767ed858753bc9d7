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
use crate::error::fail;
use crate::socket::{Socket, bits};
use crate::sys::calls::calls;
use crate::sys::{self, Fd, fd};
use crate::table::{self, Entry};

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
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    registrations: BTreeMap<RawFd, Registration>,
    by_data: BTreeMap<u64, BTreeSet<RawFd>>,
    by_socket: BTreeMap<u64, BTreeSet<RawFd>>,
    /// Numbers whose user readiness may be worth a report.
    hot: BTreeSet<RawFd>,
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
    if fd::identity(epfd).is_ok_and(|found| found == set.identity) {
        return Some(Arc::clone(set));
    }
    sets.remove(&epfd);
    None
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
    });
    control(epfd, libc::EPOLL_CTL_ADD, set.bell.as_raw_fd(), libc::EPOLLIN as u32, set.bell_data)?;
    KNOWN.store(true, Ordering::SeqCst);
    sets().insert(epfd, Arc::clone(&set));
    Ok(set)
}

fn control(epfd: RawFd, op: i32, number: RawFd, events: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` is valid for the call.
    let result = unsafe { (calls().epoll_ctl)(epfd, op, number, &raw mut event) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// epoll_ctl(2).
pub(crate) fn epoll_ctl(
    epfd: RawFd,
    op: i32,
    number: RawFd,
    event: Option<libc::epoll_event>,
) -> io::Result<()> {
    let (events, data) = event.map_or((0, 0), |event| (event.events, event.u64));
    let Some(Entry::Stream(socket)) = table::get(number) else {
        return control(epfd, op, number, events, data);
    };
    if socket.has(bits::PUMPED) {
        return control(epfd, op, number, events, data);
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
    control(epfd, op, number, events, data)?;
    let mut index = set.index();
    index.remove(number);
    if op == libc::EPOLL_CTL_DEL {
        return Ok(());
    }
    let socket_of = Arc::clone(&socket);
    let registration = Registration { events, data, socket: socket_of, fired: false, muted: false };
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
    let until = timeout.and_then(|timeout| clock::now().checked_add(timeout));
    let set = match find(epfd) {
        Some(set) => set,
        None => {
            let n = wait_raw(epfd, out, timeout, mask)?;
            // A socket of the set may have become virtual meanwhile, and its events are ours to
            // judge.
            let Some(set) = find(epfd).filter(|_| n > 0) else { return Ok(n) };
            let raw = out[..n].to_vec();
            let count = set.merge(Vec::new(), &raw, out);
            if count > 0 {
                return Ok(count);
            }
            set
        }
    };
    loop {
        // Before the look, not after: what rings from here on is seen by some wait.
        fd::drain_notices(set.bell.as_raw_fd());
        let ours = set.collect(out.len());
        let left = if ours.is_empty() { remaining(until) } else { Some(Duration::ZERO) };
        // Never more than there is room for: what is harvested must be told. The bell costs a slot.
        let room = out.len() - ours.len();
        let mut raw = vec![libc::epoll_event { events: 0, u64: 0 }; room];
        let n = match wait_raw(epfd, &mut raw, left, mask) {
            _ if room == 0 => 0,
            Ok(n) => n,
            Err(error) if ours.is_empty() => return Err(error),
            Err(_) => 0,
        };
        let count = set.merge(ours, &raw[..n], out);
        let expired = until.is_some_and(|until| clock::now() >= until);
        if count > 0 || expired {
            return Ok(count);
        }
    }
}

fn remaining(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(clock::now()))
}

fn wait_raw(
    epfd: RawFd,
    out: &mut [libc::epoll_event],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    // Rounded up, so that a short time-out does not spin.
    let millis =
        timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    let capacity = i32::try_from(out.len()).unwrap_or(i32::MAX);
    // SAFETY: `out` is writable for `capacity` events; the mask is null or the caller's.
    let n = unsafe { (calls().epoll_pwait)(epfd, out.as_mut_ptr(), capacity, millis, mask) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs() as usize) }
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
        let Some(registration) = index.registrations.get_mut(&number) else { return };
        let edge = registration.events & EDGE != 0;
        if (registration.muted || edge) && !registration.fired {
            registration.muted = false;
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
        let index = self.index();
        for &number in numbers {
            if index.registrations.contains_key(&number) {
                let _gone = control(self.number, libc::EPOLL_CTL_DEL, number, 0, 0);
            }
        }
    }

    /// Puts them on the new file.
    pub(crate) fn resume(&self, numbers: &[RawFd]) -> io::Result<()> {
        let mut index = self.index();
        for &number in numbers {
            let Some(registration) = index.registrations.get_mut(&number) else { continue };
            // If the window is still shut it is muted again, and somebody wants the credit.
            registration.muted = false;
            let (events, data) = (registration.kernel_events(), registration.data);
            match control(self.number, libc::EPOLL_CTL_ADD, number, events, data) {
                // The set was closed behind our back: nobody waits there any more.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {
                    continue;
                }
                result => result?,
            }
            index.hot.insert(number);
        }
        Ok(())
    }

    /// What the sockets' own bits give, at most `limit` events.
    fn collect(&self, limit: usize) -> Vec<(RawFd, libc::epoll_event)> {
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
            let ready = ready & (registration.events | ALWAYS);
            if ready == 0 || registration.fired {
                index.hot.remove(&number);
                continue;
            }
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
        out
    }

    /// The registrations that an event's data may mean.
    fn matching(&self, data: u64) -> Vec<Matched> {
        let index = self.index();
        let numbers = index.by_data.get(&data);
        numbers
            .into_iter()
            .flatten()
            .filter_map(|&number| {
                let registration = index.registrations.get(&number)?;
                Some(Matched {
                    number,
                    events: registration.events,
                    fired: registration.fired,
                    socket: Arc::clone(&registration.socket),
                })
            })
            .collect()
    }

    /// The kernel has disarmed a ONESHOT: it stays so if the program is told, and is armed again if
    /// it was for something that the program must not see.
    fn fired(&self, number: RawFd, told: bool) {
        let mut index = self.index();
        let Some(registration) = index.registrations.get_mut(&number) else { return };
        if told {
            registration.fired = true;
        } else {
            let (armed, data) = (registration.kernel_events(), registration.data);
            let _gone = control(self.number, libc::EPOLL_CTL_MOD, number, armed, data);
        }
    }

    /// Adds the kernel's events to ours, less what is only the real socket's affair.
    fn merge(
        &self,
        ours: Vec<(RawFd, libc::epoll_event)>,
        raw: &[libc::epoll_event],
        out: &mut [libc::epoll_event],
    ) -> usize {
        let mut count = 0;
        let mut ours = ours;
        for event in raw {
            let (data, mut events) = (event.u64, event.events);
            if data == self.bell_data {
                continue;
            }
            for matched in self.matching(data) {
                // Not under the index's lock: looking at a socket may ring this very set.
                let before = events;
                events = filter(&matched, events);
                if before & !events & OUT != 0 {
                    self.mute(matched.number);
                }
                if let Some(at) = ours.iter().position(|(n, _)| *n == matched.number) {
                    events |= ours.swap_remove(at).1.events;
                }
                if matched.events & ONESHOT != 0 && !matched.fired {
                    self.fired(matched.number, events != 0);
                }
            }
            if events != 0 && count < out.len() {
                out[count] = libc::epoll_event { events, u64: data };
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
}

/// A registration as it was when an event came.
struct Matched {
    number: RawFd,
    events: u32,
    fired: bool,
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
            let _gone = control(set.number, libc::EPOLL_CTL_DEL, number, 0, 0);
            set.closed(number);
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
