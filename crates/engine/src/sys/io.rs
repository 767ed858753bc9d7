//! Moving bytes and waiting for them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags};

use super::calls::calls;
use super::fd::{borrow, open};

/// Sends without blocking and without SIGPIPE.
pub(crate) fn send(number: RawFd, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    if let [one] = slices {
        return send_one(number, one, more);
    }
    let flags = send_flags(more);
    retry(|| {
        rustix::net::sendmsg(borrow(number), slices, &mut SendAncillaryBuffer::default(), flags)
    })
}

/// The same for one piece.
pub(crate) fn send_one(number: RawFd, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = send_flags(more);
    retry(|| rustix::net::send(borrow(number), bytes, flags))
}

fn send_flags(more: bool) -> SendFlags {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if more { flags | SendFlags::MORE } else { flags }
}

/// Receives without blocking; 0 is the end of the connection.
pub(crate) fn recv(number: RawFd, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    retry(|| {
        let mut control = RecvAncillaryBuffer::default();
        rustix::net::recvmsg(borrow(number), slices, &mut control, RecvFlags::DONTWAIT)
            .map(|message| message.bytes)
    })
}

/// Receives into one buffer without blocking.
pub(crate) fn recv_one(number: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    retry(|| rustix::net::recv(borrow(number), &mut *buf, RecvFlags::DONTWAIT).map(|(n, _)| n))
}

/// Looks at queued bytes without consuming them or blocking.
pub(crate) fn peek(number: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    retry(|| rustix::net::recv(borrow(number), &mut *buf, flags).map(|(n, _)| n))
}

/// Blocks until there is something to read, an end or an error, through libc, so that the wait is a
/// cancellation point and is restarted after signals as the program's own would be.
pub(crate) fn wait_readable(number: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    // SAFETY: the buffer is one writable byte.
    let n = unsafe { (calls().recv)(number, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
    if n >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// recvmsg(2) as the program would call it.
pub(crate) fn recv_as_is(
    number: RawFd,
    slices: &mut [IoSliceMut<'_>],
    flags: i32,
) -> io::Result<usize> {
    // SAFETY: msghdr is plain numbers and pointers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An IoSliceMut has the layout of an iovec.
    message.msg_iov = slices.as_mut_ptr().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: the message names the slices, which are writable, and nothing else.
    let n = unsafe { (calls().recvmsg)(number, &raw mut message, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// sendmsg(2) as the program would call it.
pub(crate) fn send_as_is(number: RawFd, slices: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An IoSlice has the layout of an iovec; sendmsg reads only.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: the message names the slices, which are readable, and nothing else.
    let n = unsafe { (calls().sendmsg)(number, &raw const message, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Blocks until it has received something, an end or an error. As a `cancellation_point` it goes
/// through libc like [`wait_readable`]; in a process with threads that costs some 40 ns.
pub(crate) fn recv_blocking(
    number: RawFd,
    slices: &mut [IoSliceMut<'_>],
    cancellation_point: bool,
) -> io::Result<usize> {
    if !cancellation_point {
        let flags = RecvFlags::empty();
        if let [one] = slices {
            return Ok(rustix::net::recv(borrow(number), &mut **one, flags)?.0);
        }
        let mut control = RecvAncillaryBuffer::default();
        return Ok(rustix::net::recvmsg(borrow(number), slices, &mut control, flags)?.bytes);
    }
    let [one] = slices else { return recv_as_is(number, slices, 0) };
    // SAFETY: the buffer is writable for its length.
    let n = unsafe { (calls().recv)(number, one.as_mut_ptr().cast(), one.len(), 0) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// ppoll(2) through libc; `None` waits without limit. The signal mask is not touched.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    poll_masked(fds, timeout, std::ptr::null())
}

/// The wait inside a read or a write that blocks. Where the kernel would restart these after a
/// signal, without a time-out and with a handler that asks for it, it goes on: ppoll never does.
pub(crate) fn poll_in_call(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
) -> io::Result<usize> {
    loop {
        match poll(fds, timeout) {
            Err(error)
                if error.kind() == io::ErrorKind::Interrupted
                    && timeout.is_none()
                    && super::process::handlers_restart() => {}
            other => return other,
        }
    }
}

/// ppoll(2) with the caller's signal mask, or null.
pub(crate) fn poll_masked(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    let timespec = timeout.map(timespec);
    let pointer = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is a valid array of its length; `timespec` outlives the call; the mask is null
    // or the caller's valid one.
    let n = unsafe { (calls().ppoll)(fds.as_mut_ptr(), fds.len() as libc::nfds_t, pointer, mask) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs() as usize) }
}

/// epoll_pwait(2) with the caller's signal mask, or null.
pub(crate) fn epoll_masked(
    epfd: RawFd,
    out: &mut [libc::epoll_event],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    // Rounded up, so that a short time-out does not spin.
    let millis =
        timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    let capacity = i32::try_from(out.len()).unwrap_or(i32::MAX);
    // SAFETY: `out` is writable for `capacity` events; the mask is null or the caller's.
    let n = unsafe { (calls().epoll_pwait)(epfd, out.as_mut_ptr(), capacity, millis, mask) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs() as usize) }
}

pub(crate) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos()),
    }
}

/// Bytes that the kernel has queued for reading.
pub(crate) fn queued(number: RawFd) -> usize {
    rustix::io::ioctl_fionread(borrow(number)).map_or(0, |n| n as usize)
}

/// ioctl(2) FIONREAD.
pub(crate) fn ask_queued(number: RawFd) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(open(number)?)? as usize)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            // A call that does not block is interrupted only before it did anything.
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
