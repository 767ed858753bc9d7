//! Waiting.

use std::io;
use std::time::{Duration, Instant};

use eversock_engine::posix;
use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use crate::ffi::guard::{self, fail};
use crate::ffi::memory;

/// One call reports at most this many events; the next call reports the others.
const EVENTS_MAX: usize = 1024;
const WORD_BITS: usize = 64;

/// How many descriptors this process may have, which bounds what it can wait for.
fn descriptors_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { 1024 }
}

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

/// # Safety
/// `fds` is NULL or an array of `count`, and `mask` NULL or valid.
unsafe fn wait_for(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > descriptors_max() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    let fds = unsafe { memory::array_mut(fds, count)? };
    posix::poll(fds, timeout, mask).map(|n| c_int::try_from(n).unwrap_or(c_int::MAX))
}

/// poll(2) over virtual and other descriptors together.
///
/// An outage is no event: a virtual socket without a connection is neither readable nor hung up.
/// `fds` may be NULL if `count` is 0. A negative `timeout_ms` waits without limit.
///
/// Returns:       how many descriptors have events; 0 when the time is over; -1 with errno set.
/// Errors:        those of poll(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `fds` is an array of `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_poll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { wait_for(fds, count, from_millis(timeout_ms), std::ptr::null()) })
}

/// ppoll(2) over virtual and other descriptors together: evs_poll() with a finer time-out and a
/// signal mask. Both may be NULL. The time-out is not changed.
///
/// Returns:       how many descriptors have events; 0 when the time is over; -1 with errno set.
/// Errors:        those of ppoll(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `fds` is an array of `count`; `timeout` and `mask` are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    guard::sleeping(|| {
        // SAFETY: the caller's word.
        let timeout = unsafe { from_timespec(timeout)? };
        // SAFETY: as above.
        unsafe { wait_for(fds, count, timeout, mask) }
    })
}

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

/// # Safety
/// The sets are NULL or have room for `count` bits, and `mask` is NULL or valid.
unsafe fn select_among(
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let count = memory::not_negative(count)?.min(descriptors_max());
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

/// select(2) over virtual and other descriptors together. As on Linux, `*timeout` is left with the
/// time that was not used. Any set may be NULL, and so may `timeout`, which waits without limit.
///
/// Returns:       how many bits are set; 0 when the time is over; -1 with errno set.
/// Errors:        those of select(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// The sets are NULL or have room for `count` bits; `timeout` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_select(
    count: c_int,
    read_set: *mut fd_set,
    write_set: *mut fd_set,
    except_set: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    guard::sleeping(|| {
        let given = if timeout.is_null() {
            None
        } else {
            // SAFETY: the caller's word.
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
        let sets = [read_set, write_set, except_set];
        // SAFETY: the caller's word.
        let result = unsafe { select_among(count, sets, given, std::ptr::null()) };
        if let Some(given) = given {
            let left = given.saturating_sub(began.elapsed());
            let tv_sec = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
            let left = timeval { tv_sec, tv_usec: left.subsec_micros().into() };
            // SAFETY: not NULL, so valid by the caller's word.
            unsafe { memory::write(timeout, left)? };
        }
        result
    })
}

/// pselect(2) over virtual and other descriptors together: evs_select() with a finer time-out,
/// which is not changed, and a signal mask, which may be NULL.
///
/// Returns:       how many bits are set; 0 when the time is over; -1 with errno set.
/// Errors:        those of pselect(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// The sets are NULL or have room for `count` bits; `timeout` and `mask` are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_pselect(
    count: c_int,
    read_set: *mut fd_set,
    write_set: *mut fd_set,
    except_set: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    guard::sleeping(|| {
        // SAFETY: the caller's word.
        let timeout = unsafe { from_timespec(timeout)? };
        // SAFETY: as above.
        unsafe { select_among(count, [read_set, write_set, except_set], timeout, mask) }
    })
}

/// epoll_ctl(2) for a set that may hold virtual and other descriptors. Make the set with
/// epoll_create1() and close it with evs_close(). Direct sockets must be put in with this function.
///
/// `event` may be NULL for EPOLL_CTL_DEL.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of epoll_ctl(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `event` is NULL or readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_epoll_ctl(
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of epoll_ctl(2).
        return unsafe { libc::epoll_ctl(epfd, op, fd, event) };
    }
    guard::posix(|| {
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
}

/// epoll_wait(2): evs_epoll_pwait() without a signal mask.
///
/// Returns:       how many events were stored; 0 when the time is over; -1 with errno set.
/// Errors:        those of epoll_wait(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `events` is writable for `max_events`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max_events: c_int,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe { evs_epoll_pwait(epfd, events, max_events, timeout_ms, std::ptr::null()) }
}

/// epoll_pwait(2) on a set that may hold virtual and other descriptors. A negative `timeout_ms`
/// waits without limit; `mask` may be NULL. Stores at most 1024 events, the others next time.
///
/// Returns:       how many events were stored; 0 when the time is over; -1 with errno set.
/// Errors:        those of epoll_pwait(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `events` is writable for `max_events`; `mask` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    max_events: c_int,
    timeout_ms: c_int,
    mask: *const sigset_t,
) -> c_int {
    guard::sleeping(|| {
        let most = usize::try_from(max_events).unwrap_or(0);
        if most == 0 || most > c_int::MAX as usize / size_of::<epoll_event>() {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's word.
        let events = unsafe { memory::array_mut(events, most.min(EVENTS_MAX))? };
        let stored = posix::epoll_wait(epfd, events, from_millis(timeout_ms), mask)?;
        Ok(c_int::try_from(stored).unwrap_or(c_int::MAX))
    })
}
