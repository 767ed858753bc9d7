//! Options and requests: setsockopt, getsockopt, ioctl.

use eversock_engine::cabi::memory;
use eversock_engine::posix;
use libc::{c_int, c_ulong, c_void, socklen_t};

use super::inherited;
use crate::edge::{self, awake, fail};
use crate::next::hook;
use crate::shared;

/// Longer than any option's value.
const VALUE_BYTES_MAX: usize = 4096;

hook! { next = fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    inherited::known(fd);
    if (level, name) == (libc::SOL_SOCKET, libc::SO_SNDBUF)
        && shared::find(fd).is_some_and(|shared| shared.state() == shared::State::Connecting)
    {
        // A pair whose connect is under way has no room, so that it is not writable. It gets more
        // when it stands.
        return 0;
    }
    if !edge::is_ours(fd) {
        return next(fd, level, name, value, len);
    }
    awake(|| {
        let len = memory::not_negative(len.cast_signed())?;
        // SAFETY: the caller's word.
        let value = unsafe { memory::bytes(value, len.min(VALUE_BYTES_MAX))? };
        posix::setsockopt(fd, level, name, value).map(|()| 0)
    })
} }

hook! { next = fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    inherited::known(fd);
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR)
        && let Some(connection) = shared::find(fd)
    {
        // The kernel's own is taken with it: it knows a broken pair at best.
        let result = next(fd, level, name, value, len);
        if result == 0 && let Some(error) = connection.take_error() {
            // SAFETY: the caller's word, and the kernel has written so many bytes there.
            return awake(|| unsafe {
                if memory::read(len)? as usize >= size_of::<c_int>() {
                    memory::write(value.cast::<c_int>(), error)?;
                }
                Ok(0)
            });
        }
        return result;
    }
    if !edge::is_ours(fd) {
        return next(fd, level, name, value, len);
    }
    awake(|| {
        // SAFETY: the caller's word.
        let room = memory::not_negative(unsafe { memory::read(len)? }.cast_signed())?;
        // SAFETY: as above.
        let out = unsafe { memory::bytes_mut(value, room.min(VALUE_BYTES_MAX))? };
        let stored = posix::getsockopt(fd, level, name, out)?;
        // SAFETY: as above.
        unsafe { memory::write(len, socklen_t::try_from(stored).unwrap_or(0))? };
        Ok(0)
    })
} }

hook! { next = fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    if request == libc::FIONBIO {
        inherited::known(fd);
    }
    if !edge::is_ours(fd) {
        return next(fd, request, argument);
    }
    let at = argument as *mut c_int;
    let store = |value: usize| {
        // SAFETY: the caller's word that these requests point to an int.
        unsafe { memory::write(at, c_int::try_from(value).unwrap_or(c_int::MAX)) }.map(|()| 0)
    };
    const SIOCATMARK: c_ulong = 0x8905;
    match request {
        libc::FIONBIO => awake(|| {
            // SAFETY: as above.
            let on = unsafe { memory::read(at.cast_const())? } != 0;
            posix::set_nonblocking(fd, on).map(|()| 0)
        }),
        libc::FIONREAD => awake(|| store(posix::readable_bytes(fd)?)),
        libc::TIOCOUTQ => awake(|| store(posix::unsent_bytes(fd)?)),
        // There is no urgent data, so no mark either.
        SIOCATMARK => awake(|| store(0)),
        libc::FIOASYNC => awake(|| fail(libc::EOPNOTSUPP)),
        _ => next(fd, request, argument),
    }
} }
