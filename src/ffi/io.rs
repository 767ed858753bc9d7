//! Sending and receiving.

use std::io::{self, IoSlice};

use eversock_engine::cabi::data;
use eversock_engine::posix;
use libc::{c_int, c_void, iovec, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

use crate::ffi::guard::{self, count, fail};
use crate::ffi::{memory, plain};

/// How much of a file evs_sendfile() looks at at a time.
const FILE_CHUNK_BYTES: usize = 64 * 1024;

/// send(2). Bytes that were accepted reach the peer's program once and in order, or the session
/// fails. Blocks while the peer's window and the log are full, through outages too.
///
/// `data` may be NULL if `len` is 0. MSG_OOB is not supported.
///
/// Returns:       bytes accepted, which may be fewer than `len`; -1 with errno set.
/// Errors:        those of send(2); EOPNOTSUPP (a flag that is not supported).
/// Thread safety: any thread; bytes of one call stay together only if it accepts them all.
/// Since:         0.1
///
/// # Safety
/// `data` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_send(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of send(2).
        return unsafe { plain::send(fd, data, len, flags) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::send(fd, data, len, flags) })
}

/// recv(2). Blocks until there is a byte, the end or an error; an outage is only a longer wait.
///
/// `data` may be NULL if `len` is 0.
///
/// Returns:       bytes received; 0 at the end of the stream; -1 with errno set.
/// Errors:        those of recv(2); EOPNOTSUPP (a flag that is not supported).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `data` is writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_recv(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of recv(2).
        return unsafe { plain::recv(fd, data, len, flags) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::recv(fd, data, len, flags) })
}

/// sendto(2): on a virtual socket as evs_send(); `addr` is ignored, as TCP does, and may be NULL.
///
/// Returns:       bytes accepted, which may be fewer than `len`; -1 with errno set.
/// Errors:        those of sendto(2) on a TCP socket.
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `data` is readable for `len` bytes, and `addr` NULL or readable for `addr_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_sendto(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of sendto(2).
        return unsafe { plain::sendto(fd, data, len, flags, addr, addr_len) };
    }
    if !addr.is_null() && addr_len as usize > size_of::<libc::sockaddr_storage>() {
        return guard::sleeping(|| fail(libc::EINVAL));
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::send(fd, data, len, flags) })
}

/// recvfrom(2): on a virtual socket as evs_recv(); as for TCP no address is stored and `*addr_len`
/// becomes 0. `addr` may be NULL.
///
/// Returns:       bytes received; 0 at the end of the stream; -1 with errno set.
/// Errors:        those of recvfrom(2) on a TCP socket.
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `data` is writable for `len` bytes, and `addr` NULL or writable for `*addr_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_recvfrom(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of recvfrom(2).
        return unsafe { plain::recvfrom(fd, data, len, flags, addr, addr_len) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe {
        data::recv_from(addr, addr_len, || data::recv(fd, data, len, flags))
    })
}

/// sendmsg(2): gathers what it sends. Name and ancillary data are ignored, as TCP does.
///
/// Returns:       bytes accepted, which may be fewer than given; -1 with errno set.
/// Errors:        those of sendmsg(2) on a TCP socket; EMSGSIZE (more than 1024 parts).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `message` is valid and each of its parts readable.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_sendmsg(
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of sendmsg(2).
        return unsafe { plain::sendmsg(fd, message, flags) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::send_message(fd, message, flags) })
}

/// recvmsg(2): scatters what it receives. As for TCP there is no name and no ancillary data.
///
/// Returns:       bytes received; 0 at the end of the stream; -1 with errno set.
/// Errors:        those of recvmsg(2) on a TCP socket; EMSGSIZE (more than 1024 parts).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `message` is valid and each of its parts writable.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_recvmsg(
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of recvmsg(2).
        return unsafe { plain::recvmsg(fd, message, flags) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::recv_message(fd, message, flags) })
}

/// read(2): on a virtual socket as evs_recv() without flags.
///
/// Returns:       bytes received; 0 at the end of the stream; -1 with errno set.
/// Errors:        those of read(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `data` is writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of read(2).
        return unsafe { plain::read(fd, data, len) };
    }
    if len == 0 {
        // read(2) of nothing is nothing at once; recv(2) of nothing waits.
        return 0;
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::recv(fd, data, len, 0) })
}

/// write(2): on a virtual socket as evs_send() without flags, SIGPIPE included.
///
/// Returns:       bytes accepted, which may be fewer than `len`; -1 with errno set.
/// Errors:        those of write(2).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `data` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of write(2).
        return unsafe { plain::write(fd, data, len) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::send(fd, data, len, 0) })
}

/// readv(2).
///
/// Returns:       bytes received; 0 at the end of the stream; -1 with errno set.
/// Errors:        those of readv(2); EINVAL (a negative count, or more than 1024).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `vectors` is an array of `vector_count`, each of which is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_readv(
    fd: c_int,
    vectors: *const iovec,
    vector_count: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of readv(2).
        return unsafe { plain::readv(fd, vectors, vector_count) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::read_parts(fd, vectors, vector_count, 0) })
}

/// writev(2).
///
/// Returns:       bytes accepted, which may be fewer than given; -1 with errno set.
/// Errors:        those of writev(2); EINVAL (a negative count, or more than 1024).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `vectors` is an array of `vector_count`, each of which is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_writev(
    fd: c_int,
    vectors: *const iovec,
    vector_count: c_int,
) -> ssize_t {
    if !posix::is_virtual(fd) {
        // SAFETY: the caller's word, which is that of writev(2).
        return unsafe { plain::writev(fd, vectors, vector_count) };
    }
    // SAFETY: the caller's word.
    guard::sleeping(|| unsafe { data::write_parts(fd, vectors, vector_count, 0) })
}

/// sendfile(2): sends `len` bytes of the file `in_fd`. To a virtual socket the bytes are copied.
///
/// `offset` may be NULL: then the file's own position is used and moved. A non-blocking socket
/// takes what it has room for.
///
/// Returns:       bytes accepted; -1 with errno set if there were none.
/// Errors:        those of sendfile(2); EINVAL (`in_fd` has no positions, such as a pipe).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `offset` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_sendfile(
    out_fd: c_int,
    in_fd: c_int,
    offset: *mut off_t,
    len: size_t,
) -> ssize_t {
    if !posix::is_virtual(out_fd) {
        // SAFETY: the caller's word, which is that of sendfile(2).
        return unsafe { plain::sendfile(out_fd, in_fd, offset, len) };
    }
    guard::sleeping(|| {
        let start = if offset.is_null() {
            // SAFETY: takes no pointers.
            file_position(unsafe { libc::lseek(in_fd, 0, libc::SEEK_CUR) })?
        } else {
            // SAFETY: the caller's word.
            unsafe { memory::read(offset)? }
        };
        if start < 0 {
            return fail(libc::EINVAL);
        }
        let sent = copy_file(out_fd, in_fd, start, len.min(memory::RW_MAX))?;
        let end = start + off_t::try_from(sent).unwrap_or(0);
        if offset.is_null() {
            // SAFETY: takes no pointers.
            file_position(unsafe { libc::lseek(in_fd, end, libc::SEEK_SET) })?;
        } else {
            // SAFETY: the caller's word.
            unsafe { memory::write(offset, end)? };
        }
        Ok(count(sent))
    })
}

fn file_position(result: off_t) -> io::Result<off_t> {
    if result >= 0 {
        return Ok(result);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESPIPE) { fail(libc::EINVAL) } else { Err(error) }
}

fn copy_file(out_fd: c_int, in_fd: c_int, start: off_t, len: usize) -> io::Result<usize> {
    let mut chunk = vec![0u8; len.min(FILE_CHUNK_BYTES)];
    let mut sent = 0;
    while sent < len {
        let at = start + off_t::try_from(sent).unwrap_or(0);
        let wanted = chunk.len().min(len - sent);
        // SAFETY: `chunk` has room for `wanted` bytes.
        let got = unsafe { libc::pread(in_fd, chunk.as_mut_ptr().cast(), wanted, at) };
        let moved = file_position(got as off_t)
            .map(|got| usize::try_from(got).unwrap_or(0))
            .and_then(|got| match got {
                0 => Ok(0),
                got => posix::send(out_fd, &[IoSlice::new(&chunk[..got])], 0),
            });
        match moved {
            Ok(0) => break,
            Ok(n) => sent += n,
            // What was accepted cannot be taken back: the next call will say what is wrong.
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
