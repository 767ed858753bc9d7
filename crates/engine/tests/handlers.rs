//! Handlers of signals that a program lets in only while it waits.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{errno, pair, quick};
use eversock_engine::{cabi, posix};

thread_local! {
    /// Signals that this thread's next allocations are still to be interrupted by.
    static TO_COME: Cell<usize> = const { Cell::new(0) };
    static ALLOCATES: Cell<bool> = const { Cell::new(false) };
}
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Is interrupted by a signal wherever a wait allocates.
struct Interrupted;

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Interrupted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let to_come = TO_COME.get();
        if to_come > 0 {
            TO_COME.set(to_come - 1);
            ALLOCATES.set(true);
            // SAFETY: takes a number.
            unsafe { libc::raise(libc::SIGUSR1) };
            ALLOCATES.set(false);
        }
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's word.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Interrupted = Interrupted;

extern "C" fn handler(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
    INSIDE.fetch_add(usize::from(ALLOCATES.get()), Ordering::SeqCst);
}

type Wait<'a> = &'a dyn Fn(RawFd) -> io::Result<usize>;

const SOON: Option<Duration> = Some(Duration::from_secs(20));

fn poll(number: RawFd) -> io::Result<usize> {
    posix::poll(
        &mut [libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 }],
        SOON,
        std::ptr::null(),
    )
}

fn select(number: RawFd) -> io::Result<usize> {
    // SAFETY: an fd_set is plain numbers.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below 1024.
    unsafe { libc::FD_SET(number, &raw mut set) };
    let none = std::ptr::null_mut();
    let mut time = libc::timeval { tv_sec: 20, tv_usec: 0 };
    // SAFETY: all are valid.
    let ready =
        unsafe { cabi::wait::select_within(number + 1, [&raw mut set, none, none], &raw mut time) };
    ready.map(|ready| usize::try_from(ready).unwrap())
}

/// PostgreSQL 15 unblocks its signals only around select, and forks in the handler of SIGCHLD. It
/// came in the middle of an allocation of ours, and fork waited for the allocator's lock for ever.
#[test]
fn no_handler_of_the_program_runs_in_the_middle_of_what_we_do_for_a_wait() {
    let [client, server, listener] = pair(quick(), quick());
    let handler = handler as extern "C" fn(libc::c_int);
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: takes no pointers.
    let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
    posix::epoll_ctl(set, libc::EPOLL_CTL_ADD, client, Some(event)).unwrap();
    let epoll = |_: RawFd| {
        let mut out = [libc::epoll_event { events: 0, u64: 0 }; 4];
        posix::epoll_wait(set, &mut out, SOON, std::ptr::null())
    };
    let waits: [(&str, Wait<'_>); 3] =
        [("poll", &poll), ("select", &select), ("epoll_wait", &epoll)];
    for (name, wait) in waits {
        let before = HANDLED.load(Ordering::SeqCst);
        TO_COME.set(1);
        let result = wait(client);
        assert_eq!(TO_COME.replace(0), 0, "{name} allocates nothing: it needs another test");
        // It waits until the kernel sleeps with the program's mask, and interrupts that.
        assert_eq!(errno(result), libc::EINTR, "{name}");
        assert_eq!(HANDLED.load(Ordering::SeqCst), before + 1, "{name}");
        assert_eq!(INSIDE.load(Ordering::SeqCst), 0, "{name}: in the middle of an allocation");
        // Afterwards the mask is the program's again.
        // SAFETY: takes a number.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(HANDLED.load(Ordering::SeqCst), before + 2, "{name}: the signal stays blocked");
    }
    posix::forget_epoll(set);
    // SAFETY: ours, and used no more.
    unsafe { libc::close(set) };
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}
