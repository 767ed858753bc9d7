//! Waiting: poll, select, epoll.

use eversock_engine::cabi::wait::{self, WORD_BITS};
use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use super::inherited;
use crate::edge::{self, awake, sleeping};
use crate::next::{alias, hook};
use crate::{early, setup::setup};

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

hook! { next = fn poll(fds: *mut pollfd, fd_count: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: the caller's word.
    if unsafe { !polls_ours(fds, fd_count) } {
        return next(fds, fd_count, timeout_ms);
    }
    // SAFETY: as above.
    sleeping(|| unsafe {
        wait::poll(fds, fd_count, wait::from_millis(timeout_ms), std::ptr::null())
    })
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
        unsafe { wait::poll(fds, fd_count, wait::from_timespec(timeout)?, mask) }
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
    // SAFETY: as above.
    sleeping(|| unsafe { wait::select_within(fd_count, sets, timeout) })
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
        unsafe { wait::select(fd_count, sets, wait::from_timespec(timeout)?, mask) }
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
    // SAFETY: the caller's word.
    awake(|| unsafe { wait::epoll_ctl(epfd, op, fd, event) })
} }

// Before the first virtual socket a wait passes on; one that sleeps already when the first socket
// of its set becomes virtual must be looked at when it returns, so sets with a candidate are ours.
hook! { next = fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    if setup().is_empty() || eversock_engine::on_engine_thread() {
        return next(epfd, events, most, timeout_ms);
    }
    // SAFETY: the caller's word.
    sleeping(|| unsafe {
        wait::epoll_wait(epfd, events, most, wait::from_millis(timeout_ms), std::ptr::null())
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
        wait::epoll_wait(epfd, events, most, wait::from_millis(timeout_ms), mask)
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
        unsafe { wait::epoll_wait(epfd, events, most, wait::from_timespec(timeout)?, mask) }
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
