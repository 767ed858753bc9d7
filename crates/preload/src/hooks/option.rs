//! Options and requests: setsockopt, getsockopt, ioctl.

use eversock_engine::cabi::memory;
use eversock_engine::posix;
use libc::{c_int, c_ulong, c_void, socklen_t};

use super::inherited;
use crate::edge::{self, awake, fail};
use crate::next::hook;

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
