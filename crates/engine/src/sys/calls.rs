//! The libc calls that must be libc's: those in which a thread of the program may sleep, which have
//! to stay cancellation points, and those on the program's own numbers for which rustix has none.
//!
//! Under the preload these names are the preload's own exports, which would lead back here; it
//! puts the next definitions in their place before the first virtual socket ([`set_calls`]).

use std::sync::OnceLock;

use libc::timespec;
use libc::{
    c_int, c_void, epoll_event, msghdr, nfds_t, pollfd, sigset_t, size_t, socklen_t, ssize_t,
};

/// Definitions of libc's functions. Those that sleep may be unwound by a cancellation.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// close(2).
    pub close: unsafe extern "C-unwind" fn(c_int) -> c_int,
    /// epoll_ctl(2).
    pub epoll_ctl: unsafe extern "C-unwind" fn(c_int, c_int, c_int, *mut epoll_event) -> c_int,
    /// epoll_pwait(2).
    pub epoll_pwait: unsafe extern "C-unwind" fn(
        c_int,
        *mut epoll_event,
        c_int,
        c_int,
        *const sigset_t,
    ) -> c_int,
    /// getsockopt(2).
    pub getsockopt:
        unsafe extern "C-unwind" fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    /// ppoll(2).
    pub ppoll:
        unsafe extern "C-unwind" fn(*mut pollfd, nfds_t, *const timespec, *const sigset_t) -> c_int,
    /// recv(2).
    pub recv: unsafe extern "C-unwind" fn(c_int, *mut c_void, size_t, c_int) -> ssize_t,
    /// recvmsg(2).
    pub recvmsg: unsafe extern "C-unwind" fn(c_int, *mut msghdr, c_int) -> ssize_t,
    /// sendmsg(2).
    pub sendmsg: unsafe extern "C-unwind" fn(c_int, *const msghdr, c_int) -> ssize_t,
    /// setsockopt(2).
    pub setsockopt:
        unsafe extern "C-unwind" fn(c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
}

mod own {
    use super::timespec;
    use super::{
        c_int, c_void, epoll_event, msghdr, nfds_t, pollfd, sigset_t, size_t, socklen_t, ssize_t,
    };

    // As the libc crate has them, but that they may unwind.
    unsafe extern "C-unwind" {
        pub(super) fn close(fd: c_int) -> c_int;
        pub(super) fn epoll_ctl(
            epfd: c_int,
            op: c_int,
            fd: c_int,
            event: *mut epoll_event,
        ) -> c_int;
        pub(super) fn epoll_pwait(
            epfd: c_int,
            events: *mut epoll_event,
            max: c_int,
            timeout_ms: c_int,
            mask: *const sigset_t,
        ) -> c_int;
        pub(super) fn getsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *mut c_void,
            len: *mut socklen_t,
        ) -> c_int;
        pub(super) fn ppoll(
            fds: *mut pollfd,
            count: nfds_t,
            timeout: *const timespec,
            mask: *const sigset_t,
        ) -> c_int;
        pub(super) fn recv(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
        pub(super) fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
        pub(super) fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
        pub(super) fn setsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *const c_void,
            len: socklen_t,
        ) -> c_int;
    }
}

static LIBC: Calls = Calls {
    close: own::close,
    epoll_ctl: own::epoll_ctl,
    epoll_pwait: own::epoll_pwait,
    getsockopt: own::getsockopt,
    ppoll: own::ppoll,
    recv: own::recv,
    recvmsg: own::recvmsg,
    sendmsg: own::sendmsg,
    setsockopt: own::setsockopt,
};

static SET: OnceLock<Calls> = OnceLock::new();

/// Replaces libc's functions by these, once, for the life of the process.
///
/// # Safety
/// Each is a definition of the libc function of its name.
pub unsafe fn set_calls(calls: Calls) {
    let _again = SET.set(calls);
}

/// The functions to call.
#[inline]
pub(crate) fn calls() -> &'static Calls {
    SET.get().unwrap_or(&LIBC)
}
