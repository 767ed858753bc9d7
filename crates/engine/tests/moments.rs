//! What happens in the middle of a call: another call comes, or memory lacks.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use common::{PATIENCE, PlayedServer, connect, errno, quick, recv};
use eversock_engine::{Calls, posix, set_calls};
use libc::{c_int, c_void, epoll_event, msghdr, nfds_t, pollfd, sigset_t, size_t, socklen_t};
use libc::{ssize_t, timespec};

// As the libc crate has them, but that they may unwind.
unsafe extern "C-unwind" {
    fn close(fd: c_int) -> c_int;
    fn epoll_ctl(set: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    fn epoll_pwait(
        set: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout_ms: c_int,
        mask: *const sigset_t,
    ) -> c_int;
    fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut socklen_t,
    ) -> c_int;
    fn ppoll(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int;
    #[link_name = "recv"]
    fn recv_real(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
    fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int;
}

/// The epoll set to which nothing can be added.
static FULL: AtomicI32 = AtomicI32::new(-1);

unsafe extern "C-unwind" fn scarce_epoll_ctl(
    set: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if op == libc::EPOLL_CTL_ADD && set == FULL.load(Ordering::SeqCst) {
        // SAFETY: the location is this thread's own and always valid.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { epoll_ctl(set, op, fd, event) }
}

/// The number that is being closed, and what a read that came then has said.
static CLOSING: AtomicI32 = AtomicI32::new(-1);
static READ: AtomicI32 = AtomicI32::new(0);

unsafe extern "C-unwind" fn close_read(fd: c_int) -> c_int {
    if CLOSING.compare_exchange(fd, -1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        let mut buf = [0; 64];
        let mut slices = [IoSliceMut::new(&mut buf)];
        let said = posix::recv(fd, &mut slices, libc::MSG_DONTWAIT);
        let said = said.map_or_else(|error| -error.raw_os_error().unwrap(), |n| n as i32);
        READ.store(said, Ordering::SeqCst);
    }
    // SAFETY: the caller's.
    unsafe { close(fd) }
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let calls = Calls {
            close: close_read,
            epoll_ctl: scarce_epoll_ctl,
            epoll_pwait,
            getsockopt,
            ppoll,
            recv: recv_real,
            recvmsg,
            sendmsg,
            setsockopt,
        };
        // SAFETY: each does what libc's function of its name does, or lacks memory.
        unsafe { set_calls(calls) };
    });
}

/// It was the kernel's, as of a number that has become a plain connection's: the program got frames
/// of the session, which ended with a reset for that at the other end.
#[test]
fn a_read_that_comes_while_its_number_is_closed_gets_nothing_of_the_connection() {
    prepare();
    let mut server = PlayedServer::new();
    let addr = server.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let mut connection = server.take();
    let client = client.join().unwrap();
    assert_eq!(server.session.as_mut().unwrap().write(b"unread"), 6);
    server.say(&mut connection);
    let mut fds = [pollfd { fd: client, events: libc::POLLIN, revents: 0 }];
    assert_eq!(posix::poll(&mut fds, Some(PATIENCE), std::ptr::null()).unwrap(), 1);
    CLOSING.store(client, Ordering::SeqCst);
    posix::close(client).unwrap();
    assert_eq!(CLOSING.load(Ordering::SeqCst), -1, "nobody read");
    assert_eq!(READ.load(Ordering::SeqCst), -libc::ENOTSOCK);
}

/// The placeholder was under the number, and the epoll set had no memory for it: taken for a fault
/// that can be put off, it was done with at the next look, as no connection stood any more, and
/// nobody dialled.
#[test]
fn a_session_whose_placeholder_finds_no_room_in_an_epoll_set_fails_at_once() {
    prepare();
    let mut server = PlayedServer::new();
    let addr = server.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let connection = server.take();
    let client = client.join().unwrap();
    let mut patience = [0; 16];
    patience[..8].copy_from_slice(&PATIENCE.as_secs().to_ne_bytes());
    posix::setsockopt(client, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience).unwrap();
    // SAFETY: makes a set, which is ours.
    let set = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let event = epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 7 };
    posix::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, client, Some(event)).unwrap();
    FULL.store(set.as_raw_fd(), Ordering::SeqCst);
    drop(connection);
    assert_eq!(errno(recv(client, &mut [0; 1])), libc::ENOMEM);
    posix::close(client).unwrap();
}
