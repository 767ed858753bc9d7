//! A process that is forked while the engine is busy.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{half_open, listen, quick, wait_until};

/// A child with copies of this process's descriptors, which does nothing until it is killed.
struct Child(libc::pid_t);

impl Child {
    fn fork() -> Self {
        // SAFETY: the child makes one call, which may come behind a fork.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: takes no pointers.
                unsafe { libc::pause() };
            },
            pid => {
                assert!(pid > 0, "{}", std::io::Error::last_os_error());
                Self(pid)
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our child, which nobody else waits for; no status is asked for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// A client that had confirmed its resume to a server which forked meanwhile, and then dropped the
/// connection as the child had the session by now, took it for one that stands: the child had a
/// copy. It hung for its grace in 2 of 100 runs of a thread's cancellation test, of all things.
#[test]
fn a_connection_that_comes_to_nothing_ends_although_a_child_has_a_copy_of_it() {
    let (_listener, addr) = listen(quick());
    let (mut stream, _, mut confirm) = half_open(addr);
    let _child = Child::fork();
    *confirm.last_mut().unwrap() ^= 1;
    stream.write_all(&confirm).unwrap();
    let end = stream.read(&mut [0; 64]);
    let is_end = match &end {
        Ok(n) => *n == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(is_end, "{end:?}");
}

/// Ends a child: with 0 if its engine's thread listens, and answers.
fn end_after_a_listen() -> ! {
    // SAFETY: a child whose engine is stuck ends by this signal.
    unsafe { libc::alarm(20) };
    listen(quick());
    eversock_engine::shutdown();
    // SAFETY: ends the process; nothing is left to be run.
    unsafe { libc::_exit(0) }
}

/// A server forked its workers while its engine's thread was still beginning. On a busy machine a
/// few workers of ten thousand got an engine that never began: std begins and ends each thread
/// under a lock, which they had inherited locked. Their sessions died with their connections.
#[test]
fn a_child_that_is_forked_while_threads_begin_and_end_has_an_engine_that_answers() {
    const CHILDREN: usize = 400;
    const CHURNERS: usize = 32;
    listen(quick());
    let (begun, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Vec<i32> = std::thread::scope(|scope| {
        for _ in 0..CHURNERS {
            scope.spawn(|| {
                begun.fetch_add(1, Ordering::Relaxed);
                while !done.load(Ordering::Relaxed) {
                    std::thread::spawn(|| ()).join().unwrap();
                }
            });
        }
        wait_until("threads begin and end", || begun.load(Ordering::Relaxed) == CHURNERS);
        let children: Vec<_> = (0..CHILDREN)
            .map(|_| {
                // SAFETY: the child uses nothing of other threads but what eversock cares for.
                match unsafe { libc::fork() } {
                    0 => end_after_a_listen(),
                    pid => pid,
                }
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        let statuses = children.into_iter().map(|pid| {
            let mut status = 0;
            assert!(pid > 0, "a fork has failed");
            // SAFETY: a child of ours that was not reaped; `status` is writable.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            status
        });
        statuses.filter(|&status| status != 0).collect()
    });
    assert!(failed.is_empty(), "{} of {CHILDREN} have failed: {failed:?}", failed.len());
}
