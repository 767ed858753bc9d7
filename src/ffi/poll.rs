//! Waiting.

use eversock_engine::cabi::wait;
use eversock_engine::posix;
use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use crate::ffi::guard;

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
    guard::sleeping(|| unsafe {
        wait::poll(fds, count, wait::from_millis(timeout_ms), std::ptr::null())
    })
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
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { wait::poll(fds, count, wait::from_timespec(timeout)?, mask) })
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
    let sets = [read_set, write_set, except_set];
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { wait::select_within(count, sets, timeout) })
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
    let sets = [read_set, write_set, except_set];
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { wait::select(count, sets, wait::from_timespec(timeout)?, mask) })
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
    // SAFETY: the caller's word.
    guard::posix(|| unsafe { wait::epoll_ctl(epfd, op, fd, event) })
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
    let timeout = wait::from_millis(timeout_ms);
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { wait::epoll_wait(epfd, events, max_events, timeout, mask) })
}
