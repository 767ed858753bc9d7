//! Making, connecting and ending sockets.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use eversock_engine::{Config, posix};
use libc::{c_int, sockaddr, socklen_t};

use crate::ffi::config::{self, evs_config};
use crate::ffi::guard::{self, check, fail};
use crate::ffi::{addr, memory, plain};

/// Whether socket(2) with these arguments makes what can be virtual: TCP over IPv4 or IPv6.
fn can_be_virtual(domain: c_int, kind: c_int, protocol: c_int) -> bool {
    matches!(domain, libc::AF_INET | libc::AF_INET6)
        && kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) == libc::SOCK_STREAM
        && matches!(protocol, 0 | libc::IPPROTO_TCP)
}

fn make(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    config: impl FnOnce() -> io::Result<Arc<Config>>,
) -> c_int {
    guard::posix(|| {
        let config = config()?;
        if can_be_virtual(domain, kind, protocol) {
            return posix::socket(domain, kind, protocol, config);
        }
        // SAFETY: takes no pointers.
        check(unsafe { libc::socket(domain, kind, protocol) })
    })
}

/// socket(2): makes a virtual socket with the default configuration (evs_set_default_config):
/// pumped unless that says otherwise.
///
/// TCP over IPv4 and IPv6 is virtual; anything else (UDP, UNIX...) is made by libc. Never blocks.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of socket(2); ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_socket(domain: c_int, r#type: c_int, protocol: c_int) -> c_int {
    make(domain, r#type, protocol, || Ok(config::default(false)))
}

/// evs_socket() with a configuration, which is copied.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of socket(2); EFAULT (`config` is NULL); ENOTRECOVERABLE.
/// Thread safety: any thread; several may use the same configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_socket_with(
    config: *const evs_config,
    domain: c_int,
    r#type: c_int,
    protocol: c_int,
) -> c_int {
    // SAFETY: the caller's word.
    make(domain, r#type, protocol, || unsafe { config::copy(config) })
}

/// evs_socket() for eversock_posix.h: the same default configuration, but direct.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of socket(2); ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_posix_socket(domain: c_int, r#type: c_int, protocol: c_int) -> c_int {
    make(domain, r#type, protocol, || Ok(config::default(true)))
}

/// bind(2).
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of bind(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `addr` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of bind(2).
        return unsafe { libc::bind(fd, addr, len) };
    }
    guard::posix(|| {
        // SAFETY: the caller's word.
        let addr = unsafe { addr::read(addr, len, Some(addr::family_of(fd)?))? };
        posix::bind(fd, addr).map(|()| 0)
    })
}

/// connect(2): begins a session with the eversock program that listens at `addr`.
///
/// Blocks until the session stands, not merely the connection. A non-blocking socket gives
/// EINPROGRESS and becomes writable when the session stands or has failed (SO_ERROR).
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of connect(2); EPROTO (the peer speaks something else);
///                EACCES (keys differ).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `addr` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_connect(
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of connect(2).
        return unsafe { plain::connect(fd, addr, len) };
    }
    guard::sleeping(|| {
        // SAFETY: the caller's word.
        let addr = unsafe { addr::read(addr, len, Some(addr::family_of(fd)?))? };
        posix::connect(fd, addr).map(|()| 0)
    })
}

/// listen(2): sessions can be opened, and those born of this socket resumed, from now on.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of listen(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_listen(fd: c_int, backlog: c_int) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: takes no pointers.
        return unsafe { libc::listen(fd, backlog) };
    }
    guard::posix(|| posix::listen(fd, backlog).map(|()| 0))
}

/// accept(2): evs_accept4() without flags.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of accept(2).
/// Thread safety: any thread; several may wait on one listener.
/// Since:         0.1
///
/// # Safety
/// `addr` is NULL, or writable for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_accept(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe { evs_accept4(fd, addr, len, 0) }
}

/// accept4(2): the next session that has proven itself on both sides. Blocks as the descriptor
/// does. The new socket has the listener's configuration.
///
/// `addr` may be NULL: then the peer's address is not stored and `len` is ignored.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of accept4(2).
/// Thread safety: any thread; several may wait on one listener.
/// Since:         0.1
///
/// # Safety
/// `addr` is NULL, or writable for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_accept4(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of accept4(2).
        return unsafe { plain::accept4(fd, addr, len, flags) };
    }
    guard::sleeping(|| {
        // Looked at first: a session must not be taken and then lost.
        if !addr.is_null() {
            // SAFETY: the caller's word.
            let room = unsafe { addr::room(len)? };
            // SAFETY: as above.
            unsafe { memory::bytes_mut(addr.cast(), room)? };
        }
        let (new, peer) = posix::accept4(fd, flags)?;
        if !addr.is_null() {
            // SAFETY: the caller's word.
            unsafe { addr::write(Some(peer), addr, len)? };
        }
        Ok(new)
    })
}

/// shutdown(2). After SHUT_WR the peer reads to the end of what was written, then sees the end.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of shutdown(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_shutdown(fd: c_int, how: c_int) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: takes no pointers.
        return unsafe { libc::shutdown(fd, how) };
    }
    guard::posix(|| posix::shutdown(fd, how).map(|()| 0))
}

/// close(2). What was written is still delivered (evs_config_set_linger).
///
/// Blocks only when SO_LINGER asks for it, until the peer has read everything; SO_LINGER with zero
/// resets the session. Close epoll sets that held virtual sockets with this function too.
///
/// Returns:       0, or -1 with errno set; the descriptor is free in either case.
/// Errors:        those of close(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C-unwind" fn evs_close(fd: c_int) -> c_int {
    guard::sleeping(|| {
        if let Some(result) = posix::close_if_virtual(fd) {
            return result.map(|()| 0);
        }
        posix::forget_epoll(fd);
        // SAFETY: takes no pointers.
        check(unsafe { plain::close(fd) })
    })
}

/// dup(2): another number of the same socket.
///
/// Returns:       a descriptor, owned by the caller (evs_close), or -1 with errno set.
/// Errors:        those of dup(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_dup(fd: c_int) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: takes no pointers.
        return unsafe { libc::dup(fd) };
    }
    guard::posix(|| posix::dup(fd))
}

/// dup2(2): makes `new_fd` another number of `fd`; what stood there is closed as by evs_close().
///
/// Returns:       `new_fd`, or -1 with errno set.
/// Errors:        those of dup2(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_dup2(fd: c_int, new_fd: c_int) -> c_int {
    if fd == new_fd {
        // SAFETY: takes no pointers; closes nothing and only looks whether the number is open.
        return unsafe { libc::dup2(fd, new_fd) };
    }
    duplicate(fd, new_fd, 0)
}

/// dup3(2): evs_dup2() with O_CLOEXEC as an option; the numbers must differ.
///
/// Returns:       `new_fd`, or -1 with errno set.
/// Errors:        those of dup3(2).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_dup3(fd: c_int, new_fd: c_int, flags: c_int) -> c_int {
    duplicate(fd, new_fd, flags)
}

fn duplicate(fd: RawFd, new: RawFd, flags: c_int) -> c_int {
    guard::posix(|| {
        let virtual_one = posix::is_virtual(fd) || posix::is_virtual(new);
        if virtual_one && fd >= 0 {
            return posix::dup3(fd, new, flags);
        }
        // SAFETY: takes no pointers.
        let result = check(unsafe { libc::dup3(fd, new, flags) })?;
        posix::forget_epoll(new);
        Ok(result)
    })
}

/// getsockname(2): as it was when the session began.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of getsockname(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `len` is valid and `addr` writable for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_getsockname(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of getsockname(2).
        return unsafe { libc::getsockname(fd, addr, len) };
    }
    guard::posix(|| {
        let Some(own) = posix::getsockname(fd)? else { return fail(libc::ENOTCONN) };
        // SAFETY: the caller's word.
        unsafe { addr::write(Some(own), addr, len) }.map(|()| 0)
    })
}

/// getpeername(2): as it was when the session began.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of getpeername(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `len` is valid and `addr` writable for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_getpeername(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of getpeername(2).
        return unsafe { libc::getpeername(fd, addr, len) };
    }
    guard::posix(|| {
        let Some(peer) = posix::getpeername(fd)? else { return fail(libc::ENOTCONN) };
        // SAFETY: the caller's word.
        unsafe { addr::write(Some(peer), addr, len) }.map(|()| 0)
    })
}
