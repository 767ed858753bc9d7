//! Waiting: poll, select, epoll.

use std::io;
use std::time::{Duration, Instant};

use eversock_engine::cabi::memory;
use eversock_engine::posix;
use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use super::inherited;
use crate::edge::{self, awake, fail, sleeping};
use crate::next::{alias, hook};
use crate::{early, setup::setup};

/// One call reports at most this many events; the next call reports the others.
const EVENTS_MAX: usize = 1024;
const WORD_BITS: usize = 64;

/// A time-out in milliseconds; negative means none.
fn from_millis(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// # Safety
/// `timeout` is NULL or readable.
unsafe fn from_timespec(timeout: *const timespec) -> io::Result<Option<Duration>> {
    if timeout.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let given = unsafe { memory::read(timeout)? };
    match (u64::try_from(given.tv_sec), u32::try_from(given.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            Ok(Some(Duration::new(seconds.min(u64::from(u32::MAX)), nanos)))
        }
        _ => fail(libc::EINVAL),
    }
}

/// True when one of the descriptors is virtual.
///
/// # Safety
/// `fds` is NULL or an array of `count`.
unsafe fn polls_ours(fds: *const pollfd, count: nfds_t) -> bool {
    inherited::arrive();
    if !edge::is_used() || fds.is_null() {
        return false;
    }
    // SAFETY: the caller's word; a false one is the kernel's to answer, which is not asked first.
    (0..count as usize).any(|at| edge::is_ours(unsafe { (*fds.add(at)).fd }))
}

/// # Safety
/// `fds` is an array of `count`, and `mask` NULL or valid.
unsafe fn poll_ours(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    // SAFETY: the caller's word.
    let fds = unsafe { memory::array_mut(fds, count as usize)? };
    posix::poll(fds, timeout, mask).map(|n| c_int::try_from(n).unwrap_or(c_int::MAX))
}

hook! { next = fn poll(fds: *mut pollfd, fd_count: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's word.
    if unsafe { !polls_ours(fds, fd_count) } {
        return next(fds, fd_count, timeout_ms);
    }
    // SAFETY: as above.
    sleeping(|| unsafe { poll_ours(fds, fd_count, from_millis(timeout_ms), std::ptr::null()) })
} }

hook! { next = fn ppoll(
    fds: *mut pollfd,
    fd_count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's word.
    if unsafe { !polls_ours(fds, fd_count) } {
        return next(fds, fd_count, timeout, mask);
    }
    sleeping(|| {
        // SAFETY: as above.
        unsafe { poll_ours(fds, fd_count, from_timespec(timeout)?, mask) }
    })
} }

hook! { next = fn __poll_chk(
    fds: *mut pollfd,
    fd_count: nfds_t,
    timeout_ms: c_int,
    room: size_t,
) -> c_int {
    let fits = room / size_of::<pollfd>() >= fd_count as usize;
    // SAFETY: the caller's word.
    if fits && unsafe { polls_ours(fds, fd_count) } {
        // SAFETY: as above.
        return unsafe { poll(fds, fd_count, timeout_ms) };
    }
    next(fds, fd_count, timeout_ms, room)
} }

hook! { next = fn __ppoll_chk(
    fds: *mut pollfd,
    fd_count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    let fits = room / size_of::<pollfd>() >= fd_count as usize;
    // SAFETY: the caller's word.
    if fits && unsafe { polls_ours(fds, fd_count) } {
        // SAFETY: as above.
        return unsafe { ppoll(fds, fd_count, timeout, mask) };
    }
    next(fds, fd_count, timeout, mask, room)
} }

/// A copy of a set's first words: two arguments may be the same set.
///
/// # Safety
/// `set` is NULL or has that many words.
unsafe fn load(set: *const fd_set, words: usize) -> io::Result<Option<Vec<u64>>> {
    if set.is_null() {
        return Ok(None);
    }
    let mut copy = vec![0u64; words];
    // SAFETY: the caller's word.
    let bytes = unsafe { memory::bytes(set.cast(), words * 8)? };
    for (word, bytes) in copy.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    }
    Ok(Some(copy))
}

/// # Safety
/// `set` is NULL or has that many words.
unsafe fn store(set: *mut fd_set, words: Option<&[u64]>) -> io::Result<()> {
    let Some(words) = words else { return Ok(()) };
    // SAFETY: the caller's word.
    let bytes = unsafe { memory::bytes_mut(set.cast(), words.len() * 8)? };
    for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(())
}

/// True when one of the descriptors in the sets is virtual.
///
/// # Safety
/// The sets are NULL or have room for `count` bits.
unsafe fn selects_ours(count: c_int, sets: [*const fd_set; 3]) -> bool {
    inherited::arrive();
    let Ok(count) = usize::try_from(count) else { return false };
    edge::is_used()
        && sets.into_iter().filter(|set| !set.is_null()).any(|set| {
            (0..count.div_ceil(WORD_BITS)).any(|at| {
                // SAFETY: the caller's word.
                let mut word = unsafe { set.cast::<u64>().add(at).read_unaligned() };
                while word != 0 {
                    let bit = word.trailing_zeros() as usize;
                    word &= word - 1;
                    let number = at * WORD_BITS + bit;
                    if number < count && c_int::try_from(number).is_ok_and(edge::is_ours) {
                        return true;
                    }
                }
                false
            })
        })
}

/// # Safety
/// The sets are NULL or have room for `count` bits, and `mask` is NULL or valid.
unsafe fn select_ours(
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let count = memory::not_negative(count)?;
    let words = count.div_ceil(WORD_BITS);
    let mut copies = [const { None }; 3];
    for (copy, set) in copies.iter_mut().zip(sets) {
        // SAFETY: the caller's word.
        *copy = unsafe { load(set, words)? };
    }
    let [read, write, except] = &mut copies;
    let given = [read.as_deref_mut(), write.as_deref_mut(), except.as_deref_mut()];
    let ready = posix::select(count, given, timeout, mask)?;
    for (copy, set) in copies.iter().zip(sets) {
        // SAFETY: the caller's word.
        unsafe { store(set, copy.as_deref())? };
    }
    Ok(c_int::try_from(ready).unwrap_or(c_int::MAX))
}

hook! { next = fn select(
    fd_count: c_int,
    read_set: *mut fd_set,
    write_set: *mut fd_set,
    except_set: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    let sets = [read_set, write_set, except_set];
    // SAFETY: the caller's word.
    if unsafe { !selects_ours(fd_count, sets.map(<*mut fd_set>::cast_const)) } {
        return next(fd_count, read_set, write_set, except_set, timeout);
    }
    sleeping(|| {
        let given = if timeout.is_null() {
            None
        } else {
            // SAFETY: as above.
            let given = unsafe { memory::read(timeout)? };
            match (u64::try_from(given.tv_sec), u64::try_from(given.tv_usec)) {
                (Ok(seconds), Ok(micros)) => {
                    let seconds = Duration::from_secs(seconds.min(u64::from(u32::MAX)));
                    Some(seconds + Duration::from_micros(micros))
                }
                _ => return fail(libc::EINVAL),
            }
        };
        let began = Instant::now();
        // SAFETY: as above.
        let result = unsafe { select_ours(fd_count, sets, given, std::ptr::null()) };
        if let Some(given) = given {
            // As on Linux, what is left of the time.
            let left = given.saturating_sub(began.elapsed());
            let tv_sec = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
            let left = timeval { tv_sec, tv_usec: left.subsec_micros().into() };
            // SAFETY: as above.
            unsafe { memory::write(timeout, left)? };
        }
        result
    })
} }

hook! { next = fn pselect(
    fd_count: c_int,
    read_set: *mut fd_set,
    write_set: *mut fd_set,
    except_set: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let sets = [read_set, write_set, except_set];
    // SAFETY: the caller's word.
    if unsafe { !selects_ours(fd_count, sets.map(<*mut fd_set>::cast_const)) } {
        return next(fd_count, read_set, write_set, except_set, timeout, mask);
    }
    sleeping(|| {
        // SAFETY: as above.
        unsafe { select_ours(fd_count, sets, from_timespec(timeout)?, mask) }
    })
} }

hook! { next = fn epoll_ctl(
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if !edge::is_ours(fd) && op == libc::EPOLL_CTL_ADD && inherited::before_wait(fd) == -1 {
        return -1;
    }
    if !edge::is_ours(fd) {
        let result = next(epfd, op, fd, event);
        if result == 0 && !setup().is_empty() {
            let zero = epoll_event { events: 0, u64: 0 };
            let is_read = op != libc::EPOLL_CTL_DEL && !event.is_null();
            // SAFETY: the caller's word; the kernel has read it too.
            let event = if is_read { unsafe { event.read_unaligned() } } else { zero };
            early::registered(epfd, op, fd, event);
        }
        return result;
    }
    awake(|| {
        if epfd < 0 {
            return fail(libc::EBADF);
        }
        let event = match op {
            libc::EPOLL_CTL_DEL => None,
            // SAFETY: the caller's word.
            _ => Some(unsafe { memory::read(event)? }),
        };
        posix::epoll_ctl(epfd, op, fd, event).map(|()| 0)
    })
} }

/// # Safety
/// `events` is writable for `most`; `mask` is NULL or valid.
unsafe fn epoll_wait_ours(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let most = usize::try_from(most).unwrap_or(0);
    if most == 0 || most > c_int::MAX as usize / size_of::<epoll_event>() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    let events = unsafe { memory::array_mut(events, most.min(EVENTS_MAX))? };
    let stored = posix::epoll_wait(epfd, events, timeout, mask)?;
    Ok(c_int::try_from(stored).unwrap_or(c_int::MAX))
}

// Before the first virtual socket a wait passes on; one that sleeps already when the first socket
// of its set becomes virtual must be looked at when it returns, so sets with a candidate are ours.
hook! { next = fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    if setup().is_empty() {
        return next(epfd, events, most, timeout_ms);
    }
    // SAFETY: the caller's word.
    sleeping(|| unsafe {
        epoll_wait_ours(epfd, events, most, from_millis(timeout_ms), std::ptr::null())
    })
} }

hook! { next = fn epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
    mask: *const sigset_t,
) -> c_int {
    if setup().is_empty() {
        return next(epfd, events, most, timeout_ms, mask);
    }
    // SAFETY: the caller's word.
    sleeping(|| unsafe {
        epoll_wait_ours(epfd, events, most, from_millis(timeout_ms), mask)
    })
} }

hook! { next = fn epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    if !edge::is_used() {
        return next(epfd, events, most, timeout, mask);
    }
    sleeping(|| {
        // SAFETY: the caller's word.
        unsafe { epoll_wait_ours(epfd, events, most, from_timespec(timeout)?, mask) }
    })
} }

alias! {
    __poll = poll, (fds: *mut pollfd, fd_count: nfds_t, timeout_ms: c_int) -> c_int;
    __select = select, (
        fd_count: c_int,
        read_set: *mut fd_set,
        write_set: *mut fd_set,
        except_set: *mut fd_set,
        timeout: *mut timeval
    ) -> c_int;
}
