//! Options and flags.

use eversock_engine::posix;
use libc::{c_int, c_ulong, c_void, socklen_t};

use crate::ffi::guard::{self, check, fail};
use crate::ffi::{addr, memory};

/// No option is longer.
const OPTION_BYTES_MAX: usize = 64 * 1024;

/// getsockopt(2). On a virtual socket it tells what the program has set, or the present connection.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of getsockopt(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `len` is valid and `value` writable for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of getsockopt(2).
        return unsafe { libc::getsockopt(fd, level, name, value, len) };
    }
    guard::posix(|| {
        // SAFETY: the caller's word.
        let room = unsafe { addr::room(len)? }.min(OPTION_BYTES_MAX);
        // SAFETY: as above.
        let value = unsafe { memory::bytes_mut(value, room)? };
        let stored = posix::getsockopt(fd, level, name, value)?;
        // SAFETY: as above.
        unsafe { memory::write(len, stored as socklen_t)? };
        Ok(0)
    })
}

/// setsockopt(2). On a virtual socket the option is recorded and set again on each new connection.
///
/// Returns:       0, or -1 with errno set.
/// Errors:        those of setsockopt(2); EOPNOTSUPP (an option that would take the stream out of
///                our hands, such as SO_ZEROCOPY or TCP_ULP).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `value` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of setsockopt(2).
        return unsafe { libc::setsockopt(fd, level, name, value, len) };
    }
    guard::posix(|| {
        let len = len as usize;
        if len > OPTION_BYTES_MAX {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's word.
        let value = unsafe { memory::bytes(value, len)? };
        posix::setsockopt(fd, level, name, value).map(|()| 0)
    })
}

/// fcntl(2). In C it is `int evs_fcntl(int fd, int cmd, ...)`; where an argument is passed in
/// registers, as on x86_64 and aarch64 Linux, this is the same. The prototype is in
/// `cbindgen.toml`.
///
/// # Safety
/// As the command wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of fcntl(2).
        return unsafe { libc::fcntl(fd, command, argument) };
    }
    guard::posix(|| {
        // The engine's commands take an int; the rest of the register may be anything.
        let number = argument as c_int;
        if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) && number < 0 {
            return fail(libc::EINVAL);
        }
        match posix::fcntl(fd, command, i64::from(number)) {
            Some(result) => result,
            // SAFETY: the caller's word.
            None => check(unsafe { libc::fcntl(fd, command, argument) }),
        }
    })
}

/// ioctl(2). In C it is `int evs_ioctl(int fd, unsigned long request, ...)`; see [`evs_fcntl`].
///
/// # Safety
/// As the request wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of ioctl(2).
        return unsafe { libc::ioctl(fd, request as libc::Ioctl, argument) };
    }
    guard::posix(|| {
        let value = argument as *mut c_int;
        let int = |count: usize| c_int::try_from(count).unwrap_or(c_int::MAX);
        match request as libc::Ioctl {
            libc::FIONBIO => {
                // SAFETY: the caller's word that it is an int.
                let on = unsafe { memory::read(value)? } != 0;
                posix::set_nonblocking(fd, on)?;
            }
            libc::FIONREAD => {
                let waiting = int(posix::readable_bytes(fd)?);
                // SAFETY: as above.
                unsafe { memory::write(value, waiting)? };
            }
            libc::TIOCOUTQ => {
                let waiting = int(posix::unsent_bytes(fd)?);
                // SAFETY: as above.
                unsafe { memory::write(value, waiting)? };
            }
            // SAFETY: the caller's word.
            request => return check(unsafe { libc::ioctl(fd, request, argument) }),
        }
        Ok(0)
    })
}
