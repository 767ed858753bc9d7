//! A process that is forked while the engine is busy.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};

use common::{half_open, listen, quick};

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
