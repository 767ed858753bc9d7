//! Waiting for readiness.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::wait::{epoll, poll as wait_poll};

/// ppoll(2) over virtual and other descriptors; `None` waits without limit; `mask` may be null.
pub fn poll(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    wait_poll::poll(fds, timeout, mask)
}

/// pselect(2) over the first `count` numbers; the sets are words of the kernel's `fd_set`.
pub fn select(
    count: usize,
    sets: [Option<&mut [u64]>; 3],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    let [read, write, except] = sets;
    // As the kernel does with numbers that no process of its can have.
    let words = [&read, &write, &except].map(|set| set.as_ref().map_or(0, |words| words.len()));
    let count = count.min(words.iter().max().map_or(0, |words| words.saturating_mul(64)));
    let (mut read, mut write, mut except) =
        (wait_poll::FdSet(read), wait_poll::FdSet(write), wait_poll::FdSet(except));
    wait_poll::select(count, &mut read, &mut write, &mut except, timeout, mask)
}

/// epoll_ctl(2).
pub fn epoll_ctl(
    epfd: RawFd,
    op: i32,
    number: RawFd,
    event: Option<libc::epoll_event>,
) -> io::Result<()> {
    epoll::epoll_ctl(epfd, op, number, event)
}

/// epoll_pwait(2); `mask` may be null.
pub fn epoll_wait(
    epfd: RawFd,
    out: &mut [libc::epoll_event],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    epoll::epoll_wait(epfd, out, timeout, mask)
}

/// For the close of a number that is not virtual: it may have been an epoll set.
pub fn forget_epoll(number: RawFd) {
    epoll::forget(number);
}
