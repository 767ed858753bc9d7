//! Bytes out and bytes in, as C hands them over: buffers, vectors and messages.

use std::io::{self, IoSlice, IoSliceMut};

use libc::{c_int, c_void, iovec, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::{addr, memory};
use crate::error::fail;
use crate::posix;

/// A count as `ssize_t`.
#[inline]
pub fn count(count: usize) -> ssize_t {
    ssize_t::try_from(count).unwrap_or(ssize_t::MAX)
}

/// send(2).
///
/// # Safety
/// `data` is NULL or readable for `len` bytes.
#[inline]
pub unsafe fn send(
    number: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
) -> io::Result<ssize_t> {
    // SAFETY: the caller's word.
    let data = unsafe { memory::bytes(data, len)? };
    posix::send(number, &[IoSlice::new(data)], flags).map(count)
}

/// recv(2).
///
/// # Safety
/// `data` is NULL or writable for `len` bytes.
#[inline]
pub unsafe fn recv(
    number: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
) -> io::Result<ssize_t> {
    // SAFETY: the caller's word.
    let data = unsafe { memory::bytes_mut(data, len)? };
    posix::recv(number, &mut [IoSliceMut::new(data)], flags).map(count)
}

/// recvfrom(2): as TCP does, no address is stored, and `*addr_len` becomes 0. What `recv` does is
/// done behind the check of the address, so that no bytes are taken and then lost.
///
/// # Safety
/// `addr` is NULL, or `addr_len` NULL or valid and `addr` writable for as many bytes as it says.
pub unsafe fn recv_from(
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
    recv: impl FnOnce() -> io::Result<ssize_t>,
) -> io::Result<ssize_t> {
    if !addr.is_null() {
        // SAFETY: the caller's word.
        unsafe { addr::room(addr_len)? };
    }
    let received = recv()?;
    if !addr.is_null() {
        // SAFETY: as above.
        unsafe { addr::write(None, addr, addr_len)? };
    }
    Ok(received)
}

/// # Safety
/// `message` is NULL or readable.
unsafe fn header(message: *const msghdr) -> io::Result<(msghdr, usize)> {
    // SAFETY: the caller's word; any bytes are a `msghdr`.
    let header = unsafe { memory::read(message)? };
    if !header.msg_name.is_null() && header.msg_namelen.cast_signed() < 0 {
        return fail(libc::EINVAL);
    }
    #[allow(clippy::unnecessary_cast, reason = "an int with musl")]
    let parts = header.msg_iovlen as usize;
    Ok((header, parts))
}

/// sendmsg(2) without ancillary data.
///
/// # Safety
/// `message` is NULL or readable, and its parts are what it says.
pub unsafe fn send_message(
    number: c_int,
    message: *const msghdr,
    flags: c_int,
) -> io::Result<ssize_t> {
    // SAFETY: the caller's word.
    let (header, parts) = unsafe { header(message)? };
    // SAFETY: as above.
    let slices = unsafe { memory::gather(header.msg_iov, parts, libc::EMSGSIZE)? };
    posix::send(number, &slices, flags).map(count)
}

/// recvmsg(2): no address and no ancillary data are stored.
///
/// # Safety
/// `message` is NULL or writable, and its parts are what it says.
pub unsafe fn recv_message(
    number: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> io::Result<ssize_t> {
    // SAFETY: the caller's word.
    let (mut header, parts) = unsafe { header(message)? };
    // SAFETY: as above.
    let mut slices = unsafe { memory::scatter(header.msg_iov, parts, libc::EMSGSIZE)? };
    let received = posix::recv(number, &mut slices, flags)?;
    if !header.msg_name.is_null() {
        header.msg_namelen = 0;
    }
    header.msg_controllen = 0;
    header.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
    // SAFETY: as above.
    unsafe { memory::write(message, header)? };
    Ok(count(received))
}

/// readv(2), with the flags of recv(2).
///
/// # Safety
/// That of readv(2).
pub unsafe fn read_parts(
    number: c_int,
    vectors: *const iovec,
    parts: c_int,
    flags: c_int,
) -> io::Result<ssize_t> {
    let parts = memory::not_negative(parts)?;
    // SAFETY: the caller's word.
    let mut slices = unsafe { memory::scatter(vectors, parts, libc::EINVAL)? };
    if slices.is_empty() {
        return Ok(0);
    }
    posix::recv(number, &mut slices, flags).map(count)
}

/// writev(2), with the flags of send(2).
///
/// # Safety
/// That of writev(2).
pub unsafe fn write_parts(
    number: c_int,
    vectors: *const iovec,
    parts: c_int,
    flags: c_int,
) -> io::Result<ssize_t> {
    let parts = memory::not_negative(parts)?;
    // SAFETY: the caller's word.
    let slices = unsafe { memory::gather(vectors, parts, libc::EINVAL)? };
    if slices.is_empty() {
        return Ok(0);
    }
    posix::send(number, &slices, flags).map(count)
}
