//! Calls that make descriptors: a number that they give and the table still has was closed where
//! nobody saw it (inside libc, or by a raw system call), and stands for another file now.

use std::ffi::c_char;

use eversock_engine::posix;
use libc::{c_int, c_uint};

use crate::early;
use crate::edge;
use crate::next::hook;

/// Looks at a number that the kernel has just given: two loads if nobody knows it.
#[inline]
pub(super) fn made(number: c_int) -> c_int {
    early::forget(number);
    if edge::is_ours(number) {
        forget_stale(number);
    }
    number
}

#[cold]
fn forget_stale(number: c_int) {
    let before = edge::errno();
    if !edge::is_guest() {
        log::info!("number {number} was closed past eversock");
        posix::forget_stale(number);
    }
    edge::set_errno(before);
}

macro_rules! makes_one {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        hook! { next = fn $name($($arg: $ty),*) -> c_int {
            made(next($($arg),*))
        } }
    )*};
}

makes_one! {
    socket(domain: c_int, kind: c_int, protocol: c_int);
    open(path: *const c_char, flags: c_int, mode: usize);
    open64(path: *const c_char, flags: c_int, mode: usize);
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: usize);
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: usize);
    eventfd(count: c_uint, flags: c_int);
    epoll_create(size: c_int);
    timerfd_create(clock: c_int, flags: c_int);
}

hook! { next = fn epoll_create1(flags: c_int) -> c_int {
    let number = next(flags);
    if number >= 0 && eversock_engine::on_engine_thread() {
        // The engine's event loop makes its set by this name, with the lowest number there is,
        // which a program may count on.
        return edge::awake(|| posix::move_away(number));
    }
    made(number)
} }

/// # Safety
/// `pair` is NULL or has two numbers that a call has just made.
unsafe fn made_two(pair: *const c_int, result: c_int) -> c_int {
    if result == 0 && !pair.is_null() {
        // SAFETY: the caller's word.
        let (one, other) = unsafe { (pair.read(), pair.add(1).read()) };
        made(one);
        made(other);
    }
    result
}

hook! { next = fn socketpair(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    pair: *mut c_int,
) -> c_int {
    let result = next(domain, kind, protocol, pair);
    // SAFETY: the caller's word, and the kernel has written there.
    unsafe { made_two(pair, result) }
} }

hook! { next = fn pipe(pair: *mut c_int) -> c_int {
    let result = next(pair);
    // SAFETY: as above.
    unsafe { made_two(pair, result) }
} }

hook! { next = fn pipe2(pair: *mut c_int, flags: c_int) -> c_int {
    let result = next(pair, flags);
    // SAFETY: as above.
    unsafe { made_two(pair, result) }
} }
