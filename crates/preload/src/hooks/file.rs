//! Where files and sockets meet: sendfile, splice, and stdio's streams.

use std::ffi::{c_char, c_void};
use std::io::{self, IoSlice, IoSliceMut};

use eversock_engine::cabi::memory;
use eversock_engine::posix;
use libc::{FILE, c_int, c_uint, off_t, size_t, ssize_t};
use rustix::fd::BorrowedFd;
use rustix::fs::SeekFrom;
use rustix::pipe::SpliceFlags;

use crate::edge::{self, count, errno, fail, sleeping};
use crate::next::{hook, symbol};
use crate::setup::setup;

/// How much is copied at a time.
const CHUNK_BYTES: usize = 64 * 1024;

fn borrow(number: c_int) -> io::Result<BorrowedFd<'static>> {
    if number < 0 {
        return fail(libc::EBADF);
    }
    // SAFETY: not -1; a number that is closed meanwhile makes the call fail.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// # Safety
/// `offset` is NULL or valid.
unsafe fn send_file(
    out_fd: c_int,
    in_fd: c_int,
    offset: *mut off_t,
    len: size_t,
) -> io::Result<ssize_t> {
    let file = borrow(in_fd)?;
    let start = if offset.is_null() {
        match rustix::fs::seek(file, SeekFrom::Current(0)) {
            Ok(at) => at,
            Err(rustix::io::Errno::SPIPE) => return fail(libc::EINVAL),
            Err(error) => return Err(error.into()),
        }
    } else {
        // SAFETY: the caller's word.
        match u64::try_from(unsafe { memory::read(offset)? }) {
            Ok(at) => at,
            Err(_) => return fail(libc::EINVAL),
        }
    };
    let sent = copy_file(out_fd, file, start, len.min(memory::RW_MAX))?;
    let end = start + sent as u64;
    if offset.is_null() {
        rustix::fs::seek(file, SeekFrom::Start(end))?;
    } else {
        // SAFETY: the caller's word.
        unsafe { memory::write(offset, off_t::try_from(end).unwrap_or(off_t::MAX))? };
    }
    Ok(count(sent))
}

fn copy_file(out_fd: c_int, file: BorrowedFd<'_>, start: u64, len: usize) -> io::Result<usize> {
    let mut chunk = vec![0u8; len.min(CHUNK_BYTES)];
    let mut sent = 0;
    while sent < len {
        let wanted = chunk.len().min(len - sent);
        let got = rustix::io::pread(file, &mut chunk[..wanted], start + sent as u64);
        let moved = match got {
            // The file ends, or has become shorter.
            Ok(0) => Ok(0),
            Ok(got) => posix::send(out_fd, &[IoSlice::new(&chunk[..got])], 0),
            Err(rustix::io::Errno::SPIPE) => fail(libc::EINVAL),
            Err(error) => Err(error.into()),
        };
        match moved {
            Ok(0) => break,
            Ok(n) => {
                sent += n;
            }
            // What was accepted cannot be taken back: the next call will say what is wrong.
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

hook! { next = fn sendfile(
    out_fd: c_int,
    in_fd: c_int,
    offset: *mut off_t,
    len: size_t,
) -> ssize_t {
    if edge::is_ours(in_fd) {
        return sleeping(|| fail(libc::EINVAL));
    }
    if !edge::is_ours(out_fd) {
        return next(out_fd, in_fd, offset, len);
    }
    // SAFETY: the caller's word.
    sleeping(|| unsafe { send_file(out_fd, in_fd, offset, len) })
} }

hook! { next = fn sendfile64(
    out_fd: c_int,
    in_fd: c_int,
    offset: *mut off_t,
    len: size_t,
) -> ssize_t {
    if !edge::is_ours(out_fd) && !edge::is_ours(in_fd) {
        return next(out_fd, in_fd, offset, len);
    }
    // SAFETY: the caller's word; off_t has 64 bits on the platforms that this is built for.
    unsafe { sendfile(out_fd, in_fd, offset, len) }
} }

hook! { next = fn splice(
    in_fd: c_int,
    in_offset: *mut i64,
    out_fd: c_int,
    out_offset: *mut i64,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    let (from_us, to_us) = (edge::is_ours(in_fd), edge::is_ours(out_fd));
    if !from_us && !to_us {
        return next(in_fd, in_offset, out_fd, out_offset, len, flags);
    }
    sleeping(|| {
        if from_us && !in_offset.is_null() || to_us && !out_offset.is_null() {
            return fail(libc::ESPIPE);
        }
        if from_us && to_us {
            return fail(libc::EINVAL);
        }
        let dont_wait = flags & SpliceFlags::NONBLOCK.bits() != 0;
        let flags = if dont_wait { libc::MSG_DONTWAIT } else { 0 };
        let len = len.min(CHUNK_BYTES);
        let copy = if from_us { to_pipe } else { from_pipe };
        copy(in_fd, out_fd, len, flags)
    })
} }

/// Socket to pipe: looked at, written, and then taken by as much as the pipe took.
fn to_pipe(socket: c_int, pipe: c_int, len: usize, flags: c_int) -> io::Result<ssize_t> {
    let mut chunk = vec![0u8; len];
    let pipe = borrow(pipe)?;
    let seen = posix::recv(socket, &mut [IoSliceMut::new(&mut chunk)], flags | libc::MSG_PEEK)?;
    if seen == 0 {
        return Ok(0);
    }
    // A pipe takes up to PIPE_BUF whole or not at all, and of more what it has room for.
    let written = rustix::io::write(pipe, &chunk[..seen])?;
    let taken = posix::recv(socket, &mut [IoSliceMut::new(&mut chunk[..written])], flags)?;
    debug_assert_eq!(taken, written);
    Ok(count(written))
}

/// Pipe to socket: a second pipe shows what is in the first, which loses only what was sent.
fn from_pipe(pipe: c_int, socket: c_int, len: usize, flags: c_int) -> io::Result<ssize_t> {
    let pipe = borrow(pipe)?;
    let (glass, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let how = if flags == 0 { SpliceFlags::empty() } else { SpliceFlags::NONBLOCK };
    let seen = rustix::pipe::tee(pipe, &end, len, how)?;
    let mut chunk = vec![0u8; seen];
    let mut filled = 0;
    while filled < seen {
        match rustix::io::read(&glass, &mut chunk[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    if filled == 0 {
        return Ok(0);
    }
    let sent = posix::send(socket, &[IoSlice::new(&chunk[..filled])], flags)?;
    let mut dropped = 0;
    while dropped < sent {
        match rustix::io::read(pipe, &mut chunk[dropped..sent])? {
            0 => break,
            n => dropped += n,
        }
    }
    Ok(count(sent))
}

/// `cookie_io_functions_t` of glibc.
#[repr(C)]
struct CookieFunctions {
    read: unsafe extern "C-unwind" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C-unwind" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: Option<unsafe extern "C-unwind" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: unsafe extern "C-unwind" fn(*mut c_void) -> c_int,
}

fn number_of(cookie: *mut c_void) -> c_int {
    c_int::try_from(cookie as usize).unwrap_or(-1)
}

unsafe extern "C-unwind" fn stream_read(
    cookie: *mut c_void,
    data: *mut c_char,
    len: size_t,
) -> ssize_t {
    // SAFETY: stdio's word that the buffer is writable.
    unsafe { super::data::read(number_of(cookie), data.cast(), len) }
}

unsafe extern "C-unwind" fn stream_write(
    cookie: *mut c_void,
    data: *const c_char,
    len: size_t,
) -> ssize_t {
    let mut done = 0;
    while done < len {
        // SAFETY: stdio's word that the buffer is readable.
        let n = unsafe { super::data::write(number_of(cookie), data.add(done).cast(), len - done) };
        if n <= 0 {
            break;
        }
        done += n.unsigned_abs();
    }
    // A cookie's write says 0, not -1, for an error (fopencookie(3)).
    count(done)
}

unsafe extern "C-unwind" fn stream_close(cookie: *mut c_void) -> c_int {
    // SAFETY: takes no pointers.
    unsafe { super::life::close(number_of(cookie)) }
}

/// Where glibc keeps a stream's number, in both of its 64-bit ABIs (bits/types/struct_FILE.h).
#[cfg(target_env = "gnu")]
const FILENO_OFFSET: usize = 112;

/// True when a stream over this number must go by way of our calls: it is virtual, or may become
/// so by a later connect.
fn must_be_seen(fd: c_int) -> bool {
    if edge::is_ours(fd) {
        return true;
    }
    let before = errno();
    let fresh = !setup().is_empty() && fd >= 0 && posix::is_fresh_tcp(fd);
    edge::set_errno(before);
    fresh
}

hook! { next = fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    if !must_be_seen(fd) {
        return next(fd, mode);
    }
    type Open =
        unsafe extern "C-unwind" fn(*mut c_void, *const c_char, CookieFunctions) -> *mut FILE;
    let Some(open) = symbol!(c"fopencookie" as Open) else { return next(fd, mode) };
    let functions = CookieFunctions {
        read: stream_read,
        write: stream_write,
        seek: None,
        close: stream_close,
    };
    let before = errno();
    // SAFETY: the functions fit, and the cookie is a number that they alone look at.
    let stream = unsafe { open(fd as usize as *mut c_void, mode, functions) };
    if stream.is_null() {
        return stream;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: the stream has its number there, and -1 in it: fileno(3) is to find the socket.
    unsafe {
        let at = stream.byte_add(FILENO_OFFSET).cast::<c_int>();
        if at.read() < 0 {
            at.write(fd);
        }
    }
    edge::set_errno(before);
    stream
} }

/// libc is about to close a stream's number by itself: what is virtual there ends first.
///
/// # Safety
/// `stream` is NULL or a stream of stdio's.
unsafe fn before_close(stream: *mut FILE) {
    if !edge::is_used() || stream.is_null() {
        return;
    }
    let before = errno();
    // SAFETY: the caller's word.
    let number = unsafe { libc::fileno(stream) };
    if edge::is_ours(number) && !edge::is_guest() {
        // SAFETY: as above. What it has to write goes out before the end.
        unsafe { libc::fflush(stream) };
        // The error of a close that libc would not have told either.
        let _told = posix::close_before(number);
    }
    edge::set_errno(before);
}

hook! { next = fn fclose(stream: *mut FILE) -> c_int {
    // SAFETY: the caller's word.
    unsafe { before_close(stream) };
    next(stream)
} }

macro_rules! reopens {
    ($($name:ident;)*) => {$(
        hook! { next = fn $name(
            path: *const c_char,
            mode: *const c_char,
            stream: *mut FILE,
        ) -> *mut FILE {
            // SAFETY: the caller's word.
            unsafe { before_close(stream) };
            next(path, mode, stream)
        } }
    )*};
}

reopens! {
    freopen;
    freopen64;
}
