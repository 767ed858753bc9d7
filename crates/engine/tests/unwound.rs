//! Calls that are unwound while they sleep, as the cancellation of a thread does it. A panic in the
//! libc function where they sleep takes the same way.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Barrier, Mutex, Once};

use common::{pair, quick, recv, send, wait_until};
use eversock_engine::{Calls, posix, set_calls};
use libc::{c_int, c_void, epoll_event, msghdr, nfds_t, pollfd, sigset_t, size_t, socklen_t};
use libc::{ssize_t, timespec};

thread_local! {
    static UNWIND: Cell<bool> = const { Cell::new(false) };
    static HOLD: Cell<bool> = const { Cell::new(false) };
}

/// Where a thread is held that has bytes from the kernel, once to say so, once to go on.
static HELD: Barrier = Barrier::new(2);

fn hold() {
    if HOLD.get() {
        HELD.wait();
        HELD.wait();
    }
}

/// All that sleep at once.
static BARRIER: Barrier = Barrier::new(THREADS);
const THREADS: usize = 96;
/// The tests share the pool of bells.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::close(fd) }
}

unsafe extern "C-unwind" fn epoll_ctl(a: c_int, b: c_int, c: c_int, d: *mut epoll_event) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::epoll_ctl(a, b, c, d) }
}

unsafe extern "C-unwind" fn epoll_pwait(
    a: c_int,
    b: *mut epoll_event,
    c: c_int,
    d: c_int,
    e: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::epoll_pwait(a, b, c, d, e) }
}

unsafe extern "C-unwind" fn getsockopt(
    a: c_int,
    b: c_int,
    c: c_int,
    d: *mut c_void,
    e: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::getsockopt(a, b, c, d, e) }
}

unsafe extern "C-unwind" fn setsockopt(
    a: c_int,
    b: c_int,
    c: c_int,
    d: *const c_void,
    e: socklen_t,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::setsockopt(a, b, c, d, e) }
}

unsafe extern "C-unwind" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    if UNWIND.get() {
        BARRIER.wait();
        panic!("cancelled");
    }
    // SAFETY: the caller's.
    unsafe { libc::ppoll(fds, count, timeout, mask) }
}

/// Unwound when it has got something: as a cancellation that comes together with the bytes.
unsafe extern "C-unwind" fn recv_real(a: c_int, b: *mut c_void, c: size_t, d: c_int) -> ssize_t {
    // SAFETY: the caller's.
    let n = unsafe { libc::recv(a, b, c, d) };
    hold();
    assert!(!UNWIND.get(), "cancelled");
    n
}

unsafe extern "C-unwind" fn recvmsg(a: c_int, b: *mut msghdr, c: c_int) -> ssize_t {
    // SAFETY: the caller's.
    let n = unsafe { libc::recvmsg(a, b, c) };
    hold();
    assert!(!UNWIND.get(), "cancelled");
    n
}

unsafe extern "C-unwind" fn sendmsg_real(a: c_int, b: *const msghdr, c: c_int) -> ssize_t {
    // SAFETY: the caller's.
    unsafe { libc::sendmsg(a, b, c) }
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let calls = Calls {
            close,
            epoll_ctl,
            epoll_pwait,
            getsockopt,
            ppoll,
            recv: recv_real,
            recvmsg,
            sendmsg: sendmsg_real,
            setsockopt,
        };
        // SAFETY: each does what libc's function of its name does, or unwinds.
        unsafe { set_calls(calls) };
    });
}

/// Runs what is to be unwound.
fn unwound(call: impl FnOnce()) {
    UNWIND.set(true);
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "it was not unwound");
    UNWIND.set(false);
}

/// The bells stayed on the socket's list when they were given back; of so many the pool closes
/// some, and each change of the socket was written to whatever had their numbers next (review).
#[test]
fn a_wait_that_is_unwound_leaves_its_bell_nowhere() {
    let _alone = ONE_AT_A_TIME.lock();
    prepare();
    let [client, server, listener] = pair(quick(), quick());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                unwound(|| {
                    let mut fds = [pollfd { fd: client, events: libc::POLLIN, revents: 0 }];
                    let _never = posix::poll(&mut fds, None, std::ptr::null());
                });
            });
        }
    });
    // SAFETY: makes a file in memory, and copies of it, which are ours.
    let (file, copies) = unsafe {
        let file = OwnedFd::from_raw_fd(libc::memfd_create(c"innocent".as_ptr(), 0));
        let copies: Vec<OwnedFd> = (0..2 * THREADS)
            .map(|_| OwnedFd::from_raw_fd(libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 512)))
            .collect();
        (file, copies)
    };
    // A change of the client's bits.
    posix::shutdown(client, libc::SHUT_RD).unwrap();
    let file = std::fs::File::from(file);
    assert_eq!(file.metadata().unwrap().len(), 0, "something was written to the program's file");
    drop(copies);
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}

/// The bytes were counted as read by somebody else, which ended the session (review).
#[test]
fn a_read_that_is_unwound_with_its_bytes_gets_them_again() {
    let _alone = ONE_AT_A_TIME.lock();
    prepare();
    for size in [8, 4096] {
        let [client, server, listener] = pair(quick(), quick());
        send(client, b"not lost").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| unwound(|| drop(recv(server, &mut vec![0; size]))));
        });
        wait_until("a resume", || posix::info(server).unwrap().epoch == 2);
        let mut buf = [0; 8];
        assert_eq!(recv(server, &mut buf).unwrap(), 8);
        assert_eq!(&buf, b"not lost");
        for number in [client, server, listener] {
            posix::close(number).unwrap();
        }
    }
}

/// What the reader had taken from the kernel and not told yet was missing at the front of what was
/// counted, so that payload was taken for headers.
#[test]
fn what_can_be_read_is_counted_right_while_another_thread_comes_out_of_a_read() {
    let _alone = ONE_AT_A_TIME.lock();
    prepare();
    let [client, server, listener] = pair(quick(), quick());
    send(client, b"x").unwrap();
    assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            HOLD.set(true);
            let n = recv(server, &mut [0; 30]).unwrap();
            HOLD.set(false);
            n
        });
        send(client, &[0xFF; 100]).unwrap();
        send(client, &[0xFF; 50]).unwrap();
        HELD.wait();
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || tell.send(posix::readable_bytes(server).unwrap()));
        // It must not say anything before the reader is out; a wrong answer comes at once.
        let early = told.recv_timeout(std::time::Duration::from_millis(20));
        HELD.wait();
        let taken = reader.join().unwrap();
        let counted = early.or_else(|_| told.recv()).unwrap();
        assert_eq!(taken, 30);
        wait_until("all has come", || posix::readable_bytes(server).unwrap() == 120);
        assert!([70, 120].contains(&counted), "{counted} bytes");
    });
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}
