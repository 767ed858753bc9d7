//! libc's own calls for descriptors that are not virtual: those in which a thread may sleep, and
//! which its cancellation may unwind.

use libc::{c_int, c_void, iovec, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

unsafe extern "C-unwind" {
    pub(crate) fn accept4(
        fd: c_int,
        addr: *mut sockaddr,
        len: *mut socklen_t,
        flags: c_int,
    ) -> c_int;
    pub(crate) fn close(fd: c_int) -> c_int;
    pub(crate) fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    #[cfg(feature = "dedup")]
    pub(crate) fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout_ms: c_int) -> c_int;
    pub(crate) fn read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t;
    pub(crate) fn readv(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t;
    pub(crate) fn recv(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    pub(crate) fn recvfrom(
        fd: c_int,
        data: *mut c_void,
        len: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        addr_len: *mut socklen_t,
    ) -> ssize_t;
    pub(crate) fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    pub(crate) fn send(fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    pub(crate) fn sendfile(out_fd: c_int, in_fd: c_int, offset: *mut off_t, len: size_t)
    -> ssize_t;
    pub(crate) fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
    pub(crate) fn sendto(
        fd: c_int,
        data: *const c_void,
        len: size_t,
        flags: c_int,
        addr: *const sockaddr,
        addr_len: socklen_t,
    ) -> ssize_t;
    pub(crate) fn write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t;
    pub(crate) fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t;
}
